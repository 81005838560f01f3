"""hydra/launcher=slurm on a real SLURM: arrays, preemption, time limits, kills. A point's results show none of them."""

import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.conftest import REPOSITORY, attnlab
from tests.wandb_file import records

pytest.importorskip("submitit", reason="submitit is not installed")

EPOCHS = 6
SMALL = ["data=digits", f"trainer.max_epochs={EPOCHS}", "data.batch_size=100", "backbone.bn_momentum=0.2"]
SLURM = ["hydra/launcher=slurm", "hydra.launcher.gpus=0", "hydra.launcher.cpus=1"]
BROKEN = """
from torch import nn
class Broken(nn.Module):
    def __init__(self, channels):
        super().__init__()
    def forward(self, x):
        if self.training and x.device.type != "meta":
            raise RuntimeError("broken on purpose")
        return x
"""


class World:
    """A folder to work in, with an attention of the user's, and a SLURM."""

    def __init__(self, cwd, slurm):
        self.cwd, self.slurm = cwd, slurm
        path = os.pathsep.join(filter(None, [str(cwd), os.environ.get("PYTHONPATH"), str(REPOSITORY)]))
        self.env = {**slurm.env, "PYTHONPATH": path, "ATTNLAB_ALLOW": "mine"}
        (cwd / "mine.py").write_text(BROKEN)
        (cwd / "conf" / "attention").mkdir(parents=True)
        (cwd / "conf" / "attention" / "broken.yaml").write_text("name: broken\n_target_: mine.Broken\n")

    def train(self, *words):
        return attnlab("train", "--config-dir", "conf", "-m", *SMALL, *words, cwd=self.cwd, env=self.env)

    def train_until(self, until, *words):
        """What it prints; the points are paused after so many epochs."""
        command = [sys.executable, "-m", "tests.pausing", str(until), "--config-dir", "conf", "-m", *SMALL, *words]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100", **self.env}
        done = subprocess.run(command, cwd=self.cwd, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def status(self, study):
        return attnlab("status", f"outputs/{study}", cwd=self.cwd, env=self.env).stdout

    def folder(self, study, attention):
        (folder,) = (self.cwd / "outputs" / study).glob(f"mini_xception-{attention}-*")
        return folder

    def job(self, study, attention):
        return read(self.folder(study, attention) / "job.json")["slurm"]

    def jobs(self, study):
        return {read(path)["slurm"] for path in (self.cwd / "outputs" / study).glob("*/job.json")}


@pytest.fixture(scope="module")
def world(tmp_path_factory, slurm):
    return World(tmp_path_factory.mktemp("world"), slurm)


@pytest.fixture(scope="module")
def uninterrupted(world):
    """The same points, trained on this machine in one go."""
    done = world.train("attention=none,se,cbam", "study=whole", "hydra.launcher.cpu_slots=2")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def story(world):
    """Five points of which one fails, one is preempted, one comes to its time limit and one is killed."""
    command = ["attention=none,se,broken,cbam,spatial", "study=story", "logger=wandb", *SLURM]
    command.append("hydra.launcher.parallelism=2")
    told = SimpleNamespace(command=command)
    world.slurm.run("scontrol", "update", "PartitionName=main", "State=DOWN")  # jobs wait
    told.submitted = world.train(*command)
    told.jobs, told.queue = world.jobs("story"), world.slurm.queue()
    told.again, told.status = world.train(*command), world.status("story")
    told.queue_after_again = world.slurm.queue()
    world.slurm.run("scontrol", "update", "PartitionName=main", "State=UP")

    signals = {
        "none": lambda: world.slurm.run("scontrol", "requeue", world.job("story", "none")),
        # scancel would signal again and again, while SLURM requeues the job.
        "se": lambda: world.slurm.run("sh", "-c", f"timeout 2 scancel --signal=USR2 {world.job('story', 'se')} || :"),
        "cbam": lambda: os.kill(read(world.folder("story", "cbam") / "status.json")["process"], signal.SIGKILL),
    }

    def happen():
        for attention in [a for a in signals if epochs(world.folder("story", a)) >= 2]:
            signalled.append(pool.submit(signals.pop(attention)))  # at once: the point must not be done before
            statuses.append(pool.submit(world.status, "story"))
        return not signals

    with ThreadPoolExecutor() as pool:
        signalled, statuses = [], []
        world.slurm.until(happen, lambda: f"not in training: {list(signals)}\n{world.status('story')}", 180)
    for done in signalled:
        done.result()
    told.statuses = [status.result() for status in statuses]
    told.finals = world.slurm.wait(told.jobs, 180)
    told.status_at_the_end = world.status("story")
    told.after = world.train(*command)
    told.queue_after_all = world.slurm.queue()
    told.before_retry = {a: read(world.folder("story", a) / "status.json") for a in ("broken", "cbam")}
    told.retried = world.train(*command, "sweep.retry=failed", "hydra.launcher.wait=true")
    return told


def read(path):
    return json.loads(path.read_text())


def epochs(folder):
    """How many the point has finished."""
    path = folder / "metrics.csv"
    return len(path.read_text().splitlines()) - 1 if path.exists() else 0


def assert_equal(folder, whole):
    """To the bit."""
    assert read(folder / "point.json")["threads"] == read(whole / "point.json")["threads"]
    assert (folder / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()
    assert read(folder / "result.json")["test"] == read(whole / "result.json")["test"]
    for name in ("last", "best"):
        a, b = (torch.load(f / "checkpoints" / f"{name}.ckpt", weights_only=True) for f in (folder, whole))
        assert a["state_dict"].keys() == b["state_dict"].keys()
        assert all(torch.equal(value, b["state_dict"][key]) for key, value in a["state_dict"].items())


def processes_of(jobs):
    """Those of SLURM's that run what was submitted."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            env = dict(entry.partition("=")[::2] for entry in path.read_text(errors="replace").split("\0"))
            if {f"{env.get('SLURM_ARRAY_JOB_ID')}_{env.get('SLURM_ARRAY_TASK_ID')}", env.get("SLURM_JOB_ID")} & jobs:
                found.append(int(path.parent.name))
    return found


def wandb_records(folder, kind):
    """Of all attempts."""
    paths = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
    return [getattr(r, kind) for path in paths for r in records(path) if r.WhichOneof("record_type") == kind]


def wandb_rows(folder):
    found = wandb_records(folder, "history")
    return [{item.key or item.nested_key[0]: json.loads(item.value_json) for item in row.item} for row in found]


def assert_one_run(folder, attempts):
    """W&B has a file an attempt, all of one run."""
    assert {run.run_id for run in wandb_records(folder, "run")} == {read(folder / "point.json")["wandb_id"]}
    assert len(list(folder.glob("wandb/offline-run-*"))) == attempts


def test_it_submits_and_returns_at_once(story):
    assert story.submitted.returncode == 0, story.submitted.stderr
    assert "submitted to SLURM: 4 points, array " in story.submitted.stdout  # MaxArraySize of our SLURM
    assert "submitted to SLURM: [5/5] spatial s0 " in story.submitted.stdout
    assert len(story.jobs) == 5
    assert story.queue == dict.fromkeys(story.jobs, "PENDING")


def test_typed_again_it_submits_nothing_twice(story):
    assert story.again.returncode == 0, story.again.stderr
    assert story.again.stdout.count("already in the queue: SLURM ") == 5
    assert "submitted" not in story.again.stdout
    assert set(story.queue_after_again) == story.jobs


def test_status_tells_what_goes_on(story):
    assert "5 points: 5 pending" in story.status
    assert all(f"SLURM {job}" in story.status for job in story.jobs)
    assert any(re.search(rf"running   .*  epoch \d+/{EPOCHS}", status) for status in story.statuses)
    assert " failed" in story.statuses[-1]  # broken, and perhaps the killed one by now
    assert "3 done, 2 failed" in story.status_at_the_end  # spatial has seen none of all this
    assert "broken on purpose" in story.status_at_the_end
    assert "Traceback" not in story.status_at_the_end.split("cbam")[1]


@pytest.mark.parametrize(("attention", "by"), [("none", "SIGTERM"), ("se", "SIGUSR2")])
def test_requeued_by_preemption_or_its_time_limit_it_goes_on(world, story, uninterrupted, attention, by):
    folder = world.folder("story", attention)
    status, log = read(folder / "status.json"), (folder / "log.txt").read_text()
    assert (status["state"], status["attempts"]) == ("done", 2)
    assert f"stopped by {by}" in log
    assert "attempt 1, from the beginning" in log
    assert "attempt 2, from " in log
    assert log.partition("attempt 2, from ")[2].splitlines()[0].endswith(".ckpt")
    assert_one_run(folder, attempts=2)
    if by == "SIGUSR2":  # W&B's own process dies of SIGTERM
        curve = [row["val/accuracy"] for row in wandb_rows(folder) if "val/accuracy" in row]
        assert curve == [float(row["val/accuracy"]) for row in csv.DictReader((folder / "metrics.csv").open())]
    assert_equal(folder, world.folder("whole", attention))


def test_the_failed_and_the_killed_are_told(world, story):
    assert story.before_retry["broken"]["error"] == "RuntimeError: broken on purpose"
    assert story.before_retry["cbam"]["error"] == "killed by SIGKILL (out of memory?)"
    assert story.after.returncode == 1
    assert "attnlab: 2 of 5 points failed" in story.after.stderr
    assert "RuntimeError: broken on purpose: see outputs/story/mini_xception-broken-" in story.after.stderr
    assert "submitted" not in story.after.stdout
    assert set(story.queue_after_all) == story.jobs


def test_retried_and_waited_for(world, story, uninterrupted):
    assert story.retried.returncode == 1
    assert "submitted to SLURM: 2 points, array " in story.retried.stdout
    assert "✗ [3/5] broken s0 " in story.retried.stdout
    assert "✓ [4/5] cbam s0 " in story.retried.stdout
    assert "attnlab: 1 of 5 points failed" in story.retried.stderr
    assert "Traceback" not in story.retried.stdout + story.retried.stderr
    assert_one_run(world.folder("story", "cbam"), attempts=2)
    assert_equal(world.folder("story", "cbam"), world.folder("whole", "cbam"))


def test_killed_at_any_moment_and_typed_again(world, uninterrupted):
    """All processes of the jobs are killed at once: while they start, then while they train or save."""
    command = ["attention=none,se", "study=chaos", "checkpoint.every_n_steps=5", *SLURM]
    dice = random.Random(3)
    for training in (False, True):
        done = world.train(*command)
        assert done.returncode == 0, done.stderr
        jobs = world.jobs("chaos")
        if training:
            world.slurm.until(lambda: "running" in world.status("chaos"), lambda: "not started")
        time.sleep(dice.uniform(0, 4))
        for process in processes_of(jobs):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        world.slurm.wait(jobs)
    assert "killed" in world.status("chaos")
    done = world.train(*command, "hydra.launcher.wait=true")
    assert done.returncode == 0, done.stdout + done.stderr
    for attention in ("none", "se"):
        folder = world.folder("chaos", attention)
        assert read(folder / "status.json")["attempts"] >= 2
        assert "stopped by" not in (folder / "log.txt").read_text()
        assert_equal(folder, world.folder("whole", attention))


def test_cancelled_while_waited_for(world):
    """Somebody's scancel is an interruption: the point has saved, and the same command goes on."""
    command = ["attention=none", "study=cancelled", "hydra.launcher.wait=true", *SLURM]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(world.train, *command)
        world.slurm.until(lambda: bool(world.jobs("cancelled")), lambda: "not submitted")
        folder = world.folder("cancelled", "none")
        world.slurm.until(lambda: epochs(folder) >= 1, lambda: "no epoch")
        world.slurm.run("scancel", *world.jobs("cancelled"))
        done = waiting.result()
    assert done.returncode == 130
    assert "run the same command again to continue" in done.stderr
    assert "‖ mini_xception-none-" in done.stdout
    assert read(folder / "status.json")["state"] == "preempted"


def test_paused_after_an_epoch_it_goes_on_in_another_job(world, uninterrupted):
    command = ["attention=se", "study=paused", "hydra.launcher.wait=true", *SLURM]
    assert f"  paused after epoch 2 of {EPOCHS}  val " in world.train_until(2, *command)
    (first,) = world.jobs("paused")
    out = world.train_until(2, *command)
    assert "submitted" not in out
    assert "  paused after epoch 2 of " in out
    assert "1 paused" in world.status("paused")
    done = world.train(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert first not in world.jobs("paused")
    folder = world.folder("paused", "se")
    status = read(folder / "status.json")
    assert (status["state"], status["attempts"]) == ("done", 2)
    assert_equal(folder, world.folder("whole", "se"))


def test_data_parallel_in_a_job(world):
    parallel = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"]
    done = world.train("study=ddp", "hydra.launcher.wait=true", *parallel, *SLURM, "trainer.max_epochs=2")
    assert done.returncode == 0, done.stdout + done.stderr
    folder = world.folder("ddp", "none")
    assert read(folder / "status.json")["state"] == "done"
    assert read(folder / "result.json")["devices"] == 2
    assert "CPUs=2 " in world.slurm.run("scontrol", "show", "job", *world.jobs("ddp")).replace("NumCPUs", "CPUs")


def test_a_wrong_partition_is_one_line(world):
    done = world.train("study=wrong", "hydra.launcher.partition=nowhere", *SLURM)
    assert done.returncode == 2
    assert done.stderr.startswith("attnlab: hydra/launcher=slurm: ")
    assert "partition" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stdout
