"""A table of paths and labels."""

import pytest
import torch
from PIL import Image

from attnlab.data import ImageTable
from attnlab.errors import InputError, MissingData


@pytest.fixture
def images(tmp_path):
    (tmp_path / "photos").mkdir()
    for i in range(30):
        Image.new("L", (20, 10), 8 * i).save(tmp_path / "photos" / f"{i}.png")
    return tmp_path


def write(folder, header, row, count=30, name="table.csv"):
    path = folder / name
    path.write_text("\n".join([header, *(row(i) for i in range(count))]), encoding="utf-8-sig")
    return str(path)


def test_paths_and_labels(images):
    table = write(images, "label,path", lambda i: f"{'cat' if i % 2 else 'ass'},photos/{i}.png")
    data = ImageTable(table=table, size=8, batch_size=4, val=0.2, test=0.2)
    assert (data.num_classes, data.classes, data.shape) == (2, ["ass", "cat"], (1, 8, 8))
    assert [len(split) for split in data.splits] == [18, 6, 6]
    for split in data.splits:
        assert torch.equal(split.images[:, 0, 4, 4] // 8 % 2, split.labels)


def test_given_splits_numbers_and_other_columns(images):
    parts = ["train", "Validation", "test"]
    table = write(images, "file,age,part", lambda i: f"{i}.png,{10 * (i // 3 % 3)},{parts[i % 3]}")
    names = {"path_column": "file", "label_column": "age", "split_column": "part"}
    data = ImageTable(table=table, folder=str(images / "photos"), size=8, batch_size=4, **names)
    assert data.classes == ["0", "10", "20"]
    assert [(split.images[:, 0, 4, 4] // 8).tolist() for split in data.splits] == [
        list(range(i, 30, 3)) for i in range(3)
    ]
    table = write(images, "path\tlabel\tsplit", lambda i: f"photos/{i}.png\t{i // 3 % 2}\t{parts[i % 3]}", name="t.tsv")
    data = ImageTable(table=table, size=8, batch_size=4)
    assert data.splits.train.labels.tolist() == [0, 1] * 5
    table = write(images, "path,label,split", lambda i: f"photos/{i}.png,{i // 2 % 2},{parts[i % 2 * 2]}")
    data = ImageTable(table=table, size=8, batch_size=4, val=0.4)
    assert [len(split) for split in data.splits] == [9, 6, 15]
    assert "val is a share of 0.4 of train" in data.notes[0]


def test_groups_are_a_column(images):
    table = write(images, "path,label,person", lambda i: f"photos/{i}.png,{i % 2},p{i // 3}")
    data = ImageTable(table=table, size=8, batch_size=4, group="person", folds=5, fold=1, val=0.3)
    people = [set((split.images[:, 0, 4, 4] // 8 // 3).tolist()) for split in data.splits]
    assert not (people[0] & people[1]) | (people[0] & people[2]) | (people[1] & people[2])
    assert "data.group=person makes 10 groups" in data.notes[0]
    assert ImageTable(table=table, size=8, batch_size=4, group=r"(\d)\.png").loaded


def test_groups_that_given_splits_tear_apart_are_told(images):
    parts = ["train", "val", "test"]
    row = lambda i: f"photos/{i}.png,{i // 3 % 2},p{i},{parts[i % 3]}" if i else "photos/0.png,0,p1,train"  # noqa: E731
    data = ImageTable(table=write(images, "path,label,person,split", row), size=8, batch_size=4, group="person")
    assert len(data.loaded.train) == 10
    assert data.notes[1].endswith("1 group in two of the given splits: p1")


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("file,label", "{},1", r"data.path_column=path: .* has no such column; valid: file, label"),
        ("path,label", "photos/{}.png,", r"no label in line 2, 3, 4 and 27 more"),
        ("path,label", "photos/{}", r"must have 2 cells in each line; not so: line 2, 3, 4 and 27 more"),
        ("path,label", "{}.png,1", r"30 of 30 files are not there: 0.png \(line 2\), 1.png \(line 3\), .* and 27 more"),
        ("path,label", "photos/{}.png,1", r"must have at least 2 different labels; it has 1"),
        ("path,label,split", "photos/{0}.png,{0},eval", r"split must be train, val or test; not so: 'eval' \(line 2\)"),
    ],
)
def test_what_is_wrong_is_named(images, header, row, message):
    table = write(images, header, row.format)
    with pytest.raises(InputError, match=message) as error:
        ImageTable(table=table)
    assert len(str(error.value).splitlines()) == 1


def test_no_table(images):
    with pytest.raises(MissingData, match=r"data.table=no.csv: must be a CSV file with the columns path, label"):
        ImageTable(table="no.csv")
    data = ImageTable(table="no.csv", num_classes=3, size=8)
    assert (data.num_classes, data.shape) == (3, (3, 8, 8))
    with pytest.raises(MissingData, match=r"data.table=no.csv"):
        data.check()
    table = write(images, "path,label", lambda i: f"photos/{i}.png,{i % 2}")
    with pytest.raises(InputError, match=r"data.num_classes=3: .* has 2 different labels"):
        ImageTable(table=table, num_classes=3)
    with pytest.raises(InputError, match=r"data.split_column=fold: .* has no such column; valid: label, path"):
        ImageTable(table=table, split_column="fold")
