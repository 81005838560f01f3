"""What is measured of a point's attention while it trains and when it ends; that it changes no result."""

import shutil

import pytest
import torch
from torch import nn

import attnlab
from attnlab import ledger
from attnlab.cli.scoring import score_points
from attnlab.data import ClutteredDigits
from attnlab.errors import InputError
from attnlab.explain.attending import measure_attention
from attnlab.explain.health import Gate
from attnlab.sweep import plan
from attnlab.trained import scoring
from attnlab.training import loop, rehearsal
from attnlab.training.gates import GateHealth

SMALL = [
    *("backbone=lenet5", "data.copies=1", "data.canvas=32", "data.digit=14", "data.batch_size=100", "attention=cbam"),
    *("sites=unit", "attention.ratio=2", "trainer.max_epochs=3", "+trainer.limit_train_batches=3"),
]


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    """The same point with and without all that can be measured."""
    patch = pytest.MonkeyPatch()
    patch.chdir(tmp_path_factory.mktemp("explained"))
    folders = {}
    for name, more in {"none": [], "score": ["explain.images=24"]}.items():
        (point,) = plan.make([*SMALL, f"explain={name}", f"study={name}", *more]).points
        ledger.prepare(point.folder, point.config)
        loop.run(point.folder, threads=1)
        folders[name] = point.folder.absolute()
    yield folders
    patch.undo()


def test_measuring_changes_no_result(points):
    none, score = points["none"], points["score"]
    assert none.name == score.name
    assert (none / "metrics.csv").read_bytes() == (score / "metrics.csv").read_bytes()
    assert (none / "test.npy").read_bytes() == (score / "test.npy").read_bytes()
    results = [ledger.read_json(folder / "result.json") for folder in (none, score)]
    assert all(results[0][key] == results[1][key] for key in ("test", "val", "best_epoch", "per_class"))
    for name in ("best.ckpt", "last.ckpt"):
        a, b = (torch.load(folder / "checkpoints" / name, weights_only=True) for folder in (none, score))
        assert all(torch.equal(value, b["state_dict"][key]) for key, value in a["state_dict"].items())
        for key in ("python", "numpy", "torch"):
            assert str(a["ranks"][0][key]) == str(b["ranks"][0][key])
    assert "explain" not in results[0]
    assert "explain_s" not in results[0]["times"]
    assert results[1]["times"]["explain_s"] > 0
    assert results[1]["times"]["total_s"] >= results[1]["times"]["train_s"]
    assert not (none / "gates.csv").exists()


def test_gates_csv_has_a_row_for_each_gate_and_epoch(points):
    columns, damage = ledger.read_rows(points["score"] / "gates.csv")
    assert damage == ""
    sites = ledger.read_json(points["score"] / "result.json")["sites"]
    rows = list(zip(columns["epoch"], columns["site"], columns["gate"], strict=True))
    assert rows == [(e, site, gate) for e in range(3) for site in sites for gate in ("channel", "spatial")]
    for key in ("mean", "saturated", "dead"):
        assert all(0 <= value <= 1 for value in columns[key])
    assert all(value >= 0 for value in columns["spread"])


def test_result_json_has_scores_and_ablation(points):
    found = ledger.read_json(points["score"] / "result.json")["explain"]
    kinds = ("energy", "pointing", "iou", "insertion", "deletion")
    assert {*found["scores"]} == {f"{name}/{kind}" for name in ("gates", "gradcam") for kind in kinds}
    assert all(0 <= value <= 1 for value in found["scores"].values())
    assert {*found["chance"]} == {*kinds}
    sites = ledger.read_json(points["score"] / "result.json")["sites"]
    assert [*found["by_site"]] == sites
    assert (found["images"], found["left_out"]) == (24, 0)
    ablation = found["ablation"]
    assert [*ablation["one"]] == [*ablation["mean_gate"]] == [*sites, "all"]
    assert ablation["accuracy"] == pytest.approx(ledger.read_json(points["score"] / "result.json")["val"]["accuracy"])
    assert "scores of where it looks took" in (points["score"] / "log.txt").read_text()


def test_attention_of_whole_channels_has_no_gate_that_could_point(caplog):
    data = ClutteredDigits(copies=1)
    for name, kind in (("se", "attended"), ("spatial", "gates")):
        net = attnlab.create("mini_xception", num_classes=10, in_channels=1)
        sites = attnlab.attach(net, name, at="branch", stages=[2, 3], input_size=data.shape)
        with torch.no_grad():
            found = measure_attention(net.eval(), net, data, scores=True, images=40, methods=["none such"])
        assert {name.partition("/")[0] for name in found["scores"]} == {kind}
        assert "explain.scores none such: InputError: method=none such" in caplog.text  # and nothing else is lost
        assert [*found["by_site"]] == [site.name for site in sites]


def test_a_finished_point_is_scored_the_same_later(points, tmp_path):
    copy = tmp_path / "study" / points["none"].name
    shutil.copytree(points["none"], copy)
    found = scoring.score_point(copy, images=24)
    before = ledger.read_json(points["score"] / "result.json")["explain"]
    assert found.keys() == before.keys()
    for key in ("scores", "chance"):
        assert found[key] == pytest.approx(before[key], abs=1e-4)
    for key in ("mean_gate", "one"):
        assert found["ablation"][key] == pytest.approx(before["ablation"][key], abs=0.01)
    assert ledger.read_point(copy).result["explain"] == found  # explain.json goes with result.json
    (copy / "explain.json").write_text("")
    read = ledger.read_point(copy)
    assert (read.state, "explain" in read.result) == ("done", False)


def test_of_a_study_what_cannot_be_scored_is_named_and_the_others_are_scored(points, tmp_path, capsys):
    first, second = (tmp_path / "study" / name for name in ("a", "b"))
    for folder in (first, second):
        shutil.copytree(points["none"], folder)
    (first / "checkpoints" / "best.ckpt").unlink()
    assert score_points(str(tmp_path / "study"), methods=[], images=8) == 1
    told = capsys.readouterr()
    assert "[1/2] a: not measured: " in told.err
    assert "[2/2] b: gates/energy" in told.out
    assert (second / "explain.json").exists()
    with pytest.raises(InputError):
        score_points(str(first), methods=[], images=8)


def test_a_dead_gate_is_warned_about_once(caplog):
    health = GateHealth(None, curves=False)
    dead, alive = (Gate("a", gate, 0.5, 0, 0, 0, 0, 0, dead) for gate, dead in (("channel", 1.0), ("spatial", 0.9)))
    for epoch in range(6):
        health.note(epoch, 6, [dead, alive])
    (record,) = caplog.records
    assert record.getMessage() == "dead gates hardly vary over images, they only rescale: a/channel"
    assert len(health.rows) == 12
    resumed = GateHealth(None, curves=False)
    resumed.load_state_dict({"rows": health.rows[:10]})
    resumed.note(5, 6, [dead, alive])
    assert len(caplog.records) == 1
    assert resumed.rows == health.rows


class Tokens(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.patches, self.head = nn.Conv2d(in_channels, 8, 8, 8), nn.Linear(8, num_classes)
        self.layers = nn.Sequential(*(nn.Linear(8, 8) for _ in range(8)))

    def forward(self, x):
        return self.head(self.layers(self.patches(x).flatten(2).transpose(1, 2)).mean(1))


def test_maps_of_a_network_of_tokens_are_refused_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = {**plan.make(["explain=score", "explain.methods=[]", "trainer.max_epochs=1"]).points[0].config}
    net, data = Tokens(10, 1), ClutteredDigits(copies=1)
    rehearsal._rehearse_maps(config, data, net)
    config["explain"] = {**config["explain"], "methods": ["gradcam"]}
    with pytest.raises(InputError, match=r"explain.methods=\[gradcam\]: Tokens: has no last feature map"):
        rehearsal._rehearse_maps(config, data, net)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data=digits"], "explain.scores=true: these data do not tell where the objects are; set explain.boxes to"),
        (["explain.boxes=nowhere.csv"], "explain.boxes=nowhere.csv: no such file or folder"),
        (["explain.boxes=conf"], "explain.boxes=conf: "),
    ],
)
def test_scores_without_places_are_refused_before_anything_starts(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf").mkdir()
    with pytest.raises(InputError, match=message):
        plan.make(["explain=score", "explain.methods=[]", "trainer.max_epochs=1", *words])


def test_the_libraries_of_class_activation_maps_must_be_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("attnlab.explain.cams._found", lambda module: False)
    with pytest.raises(InputError, match=r"explain.methods=\[gradcam\]: maps need grad-cam and captum: pip install"):
        plan.make(["explain=score", "trainer.max_epochs=1"])
