"""The plan: what Hydra would run, and Hydra's errors in one line."""

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

from attnlab.errors import InputError
from attnlab.sweep import plan


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["attention=cbm"], "attention=cbm: no such config; nearest: cbam; valid: cbam, cbam_article, channel, none"),
        (["+experiment=dmo"], "experiment=dmo: no such config; nearest: demo"),
        (
            ["attention=cbam", "attention.rato=4"],
            "attention.rato: attention=cbam has no such setting; nearest: ratio; valid: batchnorm, bias",
        ),
        (["sed=3"], "sed: no such setting; nearest: seed; valid: attention, backbone"),
        (["optimiser=sgd"], "optimiser: no such setting; nearest: optimizer"),
        (["attention.ratio"], r"attention.ratio: not an override of the form key=value"),
        (["seed=[1"], r"seed=\[1: not an override"),
        (["seed=0,1"], r"seed=0,1: several values need -m; one list is written seed=\[0,1\]"),
        (["seed=range(3)"], r"seed=range\(3\): several values need -m"),
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
        (["attention=se", "sites.merge=add", "attention.init=identity"], r"f \+ A\(f\) would start at 2 f"),
    ],
)
def test_one_clear_line(argv, message):
    with pytest.raises(InputError, match=message) as error:
        plan.make(argv)
    assert len(str(error.value).splitlines()) == 1


def test_a_setting_of_a_swept_group_need_not_fit_the_default_choice():
    planned = plan.make(["-m", "attention=se,cbam", "attention.init=identity"])  # attention=none has no init
    assert [config["attention"]["init"] for config in planned.points.values()] == ["identity"] * 2
    argv = ["-m", "attention=se,cbam", "attention.init=identity", "sites.stages=[1]"]
    assert plan.for_hydra(argv) == ["-m", "attention=se,cbam", "attention.init=choice(identity)", "sites.stages=[1]"]


def test_all_that_is_wrong_is_told_at_once():
    with pytest.raises(InputError) as error:
        plan.make(["-m", "attention=se,cbam", "attention.ratio=0,4", "seed=0,1", "optimizer.lr=1e-3,-1"])
    assert str(error.value) == "attention.ratio=0: must be at least 1"
    with pytest.raises(InputError) as error:
        plan.make(["-m", "attention=se,cbam", "sites.stages=[8],[9]"])
    assert len(str(error.value).splitlines()) == 2


def test_points_are_those_of_hydras_own_sweeper():
    argv = ["attention=none,se", "seed=range(2)", "data.clutter=choice(1,2)", "study=s", "tags=[a,b]"]
    with plan.composing() as compose_one:
        jobs = plan._jobs(argv, True, compose_one)
    assert jobs == [
        [f"attention={a}", f"seed={s}", f"data.clutter={c}", "study=s", "tags=[a,b]"]
        for a in ("none", "se")
        for s in (0, 1)
        for c in (1, 2)
    ]
    assert BasicSweeper  # the class whose rule this is


def test_demo_is_ten_points_of_eighteen_combinations():
    planned = plan.make(["experiment=demo"])
    assert (planned.combinations, len(planned.points)) == (18, 10)
    titles = [planned.title(folder) for folder in planned.points]
    assert titles[0] == "[1/10] "
    assert titles[-1] == "[10/10] "
    kinds = {(c["attention"]["name"], c["attention"].get("order"), c["seed"]) for c in planned.points.values()}
    orders = ("channel_first", "spatial_first", "parallel")
    assert kinds == {
        (a, o, s) for a, o in [("none", None), ("se", None), *(("cbam", o) for o in orders)] for s in (0, 1)
    }


@pytest.mark.parametrize(
    "hydra",
    [
        "callbacks:\n    x:\n      _target_: subprocess.Popen\n      args: ['true']",
        "callbacks:\n    x:\n      _target_: torch.hub.load",
        "launcher:\n    _target_: os.system",
        "sweeper:\n    _target_: ${oc.env:HOME}",
        "job_logging:\n    handlers:\n      x:\n        (): logging.os.system\n        command: 'true'",
        "job_logging:\n    handlers:\n      x:\n        (): subprocess.Popen\n        args: ['true']",
    ],
)
def test_a_strangers_config_does_not_run_code_through_hydra(tmp_path, hydra):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "strange.yaml").write_text(f"# @package _global_\nhydra:\n  {hydra}\n")
    with pytest.raises(InputError, match=r"hydra\.[\w.()]+=.*: a config may not run this"):
        plan.make(["--config-dir", str(tmp_path), "experiment=strange"])


def test_flags_may_stand_anywhere():
    argv = ["seed=0,1", "-m", "attention=se", "--config-dir", "here", "study=s"]
    assert plan.for_hydra(argv) == ["-m", "--config-dir", "here", "seed=0,1", "attention=se", "study=s"]
    with pytest.raises(InputError, match="unrecognized arguments: --sweep; see attnlab train --help"):
        plan.parse(["seed=0", "--sweep"])


def test_planning_writes_nothing(tmp_path):
    plan.make(["-m", "attention=none,se"])
    assert list(tmp_path.iterdir()) == []
