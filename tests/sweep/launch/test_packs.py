"""Packs by the real command line: stopped, killed and typed again; and how points are put into packs."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from attnlab import ledger
from attnlab.sweep import plan, repro, table
from attnlab.sweep.launch import local
from attnlab.sweep.launch.local import packs
from attnlab.sweep.plan import Planned
from attnlab.training import loop
from tests import warm
from tests.conftest import attnlab

WORDS = ("data=digits", "backbone=lenet5", "attention=se", "sites=unit", "seed=0,1", "data.batch_size=50")
WORDS += ("trainer.max_epochs=3", "trainer.accelerator=cpu", "checkpoint.every_n_steps=1", "sweep.pack=seeds")
WORDS += ("hydra.launcher.cpu_slots=1",)


@pytest.fixture
def command(tmp_path, monkeypatch):
    """command(study) -> the words, and the folders of two points that have been packed before: so they are again."""
    monkeypatch.chdir(tmp_path)

    def prepared(study):
        words = ["-m", *WORDS, f"study={study}"]
        points = plan.make(words).points
        for point in points:
            ledger.prepare(point.folder, point.config, point.overrides)
            ledger.write_json(
                point.folder / "point.json", {**ledger.read_json(point.folder / "point.json"), "packed": 2}
            )
        return ["train", *words], [tmp_path / point.folder for point in points]

    return prepared


def start(words, cwd):
    with open(cwd / "out", "a+", encoding="utf-8") as out:
        return warm.start(words, cwd, {**os.environ, "OMP_NUM_THREADS": "1"}, out.fileno(), out.fileno())


def until(condition, process):
    end = time.monotonic() + 120
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)


def steps(folder):
    return sorted(folder.glob("checkpoints/step-*.ckpt"))


def test_a_pack_that_is_stopped_and_killed_ends_as_an_undisturbed_one_to_the_bit(command, tmp_path):
    words, references = command("undisturbed")
    done = attnlab(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("✓ [") == 2
    assert "sweep.pack=seeds: 2 of 2 points in 1 pack (in more where slots would be idle)" in done.stdout

    words, folders = command("disturbed")
    process = start(words, tmp_path)
    until(lambda: all(map(steps, folders)), process)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 130
    assert [ledger.state(folder) for folder in folders] == ["preempted"] * 2
    assert steps(folders[0])[-1].name == steps(folders[1])[-1].name

    before = steps(folders[1])[-1].name
    process = start(words, tmp_path)
    until(lambda: steps(folders[1])[-1].name > before, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(60)
    common = min(steps(folder)[-1].name for folder in folders)
    for folder in folders:  # one may have been killed before it saved what the other has
        for path in steps(folder):
            if path.name > common:
                path.unlink()

    done = attnlab(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for folder, reference in zip(folders, references, strict=True):
        assert (folder / "log.txt").read_text().count("attnlab: packed with 1 other\n") == 3
        assert (folder / "metrics.csv").read_text() == (reference / "metrics.csv").read_text()
        assert ledger.read_json(folder / "result.json")["test"] == ledger.read_json(reference / "result.json")["test"]
        mine, other = (torch.load(each / "checkpoints" / "last.ckpt") for each in (folder, reference))
        assert all(torch.equal(value, other["state_dict"][key]) for key, value in mine["state_dict"].items())

    alone = tmp_path / "alone"
    alone.mkdir()
    for name in ("point.json", "status.json", "result.json"):
        (alone / name).write_bytes((folder / name).read_bytes())
    about = ledger.read_json(alone / "point.json")
    del about["packed"]
    ledger.write_json(alone / "point.json", about)
    assert repro.reasons(folder, alone) == ["trained as one network with others: 1, now 0"]


def test_points_of_a_pack_whose_process_dies_are_trained_alone(command, tmp_path):
    words, folders = command("died")
    process = start(words, tmp_path)
    until(lambda: all(map(steps, folders)), process)
    os.kill(ledger.read_json(folders[0] / "status.json")["process"], signal.SIGKILL)
    assert process.wait(120) == 0
    told = "and 1 more  trained alone from here on: killed by SIGKILL (out of memory?)"
    assert told in (tmp_path / "out").read_text()
    for folder in folders:
        assert ledger.read_json(folder / "status.json")["attempts"] == 2
        assert (folder / "log.txt").read_text().count("packed with") == 1


def left_alone(folders):
    """A pack's process that gives up: one point has ended, two have begun."""
    ledger.set_status(folders[0], "failed", error="broken")
    return loop.ALONE


def without_memory(folders):
    """A pack's process: a point runs out of memory, one is being stopped elsewhere, one fails."""
    ledger.set_status(folders[0], "failed", error="OutOfMemoryError: CUDA out of memory.")
    ledger.set_status(folders[1], "preempted")
    ledger.set_status(folders[2], "failed", error="broken")
    return 0


@pytest.mark.parametrize(
    ("end", "again", "told"),
    [(left_alone, [1, 2], "and 1 more  trained alone from here on"), (without_memory, [0, 1], "out of GPU memory")],
)
def test_what_the_end_of_a_pack_leaves_is_trained_alone(tmp_path, monkeypatch, capsys, end, again, told):
    """The packs' processes only write how it went."""

    def begin(context, train, points, taken, threads):
        assert len(points) in (1, 3)
        folders = [point.folder for point in points]
        for folder in folders:
            ledger.set_status(folder, "running")
            with (folder / "seen").open("a") as file:
                file.write(f"{len(points)} ")

        def ended():
            if len(points) > 1:
                os._exit(end(folders))
            ledger.set_status(folders[0], "failed", error="as it was alone")

        process = multiprocessing.get_context("fork").Process(target=ended)
        process.start()
        return process

    monkeypatch.setattr(local, "_start", begin)
    monkeypatch.setattr(local, "start_fork_server", lambda: None)
    points = plan.make(["-m", *WORDS, "seed=0,1,2", f"output_dir={tmp_path}"]).points
    local.launch(points, cpu_slots=1)
    for i, each in enumerate(points):
        assert (each.folder / "seen").read_text() == ("3 1 " if i in again else "3 ")
        if i in again:
            assert ledger.read_json(each.folder / "status.json")["error"] == "as it was alone"
    out = capsys.readouterr().out
    assert told in out
    assert out.count("✗") == 3


def test_what_leaves_a_pack_keeps_its_place(tmp_path, monkeypatch):
    """With the seeds outermost, all networks that are trained alone have equally many, whenever the sweep is cut."""
    started = []

    def begin(context, train, points, taken, threads):
        started.append([point.folder for point in points])
        for point in points:
            ledger.set_status(point.folder, "running")

        def ended():
            if len(points) > 1:
                os._exit(loop.ALONE)
            ledger.set_status(points[0].folder, "failed", error="as it was alone")

        process = multiprocessing.get_context("fork").Process(target=ended)
        process.start()
        return process

    monkeypatch.setattr(local, "_start", begin)
    monkeypatch.setattr(local, "start_fork_server", lambda: None)
    monkeypatch.setattr(local, "MOST", 3)  # so five seeds are two packs
    words = [word for word in WORDS if not word.startswith("attention=")]
    points = plan.make(["-m", *words, "seed=range(5)", "attention=none,se", f"output_dir={tmp_path}"]).points
    local.launch(points, cpu_slots=1)
    place = [point.folder for point in points]
    assert [[place.index(folder) for folder in folders] for folders in started] == [
        *([0, 2], [0], [1, 3], [1], [2], [3]),
        *([4, 6, 8], [4], [5, 7, 9], [5], [6], [7], [8], [9]),
    ]


def point(pack, i, packed=0):
    return Planned(Path(str(i)), {}, [[]], "new", 0, "", "", pack=pack, packed=packed)


@pytest.mark.parametrize(
    ("kinds", "slots", "sizes"),
    [
        ("aaaabbbb", 1, [4, 4]),
        ("abababab", 1, [4, 4]),
        ("aaaaaaaa", 2, [4, 4]),
        ("aaaaaaaa", 3, [2, 3, 3]),
        ("aaaabbbbcccc", 2, [4, 4, 4]),
        ("aa..bb", 1, [2, 1, 1, 2]),
        ("aaaa", 8, [1, 1, 1, 1]),
        ("a" * 33, 1, [11, 11, 11]),
    ],
)
def test_packs_leave_no_slot_idle(kinds, slots, sizes):
    points = [point(kind.strip("."), i) for i, kind in enumerate(kinds)]
    found = packs(points, slots)
    assert [len(each) for each in found] == sizes
    assert sorted(int(str(p.folder)) for each in found for p in each) == list(range(len(kinds)))
    assert all(len({p.pack for p in each}) == 1 for each in found)


def test_interrupted_packs_stay_together():
    points = [point("a", i, packed=4) for i in range(8)] + [point("a", i) for i in range(8, 14)]
    assert [len(each) for each in packs(points, 1)] == [4, 4, 6]
    assert [len(each) for each in packs(points, 7)] == [4, 4, 2, 2, 2]
    assert [len(each) for each in packs(points[1:], 1)] == [13]  # one is done


def test_the_plan_says_what_is_packed(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    words = ["-m", "data=digits", "backbone=lenet5", "attention=none,se", "sites=unit", "seed=0,1", "sweep.pack=seeds"]
    told = [*table.summary(plan.make([*words, "optimizer.lr=0.01,0.02"]))]
    assert "  sweep.pack=seeds: 8 of 8 points in 2 packs (in more where slots would be idle)" in told
    told = [*table.summary(plan.make([*words, "trainer.precision=16-mixed"]))]
    assert "  sweep.pack=seeds: 0 of 4 points in 0 packs (in more where slots would be idle)" in told
    assert "  4 points are trained alone: trainer.precision=16-mixed" in told
    told = [*table.summary(plan.make([*words[:-2], "seed=0", words[-1]]))]
    assert "  points that have none like them: 2" in told
    told = [*table.summary(plan.make(["data=digits", "backbone=lenet5", "sweep.pack=seeds"]))]
    assert "  sweep.pack=seeds makes no difference: it packs the points of a sweep (-m)" in told
    with pytest.raises(plan.InputError, match=r"sweep\.pack=seeds: only hydra/launcher=local packs points, not Ray"):
        plan.make([*words, "hydra/launcher=ray"])
