"""attnlab explain: its files, its words, and what it refuses."""

import re
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import attnlab
from attnlab import ledger
from attnlab.cli import explaining, main
from attnlab.explain import METHODS
from attnlab.sweep import plan
from attnlab.training import loop
from tests.explain.page_data import told_by
from tests.wandb_file import records

pytest.importorskip("pytorch_grad_cam", reason="needs pip install 'attnlab[explain]'")
pytest.importorskip("captum", reason="needs pip install 'attnlab[explain]'")
ARGV = [
    *("backbone=lenet5", "sites=unit", "data=digits", "data.batch_size=100"),
    *("trainer.max_epochs=1", "+trainer.limit_train_batches=4", "study=s"),
]


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    """Folders of LeNet-5 with CBAM, logged to W&B, with SE, and bare."""
    patch = pytest.MonkeyPatch()
    patch.chdir(tmp_path_factory.mktemp("explain"))
    folders = []
    for words in (["attention=cbam", "logger=wandb"], ["attention=se"], ["attention=none"]):
        (point,) = plan.make([*ARGV, *words]).points
        ledger.prepare(point.folder, point.config)
        loop.run(point.folder)
        folders.append(point.folder.resolve())
    yield folders
    patch.undo()


@pytest.fixture(scope="module")
def explained(points):
    """What the command printed with everything asked for, and its folder."""
    words = [
        points[0],
        "--against",
        points[2],
        "--images",
        "6",
        "--sanity",
        "--methods",
        "gradcam,integrated_gradients",
    ]
    with pytest.MonkeyPatch.context() as patch:
        said = []
        patch.setattr("builtins.print", lambda *parts, **how: said.append(" ".join(map(str, parts))))
        assert main(["explain", *map(str, words)]) == 0
    return said, points[0] / "explain"


def test_it_writes_the_page_and_the_figures(explained):
    said, folder = explained
    names = ["channels.png", "channels.svg", "grid.png", "grid.svg", "page.html", "sanity.png", "sanity.svg"]
    assert sorted(path.name for path in folder.iterdir()) == names
    for path in folder.glob("*.png"):
        with Image.open(path) as picture:
            picture.load()
    for path in folder.glob("*.svg"):
        ElementTree.parse(path)
    assert any(line.startswith(f"written to {folder}: page.html, grid.png") for line in said)
    assert any(
        line.startswith("maps are of the class that cbam ratio=16 at unit predicts, of the output of ") for line in said
    )


def test_half_of_the_images_are_wrong_and_each_is_as_the_point_answered(points, explained):
    told = told_by(explained[1] / "page.html")
    labels, predicted = np.load(points[0] / "test.npy").astype(int)
    assert len(told["images"]) == 6
    wrong = 0
    for image in told["images"]:
        i = int(image["name"].removeprefix("test image "))
        assert image["truth"] == labels[i]
        assert image["seen"][0]["predicted"] == image["asked"] == predicted[i]
        wrong += image["truth"] != predicted[i]
        assert len(image["seen"]) == 2
    assert wrong == 3
    assert len({image["truth"] for image in told["images"] if image["truth"] != image["asked"]}) == 3
    assert [network["name"] for network in told["networks"]] == ["cbam ratio=16 at unit", "bare lenet5"]
    assert [len(network["sites"]) > 0 for network in told["networks"]] == [True, False]
    assert re.search(r"6 test images of \d+: 3 wrong, 3 right", explained[0][0])


def test_the_sanity_check_has_a_verdict_for_each_method(explained):
    page = (explained[1] / "sanity.svg").read_text(encoding="utf-8")
    assert len(re.findall(r"(Grad-CAM|integrated gradients): (changes|does not change)", page)) == 2
    assert "<h2>Sanity check</h2>" in (explained[1] / "page.html").read_text(encoding="utf-8")


def test_the_pictures_are_in_the_points_wandb_run(points, explained):
    attempts = sorted(points[0].glob("wandb/offline-run-*/*.wandb"))
    assert len(attempts) == 2
    first, second = ([*records(path)] for path in attempts)
    ids = [next(r.run.run_id for r in each if r.WhichOneof("record_type") == "run") for each in (first, second)]
    assert ids[0] == ids[1]
    steps, keys = [], set()
    for record in (r for each in (first, second) for r in each if r.WhichOneof("record_type") == "history"):
        found = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
        steps.append(int(found["_step"]))
        keys |= {key for key in found if key.startswith("explain")}
    assert steps == sorted(set(steps))
    assert {key.split("/")[1] for key in keys} >= {"grid", "channels", "sanity"}
    assert any(line.startswith("W&B: pictures in the run lenet5-cbam-unit-s0-") for line in explained[0])


@pytest.fixture
def photos(tmp_path):
    """Two images of class 3, one of class 1, one of nobody knows what."""
    random = np.random.default_rng(0)
    for name, size in (("3/a.png", (40, 30)), ("3/b.png", (20, 50)), ("1/c.png", (8, 8)), ("d.png", (60, 60))):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(tmp_path / name)
    return tmp_path


def test_images_of_a_folder_and_a_class(points, photos, capsys):
    out = points[1].parent / "elsewhere"
    words = ["--class", "7", "--methods", "hirescam", "--output", str(out)]
    assert main(["explain", str(points[1]), str(photos), *words]) == 0
    told = told_by(out / "page.html")
    truth = {Path(image["name"]).name: image["truth"] for image in told["images"]}
    assert truth == {"a.png": 3, "b.png": 3, "c.png": 1, "d.png": None}
    assert {image["asked"] for image in told["images"]} == {7}
    assert {site["what"] for site in told["networks"][0]["sites"]} == {"mean |output|"}  # SE has no positions
    said = capsys.readouterr()
    assert "maps are of 7, of the output of" in said.out
    assert "W&B" not in said.err
    assert not (points[1] / "explain").exists()
    assert main(["explain", str(points[1]), str(photos), "--images", "2", *words]) == 0
    assert "2 of 4 images, evenly spaced" in capsys.readouterr().out


def test_a_bare_network_has_maps_of_classes_alone_and_says_so(points, capsys, tmp_path):
    words = ["--images", "2", "--split", "val", "--methods", "gradcam", "--output", str(tmp_path)]
    assert main(["explain", str(points[2]), *words]) == 0
    said = capsys.readouterr().out
    assert f"{points[2]}: is a bare network, so there are no gates to show" in said
    assert "2 val images of " in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grid.png", "grid.svg", "page.html"]


def test_score_cam_is_left_out_where_it_would_take_long(points, monkeypatch, capsys):
    trained = attnlab.load(points[0])
    x = torch.rand(2, 1, 32, 32)
    assert explaining._methods(trained, x, None, sanity=False) == (METHODS, [])
    monkeypatch.setattr(explaining, "PATIENCE", 1e-6)
    methods, told = explaining._methods(trained, x, None, sanity=False)
    assert methods == [method for method in METHODS if method != "scorecam"]
    assert told[0].startswith("without Score-CAM, which would take about 2 minutes: --methods gradcam,")
    assert explaining._methods(trained, x, ["scorecam"], sanity=False) == (["scorecam"], [])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere: no such folder; a point's folder lies in its study's"),
        (["POINT", "nothing.png"], "nothing.png: no such file or folder"),
        (["POINT", "--methods", "gradcan"], "gradcan: no such method; nearest: gradcam"),
        (["POINT", "--class", "cat"], "--class cat: valid: 0, 1"),
        (["POINT", "--images", "0"], "--images 0: must be at least 1"),
        (["POINT", "--against", "nowhere"], "nowhere: no such folder"),
        (["POINT/.."], "not a point's folder"),
    ],
)
def test_wrong_words_are_told(points, words, message, capsys):
    assert main(["explain", *(word.replace("POINT", str(points[0])) for word in words)]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_points_of_other_classes_cannot_be_compared(points, tmp_path, capsys):
    other = tmp_path / "s" / points[1].name
    shutil.copytree(points[1], other)
    result = ledger.read_json(other / "result.json")
    ledger.write_json(other / "result.json", {**result, "classes": [f"c{i}" for i in range(10)]})
    assert main(["explain", str(points[0]), "--against", str(other)]) == 2
    assert "has other classes than" in capsys.readouterr().err
