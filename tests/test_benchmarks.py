"""The benchmarks run; what they measure is read by people."""

import json
import re

import pytest

from tests.benchmarks import __main__ as benchmarks
from tests.benchmarks import loop
from tests.conftest import REPOSITORY


def test_a_row_is_measured_in_turns_with_another_checkout(tmp_path, capfd):
    (tmp_path / "src").symlink_to(REPOSITORY / "src")
    file = tmp_path / "figures.json"
    benchmarks.main(["study", "points=2", "--rounds", "1", "--against", str(tmp_path), "--json", str(file)])
    (turns,) = json.loads(file.read_text())["rounds"]
    assert len(turns) == 2
    assert turns[0].keys() == turns[1].keys() > {"read, s", "page, MiB"}
    assert turns[0]["page, MiB"] == turns[1]["page, MiB"] > 0
    assert re.search(r"^page, MiB +0\.\d+ +0\.\d+ +1$", capfd.readouterr().out, re.MULTILINE)


def test_a_round_imports_the_checkout_that_it_names(tmp_path, capfd):
    (tmp_path / "src" / "attnlab").mkdir(parents=True)
    (tmp_path / "src" / "attnlab" / "__init__.py").write_text("raise SystemExit('this one')")
    with pytest.raises(benchmarks.subprocess.CalledProcessError):
        benchmarks.one_round("study", tmp_path, {"points": 1})
    assert "this one" in capfd.readouterr().err


def test_spread_and_ratios():
    rounds = [[{"a, s": 1.0 * n, "new": 5}, {"a, s": 2.0}] for n in (1, 2, 3, 4, 5)]
    head, a, new = benchmarks.lines(["loop", "this", "other", "this / other"], rounds)
    assert re.split("  +", a) == ["a, s", "3 [2, 4]", "2 [2, 2]", "1.5 [1, 2]"]
    assert re.split("  +", new) == ["new", "5 [5, 5]"]
    assert head.endswith("this / other")


@pytest.mark.parametrize(
    "argv",
    [
        ["nothing"],
        ["study", "--rounds", "0"],
        ["study", "--against", "nowhere"],
        ["study", "points=many"],
        ["study", "pointz=3"],
    ],
)
def test_a_wrong_command_measures_nothing(argv, capsys):
    with pytest.raises(SystemExit, match="2"):
        benchmarks.main(argv)
    assert argv[-1] in capsys.readouterr().err


def test_help_says_what_each_row_measures(capsys):
    with pytest.raises(SystemExit, match="0"):
        benchmarks.main(["--help"])
    said = capsys.readouterr().out
    for row in benchmarks.ROWS:
        assert re.search(rf"^  {row} +[a-z].{{20,}}", said, re.MULTILINE)


def test_the_training_loop_trains_what_a_hand_written_one_does():
    words = ["backbone=lenet5", "sites=unit", "data=digits", "data.batch_size=400"]
    figures = loop.measure({"lenet5": words}, epochs=1, cpu=1)  # it compares the weights
    assert figures["lenet5: epoch, over by hand"] > 0
