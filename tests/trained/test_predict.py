"""attnlab predict: the classes of any images, as a table, CSV and JSON, and how right they are."""

import csv
import dataclasses
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

import attnlab
from attnlab import ledger
from attnlab.cli import main
from attnlab.cli.predictions import draw_confusion, print_predictions
from attnlab.config.build import build_data
from attnlab.trained.listing import Listed, list_images
from attnlab.trained.model import BATCH
from attnlab.trained.predicting import predict_all


@pytest.fixture(scope="module")
def photos(point, tmp_path_factory):
    """Eighty test images in folders of their classes, one of no class, one that is broken, and another file."""
    folder = tmp_path_factory.mktemp("predict") / "photos"
    test = build_data(ledger.read_config(point)).splits.test
    for i in range(80):
        path = folder / str(int(test.labels[i])) / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(test.images[i, 0].numpy()).save(path)
    (folder / "cat").mkdir()
    Image.fromarray(test.images[80, 0].numpy()).save(folder / "cat" / "a.png")
    (folder / "3" / "broken.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image either")
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_labelled_folder_in_each_format(point, photos, here, capsys):
    assert main(["predict", str(point), str(photos), "--format", "csv", "--top", "2"]) == 1
    out, err = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [*rows[0]] == ["file", "label", "class", "probability", "class_2", "probability_2"]
    trained = attnlab.load(point)
    top = trained.top([row["file"] for row in rows], 2)
    for row, ((first, p), (second, q)) in zip(rows, top, strict=True):
        assert (row["class"], row["class_2"]) == (first, second)
        assert (float(row["probability"]), float(row["probability_2"])) == pytest.approx((p, q), rel=1e-4)
    assert len(rows) == 81
    assert f"skipped: {photos / '3' / 'broken.png'}: cannot be read: no image" in err
    assert "no class of this network, so predicted, but not counted: cat (1 image)" in err
    assert "left out 1 file of other formats: .txt 1" in err
    assert "1 of 82 images could not be read" in err
    labelled = [row for row in rows if row["label"]]
    labels, predicted = ([row[key] for row in labelled] for key in ("label", "class"))
    accuracy = accuracy_score(labels, predicted)
    assert f"accuracy {100 * accuracy:.1f} % of 80 labelled images" in err
    assert "confusion matrix: confusion.png" in err
    assert (here / "confusion.png").read_bytes().startswith(b"\x89PNG")

    assert main(["predict", str(point), str(photos), "--output", "told/all.json", "--top", "1"]) == 1
    told = json.loads((here / "told" / "all.json").read_text())
    assert [each["top"][0]["class"] for each in told["images"]] == [row["class"] for row in rows]
    assert told["accuracy"] == pytest.approx(accuracy)
    assert told["skipped"] == 1
    reference = precision_recall_fscore_support(labels, predicted, labels=trained.classes, zero_division=np.nan)
    for key, values in zip(("precision", "recall", "f1", "support"), reference, strict=True):
        mine = [np.nan if about[key] is None else about[key] for about in told["per_class"].values()]
        np.testing.assert_allclose(mine, values, err_msg=key)
    assert "written: told/all.json" in capsys.readouterr().out
    assert {path.name for path in (here / "told").iterdir()} == {"all.json", "all-confusion.png"}

    some = sorted(map(str, (photos / "1").iterdir()))[:2]
    assert main(["predict", str(point), *some]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["file", "predicted", "2.", "3."]
    assert [line.split()[0] for line in lines[1:]] == some
    name, p = trained.predict(some[0])[0]
    assert lines[1].split()[1:4] == [name, f"{100 * p:.1f}", "%"]


def test_mirror_images_seeds_and_the_best(study, photos, here, capsys):
    image = str(next((photos / "1").iterdir()))
    best = attnlab.load(study, best=True, seeds="all")
    for words, flip in (([], None), (["--tta", "flip"], True)):
        assert main(["predict", str(study), image, "--best", "--seeds", "all", "--format", "json", *words]) == 0
        (told,) = json.loads(capsys.readouterr().out)["images"]
        name, p = best.predict(image, flip=flip)[0]
        assert told["top"][0] == {"class": name, "probability": pytest.approx(p, rel=1e-4)}


def test_a_table_of_paths(point, photos, here, capsys):
    one, two = sorted((photos / "1").iterdir())[:2]
    table = here / "some.csv"
    (here / "near.png").write_bytes(one.read_bytes())
    table.write_text(f"number,image,label\n1,near.png,1\n2,{two},bird\n3,gone.png,1\n4,{two},\n")
    assert main(["predict", str(point), "some.csv", "--format", "csv"]) == 1
    out, err = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [(row["file"], row["label"]) for row in rows] == [("near.png", "1"), (str(two), ""), (str(two), "")]
    assert "labels that are no class of this network, so not counted: bird (1)" in err
    assert "skipped: gone.png: no such file" in err
    table.write_text("near.png,1\n")
    (here / "none.csv").write_text("path\n")
    (here / "empty.csv").write_text("")
    (here / "folder").mkdir()
    for words, why in (
        (["some.csv"], "some.csv: its first line names an image; must be a header, such as path,label"),
        (["empty.csv"], "empty.csv: is empty; must be a CSV with a header"),
        (["none.csv"], "no images: must be images, folders of images or CSVs"),
        (["folder"], "no images: must be"),
        (["absent.png"], "absent.png: no such file or folder; must be"),
        (["near.png", "--top", "0"], "--top 0: must be at least 1"),
        (["near.png", "--confusion", "a.jpg"], "--confusion a.jpg: must end in .png"),
        (["near.png", "--output", "folder"], "--output folder: is a folder; must be a file"),
    ):
        assert main(["predict", str(point), *words]) == 2
        assert why in capsys.readouterr().err
    assert main(["predict", str(point.parent), "near.png"]) == 2
    assert "of a study, --best takes the best point" in capsys.readouterr().err


def test_nothing_of_anothers_is_written_over(point, photos, here, capsys):
    image = next((photos / "1").iterdir())
    (here / "list.csv").write_text(f"path,label\n{image},1\n")
    (here / "linked.csv").symlink_to("list.csv")
    before = (here / "list.csv").read_text()
    for words in (["--output", "linked.csv"], ["--confusion", str(image)]):
        assert main(["predict", str(point), "list.csv", *words]) == 2
        assert "is read, so it must not be written; choose another name" in capsys.readouterr().err
    assert (here / "list.csv").read_text() == before
    (here / "confusion.png").write_bytes(image.read_bytes())
    assert main(["predict", str(point), "list.csv"]) == 0
    assert "not drawn, as confusion.png is another's; --confusion FILE draws it" in capsys.readouterr().err
    assert (here / "confusion.png").read_bytes() == image.read_bytes()
    (here / "confusion.png").unlink()
    for _ in range(2):  # its own it renews
        assert main(["predict", str(point), "list.csv"]) == 0
        assert "confusion matrix: confusion.png" in capsys.readouterr().out


def test_names_cannot_steer_a_terminal(point, photos, here, capsys):
    trained = attnlab.load(point)
    trained = dataclasses.replace(trained, classes=[f"\x1b[31m{name}\x9b\u202e\n" for name in trained.classes])
    print_predictions(trained, [Listed(str(next((photos / "1").iterdir())), 1)], confusion=here / "c.png")
    out = capsys.readouterr().out
    assert "?[31m1???" in out
    assert not set("\x1b\x9b\u202e") & set(out)


def test_folders_without_a_class(photos):
    images, notes = list_images([photos], ["cat", "dog"])
    assert [image.label for image in images if "cat" in image.path] == [0]
    assert {image.label for image in images if "cat" not in image.path} == {None}
    images, notes = list_images([photos], ["dog"])
    assert {image.label for image in images} == {None}
    assert "are no classes of this network, so nothing is said of its accuracy" in notes[0]


def test_images_are_read_as_they_are_needed(point, photos):
    trained, read = attnlab.load(point), 0
    path = str(next((photos / "1").iterdir()))

    def many():
        nonlocal read
        for _ in range(20 * BATCH):
            read += 1
            yield Listed(path)

    rows = predict_all(trained, many())
    first = next(rows)
    assert read <= 4 * BATCH
    assert [trained.classes[first.best[0][0]]] == [name for name, _ in trained.predict(path)]
    rows.close()


def test_a_confusion_matrix_has_the_classes_that_occur():
    labels, predicted = torch.randint(0, 4, (2, 50)).numpy() * 2
    classes = [f"class {i}" for i in range(9)]
    small = Image.open(io.BytesIO(draw_confusion(np.stack([labels, predicted]), classes)))
    large = Image.open(io.BytesIO(draw_confusion(np.tile(np.arange(9), (2, 1)), classes)))
    assert confusion_matrix(labels, predicted).shape == (4, 4)
    assert small.width < large.width
