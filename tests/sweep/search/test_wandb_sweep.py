"""sweep.yaml: what W&B's agent makes of it are the words of the search's own designs."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from attnlab import ledger
from attnlab.cli.verbs import search, train
from attnlab.config.compose import composing
from attnlab.config.schema import check
from attnlab.config.settings import plain
from attnlab.errors import InputError
from attnlab.sweep.search.space import Dimension, overrides
from attnlab.sweep.search.wandb_sweep import sweep_yaml
from tests.wandb_server import wandb_server

SEARCH = {"trials": 24, "sampler": "tpe", "objectives": ["accuracy"], "constraints": [], "rungs": None, "best": 3}
SEARCH |= {"patience": None, "hours": None, "confirm": 0, "compare": None, "sampler_seed": 0}
CONFIG = {"study": "s", "logger": {"name": "csv"}, "trainer": {"monitor": "accuracy"}, "search": SEARCH}
SPACE = [
    Dimension("attention", ("se", "cbam")),
    Dimension("trainer.gradient_clip_val", ("4", "0.5", "null")),
    Dimension("+optimizer.amsgrad", ("true", "false")),
    Dimension("sites", ("block", "unit")),
    Dimension("data.batch_size", low=16, high=64, log=True, whole=True),
    Dimension("data.eval_batch_size", low=16, high=64, whole=True),
    Dimension("optimizer.lr", low=1e-5, high=0.1, log=True),
    Dimension("optimizer.weight_decay", low=0, high=1),
]


def sweep(dimensions=SPACE, fixed=("backbone=lenet5", "data=digits"), **search):
    return yaml.safe_load(sweep_yaml(dimensions, fixed, {**CONFIG, "search": {**SEARCH, **search}}))


def test_a_sweep_as_wandb_reads_it():
    assert sweep(rungs=[1, 3, 9]) == {
        "name": "s",
        "project": "attnlab",
        "method": "bayes",
        "metric": {"name": "val/accuracy", "goal": "maximize"},
        "run_cap": 24,
        "parameters": {
            "attention": {"values": ["se", "cbam"]},
            "trainer.gradient_clip_val": {"values": [4, 0.5, "null"]},
            "optimizer.amsgrad": {"values": ["true", "false"]},
            "sites": {"values": ["block", "unit"]},
            "data.batch_size": {"distribution": "q_log_uniform_values", "q": 1, "min": 16, "max": 64},
            "data.eval_batch_size": {"distribution": "int_uniform", "min": 16, "max": 64},
            "optimizer.lr": {"distribution": "log_uniform_values", "min": 1e-5, "max": 0.1},
            "optimizer.weight_decay": {"distribution": "uniform", "min": 0, "max": 1},
        },
        "command": [
            *("${env}", "attnlab", "train", "backbone=lenet5", "data=digits", "trainer.max_epochs=9"),
            *("+optimizer.amsgrad=null", "hydra.mode=RUN", "logger=wandb", "logger.mode=online"),
            "${args_no_hyphens}",
        ],
        "early_terminate": {"type": "hyperband", "max_iter": 9, "s": 2, "eta": 3},
    }


STAGES = [Dimension(f"attention.stages.{stage}", ("none", "se", "eca")) for stage in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("fixed", "space", "choice"),
    [
        (["backbone=lenet5"], SPACE, ["se", "4", "true", "block", 20, 33, 1e-05, 0.5]),
        (["backbone=lenet5"], SPACE, ["cbam", "null", "false", "unit", 16, 64, 0.1, 0.0]),
        (["attention=by_stage"], STAGES, ["none", "se", "se", "eca"]),
        (["attention=by_stage"], STAGES, ["none", "none", "none", "none"]),
    ],
)
def test_an_agents_words_make_the_design_that_the_search_would(fixed, space, choice):
    fixed, made, args = [*fixed, "data=digits"], sweep(space, [*fixed, "data=digits"]), {}
    for (name, parameter), dimension, value in zip(made["parameters"].items(), space, choice, strict=True):
        args[name] = {"value": parameter["values"][dimension.values.index(value)] if dimension.values else value}
    agents = [*made["command"][3:-1], *create_sweep_command_args({"args": args})["args_no_hyphens"]]
    params = {dimension.key: value for dimension, value in zip(space, choice, strict=True)}
    with composing() as compose_one:
        ours, theirs = (
            ledger.identity(check(plain(compose_one(words)))) for words in ([*fixed, *overrides(space, params)], agents)
        )
    assert ours == theirs
    assert ours["optimizer"].get("amsgrad") == {"true": True, "false": False}.get(params.get("+optimizer.amsgrad"))


def test_an_experiment_makes_no_sweep_of_an_agents_run_and_the_users_logger_settings_stay():
    config = {**CONFIG, "logger": {"name": "wandb", "project": "mine", "entity": "team"}}
    made = yaml.safe_load(sweep_yaml(SPACE, ["experiment=mine", "logger=wandb", "logger.project=mine"], config))
    assert (made["project"], made["entity"]) == ("mine", "team")
    words = ["experiment=mine", "logger.project=mine", "+optimizer.amsgrad=null", "hydra.mode=RUN", "logger=wandb"]
    assert made["command"][3:-2] == words


@pytest.mark.parametrize(
    ("search", "line"),
    [
        ({"sampler": "nsga2"}, "search.sampler=nsga2: a W&B sweep has tpe, random, grid"),
        ({"objectives": ["accuracy", "macs"]}, "search.objectives=.*: a W&B sweep has one, .accuracy."),
        ({"constraints": ["macs<=1.05x"]}, "search.constraints=.*: a W&B sweep has none; leave it out"),
        ({"confirm": 4}, "search.confirm=4: a W&B sweep has none"),
        ({"rungs": [1, 2, 5]}, "search.rungs=.*: W&B's hyperband has one whole factor between all, such as"),
    ],
)
def test_what_wandb_cannot_is_refused(search, line):
    with pytest.raises(InputError, match=line):
        sweep(**search)


def test_a_name_that_wandb_does_not_take_is_refused():
    with pytest.raises(InputError, match="a/b: W&B takes no such name of a parameter"):
        sweep([Dimension("a/b", ("1", "2"))])


def test_another_logger_is_refused():
    with pytest.raises(InputError, match="logger=tensorboard: a W&B sweep needs logger=wandb"):
        sweep_yaml(SPACE, ["logger=tensorboard"], {**CONFIG, "logger": {"name": "tensorboard"}})


def test_the_loss_is_minimised():
    config = {**CONFIG, "trainer": {"monitor": "loss"}}
    assert yaml.safe_load(sweep_yaml(SPACE, [], config))["metric"] == {"name": "val/loss", "goal": "minimize"}


def test_the_command_prints_it_and_hydras_habit_means_the_same_search(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiment").mkdir()
    mine = "# @package _global_\nstudy: mine\nhydra: {mode: MULTIRUN, sweeper: {params: {attention: 'none,se'}}}\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(mine)
    space = ["--config-dir", ".", "experiment=mine", "data=digits", "optimizer.lr=log(1e-4,1e-1)", "--wandb-sweep"]
    assert search.run([*space, "trials=5"]) == 0
    told = capsys.readouterr().out
    made = yaml.safe_load(told)
    assert (made["name"], made["run_cap"], list(made["parameters"])) == ("mine", 5, ["attention", "optimizer.lr"])
    assert made["command"][3:8] == ["--config-dir", ".", "experiment=mine", "data=digits", "hydra.mode=RUN"]
    assert train.run(["-m", "hydra/sweeper=search", *space, "search.trials=5"]) == 0
    assert capsys.readouterr().out == told
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
def test_wandbs_own_agent_trains_a_sweeps_designs(tmp_path):
    """One point three times: its sweep stops it early, lets it go on, and has it reported when it is done."""
    fixed = ["backbone=lenet5", "sites=unit", "data=digits", "data.batch_size=300", "trainer.max_epochs=40"]
    (tmp_path / "sweep.yaml").write_text(sweep_yaml([Dimension("attention", ("none", "se"))], fixed, CONFIG))
    args = {"attention": {"value": "se"}}
    with wandb_server() as server:
        server.waiting = [{"type": "run", "run_id": f"run{i}", "program": None, "args": args} for i in (1, 2, 3)]
        server.waiting.append({"type": "exit"})
        server.stop = {"run1"}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        one_failure_ends_it = {"WANDB_AGENT_MAX_INITIAL_FAILURES": "1"}  # a stopped run is none
        env = {**os.environ, **server.environment, **one_failure_ends_it, "PATH": path}
        for words in (["sweep", "sweep.yaml"], ["agent", "me/attnlab/sweep1"]):
            command = [sys.executable, "-m", "wandb", *words]
            subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
        assert server.sweep == yaml.safe_load((tmp_path / "sweep.yaml").read_text())
    (point,) = (tmp_path / "outputs" / "default").glob("*/")
    about, status = (ledger.read_json(point / f"{name}.json") for name in ("point", "status"))
    assert (about["wandb_id"], about["wandb_others"], status["attempts"]) == ("run2", ["run1", "run3"], 2)
    with (point / "metrics.csv").open() as file:
        curve = [float(row["val/accuracy"]) for row in csv.DictReader(file)]
    first, second, third = (
        [row["val/accuracy"] for row in server.runs[run].history if "epoch" in row] for run in ("run1", "run2", "run3")
    )
    assert 0 < len(first) < 40
    assert (curve[: len(first)], curve, curve) == (first, second, third)
    trained, repeated = (server.runs[run].summary for run in ("run2", "run3"))
    numbers = [key for key, value in trained.items() if key.partition("/")[0] in ("test", "best", "cost")]
    assert {key: repeated[key] for key in numbers} == {key: trained[key] for key in numbers}
    assert repeated["test/accuracy"] == ledger.read_point(point).result["test"]["accuracy"]
    assert [run.exit_codes for run in server.runs.values()] == [[1], [0], [0]]
