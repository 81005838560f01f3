"""FER-2013's CSV in its variants, and what is wrong with a line."""

import gzip
import lzma
import zipfile

import numpy as np
import pytest
import torch

from attnlab.data import Fer2013
from attnlab.errors import InputError, MissingData

USAGES = {"Training": 6, "PublicTest": 2, "PrivateTest": 1}  # rows of each class


def rows(usages=USAGES):
    """(emotion, pixels, usage) of random faces."""
    random = np.random.default_rng(0)
    return [
        (emotion, random.integers(0, 256, 2304, dtype=np.uint8), usage)
        for usage, each in usages.items()
        for emotion in list(range(7)) * each
    ]


def text(rows, header="emotion,pixels,Usage", end="\n"):
    columns = [name.strip().lower() for name in header.split(",")]
    lines = [header]
    for emotion, pixels, usage in rows:
        cells = {"emotion": str(emotion), "pixels": " ".join(map(str, pixels)), "usage": usage}
        lines.append(",".join(cells[name] for name in columns))
    return (end.join(lines) + end).encode()


def zipped(path, content):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("fer2013/fer2013.csv", content)
        archive.writestr("fer2013/README", "about")


WRITERS = {
    "csv": lambda path, content: path.write_bytes(content),
    "csv.gz": lambda path, content: path.write_bytes(gzip.compress(content)),
    "csv.xz": lambda path, content: path.write_bytes(lzma.compress(content)),
    "zip": zipped,
}


@pytest.mark.parametrize("header", ["emotion,pixels,Usage", "emotion,Usage,pixels", "emotion, Usage, pixels"])
@pytest.mark.parametrize(
    ("suffix", "end"), [("csv", "\n"), ("csv", "\r\n"), ("csv.gz", "\n"), ("csv.xz", "\n"), ("zip", "\n")]
)
def test_each_variant_of_the_file(tmp_path, header, suffix, end):
    path = tmp_path / f"fer.{suffix}"
    WRITERS[suffix](path, text(rows(), header, end))
    data = Fer2013(file=str(path), batch_size=8)
    assert (data.shape, data.num_classes, data.classes[3]) == ((1, 48, 48), 7, "happy")
    assert [len(split) for split in data.splits] == [42, 14, 7]
    for split, usage in zip(data.splits, USAGES, strict=True):
        mine = [row for row in rows() if row[2] == usage]
        assert split.labels.tolist() == [emotion for emotion, _, _ in mine]
        assert np.array_equal(split.images.flatten(1).numpy(), [pixels for _, pixels, _ in mine])
    assert data.notes == []
    assert Fer2013(file=str(path), batch_size=8, size=32).splits.val.images.shape == (14, 1, 32, 32)


def test_without_private_test(tmp_path):
    (tmp_path / "fer.csv").write_bytes(text(rows({"Training": 10, "PublicTest": 2})))
    data = Fer2013(file=str(tmp_path / "fer.csv"), batch_size=8, val=0.2)
    assert [len(split) for split in data.splits] == [56, 14, 14]
    assert torch.bincount(data.splits.val.labels).tolist() == [2] * 7
    assert data.notes == [
        f"data.file={tmp_path}/fer.csv: no PrivateTest rows: test is PublicTest, val a share of 0.2 of Training"
    ]
    (tmp_path / "fer.csv").write_bytes(text(rows({"Training": 10})))
    with pytest.raises(InputError, match="no row of Usage PublicTest"):
        _ = Fer2013(file=str(tmp_path / "fer.csv")).splits


def test_identical_faces_are_told_and_dropped(tmp_path):
    faces = rows()
    faces[0] = (0, faces[42][1], "Training")  # as the first of PublicTest
    faces[1] = (1, faces[56][1], "Training")  # as the first of PrivateTest
    faces[43] = (1, faces[57][1], "PublicTest")
    (tmp_path / "fer.csv").write_bytes(text(faces))
    kept = Fer2013(file=str(tmp_path / "fer.csv"), batch_size=8)
    assert [len(split) for split in kept.splits] == [42, 14, 7]
    assert "1 of train in val, 1 of train in test, 1 of val in test (kept;" in kept.notes[0]
    dropped = Fer2013(file=str(tmp_path / "fer.csv"), batch_size=8, duplicates="drop")
    assert [len(split) for split in dropped.splits] == [40, 13, 7]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda line: line.replace(b" 77", b"", 1), r"line 4 \(2303 pixels, must be 2304\)$"),
        (lambda line: line.replace(b" ", b"  ", 1) + b"\n", ""),
        (lambda line: line.replace(b" ", b" 256 ", 1), r"line 4 \(pixels must be numbers from 0 to 255\)$"),
        (lambda line: line.replace(b" ", b" 1234 ", 1), r"line 4 \(pixels must be numbers"),
        (lambda line: line.replace(b" ", b":", 1), r"line 4 \(pixels must be numbers"),
        (lambda line: line.replace(b" ", b" -1 ", 1), r"line 4 \(pixels must be numbers"),
        (lambda line: b"9" + line[1:], r"line 4 \(emotion '9', must be 0 to 6\)"),
        (lambda line: line.replace(b"Training", b"Tuning"), r"line 4 \(Usage 'Tuning'\)"),
        (lambda line: line + b",1", r"line 4 \(4 cells, must be 3\)"),
        (lambda line: line[:100], r"line 4 \(2 cells, must be 3\)"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, change, message):
    lines = text(rows()).split(b"\n")
    lines[2] = lines[2].split(b",", 1)[0] + b"," + b" ".join([b"7"] * 2304) + b",Training"
    lines[3] = lines[3].split(b",", 1)[0] + b"," + b" ".join([b"77"] * 2304) + b",Training"
    lines[3] = change(lines[3])
    (tmp_path / "fer.csv").write_bytes(b"\n".join(lines))
    data = Fer2013(file=str(tmp_path / "fer.csv"), batch_size=8)
    if not message:  # spaces and empty lines do not matter
        assert (data.splits.train.images[2] == 77).all()
        assert (data.splits.train.images[1] == 7).all()
        return
    with pytest.raises(InputError, match=message):
        _ = data.splits


def test_no_such_file_and_no_such_columns(tmp_path):
    with pytest.raises(MissingData, match=r"data.file=.*: must be FER-2013's CSV"):
        _ = Fer2013(file=str(tmp_path / "fer.csv")).splits
    (tmp_path / "fer.csv").write_text("label,image\n1,2\n")
    with pytest.raises(InputError, match="line 1 must name the columns emotion, pixels and Usage"):
        _ = Fer2013(file=str(tmp_path / "fer.csv")).splits
    (tmp_path / "fer.csv.gz").write_bytes(gzip.compress(text(rows()))[:-20])
    with pytest.raises(InputError, match=r"fer.csv.gz: cannot be read: "):
        _ = Fer2013(file=str(tmp_path / "fer.csv.gz")).splits
    (tmp_path / "fer.csv").write_text("emotion,pixels,Usage\n")
    with pytest.raises(InputError, match="no row of Usage Training"):
        _ = Fer2013(file=str(tmp_path / "fer.csv")).splits


@pytest.mark.slow
def test_the_real_one(shared_data):
    data = Fer2013(file=str(shared_data / "fer2013" / "fer2013.csv.xz"))
    assert [len(split) for split in data.splits] == [25_838, 2_871, 3_589]
    assert float(data.moments[0]) == pytest.approx(0.5077, abs=1e-3)
    assert "315 of train in test" in data.notes[1]


def test_parsed_once_a_machine(tmp_path, monkeypatch):
    (tmp_path / "fer.csv").write_bytes(text(rows()))

    def splits():
        data = Fer2013(file=str(tmp_path / "fer.csv"), batch_size=8)
        data.cache = tmp_path / "cache"
        return data.splits

    first = splits()
    with monkeypatch.context() as patch:
        patch.setattr("attnlab.data.sets.fer.read_rows", lambda file, where: pytest.fail("parsed again"))
        again = splits()
    assert all(torch.equal(a.images, b.images) for a, b in zip(first, again, strict=True))
    (tmp_path / "fer.csv").write_bytes(text(rows({**USAGES, "Training": 7})))
    assert len(splits().train) == 49
