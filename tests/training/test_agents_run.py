"""A point in the run that a W&B sweep's agent has started for it, with a server on this machine."""

import contextlib
import json

import pytest
import wandb
import yaml

from attnlab import ledger
from attnlab.errors import InputError
from attnlab.training.loggers import open_loggers, report_again
from attnlab.training.stop import Preempted
from tests.study.points import ABOUT, RESULT
from tests.wandb_server import wandb_server

CONFIG = {
    "study": "s",
    "seed": 0,
    "tags": [],
    "backbone": {"name": "resnet18"},
    "attention": {"name": "cbam", "ratio": 16.0},
    "sites": {"name": "branch"},
    "data": {"name": "digits"},
    "trainer": {"monitor": "accuracy"},
    "logger": {"name": "wandb", "project": "p", "entity": None, "mode": "online"},
}
ROWS = [
    {"epoch": 0, "step": 10, "val/accuracy": 0.25, "train/loss": 2.5},
    {"epoch": 1, "step": 20, "val/accuracy": 0.5, "train/loss": 1.5},
]


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The environment as `wandb agent` makes it."""
    parameters = tmp_path / "config.yaml"
    parameters.write_text(yaml.safe_dump({"wandb_version": 1, "attention": {"value": "cbam"}}))
    with wandb_server() as server:
        agents = {"SWEEP_ID": "sweep1", "RUN_ID": "run1", "PROJECT": "p", "SWEEP_PARAM_PATH": str(parameters)}
        for name, value in {**server.environment, **{f"WANDB_{key}": value for key, value in agents.items()}}.items():
            monkeypatch.setenv(name, value)
        wandb.teardown()  # its own process has another environment
        yield server
        wandb.teardown()


@pytest.fixture
def point(tmp_path):
    """One that was trained for two epochs in another run."""
    folder = tmp_path / "point"
    ledger.write_json(folder / "point.json", {**ABOUT, "wandb_id": "first"})
    ledger.set_status(folder, "preempted")
    ledger.write_rows(folder / "metrics.csv", ROWS)
    return folder


def rows(run):
    """What W&B has of the curve, less what it adds itself."""
    kept = [{key: value for key, value in row.items() if not key.startswith("_")} for row in run.history]
    return [{**row, "step": raw["_step"]} for row, raw in zip(kept, run.history, strict=True)]


def ids(point):
    about = ledger.read_json(point / "point.json")
    return about["wandb_id"], about["wandb_others"]


def test_an_unfinished_point_goes_on_in_the_agents_run_with_its_whole_curve(server, point):
    third = {"epoch": 2, "step": 30, "val/accuracy": 0.75, "train/loss": 0.5}
    with contextlib.suppress(Preempted), open_loggers(CONFIG, point) as (logger,):
        logger.log_metrics({key: value for key, value in third.items() if key != "step"}, 30)
        raise Preempted("SIGTERM")  # as the agent stops what its sweep gives up
    with open_loggers(CONFIG, point):  # as the agent resumes a run
        pass
    wandb.teardown()
    (name, run), *others = server.runs.items()
    assert (name, others, ids(point)) == ("run1", [], ("run1", ["first"]))
    assert (run.about["sweep"], run.about["jobType"], run.about["groupName"]) == ("sweep1", "train", "s")
    assert rows(run) == [*ROWS, third]
    assert not run.preempting  # W&B would start it again
    assert run.exit_codes == [1, 0]
    config = {key: entry["value"] for key, entry in json.loads(run.about["config"]).items()}
    assert config["attention"] == "cbam"  # the sweep reads its own form
    assert config["point"]["attention"] == CONFIG["attention"]


def test_a_finished_point_is_reported_in_the_agents_run(server, point):
    result = {**RESULT, "val": {"accuracy": 0.5, "loss": 1.0}, "best_epoch": 1}
    ledger.write_json(point / "result.json", result)
    ledger.set_status(point, "done")
    report_again(CONFIG, point)
    wandb.teardown()
    run = server.runs["run1"]
    assert rows(run)[:2] == ROWS
    assert run.summary["val/accuracy"] == run.summary["best/val_accuracy"] == 0.5
    assert (run.summary["test/accuracy"], run.summary["cost/macs"], run.summary["best/epoch"]) == (0.5, 8000, 1)
    assert (run.about["jobType"], run.exit_codes) == ("repeat", [0])
    assert ids(point) == ("first", ["run1"])


def test_a_server_that_refuses_is_told(server, point):
    server.refuse = {"run1"}
    ledger.write_json(point / "result.json", RESULT)
    ledger.set_status(point, "done")
    with pytest.raises(InputError, match=r"W&B: .*permission denied"):
        report_again(CONFIG, point)
