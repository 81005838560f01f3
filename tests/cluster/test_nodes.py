"""One point on two nodes of a real SLURM: the results of one process, however it is interrupted."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.cluster.test_slurm import World, assert_equal, epochs, read

EPOCHS = 6
SMALL = [
    f"trainer.max_epochs={EPOCHS}",
    "+trainer.limit_train_batches=4",
    "trainer.precision=64-true",
    "attention=cbam",
    "trainer.accelerator=cpu",
]
NODES = [*SMALL, "hydra/launcher=slurm", "hydra.launcher.cpus=1", "trainer.num_nodes=2"]
WAIT = "hydra.launcher.wait=true"


@pytest.fixture(scope="module")
def world(tmp_path_factory, slurm):
    return World(tmp_path_factory.mktemp("nodes"), slurm)


@pytest.fixture(scope="module")
def pair(world):
    """The folders of a point that two nodes trained, and of the same point in one process."""
    for words in ([*NODES, "study=nodes", WAIT], [*SMALL, "study=one"]):
        done = world.train(*words)
        assert done.returncode == 0, done.stdout + done.stderr
    return world.folder("nodes", "cbam"), world.folder("one", "cbam")


def ranks(folder):
    """The processes that train the point, by rank."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            env = dict(entry.partition("=")[::2] for entry in path.read_text(errors="replace").split("\0"))
            words = path.with_name("cmdline").read_text().split("\0")
            if "attnlab.training.worker" in words and str(folder) in words:
                found[int(env["ATTNLAB_RANK"])] = int(path.parent.name)
    return found


def start(world, study, *words):
    """Submit the point, and return its folder when it has trained an epoch."""
    done = world.train(*NODES, f"study={study}", *words)
    assert done.returncode == 0, done.stderr
    folder = world.folder(study, "cbam")
    world.slurm.until(lambda: epochs(folder) >= 1, lambda: f"no epoch: {world.status(study)}", 120)
    return folder


def test_two_nodes_equal_one_process(world, pair):
    results = [read(folder / "result.json") for folder in pair]
    assert pair[0].name == pair[1].name
    assert [result["devices"] for result in results] == [2, 1]
    for split in ("test", "val"):
        for name, value in results[1][split].items():
            assert results[0][split][name] == pytest.approx(value, abs=1e-6), (split, name)
    assert (np.load(pair[0] / "test.npy") == np.load(pair[1] / "test.npy")).all()
    weights = [torch.load(f / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for f in pair]
    for key, value in weights[1].items():
        torch.testing.assert_close(weights[0][key], value, rtol=1e-5, atol=1e-7)
    job = world.slurm.run("scontrol", "show", "job", *world.jobs("nodes"))
    assert "NodeList=one,two" in job
    assert "NumNodes=2 NumCPUs=2 NumTasks=2 CPUs/Task=1 " in job
    logs = [(pair[0] / name).read_text() for name in ("log.txt", "log-1.txt")]
    assert "Traceback" not in logs[0] + logs[1]
    assert [log.count("attempt 1, from the beginning") for log in logs] == [1, 1]


def test_requeued_it_goes_on(world, pair):
    folder = start(world, "requeued")
    (job,) = world.jobs("requeued")
    world.slurm.run("scontrol", "requeue", job)  # as by preemption
    world.slurm.until(
        lambda: "attempt 2, from " in (folder / "log.txt").read_text(),
        lambda: f"it does not go on: {world.status('requeued')}",
        120,
    )
    world.slurm.run("sh", "-c", f"timeout 2 scancel --signal=USR2 {job} || :")  # as at its time limit
    world.slurm.wait([job])
    status, log = read(folder / "status.json"), (folder / "log.txt").read_text()
    assert (status["state"], status["attempts"]) == ("done", 3)
    for attempt, by in ((2, "SIGTERM"), (3, "SIGUSR2")):
        before, _, after = log.partition(f"attempt {attempt}, from ")
        assert f"stopped by {by}" in before
        assert after
    assert "Traceback" not in log + (folder / "log-1.txt").read_text()
    assert_equal(folder, pair[0])


def test_paused_all_ranks_leave_and_it_goes_on(world, pair):
    for until in (2, 2):
        assert f"  paused after epoch 2 of {EPOCHS}  val " in world.train_until(until, *NODES, "study=paused", WAIT)
    folder = world.folder("paused", "cbam")
    assert read(folder / "status.json")["attempts"] == 1
    done = world.train(*NODES, "study=paused", WAIT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in (folder / "log.txt").read_text() + (folder / "log-1.txt").read_text()
    assert read(folder / "status.json")["attempts"] == 2
    assert_equal(folder, pair[0])


@pytest.mark.parametrize("rank", [0, 1])
def test_no_rank_outlives_another(world, rank):
    """One is killed: the point has failed, and says why."""
    folder = start(world, f"killed{rank}")
    os.kill(ranks(folder)[rank], signal.SIGKILL)
    since = time.monotonic()
    world.slurm.wait(world.jobs(f"killed{rank}"))
    assert time.monotonic() - since < 60
    assert not ranks(folder)
    status = read(folder / "status.json")
    assert status["state"] == "failed"
    assert ("killed by SIGKILL" in status["error"]) == (rank == 0)
    assert ("rank 1 has died: see log-1.txt" in (folder / "log.txt").read_text()) == (rank == 1)
