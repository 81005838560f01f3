"""The local launcher: the real command line, and real processes that fail, are stopped and are killed.

Most of a command's time goes into imports on one core, so sweeps that need no attention run beside others.
"""

import json
import random
import signal
import time

import pytest
import torch

from attnlab import ledger
from attnlab.ledger import lock
from attnlab.sweep.launch import local
from attnlab.sweep.launch.display import Display
from attnlab.training import worker
from tests.faulty import Sweep

FAULTS = ("backbone.fault=none,slow,exception,sigkill,exit,nan_loss,memory", "data.batch_size=100")
FAULTS += ("hydra.launcher.cpu_slots=2", "hydra.launcher.timeout_min=0.2")
ERRORS = {
    "slow": "timed out after 0.2 min",
    "exception": "RuntimeError: broken on purpose",
    "sigkill": "killed by SIGKILL (out of memory?)",
    "exit": "its process ended with exit code 5",
    "nan_loss": "FloatingPointError: the training loss is nan in epoch 1",
    "memory": "OutOfMemoryError: CUDA out of memory, or so it says",
}
LIFE = ("seed=range(8)", "trainer.max_epochs=6", "data.batch_size=200", "hydra.launcher.gpus=[3,5]")
GOES_ON = "attnlab: interrupted; run the same command again to continue"


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """start(study, *settings) -> a sweep; nothing of it outlives the tests."""
    cwd = tmp_path_factory.mktemp("local")
    started = []

    def start_one(study, *settings, fresh=False):
        started.append(Sweep(cwd, study, *settings, fresh=fresh))
        return started[-1]

    yield start_one
    for sweep in started:
        if sweep.processes():
            sweep.signal(signal.SIGKILL)
        sweep.process.wait()


@pytest.fixture(scope="module")
def sweeps(start):
    """Sweeps that run beside the first test."""
    packed = ("hydra.launcher.gpus=2", "hydra.launcher.slots_per_gpu=2", "trainer.max_epochs=5")
    unlike = (
        "sweep.zip=[seed,backbone.fault,trainer]",
        "seed=range(8)",
        "backbone.fault=none,none,memory" + 5 * ",none",
    )
    return {
        "together": [start("together", *LIFE, fresh=True), start("together", *LIFE)],
        "faults": start("faults", *FAULTS),
        "packed": start("packed", *packed, *unlike, "trainer=" + 7 * "default," + "ddp"),
    }


def test_interrupted_and_killed_at_any_moment_and_typed_again(start, sweeps):
    """Eight points end as if nothing had happened, and none is trained again that was finished."""
    sweep = start("life", *LIFE, fresh=True)
    sweep.until(sweep.folders)  # the first point is about to start
    sweep.signal(signal.SIGINT)
    assert sweep.finish() == 130
    assert GOES_ON in sweep.stderr
    assert "Traceback" not in sweep.stdout + sweep.stderr
    assert len(sweep.folders()) <= 2

    sweep = start("life", *LIFE)
    sweep.until(lambda: len({path.parent for path in sweep.study.glob("*/checkpoints/step-*.ckpt")}) == 2)
    sweep.signal(signal.SIGINT)
    assert sweep.finish() == 130
    assert GOES_ON in sweep.stderr
    assert "stopping: the points save their state (Ctrl-C again kills them)" in sweep.stdout
    assert "Traceback" not in sweep.stdout + sweep.stderr
    states = {folder: ledger.state(folder) for folder in sweep.folders().values()}
    assert set(states.values()) <= {"done", "preempted"}
    saved = [f for f, state in states.items() if state == "preempted" and list(f.glob("checkpoints/step-*.ckpt"))]
    assert saved

    dice, finished = random.Random(1), {}
    for whom in ("all", "launcher", "all"):
        sweep = start("life", *LIFE)
        enough = len(finished) + dice.randint(1, 2)
        sweep.until(lambda: len(list(sweep.study.glob("*/result.json"))) >= enough)  # noqa: B023
        time.sleep(dice.uniform(0, 1))
        if whom == "all":
            sweep.signal(signal.SIGKILL)
        else:
            sweep.process.kill()
        sweep.until_nothing_runs()
        states = {folder: ledger.state(folder) for folder in sweep.folders().values()}
        assert not any(lock.holder(folder) for folder in states)
        if whom == "launcher":
            # Its points have saved, and one may have been about to be prepared.
            assert set(states.values()) <= {"done", "preempted", "pending", "new"}
        finished |= {f: as_finished(f) for f, state in states.items() if state == "done" and f not in finished}

    sweep = start("life", *LIFE)
    assert sweep.finish() == 0, sweep.stderr
    assert {folder: as_finished(folder) for folder in finished} == finished
    assert len(finished) >= 3
    assert 8 < sum(status["attempts"] for status in sweep.statuses().values()) <= 8 + 5 * 2
    assert {gpus for _, gpus, _, _ in sweep.records()} == {"3", "5"}
    assert [at_once(spans(sweep, gpu)) for gpu in "35"] == [1, 1]
    for folder in saved:
        assert f"from outputs/life/{folder.name}/checkpoints/step-" in (folder / "log.txt").read_text()
    undisturbed = sweeps["together"][0]
    assert undisturbed.finish() == 0, undisturbed.stderr
    for seed, folder in sweep.folders().items():
        same(folder, undisturbed.folders()[seed])


def spans(sweep, gpu):
    """(start, end) of each process that trained on this GPU."""
    return [(start, end) for _, gpus, start, end in sweep.records() if gpu in gpus.split(",")]


def at_once(spans):
    """How many overlap at most."""
    return max(sum(start <= moment <= end for start, end in spans) for moment, _ in spans)


def as_finished(folder):
    return (folder / "result.json").stat().st_mtime_ns, (folder / "status.json").read_text()


def same(folder, reference):
    """Rows, test metrics and weights are equal, bit for bit."""
    assert (folder / "metrics.csv").read_text() == (reference / "metrics.csv").read_text()
    mine, other = (json.loads((each / "result.json").read_text()) for each in (folder, reference))
    assert (mine["test"], mine["val"]) == (other["test"], other["val"])
    mine, other = (torch.load(each / "checkpoints" / "last.ckpt", weights_only=True) for each in (folder, reference))
    assert mine["state_dict"].keys() == other["state_dict"].keys()
    assert all(torch.equal(value, other["state_dict"][key]) for key, value in mine["state_dict"].items())


def test_two_launchers_of_one_command_share_the_work(sweeps):
    for sweep in sweeps["together"]:
        assert sweep.finish() == 0, sweep.stderr
    assert [(status["state"], status["attempts"]) for status in sweep.statuses().values()] == [("done", 1)] * 8
    assert len(sweep.records()) == 8


def test_a_point_that_fails_leaves_the_others_alone(sweeps):
    sweep = sweeps["faults"]
    assert sweep.finish() == 1
    statuses, folders = sweep.statuses("backbone.fault"), sweep.folders("backbone.fault")
    assert {fault: status["error"] for fault, status in statuses.items()} == {"none": None, **ERRORS}
    assert {fault: status["state"] for fault, status in statuses.items()} == {
        "none": "done",
        **dict.fromkeys(ERRORS, "failed"),
    }
    assert [status["attempts"] for status in statuses.values()] == [1] * 7
    assert (sweep.stdout.count("✓"), sweep.stdout.count("✗")) == (1, 6)
    assert "attnlab: 6 of 7 points failed" in sweep.stderr
    for fault, error in ERRORS.items():
        assert f"attnlab:   {error}: see outputs/faults/{folders[fault].name}/log.txt" in sweep.stderr
    for fault, folder in folders.items():
        raised = fault in ("exception", "nan_loss", "memory")
        assert ("Traceback" in (folder / "log.txt").read_text()) == raised
    assert "and in detail" in (folders["exception"] / "log.txt").read_text()
    assert list(folders["slow"].glob("checkpoints/step-*.ckpt"))  # it was asked to save
    assert "Traceback" not in sweep.stdout + sweep.stderr


def test_failed_points_wait_to_be_retried(start, sweeps):
    sweeps["faults"].finish()
    before, records = sweeps["faults"].statuses("backbone.fault"), sweeps["faults"].records()
    again = start("faults", *FAULTS)
    assert again.finish() == 1
    assert "sweep.retry=failed retries them" in again.stdout
    assert "attnlab: 6 of 7 points failed" in again.stderr
    assert (again.statuses("backbone.fault"), again.records()) == (before, records)

    retried = start("faults", *FAULTS, "sweep.retry=failed")
    assert retried.finish() == 1
    attempts = {fault: status["attempts"] for fault, status in retried.statuses("backbone.fault").items()}
    assert attempts == {"none": 1, **dict.fromkeys(ERRORS, 2)}
    assert "attnlab: 5 of 7 points failed" in retried.stderr  # memory fails only once
    assert "Traceback" not in retried.stdout + retried.stderr


def test_points_share_gpus_and_one_without_memory_is_tried_again_alone(sweeps):
    sweep = sweeps["packed"]
    assert sweep.finish() == 0, sweep.stderr
    attempts = {seed: status["attempts"] for seed, status in sweep.statuses().items()}
    assert attempts == {**dict.fromkeys("0134567", 1), "2": 2}
    assert "out of GPU memory: retrying alone on its GPU" in sweep.stdout
    ranks = [(start, end) for _, gpus, start, end in sweep.records() if gpus == "0,1"]
    assert len(ranks) == 2
    assert json.loads((sweep.folders()["7"] / "result.json").read_text())["devices"] == 2
    assert len(sweep.records()) == 6 + 2 + 2
    assert {gpus for _, gpus, _, _ in sweep.records()} == {"0", "1", "0,1"}
    assert max(at_once([span for span in spans(sweep, gpu) if span != ranks[0]]) for gpu in "01") == 2  # ranks are one
    ((gpu, *alone),) = (record[1:] for record in sweep.records() if record[0] == "memory" and record[2] < record[3])
    assert at_once([span for span in spans(sweep, gpu) if span[0] <= alone[1] and alone[0] <= span[1]]) == 1


def test_more_devices_than_the_launcher_has_are_refused(start):
    sweep = start("refused", "hydra.launcher.gpus=2", "trainer=ddp", "trainer.devices=3", "data.batch_size=300")
    assert sweep.finish() == 2
    said = [line for line in sweep.stderr.splitlines() if "attnlab" in line]
    assert said == ["attnlab: trainer.devices=3: this launcher has only GPU 0, 1"]
    assert "Traceback" not in sweep.stderr
    assert not sweep.study.exists()


def test_only_ctrl_c_counts_twice():
    """`timeout` sends SIGTERM to its command and then to the group, the command included."""
    with local._interrupts(Display([])) as interrupts:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert interrupts == [signal.SIGTERM]
        signal.raise_signal(signal.SIGINT)
        assert interrupts == [signal.SIGTERM, signal.SIGINT]


@pytest.mark.parametrize(
    ("state", "exit_code", "reason", "expected"),
    [
        ("running", -9, "", ("failed", "killed by SIGKILL (out of memory?)")),
        ("pending", 5, "", ("failed", "its process ended with exit code 5")),
        ("pending", -15, "", ("preempted", "killed by SIGTERM")),  # asked to stop before it could say so
        ("pending", 75, "", ("preempted", "asked to stop")),
        ("pending", -15, "timed out", ("failed", "timed out")),
        ("preempted", 75, "timed out", ("failed", "timed out")),
        ("preempted", 75, "", ("preempted", None)),
        ("failed", 1, "", ("failed", None)),
        ("paused", 0, "", ("paused", None)),
        ("paused", -15, "timed out", ("paused", None)),
        ("done", 0, "timed out", ("done", None)),
    ],
)
def test_what_the_end_of_a_process_means(tmp_path, state, exit_code, reason, expected):
    ledger.set_status(tmp_path, state)
    worker.record_end(tmp_path, exit_code, reason)
    status = ledger.read_json(tmp_path / "status.json")
    assert (status["state"], status.get("error")) == expected
