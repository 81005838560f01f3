"""The files that a point was trained on, and whether they are still the same."""

import os
import shutil

import pytest

from attnlab.ledger.fingerprints import files_of, fingerprint, same_data


@pytest.fixture
def data(tmp_path):
    for i in range(4):
        path = tmp_path / "photos" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([i]) * 9)
    return {"name": "photos", "folder": str(tmp_path / "photos"), "size": 64}


def test_what_is_moved_copied_or_hidden_is_the_same(data, tmp_path):
    then = fingerprint(data, contents=True)
    assert then["files"] == 4
    os.rename(data["folder"], tmp_path / "moved")
    moved = {**data, "folder": str(tmp_path / "moved")}
    assert same_data(then, fingerprint(moved), moved)
    assert fingerprint(moved)["times"] == then["times"]
    shutil.copytree(tmp_path / "moved", tmp_path / "copied", copy_function=shutil.copyfile)
    copied = {**data, "folder": str(tmp_path / "copied")}
    assert fingerprint(copied)["times"] != then["times"]
    assert same_data(then, fingerprint(copied), copied)
    (tmp_path / "moved" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "moved" / "__MACOSX").mkdir()
    (tmp_path / "moved" / "__MACOSX" / "x").write_bytes(b"x")
    assert fingerprint(moved) == {key: then[key] for key in ("files", "names", "times")}


@pytest.mark.parametrize(
    "change",
    [
        lambda photos: (photos / "a" / "0.png").unlink(),
        lambda photos: (photos / "a" / "4.png").write_bytes(b"new"),
        lambda photos: (photos / "a" / "0.png").rename(photos / "b" / "0.png"),
        lambda photos: (photos / "a" / "0.png").write_bytes(b"other"),
        lambda photos: ((photos / "a" / "0.png").write_bytes(b"same size"), os.utime(photos / "a" / "0.png", (5, 5))),
    ],
)
def test_what_is_deleted_added_renamed_or_changed_is_not(data, tmp_path, change):
    then = fingerprint(data, contents=True)
    change(tmp_path / "photos")
    assert not same_data(then, fingerprint(data), data)


@pytest.mark.parametrize("folder", [None, "elsewhere"])
def test_the_images_of_a_table(tmp_path, folder):
    root = tmp_path / (folder or "")
    (root / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/ü.png", "unnamed.png"):
        (root / name).write_bytes(b"before")
    table = tmp_path / "t.tsv"
    table.write_text("label\t file\nx\ta.png \ny\tsub/ü.png\n\nz\tabsent.png\n", encoding="utf-8-sig")
    data = {"_target_": "attnlab.data.ImageTable", "table": str(table), "folder": folder and str(root)}
    assert fingerprint({**data, "path_column": "other"})["files"] == 1
    data["path_column"] = "file"
    then = fingerprint(data, contents=True)
    assert then["files"] == 3
    (root / "unnamed.png").write_bytes(b"after!")
    assert same_data(then, fingerprint(data), data)
    (root / "sub" / "ü.png").write_bytes(b"after!")
    assert not same_data(then, fingerprint(data), data)
    table.write_bytes(b"\xff")
    assert fingerprint(data)["files"] == 1


def test_links_are_followed_but_not_for_ever(data, tmp_path):
    photos = tmp_path / "photos"
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "x.png").write_bytes(b"x")
    for name, to in (
        ("a/linked", tmp_path / "far"),
        ("a/self", photos / "a"),
        ("a/again", photos / "a"),
        ("b/up", photos),
    ):
        (photos / name).symlink_to(to)
    assert fingerprint(data)["files"] == 5


def test_only_settings_that_name_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "x").write_text("x")
    assert fingerprint({"name": "digits", "dataset": "digits", "root": "digits"}) is None
    assert fingerprint({"folder": "nowhere"}) is None
    assert fingerprint({"label_file": "digits/x"})["files"] == 1
    assert files_of({"name": "digits", "folder": "a", "label_file": "digits/x"}) == (
        "data.folder=a, data.label_file=digits/x"
    )
