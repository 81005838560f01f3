"""The script for the GPU, rehearsed on the CPU: no second of a GPU is to be spent on a typo."""

import json
import os
import subprocess
import sys
import tarfile

import pytest

from tests.conftest import REPOSITORY
from tests.gpu import table
from tests.gpu.__main__ import failures
from tests.gpu.measure import check
from tests.gpu.parts import LINES


def test_every_part_writes_its_results(tmp_path):
    done = subprocess.run(
        ["bash", str(REPOSITORY / "tests" / "gpu" / "run.sh"), "--cpu"],
        env={**os.environ, "PYTHON": sys.executable, "OUT": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    measured = json.loads((tmp_path / "cpu.json").read_text())
    assert list(measured["parts"]) == [part.name for _, parts in LINES for part in parts if part.on_cpu]
    assert all(len(found) > 1 for found in measured["parts"].values())  # more than its seconds
    assert not list(failures(measured))
    assert any(line.startswith("| none | ") for line in measured["parts"]["zoo_fashion"]["report"])
    with tarfile.open(tmp_path / "zoo_fashion.tar.gz") as tar:
        assert sum(name.endswith("/result.json") for name in tar.getnames()) == 2
    assert not (REPOSITORY / "tests" / "gpu" / "results" / "cpu.json").exists()
    text = "\n".join(table.lines(measured))
    assert text.count("| --- |") == 9


def test_failures_are_errors_and_checks_beyond_their_tolerance():
    found = {"a": {"b": check(0.1, 0.2), "c": check(0.3, 0.2), "d": check(float("nan"), 1)}, "e": {"error": "no"}}
    assert list(failures(found)) == ["a / c: 0.3 is beyond 0.2", "a / d: nan is beyond 1", "e: no"]


@pytest.mark.parametrize(
    "parts", [{}, {"blocks": {"error": "no"}, "slots": {"seconds": 3}, "epoch x": {"error": "no"}}]
)
def test_the_table_says_nothing_where_nothing_was_measured(parts):
    head = {"card": "GPU", "torch": "2.11", "date": "today"}
    assert list(table.lines({**head, "parts": parts})) == ["## GPU, PyTorch 2.11, today"]
