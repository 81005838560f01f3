"""The plan: what Hydra would run, and Hydra's errors in one line."""

import pytest

from attnlab import ledger
from attnlab.errors import InputError
from attnlab.sweep import plan


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["attention=cbm"],
            "attention=cbm: no such config; nearest: cbam; valid: bam, by_stage, cbam, cbam_article, channel",
        ),
        (["+experiment=dmo"], "experiment=dmo: no such config; nearest: demo"),
        (
            ["attention=cbam", "attention.rato=4"],
            "attention.rato: attention=cbam has no such setting; nearest: ratio; valid: batchnorm, bias",
        ),
        (["sed=3"], "sed: no such setting; nearest: seed; valid: attention, augment, backbone"),
        (["optimiser=sgd"], "optimiser: no such setting; nearest: optimizer"),
        (["attention.ratio"], r"attention.ratio: not an override of the form key=value"),
        (["seed=[1"], r"seed=\[1: not an override"),
        (["study=étude"], "study=étude: the value needs quotes inside the shell's own: \"study='étude'\"$"),
        (["-m", "study=a,étude"], "study=a,étude: the value needs quotes .*: \"study=a,'étude'\"$"),
        (["tags=['é',é,b]"], r"tags=\['é',é,b\]: the value needs quotes .*: \"tags=\['é','é',b\]\"$"),
        (["study=It's"], "study=It's: the value needs quotes inside the shell's own: 'study=\"It'"),
        (["-m", "seed=4,"], "seed=4,: a value is missing beside the comma$"),
        (["attention=se", "attention.ratio=4,"], "attention.ratio=4,: a value is missing beside the comma$"),
        (["étude=3"], "étude=3: not an override of the form key=value$"),
        (
            ["attention=se", "sites=[branch,stem]"],
            r"sites=\[branch,stem\]: only the last of a list would count; a point each: -m sites=branch,stem; "
            r"one network with both: 'placements=\[{attention: se, at: branch}, {attention: se, at: stem}\]'$",
        ),
        (
            ["-m", "attention=[se,cbam],none"],
            r"^attention=\[se,cbam\]: only the last .*; a point each: -m attention=se,",
        ),
        (["data=[digits,digits]"], r"data=\[digits,digits\]: only the last .*; a point each: -m data=digits,digits$"),
        (["attention=[se]"], r"attention=\[se\]: .*; choose one, such as attention=se$"),
        (["hydra/launcher=[slurm,ray]"], r"hydra/launcher=\[slurm,ray\]: .*; choose one, such as hydra/launcher=slurm"),
        (["hydra.output_subdir=x"], "hydra.output_subdir=x: has no effect"),
        (["hydra.sweep.subdir=x"], "hydra.sweep.subdir=x: has no effect"),
        (["hydra.verbose=true"], "hydra.verbose=True: has no effect"),
        (["hydra.job.num=3"], "hydra.job.num=3: has no effect"),
        (["hydra.job.env_copy=[NOWHERE]"], "hydra.job.env_copy: 'NOWHERE' is not set here; it must stay empty"),
        (["hydra.job.env_copy=[PATH]"], "hydra.job.env_copy: must stay empty"),
        (["seed=0,1"], "seed=0,1: several values need -m$"),
        (["seed=range(3)"], r"seed=range\(3\): several values need -m$"),
        (["attention=se,cbam"], "attention=se,cbam: several values need -m$"),
        (["hydra/launcher=slurm,ray"], "hydra/launcher=slurm,ray: several values need -m$"),
        (["optimizer.lr=0.1,0.2"], r"optimizer.lr=0.1,0.2: several values need -m$"),
        (["sites.stages=1,2"], r"sites.stages=1,2: several values need -m; one list is written sites.stages=\[1,2\]$"),
        (["tags=a,b"], r"tags=a,b: several values need -m; one list is written tags=\[a,b\]$"),
        (["trainer.deterministic=true"], r"trainer.deterministic: .* needs a \+; write \+trainer.deterministic=true$"),
        (["attention=se", "attention.groups=8"], r"attention.groups: .*; write \+attention.groups=8$"),
        (["optimizer.amsgrad=true"], r"optimizer.amsgrad: .*; write \+optimizer.amsgrad=true$"),
        (["lr=0.1"], "lr: no such setting; nearest: optimizer.lr$"),
        (["epochs=3"], "epochs: no such setting; nearest: trainer.max_epochs$"),
        (["batch_size=8"], "batch_size: no such setting; nearest: data.batch_size$"),
        (["data=image_folder"], "data.folder: must be set$"),
        (["backbone=custom"], "backbone.target: must be set$"),
        (["--config-dir", "nowhere"], "--config-dir nowhere: no such folder"),
        (["--config-name", "trian"], "no config named trian"),
        (["study=${nothing}"], "study: .*nothing"),
        (["-m", "attention=cbam", "seed=0,-1"], "seed=-1: must be at least 0"),
        (
            ["attention=se", "sites.stages=[9]"],
            r"^sites.stages=\[9\]: no branch site matches; there are module1.branch",
        ),
        (["data=digits", "data.size=16"], "input of 16×16: MiniXception needs at least 32×32"),
        (["optimizer.lr=-1"], "optimizer=adamw: Invalid learning rate"),
        (["scheduler.warmup=2"], "warmup=2.0: must be between 0 and 1"),
        (["loss.l2={nothing*:0.1}"], "loss.l2: no parameter of the network matches"),
        (["trainer.accelerator=tpu"], "trainer: "),
        (["data=fashion_mnist", "data.download=false"], "data=fashion_mnist: put FashionMNIST/raw"),
        (["seed=99999999999999999999999"], "seed=9+: must be less than 4294967296"),
        (["attention=null"], "Config group override must be a string or a list"),
        (["attention._target_=[1]"], r"attention._target_=\[1\]: must be the dotted path of a class"),
        (["study=.."], r"study=\.\.: "),
        (["backbone.name=../y"], r"backbone.name=../y: "),
        (["attention=se", "attention._target_=torch.nn.Sequential"], "unexpected keyword argument|no such setting"),
        (
            ["backbone._target_=torch.nn.Identity"],
            r"backbone=mini_xception: returns shape \(1, 1, 40, 40\) for one image; expected \(1, 10\)",
        ),
        (["attention=se", "sites.blocks=frist"], "sites.blocks=frist: must be 'all', 'first' or 'last'"),
        (["+trainer.limit_val_batches=0"], "trainer.limit_val_batches: no such setting"),
        (["logger=wandb", "logger.project=a/b"], "logger.project=a/b: "),
        (["attention=se", "sites.merge=add", "attention.init=identity"], r"f \+ A\(f\) would start at 2 f"),
    ],
)
def test_one_clear_line(argv, message):
    with pytest.raises(InputError, match=message) as error:
        plan.make(argv)
    assert len(str(error.value).splitlines()) == 1


def test_a_setting_of_a_swept_group_need_not_fit_the_default_choice():
    planned = plan.make(["-m", "attention=se,cbam", "attention.init=identity"])  # attention=none has no init
    assert [point.config["attention"]["init"] for point in planned.points] == ["identity"] * 2


def test_all_that_is_wrong_is_told_at_once():
    with pytest.raises(InputError) as error:
        plan.make(["-m", "attention=se,cbam", "attention.ratio=0,4", "seed=0,1", "optimizer.lr=1e-3,-1"])
    assert str(error.value).splitlines() == [
        "attention.ratio=0: must be at least 1",
        "optimizer=adamw: Invalid learning rate: -1.0",
    ]
    with pytest.raises(InputError) as error:
        plan.make(["-m", "attention=se,cbam", "sites.stages=[8],[9]"])
    assert len(str(error.value).splitlines()) == 2


def test_demo_is_twenty_points():
    planned = plan.make(["experiment=demo"])
    assert (planned.combinations, len(planned.points)) == (25, 20)  # 20, and the five of equal cost
    titles = [point.title for point in planned.points]
    assert titles[0].startswith("[1/20] none s0 ")
    assert titles[14].startswith("[15/20] cbam init=identity s4 ")
    assert titles[-1].startswith("[20/20] none backbone.width=1.032 s4 ")
    assert len(set(titles)) == 20
    kinds = {
        (c["attention"]["name"], c["attention"].get("init"), c["backbone"]["width"], c["seed"])
        for c in (point.config for point in planned.points)
    }
    variants = [("none", None, 1.0), ("none", None, 1.032), ("cbam", "authors", 1.0), ("cbam", "identity", 1.0)]
    assert kinds == {(*variant, seed) for variant in variants for seed in range(5)}


def test_what_a_launcher_needs_starts_when_nothing_is_wrong_at_first_sight():
    started = []
    plan.make(["-m", "attention=none,se", "data=digits"], warm_up=started.append)
    assert [launcher["_target_"].rpartition(".")[2] for launcher in started] == ["Local"]
    plan.make(["data=digits"], warm_up=started.append)  # a single point is trained here
    with pytest.raises(InputError, match=r"attention\.ratio=0"):
        plan.make(["-m", "attention=se", "attention.ratio=0,4", "data=digits"], warm_up=started.append)
    assert len(started) == 1


NOT_RUN = r"hydra\.[\w.]+=.*: a config may not run this"


STRANGE = [
    ("callbacks:\n    x:\n      _target_: subprocess.Popen\n      args: ['true']", NOT_RUN),
    ("callbacks:\n    x:\n      _target_: torch.hub.load", NOT_RUN),
    ("callbacks:\n    x:\n      _target_: hydra._internal.utils.os.system", NOT_RUN),
    ("launcher:\n    _target_: os.system", NOT_RUN),
    ("sweeper:\n    _target_: ${oc.env:HOME}", NOT_RUN),
    ("job_logging:\n    handlers:\n      x:\n        (): os.system", r"hydra.job_logging: must stay none"),
    ("job_logging:\n    handlers:\n      x:\n        stream: ext://this.s", r"hydra.job_logging: must stay none"),
    ("hydra_logging:\n    root:\n      level: INFO", r"hydra.hydra_logging: must stay none"),
    ("job:\n    env_set:\n      ATTNLAB_ALLOW: os", r"hydra.job.env_set: must stay empty"),
    ("job:\n    chdir: true", r"hydra.job.chdir: must stay false"),
]


@pytest.mark.parametrize(
    ("hydra", "message", "multirun"),
    [
        *((*each, ["-m"]) for each in STRANGE),
        (*STRANGE[0], []),
        *(pytest.param(*each, [], marks=pytest.mark.slow) for each in STRANGE[1:]),
    ],
)
def test_a_strangers_config_does_not_run_code_through_hydra(tmp_path, hydra, message, multirun):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "strange.yaml").write_text(f"# @package _global_\nhydra:\n  {hydra}\n")
    with pytest.raises(InputError, match=message):
        plan.make(["--config-dir", str(tmp_path), *multirun, "experiment=strange"])
    if multirun:  # as one of several
        with pytest.raises(InputError, match=message):
            plan.make(["--config-dir", str(tmp_path), *multirun, "experiment=null,strange"])


def test_a_users_network_may_look_at_values(tmp_path, monkeypatch):
    (tmp_path / "looks_at_values.py").write_text("""
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.conv, self.head = nn.Conv2d(in_channels, 4, 3), nn.Linear(4, num_classes)
    def forward(self, x):
        assert x.mean().item() < 1e9
        return self.head(self.conv(x).mean((2, 3)))
""")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("ATTNLAB_ALLOW", "looks_at_values")
    argv = [
        "backbone._target_=looks_at_values.Net",
        "~backbone.bn_momentum",
        "~backbone.width",
        "attention=se",
        "sites=module",
    ]
    assert len(plan.make([*argv, "sites.names=[conv]"]).points) == 1


def test_a_network_that_trains_on_its_batches_is_not_refused(tmp_path, monkeypatch):
    """It looks at values, wants batches that 16 divides, and images that are not all alike."""
    (tmp_path / "ghost.py").write_text("""
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.head = nn.Linear(in_channels, num_classes)
    def forward(self, x):
        if self.training:
            seen.append(len(x))
            spread = x.std((1, 2, 3)).view(16, -1)
            assert spread.shape[1] and spread.min().item() > 0
        return self.head(x.mean((2, 3)))
seen = []
""")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("ATTNLAB_ALLOW", "ghost")
    argv = ["backbone._target_=ghost.Net", "~backbone.bn_momentum", "~backbone.width", "attention=none"]
    assert len(plan.make([*argv, "data.batch_size=32"]).points) == 1
    import ghost

    assert ghost.seen == [32, 2, 32]  # on meta, a small batch, and only then all of one


NEEDS_TWO = (
    r"data.batch_size={}: must be at least 2 to train mini_xception with attention={}: Expected more than 1 value"
)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["attention=bam", "data.batch_size=1"], NEEDS_TWO.format(1, "bam")),
        (["attention=srm", "data.batch_size=1", "backbone.freeze=true"], NEEDS_TWO.format(1, "srm")),
        (["attention=bam", "data.batch_size=2"], None),
        (["attention=se", "data.batch_size=1"], None),
        (["attention=bam", "data.batch_size=2", "trainer=ddp", "trainer.devices=2"], None),  # norms are synchronised
    ],
)
def test_a_network_that_cannot_train_on_its_batches_is_found(words, message):
    argv = ["data=digits", "trainer.accelerator=cpu", *words]
    if message is None:
        assert len(plan.make(argv).points) == 1
    else:
        with pytest.raises(InputError, match=message):
            plan.make(argv)


def test_a_frozen_networks_norms_take_a_single_image(tmp_path, monkeypatch):
    """And a network that looks at values, or fails, in training alone."""
    (tmp_path / "in_training.py").write_text("""
from torch import nn
class Net(nn.Module):
    def __init__(self, num_classes, in_channels, fails: bool = False):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(in_channels, 4, 3), nn.BatchNorm1d(4), nn.Linear(4, num_classes)
        self.fails = fails
    def forward(self, x):
        if self.training and not (x.mean().item() < 1e9 and not self.fails):
            raise RuntimeError("fails in training")
        return self.head(self.norm(self.conv(x).mean((2, 3))))
""")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("ATTNLAB_ALLOW", "in_training")
    argv = ["data=digits", "backbone=custom", "backbone.target=in_training.Net", "data.batch_size=1"]
    with pytest.raises(
        InputError, match=r"data.batch_size=1: must be at least 2 to train Net with attention=none: Exp"
    ):
        plan.make(argv)
    assert len(plan.make([*argv, "backbone.freeze=true"]).points) == 1
    with pytest.raises(InputError, match=r"^backbone=Net: RuntimeError: fails in training$"):
        plan.make([*argv, "data.batch_size=8", "+backbone.fails=true"])


def test_planning_writes_nothing(tmp_path):
    plan.make(["-m", "attention=none,se"])
    assert list(tmp_path.iterdir()) == []


ABSENT = ["data=image_folder", "data.folder=absent", "data.num_classes=7"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (ABSENT, "data.folder=absent: no such folder; it must be"),
        (["data=cifar10", "data.download=false"], "data=cifar10: put"),
    ],
)
def test_without_data_costs_are_known_and_what_is_missing_is_told(data, message):
    argv = ["-m", "attention=none,se", *data]
    planned = plan.make(argv, without_data=True)
    assert [bool(point.cost) for point in planned.points] == [True, True]
    (missing,) = planned.missing
    assert missing.startswith(message)
    for skip in ([], ["sweep.on_error=skip"]):  # training needs them
        with pytest.raises(InputError, match=message) as error:
            plan.make([*argv, *skip])
        assert len(str(error.value).splitlines()) == 1


def test_other_errors_are_told_without_data_too():
    with pytest.raises(InputError, match=r"sites.stages=\[9\]: no branch site matches"):
        plan.make(["attention=se", "sites.stages=[9]", *ABSENT], without_data=True)
    with pytest.raises(InputError, match=r"data.folder=absent: no such folder; it must be"):  # how many classes?
        plan.make(["data=image_folder", "data.folder=absent"], without_data=True)


def test_a_command_typed_again_keeps_the_time_of_its_first(tmp_path):
    planned, times = plan.make(["-m", "attention=none", "seed=0,1", "data=digits", "study=s"]), []
    for _ in range(2):
        with plan.recorded(planned, ["train", "-m", "seed=0,1"]):
            pass
        (written,) = (tmp_path / "outputs" / "s" / "plans").glob("*.json")
        times.append(ledger.read_json(written))
    assert times[0]["first"] == times[0]["time"] == times[1]["first"] < times[1]["time"]
