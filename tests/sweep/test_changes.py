"""Data that change between the points of a study."""

import json

import pytest
from PIL import Image

from tests.conftest import attnlab


@pytest.fixture
def photos(tmp_path):
    for label in ("cat", "dog"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for i in range(20):
            Image.new("RGB", (16, 16), (i, 90 * (label == "cat"), 0)).save(tmp_path / "photos" / label / f"{i}.png")
    (tmp_path / "photos" / "cat" / "moving.mp4").write_bytes(b"")
    return tmp_path / "photos"


def test_changed_data_are_told_and_their_points_not_mixed_without_a_warning(photos, tmp_path):
    words = [
        "data=image_folder",
        "data.folder=photos",
        "data.size=32",
        "data.batch_size=4",
        "backbone=lenet5",
        "study=s",
    ]
    words += ["trainer.max_epochs=1", "trainer.accelerator=cpu"]
    first = attnlab("train", *words, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    left_out = "data.folder=photos: left out 1 file of other formats: .mp4 1"
    assert left_out in first.stdout
    (point,) = tmp_path.glob("outputs/s/*/point.json")
    assert left_out in point.with_name("log.txt").read_text()
    before = point.with_name("result.json").read_bytes()
    (seen,) = json.loads(point.read_text())["data"]
    assert seen["files"] == 41
    assert "changed" not in attnlab("plan", *words, cwd=tmp_path).stdout
    for i in range(8):
        (photos / "dog" / f"{i}.png").unlink()
    told = (
        "data.folder=photos: the data have changed since 1 finished point of outputs/s saw them (41 files then, 33 now"
    )
    again = attnlab("train", *words, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert told in again.stdout
    assert point.with_name("result.json").read_bytes() == before
    second = attnlab("train", *words, "seed=1", cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    assert told in second.stdout
    report = json.loads(attnlab("report", "outputs/s", "--format", "json", cwd=tmp_path).stdout)
    (warning,) = (text for text in report["warnings"] if "different data" in text)
    assert warning.startswith("data.folder=photos: points were trained on different data: ")
    assert "41 files (" in warning
    assert "33 files (" in warning
    assert point.parent.name in warning
