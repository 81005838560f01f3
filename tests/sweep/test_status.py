"""`attnlab status`, of a study that is made, interrupted and killed meanwhile."""

import signal
import subprocess

import pytest

from attnlab import ledger
from attnlab.sweep import status
from tests.conftest import COMMAND, attnlab
from tests.faulty import Sweep
from tests.study.points import ABOUT


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A sweep with a point that is done, one that has failed, and one that takes its time."""
    cwd = tmp_path_factory.mktemp("status")
    settings = ("backbone.fault=none,exception,slow", "trainer.max_epochs=9", "hydra.launcher.cpu_slots=1")
    sweep = Sweep(cwd, "study", *settings)
    yield cwd, sweep
    if sweep.processes():
        sweep.signal(signal.SIGKILL)
    sweep.process.wait()


def test_status_while_it_runs_and_when_it_is_killed(study):
    cwd, sweep = study
    sweep.until(lambda: len(sweep.records()) == 3)  # the last one is in the middle of a step, which takes 15 s
    folders = {fault: folder.name for fault, folder in sweep.folders("backbone.fault").items()}
    shown = attnlab("status", "outputs/study", cwd=cwd)
    assert (shown.returncode, shown.stderr) == (0, "")
    process = sweep.statuses("backbone.fault")["slow"]["process"]
    first, running, failed, *log, where, how = shown.stdout.splitlines()
    assert first == "outputs/study: 3 points: 1 done, 1 running, 1 failed"
    assert running.split()[:4] == ["running", folders["slow"], "epoch", "1/9"]
    assert running.endswith(f":{process}")
    assert failed.split(maxsplit=2) == ["failed", folders["exception"], "RuntimeError: broken on purpose"]
    assert len(log) == 5
    assert [line.strip() for line in log[-2:]] == ["RuntimeError: broken on purpose", "and in detail"]
    assert where.strip() == f"full log: outputs/study/{folders['exception']}/log.txt"
    assert how == "run the same command with sweep.retry=failed to retry the failed points"

    follower = subprocess.Popen(
        [*COMMAND, "status", "--follow", "outputs/study"], cwd=cwd, stdout=subprocess.PIPE, text=True
    )
    sweep.signal(signal.SIGINT)
    sweep.until(lambda: "stopping" in sweep.stdout)
    assert follower.poll() is None
    sweep.signal(signal.SIGINT)  # a second Ctrl-C kills at once
    assert sweep.finish() == 130
    sweep.until_nothing_runs()
    assert "killing the points" in sweep.stdout
    assert "Traceback" not in sweep.stdout + sweep.stderr
    shown = attnlab("status", "outputs/study", cwd=cwd).stdout
    assert "3 points: 1 done, 1 killed, 1 failed" in shown
    (killed,) = (line for line in shown.splitlines() if line.startswith("  killed"))
    assert killed.split(maxsplit=4)[1:] == [folders["slow"], "epoch", "1/9", "its process is gone"]
    assert "run the study's command again to continue what was preempted, killed or not started" in shown
    followed, _ = follower.communicate(timeout=60)  # it ends by itself
    assert follower.returncode == 0
    assert "1 done, 1 killed, 1 failed" in followed


def test_unknown_and_wrong_folders_are_refused_in_one_line(tmp_path):
    shown = attnlab("status", "outputs/nothing", cwd=tmp_path)
    assert (shown.returncode, shown.stdout) == (2, "")
    assert shown.stderr == (
        "attnlab: outputs/nothing: no such folder; a study is a folder of points, such as outputs/demo\n"
    )
    (tmp_path / "outputs" / "study" / "point").mkdir(parents=True)
    ledger.write_json(tmp_path / "outputs" / "study" / "point" / "point.json", ABOUT)
    shown = attnlab("status", "outputs", cwd=tmp_path)
    assert (shown.returncode, shown.stderr) == (2, "attnlab: outputs: no points; studies below it: outputs/study\n")
    (tmp_path / "empty").mkdir()
    shown = attnlab("status", "empty", cwd=tmp_path)
    assert (shown.returncode, shown.stderr) == (2, "attnlab: empty: no points; attnlab train creates points\n")


def test_waiting_and_preempted_points(tmp_path, capsys):
    for name, state in (("a", "pending"), ("b", "pending"), ("c", "preempted")):
        ledger.write_json(tmp_path / name / "point.json", ABOUT)
        ledger.set_status(tmp_path / name, state, error="asked to stop by SIGUSR1" if state == "preempted" else None)
    ledger.write_json(tmp_path / "b" / "job.json", {"slurm": "12_3"})
    status.show(tmp_path)
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.endswith("3 points: 2 pending, 1 preempted")
    assert lines == [
        "  pending   a  waits for a slot",
        "  pending   b  SLURM 12_3",
        "  preempted c  asked to stop by SIGUSR1",
        "run the study's command again to continue what was preempted, killed or not started",
    ]


def test_paused_points(tmp_path, capsys):
    for name, progress in (("a", {"epoch": 1, "epochs": 4, "step": 9, "steps": 36, "val_accuracy": 0.432}), ("b", {})):
        identity = {**ABOUT["identity"], "trainer": {"max_epochs": 4}}
        ledger.write_json(tmp_path / name / "point.json", {**ABOUT, "identity": identity})
        ledger.set_status(tmp_path / name, "paused", until=1, error=None)
        if progress:
            ledger.write_json(tmp_path / name / "progress.json", progress)
    status.show(tmp_path)
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.endswith("2 points: 2 paused")
    assert lines == [
        "  paused    a  after epoch 1 of 4, val 43.2 %",
        "  paused    b  after epoch 1 of 4",
        "to continue a paused point to its end: the command in the first line of its config.yaml",
    ]
    (tmp_path / "search").mkdir()
    status.show(tmp_path)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "paused designs go on if they are among the better: run the same attnlab search again"


def test_an_empty_progress_file_says_nothing(tmp_path, capsys):
    """As a power cut can leave it."""
    ledger.write_json(tmp_path / "a" / "point.json", ABOUT)
    ledger.set_status(tmp_path / "a", "running")
    (tmp_path / "a" / "progress.json").write_text("")
    status.show(tmp_path)
    assert "1 killed" in capsys.readouterr().out
