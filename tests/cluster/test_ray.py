"""hydra/launcher=ray on a real Ray: GPUs handed out (it believes in as many as it is told), failures, Ctrl-C."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.cluster.conftest import free_ports
from tests.conftest import COMMAND, REPOSITORY

pytest.importorskip("ray", reason="ray is not installed")

SMALL = ["backbone=mine", "data=digits", "data.batch_size=100", "trainer.max_epochs=2", "trainer.accelerator=cpu"]
RAY = ["hydra/launcher=ray", "hydra.launcher.num_gpus=2", "hydra.launcher.cpus=0.5"]
# It notes which GPUs its process has, and takes its time.
MINE = """
import os, pathlib, time
from torch import nn
class Net(nn.Module):
    def __init__(self, num_classes, in_channels, broken=False):
        super().__init__()
        self.broken, self.steps = broken, 0
        self.conv, self.bn, self.head = nn.Conv2d(in_channels, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, num_classes)
    def forward(self, x):
        if self.training and x.device.type != "meta":
            pathlib.Path(os.environ["ATTNLAB_SEEN"], str(os.getpid())).write_text(os.environ["CUDA_VISIBLE_DEVICES"])
            time.sleep(0.15)
            self.steps += 1
            if self.broken and self.steps == 40:
                raise RuntimeError("broken on purpose")
        return self.head(self.bn(self.conv(x)).relu().mean((2, 3)))
"""


class World:
    """A folder to work in, with a network of the user's, and a place for Ray's files."""

    def __init__(self, cwd, ray):
        self.cwd, self.ray = cwd, ray
        (cwd / "mine.py").write_text(MINE)
        (cwd / "seen").mkdir()
        (cwd / "conf" / "backbone").mkdir(parents=True)
        (cwd / "conf" / "backbone" / "mine.yaml").write_text("name: mine\n_target_: mine.Net\nbroken: false\n")
        self.env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(cwd), *filter(None, [os.environ.get("PYTHONPATH")]), str(REPOSITORY)]),
            "ATTNLAB_ALLOW": "mine",
            "ATTNLAB_SEEN": str(cwd / "seen"),
            "OMP_NUM_THREADS": "1",
            "RAY_TMPDIR": str(ray),
            "HOME": str(ray),  # where Ray keeps its token
        }

    def start(self, *words, command=(*COMMAND, "train"), **env):
        return subprocess.Popen(
            [*command, "--config-dir", "conf", "-m", *SMALL, *words],
            cwd=self.cwd,
            env=self.env | env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def train(self, *words, **env):
        process = self.start(*words, **env)
        out, err = process.communicate(timeout=300)
        return process.returncode, out, err

    def statuses(self, study):
        """By folder."""
        paths = (self.cwd / "outputs" / study).glob("*/status.json")
        return {path.parent: json.loads(path.read_text()) for path in paths}

    def states(self, study):
        return Counter(status["state"] for status in self.statuses(study).values())

    def seen(self, status):
        """CUDA_VISIBLE_DEVICES of the process that trained the point."""
        return (self.cwd / "seen" / str(status["process"])).read_text()

    def processes(self):
        """What was started with our environment and still runs."""
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                ours = f"RAY_TMPDIR={self.ray}\0".encode() in path.read_bytes()
                state = path.with_name("stat").read_text().rpartition(")")[2].split()[0]
                if ours and state != "Z":
                    found.append(path.with_name("cmdline").read_text().replace("\0", " "))
            except OSError:
                continue
        return found


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    ray = Path(tempfile.mkdtemp(prefix="ray-"))  # short: it holds sockets
    yield World(tmp_path_factory.mktemp("world"), ray)
    shutil.rmtree(ray, ignore_errors=True)


@pytest.fixture(autouse=True)
def nothing_is_left_behind(world):
    """After each test, and after its cluster has been stopped."""
    yield
    until(lambda: not world.processes(), world.processes, 20)


def until(condition, problem, timeout=120):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, problem()
        time.sleep(0.2)


def at_once(statuses):
    """How many points were running at the same time, at most."""
    return max(sum(s["started"] <= t["started"] < s["ended"] for s in statuses) for t in statuses)


def test_each_point_has_a_gpu_of_its_own(world):
    returncode, out, err = world.train("study=own", "seed=0,1,2,3", *RAY)
    assert returncode == 0, out + err
    assert out.count("✓ [") == 4
    statuses = list(world.statuses("own").values())
    assert {world.seen(status) for status in statuses} == {"0", "1"}
    assert at_once(statuses) == 2
    for gpu in "01":
        assert at_once([status for status in statuses if world.seen(status) == gpu]) == 1


def test_four_share_two_gpus_and_one_fails_and_one_is_killed(world):
    command = ["study=shared", "backbone.broken=false,true", "seed=0,1", "trainer.max_epochs=4", *RAY]
    process = world.start(*command, "hydra.launcher.gpus=0.5")
    until(lambda: world.states("shared") == {"running": 4}, lambda: f"not at once: {world.states('shared')}")
    killed = next(f for f in world.statuses("shared") if "broken: false" in (f / "config.yaml").read_text())
    until(lambda: (killed / "metrics.csv").exists(), lambda: "it does not train")
    os.kill(world.statuses("shared")[killed]["process"], signal.SIGKILL)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1, out + err
    statuses = world.statuses("shared")
    assert at_once(statuses.values()) == 4
    assert Counter(world.seen(status) for status in statuses.values()) == {"0": 2, "1": 2}
    assert Counter(status["error"] for status in statuses.values()) == {
        None: 1,
        "RuntimeError: broken on purpose": 2,
        "killed by SIGKILL (out of memory?)": 1,
    }
    assert statuses[killed]["state"] == "failed"
    assert (out.count("✓ ["), out.count("✗ [")) == (1, 3)
    assert "attnlab: 3 of 4 points failed" in err
    assert "Traceback" not in out + err


@pytest.fixture
def cluster(world):
    """The address of a Ray that runs already. (`ray stop` would stop every Ray of this machine.)"""
    port, client = free_ports()
    command = ["ray", "start", "--head", "--block", f"--port={port}", f"--ray-client-server-port={client}"]
    command += ["--num-gpus=2", "--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={world.ray}"]
    log = (world.cwd / "cluster.log").open("w+")
    ray = subprocess.Popen(
        [Path(sys.executable).parent / command[0], *command[1:]],
        env={**world.env, "ATTNLAB_SEEN": "", "PYTHONPATH": ""},  # these come with the points
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
    )
    try:
        until(lambda: "Ray runtime started" in (world.cwd / "cluster.log").read_text(), log.read)
        yield f"127.0.0.1:{port}"
    finally:
        ray.terminate()
        ray.wait(30)


def test_stopped_by_ctrl_c_it_goes_on_elsewhere(world, cluster):
    command = ["study=stopped", "seed=0,1,2,3", "trainer.max_epochs=3"]
    process = world.start(*command, *RAY)
    until(lambda: len(list(world.cwd.glob("outputs/stopped/*/checkpoints/*.ckpt"))) >= 2, lambda: "two do not train")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert "stopping: the points save their state" in out
    assert "run the same command again to continue" in err
    assert "Traceback" not in out + err
    assert world.states("stopped") == {"preempted": 2, "pending": 2}

    there = [*RAY, "hydra.launcher.gpus=0.5", f"hydra.launcher.address={cluster}"]
    returncode, out, err = world.train(*command, *there, RAY_AUTH_MODE="token")  # which Ray wants to be told
    assert returncode == 0, out + err
    assert sorted(status["attempts"] for status in world.statuses("stopped").values()) == [1, 1, 2, 2]
    assert sum(".ckpt" in (f / "log.txt").read_text() for f in world.statuses("stopped")) == 2
    assert world.processes()  # the cluster is left as it was


def test_paused_after_an_epoch_it_goes_on(world):
    words = ["study=paused", "seed=0,1", *RAY]
    for _ in range(2):  # the second time, there is nothing to train
        returncode, out, err = world.train(*words, command=(sys.executable, "-m", "tests.pausing", "1"))
        assert returncode == 0, out + err
        assert out.count("  paused after epoch 1 of 2  val ") == 2
        assert world.states("paused") == {"paused": 2}
        assert [status["attempts"] for status in world.statuses("paused").values()] == [1, 1]
    returncode, out, err = world.train(*words)
    assert returncode == 0, out + err
    assert [status["attempts"] for status in world.statuses("paused").values()] == [2, 2]
    returncode, out, err = world.train("study=straight", "seed=0", CUDA_VISIBLE_DEVICES="")
    assert returncode == 0, out + err
    (straight,) = world.statuses("straight")
    assert (straight.parents[1] / "paused" / straight.name / "metrics.csv").read_text() == (
        straight / "metrics.csv"
    ).read_text()


def test_what_cannot_be_is_one_line(world):
    for words, said in (
        (["hydra.launcher.gpus=3"], "a point needs 0.5 CPUs and 3 GPUs, Ray has "),
        (["hydra.launcher.address=auto"], "Could not find any running Ray instance"),
    ):
        returncode, out, err = world.train("study=no", *RAY, *words)
        assert returncode == 2
        assert err.splitlines()[-1].startswith(f"attnlab: hydra/launcher=ray: {said}")  # Ray may have said something
        assert err.count("attnlab: ") == 1
        assert "Traceback" not in out + err
