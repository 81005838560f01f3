"""attnlab explain --score: points that were trained without are measured afterwards."""

import shutil

import pytest

from attnlab import ledger
from attnlab.cli import main
from attnlab.study.collect import read_study


def test_a_study_is_measured_once(study, tmp_path, capsys):
    copy = tmp_path / "small"
    shutil.copytree(study, copy)
    for point in ledger.points(copy)[1:]:
        shutil.rmtree(point)
    assert main(["explain", str(copy), "--score", "--images", "8", "--methods", "gradcam"]) == 0
    assert f"next: attnlab report {copy}" in capsys.readouterr().out
    (variant,) = read_study(copy).variants
    (point,) = variant.points.values()
    assert {name.partition("/")[0] for name in point.result["explain"]["scores"]} == {"gates", "gradcam"}
    assert "all" in point.result["explain"]["ablation"]["one"]
    written = (point.folder / "explain.json").stat().st_mtime_ns
    assert main(["explain", str(copy), "--score"]) == 0
    assert capsys.readouterr().out == "1 point measured already\n"
    assert (point.folder / "explain.json").stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--score", "--methods", "gradcan"], "gradcan: no such method; nearest: gradcam"),
        (["--score", "--boxes", "nowhere.csv"], "explain.boxes=nowhere.csv: no such file or folder"),
        (["--score", "--sanity"], "--sanity: has no effect with --score"),
        (["--score", "photo.png"], "photo.png: has no effect with --score"),
        (["--boxes", "b.csv"], "--boxes b.csv: has an effect with --score alone"),
    ],
)
def test_wrong_words_in_one_line(point, words, message, capsys):
    assert main(["explain", str(point), *words]) == 2
    assert capsys.readouterr().err.startswith(f"attnlab: {message}")
