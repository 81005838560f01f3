"""Checkpoints: a point that was stopped or killed at any moment ends as if nothing had happened."""

import json
import logging
import multiprocessing
import os
import random
import signal
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from attnlab import ledger
from attnlab.sweep import plan
from attnlab.training import checkpoints, worker

# Dropout draws from the global generator, so its state must be resumed too.
NETWORK = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(in_channels, 24, 3), nn.BatchNorm2d(24), nn.Linear(24, num_classes)
    def forward(self, x):
        x = nn.functional.dropout(self.bn(self.conv(x)).relu(), 0.2, self.training)
        return self.head(x.mean((2, 3)))
"""
ARGV = [
    "backbone._target_=dropping.Net",
    "~backbone.bn_momentum",
    "~backbone.width",
    "data=digits",
    "augment.pad=2",
    "augment.flip=true",
    *("attention=se", "sites=unit", "attention.init=authors"),
]
EPOCHS, STEPS = 5, 39


@pytest.fixture(scope="module", autouse=True)
def _world(tmp_path_factory):
    """A folder with the network, for this process and those that it starts."""
    cwd = tmp_path_factory.mktemp("world")
    (cwd / "dropping.py").write_text(NETWORK)
    patch = pytest.MonkeyPatch()
    patch.chdir(cwd)
    patch.syspath_prepend(cwd)
    patch.setenv("ATTNLAB_ALLOW", "dropping")
    yield
    patch.undo()


def test_the_monitor_chooses_the_best_epoch():
    columns = {"accuracy": [0.5, 0.7, 0.7], "f1": [0.3, 0.2, 0.1], "loss": [float("nan"), 0.9, 0.8]}
    rows = [{f"val/{name}": values[i] for name, values in columns.items()} | {"epoch": i} for i in range(3)]
    best = {name: checkpoints.best_row(rows, name)["epoch"] for name in columns}
    assert best == {"accuracy": 1, "f1": 0, "loss": 2}


def prepared(study, *more):
    argv = [*ARGV, f"trainer.max_epochs={EPOCHS}", "data.batch_size=30", "data.seed=3", f"study={study}", *more]
    (point,) = plan.make(argv).points
    ledger.prepare(point.folder, point.config)
    return point.folder


def work(folder):
    os.environ["ATTNLAB_ALLOW"] = "dropping"
    sys.exit(worker.main(folder, threads=1))


def start(folder):
    """A worker, from a server that has imported all that it needs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["attnlab.sweep.launch.preload"])
    process = context.Process(target=work, args=(folder,))
    process.start()
    return process


def end(process):
    """Its exit code."""
    process.join(120)
    return process.exitcode


@pytest.fixture(scope="module")
def uninterrupted(_world):
    folder = prepared("whole")
    assert end(start(folder)) == 0
    return folder


def assert_equal(folder, other):
    assert (folder / "metrics.csv").read_text() == (other / "metrics.csv").read_text()
    gates = [f / "gates.csv" for f in (folder, other) if ledger.read_config(f)["sites"]]  # of attention alone
    assert not gates or gates[0].read_text() == gates[1].read_text()
    assert not gates or set(ledger.read_rows(gates[0])[0]["epoch"]) == set(
        ledger.read_rows(folder / "metrics.csv")[0]["epoch"]
    )
    results = [ledger.read_json(f / "result.json") for f in (folder, other)]
    for key in ("test", "val", "best_epoch"):
        assert results[0][key] == results[1][key]
    for name in ("last", "best"):
        a, b = (torch.load(f / "checkpoints" / f"{name}.ckpt", weights_only=True) for f in (folder, other))
        assert a["global_step"] == b["global_step"]
        assert all(torch.equal(value, b["state_dict"][key]) for key, value in a["state_dict"].items())
    left = {path.name for path in (folder / "checkpoints").iterdir() if path.suffix != ".damaged"}
    assert left == {"best.ckpt", "last.ckpt"}


def wait_for(condition, process):
    deadline = time.monotonic() + 120
    while not condition():
        assert process.is_alive(), "the worker ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def newest(folder):
    return next((int(path.stem[5:]) for path in checkpoints.saved(folder)), 0)


@pytest.mark.parametrize(("every_n_steps", "kills"), [(None, 2), (7, 3)])
def test_killed_at_random_moments_ends_to_the_bit_as_if_never_killed(uninterrupted, every_n_steps, kills):
    folder = prepared(f"killed{every_n_steps}", f"checkpoint.every_n_steps={every_n_steps or 'null'}")
    chance = random.Random(0)
    for kill in range(1, kills + 1):
        process, enough = start(folder), newest(folder) + 1
        wait_for(lambda: newest(folder) >= enough, process)  # noqa: B023
        time.sleep(chance.uniform(0, 0.2))
        process.kill()
        assert end(process) == -signal.SIGKILL
        assert ledger.state(folder) == "killed"
        assert ledger.read_json(folder / "status.json")["attempts"] == kill
    assert end(start(folder)) == 0
    assert_equal(folder, uninterrupted)
    assert (folder / "log.txt").read_text().count("from the beginning") == 1


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, *(pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGUSR2, signal.SIGINT))]
)
def test_asked_to_stop_it_saves_where_it_is(uninterrupted, number):
    folder = prepared(f"asked{number}")
    process = start(folder)
    wait_for(lambda: newest(folder) >= STEPS, process)
    time.sleep(0.1)  # into the next epoch
    os.kill(process.pid, number)
    assert end(process) == 75
    assert ledger.state(folder) == "preempted"
    assert ledger.read_json(folder / "status.json")["error"] == f"asked to stop by {number.name}"
    assert newest(folder) > STEPS
    assert end(start(folder)) == 0
    assert "from step-" in (folder / "log.txt").read_text().replace(f"{folder}/checkpoints/", "")
    assert_equal(folder, uninterrupted)


def test_in_double_precision_too():
    whole, folder = (prepared(s, "trainer.precision=64-true", "trainer.max_epochs=2") for s in ("whole64", "asked64"))
    assert end(start(whole)) == 0
    process = start(folder)
    wait_for(lambda: newest(folder) >= STEPS, process)
    os.kill(process.pid, signal.SIGTERM)
    assert end(process) == 75
    assert end(start(folder)) == 0
    assert_equal(folder, whole)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(uninterrupted, caplog):
    folder = prepared("damaged")
    process = start(folder)
    wait_for(lambda: newest(folder) >= 2 * STEPS, process)
    process.kill()
    end(process)
    last, before = checkpoints.saved(folder)[:2]
    whole = last.read_bytes()
    half = len(whole) // 2
    with zipfile.ZipFile(last) as archive:
        tensor = archive.read(next(name for name in archive.namelist() if name.endswith("data/0")))
    byte = whole.index(tensor)
    flipped = whole[:byte] + bytes([whole[byte] ^ 1]) + whole[byte + 1 :]
    for damaged in (b"", whole[:half], flipped, _stored({"of": "another"}).getvalue(), None):
        last.mkdir() if damaged is None else last.write_bytes(damaged)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert checkpoints.latest(folder) == before
        assert f"{last.name} is damaged" in caplog.text
        assert not last.exists()
    last.write_bytes(whole[:half])
    assert end(start(folder)) == 0
    assert "is damaged" in (folder / "log.txt").read_text()
    assert_equal(folder, uninterrupted)


def test_the_last_two_are_kept_and_the_best(tmp_path):
    saver = checkpoints.Checkpoints(tmp_path, stop=None)
    saver.saved = True  # the first one is loaded, to see whether it can be

    class Trainer:
        """Of Lightning's Trainer what ``save`` uses: it has the file written, by the first of one process."""

        is_global_zero = True
        strategy = type("Strategy", (), {"barrier": staticmethod(lambda: None)})

        def save_checkpoint(self, path, weights_only):
            path.parent.mkdir(exist_ok=True)
            path.write_text("weights")

    trainer = Trainer()
    for epoch, accuracy in enumerate([0.3, 0.9, 0.5, 0.9, 0.4]):
        trainer.global_step = 10 * (epoch + 1)
        saver.rows.append({"epoch": epoch, "step": trainer.global_step, "val/accuracy": accuracy})
        saver.save(trainer)
    assert [path.name for path in checkpoints.saved(tmp_path)] == [f"step-{step:08d}.ckpt" for step in (50, 40, 20)]
    assert saver.best["epoch"] == 1  # the first of equal ones


def test_random_states_come_back():
    class Trainer:
        strategy = type("Strategy", (), {"root_device": torch.device("cpu")})

    def draw():
        return random.random(), np.random.rand(), float(torch.rand(()))

    module = torch.nn.Module()
    saved = checkpoints.save_states(Trainer(), module)
    saved = torch.load(_stored(saved), weights_only=True)
    first = draw()
    assert draw() != first
    checkpoints.restore_states(saved, Trainer(), module)
    assert draw() == first


def _stored(value):
    import io

    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return file


def test_a_finished_point_is_left_alone(uninterrupted):
    before = {path: path.stat().st_mtime_ns for path in Path(uninterrupted).iterdir() if path.name != "lock"}
    assert end(start(uninterrupted)) == 0
    after = {path: path.stat().st_mtime_ns for path in Path(uninterrupted).iterdir() if path.name != "lock"}
    assert {k: v for k, v in after.items() if k.name != "log.txt"} == {
        k: v for k, v in before.items() if k.name != "log.txt"
    }
    assert json.loads((uninterrupted / "status.json").read_text())["attempts"] == 1
