"""W&B's run of a point over several attempts, read back from its offline files."""

import json
import time

import pytest
import wandb

from attnlab.config import schema
from attnlab.config.compose import composing
from attnlab.insertion import Site
from attnlab.training.loggers import _confusion, _sites, open_loggers, tags
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


def test_each_attention_of_a_design_is_a_tag_and_has_a_place_in_the_config(tmp_path):
    nodes = [("se", "branch", [1, 2], 8.0), ("cbam", "branch", [3], 8.0), ("eca", "stem", "all", None)]
    several = [
        {"attention": {"name": name, "ratio": ratio}, "sites": {"name": role, "role": role, "stages": stages}}
        for name, role, stages, ratio in nodes
    ]
    names = {"attention": {"name": "se+cbam+eca"}, "sites": {"name": "branch+stem"}, "placements": several}
    told = [
        "resnet18",
        "se+cbam+eca",
        "branch+stem",
        "se",
        "branch",
        "cbam",
        "eca",
        "stem",
        "digits",
        "ratio=8",
        "mine",
    ]
    assert tags({**CONFIG, **names}) == told
    (tmp_path / "point.json").write_text(json.dumps(ABOUT))
    at = [Site("a", "branch", n, 1, 8, 4, 4) for n in (1, 2, 3)] + [Site("b", "stem", 0, None, 8, 4, 4)]
    with open_loggers({**CONFIG, **names}, tmp_path, sites=at) as (logger,):
        found = dict(logger.experiment.config)
    assert found["placements"] == {
        "branch_1": {"attention": "se", "ratio": 8.0},
        "branch_2": {"attention": "se", "ratio": 8.0},
        "branch_3": {"attention": "cbam", "ratio": 8.0},
        "stem": {"attention": "eca", "ratio": None},
    }


def test_a_finished_designs_sites_are_found_again():
    first, last = "{attention: se, blocks: first}", "{attention: cbam, stages: [2], blocks: last}"
    with composing() as compose:
        config = schema.check(compose(["backbone=resnet20", f"placements=[{first}, {last}]"]))
    assert {(site.role, site.stage, site.block) for site in _sites(config)} == {
        ("branch", 1, 1), ("branch", 2, 1), ("branch", 2, 3), ("branch", 3, 1)
    }  # fmt: skip


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
