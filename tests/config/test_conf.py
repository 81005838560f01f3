"""Every file of conf/ composes and fits the code it names; every experiment runs."""

import itertools
import json
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from attnlab import ledger
from attnlab.config import schema, settings, signatures
from attnlab.config.build import build_data, build_network
from attnlab.config.compose import CONF, composing
from attnlab.config.many import compose_plain
from attnlab.errors import InputError
from attnlab.sweep import grid, plan
from attnlab.sweep.launch import launchers
from attnlab.sweep.search import asking
from tests.conftest import GOLDEN
from tests.idx import write_fashion_mnist

FILES = sorted(CONF.glob("*/*.yaml"))
NEEDED = {  # what a choice does not say by itself
    "image_folder": ["data.folder=somewhere"],
    "image_table": ["data.table=somewhere.csv"],
    "fer2013": ["data.file=fer2013.csv"],
    "data/custom": ["data.target=torchvision.datasets.FakeData", "data.num_classes=10"],
    "torchvision": ["backbone.name=mnasnet0_5"],
    "timm": ["backbone.name=mobilenetv4_conv_small_035"],
    "backbone/custom": ["backbone.target=tests.own_net.OwnNet", "+backbone.width=6"],
    "attention/custom": ["attention.target=tests.own_net.OwnAttention", "+attention.ratio=8"],
    "by_stage": ["attention.stages=[none,se,eca,cbam]"],
    **{name: ["attention.groups=8"] for name in ("sge", "shuffle", "sk")},  # of the 16 channels of the first site
}
OWN = {"backbone": "OwnNet", "attention": "OwnAttention", "data": "custom"}
LONG = (
    "cbam_table4",
    "cbam_table5",
    "worth",
)  # see test_cbam_tables and test_equal_cost
CALLED = [path for path in FILES if path.parent.name in settings.GROUPS]


def needed(path):
    return NEEDED.get(path.stem, NEEDED.get(f"{path.parent.name}/{path.stem}", []))


@pytest.fixture(scope="module")
def compose():
    with composing() as compose_one:
        yield lambda *overrides: compose_one(overrides)


def test_all_groups_are_there():
    groups = {path.parent.name for path in FILES}
    assert groups == {*settings.GROUPS, "sites", "trainer", "logger", "explain", "experiment"}


def test_explains_files_hold_all_settings_and_their_defaults(compose):
    nodes = {path.stem: schema.plain(compose(f"explain={path.stem}"))["explain"] for path in CONF.glob("explain/*")}
    switches = {"gates": {"gates"}, "none": set(), "score": {"gates", "ablation", "scores"}}
    for name, node in nodes.items():
        assert node == {**settings.NOT_EXPLAINED, "name": name, **dict.fromkeys(switches[name], True)}
    assert nodes["none"].keys() == settings.EXPLAIN.keys()
    assert schema.plain(compose())["explain"] == nodes["gates"]


def test_a_config_without_the_group_explains_nothing(compose):
    config = schema.plain(compose("attention=cbam"))
    del config["explain"]
    assert schema.check(config)["explain"] == settings.NOT_EXPLAINED
    config["explain"] = {"ablation": True}
    assert schema.check(config)["explain"] == {**settings.NOT_EXPLAINED, "ablation": True}


@pytest.mark.parametrize(("name", "needs"), [("local", "attnlab"), ("slurm", "submitit"), ("ray", "ray")])
def test_launchers_files_hold_their_settings_and_defaults(name, needs):
    pytest.importorskip(needs)
    node = yaml.safe_load((CONF / "hydra" / "launcher" / f"{name}.yaml").read_text())
    assert launchers.ours(node)
    function = launchers.prepared(node)
    takes, _ = signatures.parameters(function.func)
    settings = {key: p.default for key, p in takes.items() if key not in ("points", "train")}
    assert function.keywords.keys() == settings.keys()
    assert function.keywords == {
        key: function.keywords[key] if default is None else default for key, default in settings.items()
    }


@pytest.mark.parametrize("path", CALLED, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_keys_are_the_targets_signature(compose, path, monkeypatch):
    """The file lists every setting of its class, under the class's own defaults' names, and no other."""
    monkeypatch.setenv("ATTNLAB_ALLOW", "tests")
    group = path.parent.name
    overrides = [f"{group}={path.stem}", *needed(path)]
    config = compose(*overrides)
    node = schema.plain(config)[group]
    named = path.stem if path.stem not in ("torchvision", "timm") else overrides[1].partition("=")[2]
    assert node["name"] == named
    if node["_target_"] is None:
        return
    takes, _ = signatures.parameters(signatures.locate(node["_target_"], group))
    listed = (
        signatures.settings_of_target(node, group).keys()
        - {"target"}
        - ({*settings.CROSSED} if group == "attention" else set())
    )
    wanted = (
        takes.keys()
        - {"target", *settings.GROUPS[group].given}
        - ({*settings.CROSSED} if group == "attention" else set())
    )
    assert listed <= wanted
    if group != "optimizer":  # torch's have more settings than anyone wants to see
        assert listed == wanted
    assert schema.check(config)[group]["name"] == (named if named != "custom" else OWN[group])


@pytest.mark.parametrize("path", [p for p in CALLED if p.parent.name == "attention"], ids=lambda p: p.stem)
def test_builds(compose, path, monkeypatch):
    monkeypatch.setenv("ATTNLAB_ALLOW", "tests")
    config = schema.check(compose(f"attention={path.stem}", *needed(path)))
    with torch.device("meta"):
        net, changed = build_network(config, build_data(config))
        assert net(torch.empty(2, 1, 40, 40)).shape == (2, 10)
    assert bool(changed) == (config["attention"]["name"] != "none")


@pytest.mark.parametrize("path", [p for p in FILES if p.parent.name == "sites"], ids=lambda p: p.stem)
def test_sites_attach_where_the_backbone_has_them(compose, path):
    extra = {"module": ["sites.names=[module*.branch]"], "depthwise": ["backbone=mobilenet_v1"]}.get(path.stem, [])
    config = schema.check(compose("attention=se", f"sites={path.stem}", *extra))
    with torch.device("meta"):
        _, changed = build_network(config, build_data(config))
    assert {site.role for site in changed} == {path.stem}


def test_attention_none_and_a_real_one_start_from_the_same_backbone(compose):
    nets = []
    for attention in ("none", "se", "cbam"):
        config = schema.check(compose(f"attention={attention}", "seed=5"))
        nets.append(build_network(config, build_data(config))[0].state_dict())
    bare = nets[0]
    for net in nets[1:]:
        assert all(torch.equal(net[key], value) for key, value in bare.items())


def test_crossing_types_with_ratio_and_order_is_legal():
    planned = plan.make(
        ["-m", "attention=none,se,cbam", "attention.ratio=4,16", "attention.order=channel_first,spatial_first"]
    )
    assert planned.combinations == 12
    kinds = [point.config["attention"]["name"] for point in planned.points]
    assert {kind: kinds.count(kind) for kind in kinds} == {"none": 1, "se": 2, "cbam": 4}


def test_combine_crosses_with_any_attention():
    planned = plan.make(
        ["-m", "attention=none,se,eca,cbam,bam", "attention.order=parallel", "attention.combine=product,sum"]
    )
    kinds = [point.config["attention"]["name"] for point in planned.points]
    assert {kind: kinds.count(kind) for kind in kinds} == {"none": 1, "se": 1, "eca": 1, "cbam": 2, "bam": 2}


def small_imagenet(root):
    """ImageNet's layout with two classes of eight tiny images, and the overrides that put it in ImageNet's place."""
    for part in ("train", "val"):
        for wnid, colour in (("n01440764", 20), ("n01443537", 200)):
            (root / part / wnid).mkdir(parents=True)
            for i in range(8):
                Image.new("RGB", (50, 40), (colour, i, i)).save(root / part / wnid / f"{i}.JPEG")
    return [f"data.root={root}", "data.num_classes=2", "data.size=32", "data.batch_size=4", "data.workers=1"]


def small_faces(root):
    """FER-2013's layout with 21 grey faces of each usage, no two of them alike."""
    usages = ("Training", "PublicTest", "PrivateTest")
    rows = [
        f"{i % 7},{' '.join([str(3 * i + u)] * 48 * 48)},{usage}" for i in range(21) for u, usage in enumerate(usages)
    ]
    (root / "faces.csv").write_text("\n".join(["emotion,pixels,Usage", *rows]))
    return ["trainer.max_epochs=1", f"data.file={root}/faces.csv", "data.batch_size=10", "seed=0"]


def small_photographs(root):
    """A folder with two classes of ten tiny images."""
    for name, colour in (("rose", 20), ("tulip", 200)):
        (root / "photos" / name).mkdir(parents=True)
        for i in range(10):
            Image.new("RGB", (50, 40), (colour, i, i)).save(root / "photos" / name / f"{i}.jpg")
    return ["trainer.max_epochs=1", f"data.folder={root}/photos", "data.size=32", "data.batch_size=4"]


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=pytest.mark.slow if path.stem in LONG else ())
        for path in FILES
        if path.parent.name == "experiment"
    ],
)
def test_experiment_says_its_command_cost_and_result_and_trains(path, tmp_path, monkeypatch):
    from attnlab.training import loop

    head = list(
        itertools.takewhile(lambda line: line.startswith("#"), Path(path).read_text(encoding="utf-8").splitlines())
    )
    for word in ("command", "cost", "expected"):
        assert any(line.startswith(f"# {word} ") for line in head), word
    assert yaml.safe_load(Path(path).read_text(encoding="utf-8"))["study"] == path.stem

    monkeypatch.chdir(tmp_path)
    small = ["trainer.max_epochs=1", "++trainer.limit_train_batches=2", "data.copies=1", "data.clutter=1"]
    chosen = yaml.safe_load(Path(path).read_text(encoding="utf-8")).get("defaults", [])
    if {"override /data": "imagenet"} in chosen:
        full = plan.make([f"experiment={path.stem}"], without_data=True)  # of ImageNet, which is not here
        assert full.missing
        assert all(point.cost for point in full.points)
        small = ["trainer.max_epochs=1", *small_imagenet(tmp_path / "images")]
    if {"override /data": "fashion_mnist"} in chosen:
        write_fashion_mnist(tmp_path, 300, 10)
        small = ["trainer.max_epochs=1", f"data.root={tmp_path}", "data.val=0.1", "attention=cbam", "seed=0"]
    if {"override /data": "fer2013"} in chosen:
        small = small_faces(tmp_path)
    if {"override /data": "image_folder"} in chosen:
        small = small_photographs(tmp_path)
    if "search" in yaml.safe_load(Path(path).read_text(encoding="utf-8")):
        with asking.prepared([f"experiment={path.stem}", "rungs=null", *small]) as wanted:
            point = plan.of_composed([([], wanted.base)], wanted.hydra).points[0]
    else:
        planned = plan.make([f"experiment={path.stem}", *small])
        attended = [point for point in planned.points if point.config["sites"] is not None]
        point = (attended or planned.points)[0]
    ledger.prepare(point.folder, point.config)
    loop.run(point.folder)
    assert 0 <= ledger.read_json(point.folder / "result.json")["test"]["accuracy"] <= 1


def test_the_debug_experiment_takes_any_other_choice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["experiment=debug", "backbone=resnet20", "attention=se", "data=digits", "optimizer=sgd", "sites=stage"]
    (point,) = plan.make(words).points
    assert (
        point.config["trainer"] | {"max_epochs": 1, "limit_train_batches": 3, "detect_anomaly": True}
        == (point.config["trainer"])
    )
    assert [point.config[group]["name"] for group in ("backbone", "attention", "data")] == ["resnet20", "se", "digits"]


def test_a_users_folder_adds_configs_without_touching_the_package(tmp_path, monkeypatch):
    (tmp_path / "conf" / "attention").mkdir(parents=True)
    (tmp_path / "conf" / "backbone").mkdir()
    (tmp_path / "conf" / "experiment").mkdir()
    (tmp_path / "conf" / "attention" / "double.yaml").write_text(
        "name: double\n_target_: users_own_net.Double\nratio: 2\norder: null\n"
    )
    (tmp_path / "conf" / "backbone" / "tiny.yaml").write_text("name: tiny\n_target_: users_own_net.Tiny\nwidth: 6\n")
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /attention: double\n  - override /backbone: tiny\n"
        "  - override /sites: module\nstudy: mine\nsites:\n  names: [conv]\n"
    )
    (tmp_path / "users_own_net.py").write_text("""
from torch import nn
class Double(nn.Module):
    def __init__(self, channels, ratio: int = 4):
        super().__init__()
        self.scale = nn.Linear(channels, channels // ratio)
    def forward(self, x):
        return 2 * x
class Tiny(nn.Module):
    def __init__(self, num_classes, in_channels, width: int = 4):
        super().__init__()
        self.conv, self.head = nn.Conv2d(in_channels, width, 3), nn.Linear(width, num_classes)
    def forward(self, x):
        return self.head(self.conv(x).mean((2, 3)))
""")
    monkeypatch.syspath_prepend(tmp_path)
    argv = ["--config-dir", str(tmp_path / "conf"), "experiment=mine", "attention.ratio=3"]
    with pytest.raises(InputError, match="ATTNLAB_ALLOW=users_own_net"):
        plan.make(argv)
    monkeypatch.setenv("ATTNLAB_ALLOW", "users_own_net")
    (point,) = plan.make(argv).points
    config = point.config
    net, changed = build_network(config, build_data(config))
    assert [site.name for site in changed] == ["conv"]
    assert net.conv.attended_by.scale.out_features == 2


def test_identities_of_all_points_of_experiments_stay():
    """Hashes that attnlab 0.1.0 gave them; demo is another study since, and the tables have ImageNet's recipe since."""
    for name, expected in json.loads((GOLDEN / "identities.json").read_text()).items():
        with composing() as compose_one:
            jobs = grid.jobs([f"experiment={name}"], False, compose_one)
            configs = [schema.check(config) for config in compose_plain(jobs, compose_one)]
        assert sorted({ledger.digest(ledger.identity(config))[:8] for config in configs}) == expected, name


def test_a_config_of_an_older_attnlab_is_the_same_point(tmp_path):
    """Its names of classes are of places that have moved."""
    with composing() as compose_one:
        config = schema.check(compose_one(["data=digits"]))
    ledger.prepare(tmp_path, config)
    text = (tmp_path / "config.yaml").read_text()
    old = text.replace("attnlab.training.schedules.one_cycle", "attnlab.classifier.one_cycle")
    assert old != text
    (tmp_path / "config.yaml").write_text(old)
    assert ledger.read_config(tmp_path) == config
    with composing(config_dir=str(tmp_path), config_name="config") as compose_one:
        assert schema.check(compose_one([])) == config
