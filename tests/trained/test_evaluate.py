"""attnlab evaluate: finished points on other data, and all seeds of a variant together."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

import attnlab
from attnlab import ledger
from attnlab.cli import main
from attnlab.cli.other_data import OtherData, name_of
from attnlab.config.build import build_data
from attnlab.data import Digits
from attnlab.study import read_analysis
from attnlab.trained.evaluating import Source, measure
from tests.test_package import SOURCE, imports


@pytest.fixture
def own(study, tmp_path, monkeypatch):
    """A copy of the study, for what is written into it."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(study, tmp_path / "small")
    return tmp_path / "small"


@pytest.fixture
def one(own):
    return next(own.glob("*cbam*-s0-*"))


def evaluated(folder, name):
    return json.loads((folder / "evaluations" / f"{name}.json").read_text())


def with_data(point, **changes):
    config = ledger.read_config(point)
    return build_data({**config, "data": {**config["data"], **changes}})


def test_a_points_own_data_give_what_training_measured(one, capsys):
    assert main(["evaluate", str(one)]) == 0
    assert "on own, 300 images" in " ".join(capsys.readouterr().out.split())
    result, record = json.loads((one / "result.json").read_text()), evaluated(one, "own")
    assert record["metrics"] == pytest.approx(result["test"], rel=1e-4)
    assert record["per_class"] == result["per_class"]
    assert record["point"] == json.loads((one / "point.json").read_text())["hash"]
    assert main(["evaluate", str(one), "augment.eval_flip=true"]) == 0
    trained = attnlab.load(one)
    test = with_data(one).splits.test
    found = trained.probabilities(test.images, flip=True).argmax(1)
    flipped = evaluated(one, "augment.eval_flip=true")["metrics"]
    assert flipped["accuracy"] == pytest.approx(accuracy_score(test.labels, found))
    assert flipped["loss"] != pytest.approx(record["metrics"]["loss"], rel=1e-5)


def test_another_setting_of_its_data(one, capsys):
    assert main(["evaluate", str(one), "data.clutter=16"]) == 0
    test = with_data(one, clutter=16).splits.test
    found = attnlab.load(one).probabilities(test.images)
    predicted = found.argmax(1)
    assert evaluated(one, "data.clutter=16")["metrics"] | {"calibration_error": 0} == pytest.approx(
        {
            "accuracy": accuracy_score(test.labels, predicted),
            "f1": f1_score(test.labels, predicted, average="macro"),
            "balanced_accuracy": balanced_accuracy_score(test.labels, predicted),
            "loss": float(torch.nn.functional.nll_loss(found.log(), test.labels)),
            "calibration_error": 0,
        },
        rel=1e-4,
    )
    assert main(["evaluate", str(one), "data.clutter=3", "--name", "data.clutter=16"]) == 2
    assert "holds an evaluation with other settings; choose another --name" in capsys.readouterr().err


def test_classes_are_found_by_name(one, tmp_path, capsys):
    """Images of two of the classes, in another size and in colours, in folders of splits."""
    test = with_data(one).splits.test
    for name, label in (("7", 7), ("1", 1)):
        chosen = test.images[test.labels == label][:4, 0].numpy()
        for i, split in enumerate(("train", "val", "test", "test")):
            path = tmp_path / "two" / split / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(chosen[i]).convert("RGB").resize((80, 80)).save(path)
    assert main(["evaluate", str(one), "data=image_folder", "data.folder=two", "--name", "two"]) == 0
    record = evaluated(one, "two")
    images = sorted((tmp_path / "two" / "test").rglob("*.png"))
    right = [
        path.parent.name == name for path, (name, _) in zip(images, attnlab.load(one).predict(images), strict=True)
    ]
    assert record["metrics"]["accuracy"] == pytest.approx(np.mean(right))
    assert (record["images"], record["files"]["files"]) == (4, 8)
    assert [name for name, each in record["per_class"].items() if each["support"]] == ["1", "7"]
    capsys.readouterr()
    Image.new("L", (40, 40)).save(images[0])  # other contents
    assert main(["evaluate", str(one), "data=image_folder", "data.folder=two", "--name", "two"]) == 0
    assert "not computed again" not in capsys.readouterr().out

    for split in ("train", "val", "test"):
        (tmp_path / "two" / split / "7").rename(tmp_path / "two" / split / "cat")
    assert main(["evaluate", str(one), "data=image_folder", "data.folder=two", "--name", "cats"]) == 2
    assert capsys.readouterr().err == (
        "attnlab: data=image_folder: its class cat is none of the network's 10 (0, 1, 2, 3, ...); classes must be the "
        "same by name\n"
    )
    assert not (one / "evaluations" / "cats.json").exists()


def test_classes_are_never_guessed():
    data = Digits()
    source = Source(data, "data=digits")
    names = [f"digit {i}" for i in range(10)]
    assert source.labels_for([str(9 - i) for i in range(12)]).tolist() == [9 - i for i in range(10)]
    with pytest.raises(attnlab.InputError, match="data=digits: its classes 0, 1, 2, 3 and 6 more are none of"):
        source.labels_for(names)
    data.classes = names
    with pytest.raises(attnlab.InputError, match="are none of the network's 10"):
        source.labels_for([f"letter {i}" for i in range(10)])


@pytest.mark.parametrize("kept", [1 << 30, 0])
def test_the_networks_own_preprocessing_is_kept(point, monkeypatch, kept):
    """Images of another size, decoded once or as they are needed."""
    monkeypatch.setattr("attnlab.trained.evaluating.KEPT", kept)
    trained = attnlab.load(point)
    data = Digits(size=56, normalise="half")
    test = data.splits.test
    expected = trained.probabilities(list(test.images)).argmax(1)
    found = measure([(trained, Source(data, "data=digits"))])
    assert found["metrics"]["accuracy"] == pytest.approx(accuracy_score(test.labels, expected))
    assert found["images"] == 300


def test_a_study_goes_on_where_it_was(own, capsys):
    words = ["evaluate", str(own), "data.clutter=16"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "not computed again" not in out
    files = sorted(own.glob("*/evaluations/data.clutter=16.json"))
    assert len(files) == 4
    before = [file.read_text() for file in files]
    files[0].unlink()
    files[1].write_text(before[1].replace(json.loads(before[1])["tested"], "of other weights"))
    files[2].write_text("")
    times = files[3].stat().st_mtime_ns
    assert main(words) == 0
    assert "1 of 4 was there already: not computed again" in capsys.readouterr().out
    for file, text in zip(files, before, strict=True):
        again, first = json.loads(file.read_text()), json.loads(text)
        assert {**again, "made": ""} == {**first, "made": ""}
    assert files[3].stat().st_mtime_ns == times
    (own / files[0].parent.parent.name / "checkpoints" / "best.ckpt").unlink()
    files[0].unlink()
    assert main(words) == 1
    out, err = capsys.readouterr()
    assert "best.ckpt: no such file" in err
    assert "3 of 3 were there already" in out
    told = read_analysis(own)
    (column,) = told["also"]
    assert (column["key"], column["words"]) == ("on data.clutter=16", "accuracy on data.clutter=16")
    assert any("on data.clutter=16: 1 of 4 points are not evaluated" in text for text in told["warnings"])


def test_seeds_together(own, capsys):
    assert main(["evaluate", str(own), "--seeds", "all"]) == 0
    assert "ensemble, val %" in capsys.readouterr().out
    records = {record["label"]: record for record in map(_read, (own / "evaluations").iterdir())}
    assert set(records) == {"none", "cbam"}
    members = sorted(own.glob("*cbam*"))
    data = with_data(members[0])
    for split in ("val", "test"):
        part = getattr(data.splits, split)
        mean = torch.stack([attnlab.load(member).probabilities(part.images) for member in members]).mean(0)
        metrics = records["cbam"][split]
        assert metrics["accuracy"] == pytest.approx(accuracy_score(part.labels, mean.argmax(1)))
        loss = float(torch.nn.functional.nll_loss(mean.log(), part.labels))
        assert metrics["loss"] == pytest.approx(loss, rel=1e-4)
    assert set(records["cbam"]["points"]) == {member.name for member in members}
    assert main(["evaluate", str(own), "--seeds", "all"]) == 0
    assert "2 of 2 were there already: not computed again" in capsys.readouterr().out
    assert main(["evaluate", str(members[0]), "data.clutter=16", "--seeds", "all"]) == 0
    told = read_analysis(own)
    assert told["ensembles"] == ["", "data.clutter=16"]
    row = next(row for row in told["variants"] if row["label"] == "cbam")
    assert row["ensembles"][""] == {"seeds": 2, **{s: records["cbam"][s]["accuracy"] for s in ("val", "test")}}
    assert row["ensembles"]["data.clutter=16"]["val"] is None


def _read(path):
    return json.loads(path.read_text())


def test_what_cannot_be_evaluated_is_told(one, capsys):
    for words, why in (
        (["nowhere"], "nowhere: no such folder; must be a point's or a study's"),
        ([str(one), "backbone=resnet18"], "backbone=resnet18: evaluate changes the data alone; valid: data=..., data."),
        ([str(one), "augment.flip=true"], "augment.flip=true: evaluate changes the data alone"),
        ([str(one), "data.cluter=3"], "data.cluter: data=cluttered_digits has no such setting; nearest: clutter"),
        ([str(one), "data.clutter=3,4"], "data.clutter=3,4: one value at a time"),
        ([str(one), "data.seed=1"], "data.seed=1: would draw other test images, on some of which the network was tra"),
        ([str(one), "augment.eval_share=0.5"], "augment.eval_share=0.5: has no effect: images become tensors as in"),
        ([str(one), "data.normalise=half"], "data.normalise=half: has no effect: images become tensors as in"),
        ([str(one), "data=digitz"], "data=digitz: no such config; nearest: digits"),
        ([str(one), "data=fer2013", "data.file=no.csv"], "data.file=no.csv: must be"),
        ([str(one), "data.clutter=3", "--name", "a/b"], "--name a/b: must be letters, digits"),
        ([str(one), "--seeds", "all", "--name", "a"], "--name: has no effect on ensembles on their own data"),
        ([str(one), "--sedes"], "unrecognized arguments: --sedes; see attnlab evaluate --help"),
    ):
        assert main(["evaluate", *words]) == 2, words
        told = capsys.readouterr().err
        assert told.startswith(f"attnlab: {why}"), told
        assert len(told.splitlines()) == 1
    assert not (one / "evaluations").exists()


@pytest.mark.parametrize("data", ["digits", "cluttered_digits"])
def test_images_of_the_training_are_never_test_images(one, capsys, data):
    """Though the data are named again, which would draw the split anew."""
    assert main(["evaluate", str(one), f"data={data}", "data.seed=1"]) == 2
    assert capsys.readouterr().err == (
        "attnlab: data.seed=1: would draw other test images, on some of which the network was trained; must be 0, as "
        "in its training, or left out\n"
    )
    config = (one / "config.yaml").read_text()
    (one / "config.yaml").write_text(config.replace("seed: 0", "seed: 3"))
    own = ledger.read_config(one)["data"]
    assert own["seed"] == 3
    assert OtherData([f"data={data}"]).config(one)["data"]["seed"] == 3


def test_a_folder_named_again_is_split_as_in_training(tmp_path, one, monkeypatch):
    own = {"_target_": "attnlab.data.ImageFolder", "folder": "photos", "val": 0.1, "folds": 5, "fold": 2, "seed": 0}
    config = {**ledger.read_config(one), "data": {**own, "name": "image_folder"}}
    monkeypatch.setattr(ledger, "read_config", lambda folder: config)
    again = ["data=image_folder", f"data.folder={tmp_path / 'photos'}"]
    found = OtherData([*again, "data.folds=5"]).config(one)["data"]
    assert [found[key] for key in ("val", "folds", "fold")] == [0.1, 5, 2]
    with pytest.raises(attnlab.InputError, match=r"data.val=0.2: would draw .* must be 0.1"):
        OtherData([*again, "data.val=0.2"]).config(one)
    with pytest.raises(attnlab.InputError, match=r"data.folds=None: would draw .* must be 5"):
        OtherData([*again, "data.folds=null"]).config(one)
    other = OtherData(["data=image_folder", "data.folder=elsewhere", "data.seed=7"]).config(one)["data"]
    assert (other["val"], other["folds"], other["seed"]) == (0.15, None, 7)


def test_photographs_are_read_as_the_network_reads_them(one, tmp_path, capsys):
    """Transparent pixels lie on the network's background, in evaluate as in predict."""
    for split in ("train", "val", "test"):
        for name in "01":
            path = tmp_path / "clear" / split / name / "a.png"
            path.parent.mkdir(parents=True)
            Image.fromarray(np.full((40, 40, 4), [200, 90, 20, 60 * int(name)], np.uint8)).save(path)
    black = dataclasses.replace(attnlab.load(one).preprocess, background="black")
    other = OtherData(["data=image_folder", "data.folder=clear"])
    split = other.source(other.config(one), black).part("test", black)
    for pixels, path in zip(split.images, sorted((tmp_path / "clear" / "test").rglob("*.png")), strict=True):
        assert torch.equal(pixels, black.pixels(path))
    words = ["evaluate", str(one), "data=image_folder", "data.folder=clear"]
    assert main([*words, "data.background=black"]) == 2
    assert "data.background=black: has no effect" in capsys.readouterr().err
    assert main(words) == 0
    assert "data.folder=clear: identical images in two splits: 2 of train in val" in capsys.readouterr().err


def test_names():
    assert (
        name_of(["data=image_folder", "data.folder=a/b c", "data.workers=2"]) == "data=image_folder,data.folder=a_b_c"
    )
    assert name_of([]) == "own"
    long = name_of([f"data.folder={'x' * 300}"])
    assert len(long) < 100
    assert long != name_of([f"data.folder={'x' * 301}"])
    assert len(name_of([f"data.folder={'猫' * 85}"]).encode()) <= 150
    with pytest.raises(attnlab.InputError, match="at most 100 and 150 bytes"):
        OtherData([], "猫" * 60)


def test_evaluating_and_predicting_know_no_training():
    """And so no Lightning."""
    modules = ("cli/evaluations", "cli/other_data", "cli/predictions", "trained/evaluating", "trained/predicting")
    assert not any("training" in imports(SOURCE / f"{module}.py") for module in modules)
