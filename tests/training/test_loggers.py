"""W&B's run of a point over several attempts, read back from its offline files."""

import json
import time

import pytest
import wandb

from attnlab.training.loggers import _confusion, open_loggers, tags
from attnlab.training.stop import Preempted
from tests.study.points import ABOUT
from tests.wandb_file import records

CONFIG = {
    "study": "s",
    "seed": 0,
    "tags": ["mine"],
    "backbone": {"name": "resnet18"},
    "attention": {"name": "cbam", "ratio": 16.0, "order": None},
    "sites": {"name": "branch"},
    "data": {"name": "digits"},
    "logger": {"name": "wandb", "project": "p", "entity": None, "mode": "offline"},
}


def attempt(point, *metrics, error=None):
    with open_loggers(CONFIG, point) as (logger,):
        for step, value in metrics:
            logger.log_metrics({"val/accuracy": value}, step)
        if error:
            raise error


def test_attempts_are_one_run_with_one_curve(tmp_path, monkeypatch):
    point = tmp_path / "point"
    point.mkdir()
    (point / "point.json").write_text(json.dumps(ABOUT))
    with pytest.raises(Preempted):
        attempt(point, (10, 0.1), (20, 0.2), error=Preempted("SIGTERM"))
    with pytest.raises(ValueError, match="broken"):
        attempt(point, (30, 0.3), error=ValueError("broken"))
    attempt(point, (40, 0.4))
    wandb.teardown()  # its own process writes the files
    kept = json.loads((point / "point.json").read_text())["wandb_id"]
    ids, steps, codes, preempting = set(), [], [], 0
    for path in sorted(point.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime):
        for record in records(path):
            kind = record.WhichOneof("record_type")
            preempting += kind == "preempting"
            if kind == "run":
                ids.add(record.run.run_id)
            elif kind == "history":
                steps += [int(i.value_json) for i in record.history.item if (i.key or i.nested_key[0]) == "_step"]
            elif kind == "exit":
                codes.append(record.exit.exit_code)
    assert ids == {kept}
    assert steps == [10, 20, 30, 40]
    assert codes == [1, 1, 0]
    assert preempting == 1


def test_an_epoch_is_written_down_before_the_next_one_ends(tmp_path):
    """What is not yet in the file is lost where all of a point's processes are killed."""
    (tmp_path / "point.json").write_text(json.dumps(ABOUT))
    with open_loggers(CONFIG, tmp_path) as (logger,):
        logger.log_metrics({"gates/a": 0.5}, 10)
        logger.log_metrics({"val/accuracy": 0.1, "epoch": 0}, 10)
        deadline = time.monotonic() + 8  # W&B's own pace is 15 s
        rows = []
        while not rows:
            assert time.monotonic() < deadline
            time.sleep(0.2)
            for path in tmp_path.glob("wandb/offline-run-*/*.wandb"):
                rows = [r.history for r in records(path) if r.WhichOneof("record_type") == "history"]
    assert {item.key or "/".join(item.nested_key) for item in rows[0].item} >= {"gates/a", "val/accuracy", "_step"}


def test_tags_are_the_choices():
    assert tags(CONFIG) == ["resnet18", "cbam", "branch", "digits", "ratio=16", "mine"]
    long = {**CONFIG, "sites": None, "tags": ["x" * 80], "attention": {"name": "none"}}
    assert tags(long) == ["resnet18", "none", "digits", "x" * 64]


def test_the_confusion_matrix_of_many_classes_holds_what_is_not_empty():
    import numpy as np

    answers = np.array([[0, 0, 999, 5], [0, 0, 999, 7]])
    classes = [f"c{i}" for i in range(1000)]
    assert _confusion(answers, classes).table.data == [["c0", "c0", 2], ["c5", "c7", 1], ["c999", "c999", 1]]


def test_wandb_that_is_switched_off_stays_off(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with open_loggers({"logger": {"name": "wandb"}}, tmp_path) as loggers:
        assert loggers == []
    assert list(tmp_path.iterdir()) == []
