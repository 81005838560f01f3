"""A point that is paused after epochs ends as if it had been trained straight through, to the bit."""

import json
import signal

import pytest
import torch

from attnlab import ledger
from attnlab.sweep import plan
from attnlab.sweep.launch import local
from attnlab.training import packed, worker
from tests.training.test_checkpoints import end, newest, start, wait_for
from tests.wandb_file import records

# A schedule over all epochs, momentum, batches that mix images: all of it must go on where it was.
TINY = ["backbone.width=0.25", "backbone.bn_momentum=0.1", "attention=cbam", "data=digits", "data.batch_size=150"]
TINY += ["optimizer=sgd", "scheduler=one_cycle", "augment=shift", "augment.mixup=0.3", "trainer.accelerator=cpu"]
TINY += ["trainer.max_epochs=3"]


@pytest.fixture(scope="module", autouse=True)
def _elsewhere(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.chdir(tmp_path_factory.mktemp("pausing"))
    yield
    patch.undo()


def planned(study, *words):
    return plan.make([*TINY, f"study={study}", *words]).points[0]


@pytest.fixture(scope="module")
def whole(_elsewhere):
    """Trained straight through."""
    folder = prepared(planned("whole"))
    assert end(start(folder)) == 0
    return folder


def prepared(point, until=None):
    ledger.prepare(point.folder, point.config, until=until)
    return point.folder


def status(folder):
    read = ledger.read_json(folder / "status.json")
    return read["state"], read.get("until"), read["attempts"]


def epochs(folder):
    return ledger.read_rows(folder / "metrics.csv")[0]["epoch"]


def everything(value, name=""):
    """(name, value) of each leaf of a checkpoint; without times."""
    if isinstance(value, dict | list | tuple):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in pairs:
            if key != "seconds":
                yield from everything(part, f"{name}.{key}")
    else:
        yield name, value


def same(folder, whole):
    """Rows, results, and all that is in both checkpoints: weights, momentum, schedule, random states."""
    for name in ("metrics.csv", "gates.csv"):
        assert (folder / name).read_text() == (whole / name).read_text()
    results = [json.loads((each / "result.json").read_text()) for each in (folder, whole)]
    for result in results:
        del result["times"]
        result["cost"] = {key: value for key, value in result["cost"].items() if "latency" not in key}
    assert results[0] == results[1]
    for name in ("last", "best"):
        mine, other = (
            dict(everything(torch.load(each / "checkpoints" / f"{name}.ckpt", weights_only=True)))
            for each in (folder, whole)
        )
        assert mine.keys() == other.keys()
        assert any("momentum_buffer" in key for key in mine)
        for key, value in mine.items():
            assert torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key], key


def assert_paused_and_killed_it_ends_as(whole, study, *words):
    """Returns the point's folder."""
    point = planned(study, "checkpoint.every_n_steps=2", *words)
    folder = prepared(point, until=1)
    assert end(start(folder)) == 0
    assert status(folder) == ("paused", 1, 1)
    assert epochs(folder) == [0]
    assert ledger.read_point(folder).paused == "after epoch 1 of 3"
    one = newest(folder)

    process = start(prepared(point))  # to its end
    wait_for(lambda: newest(folder) > one, process)
    process.kill()
    assert end(process) == -signal.SIGKILL
    assert ledger.state(folder) == "killed"

    assert end(start(prepared(point, until=2))) == 0
    assert status(folder) == ("paused", 2, 3)
    assert epochs(folder) == [0, 1]
    now = {path: path.stat().st_mtime_ns for path in folder.glob("checkpoints/*")}
    rows = (folder / "metrics.csv").read_bytes()
    (folder / "metrics.csv").unlink()
    assert end(start(prepared(point, until=1))) == 0  # it is started, and there is nothing to train
    assert status(folder) == ("paused", 2, 3)
    assert (folder / "metrics.csv").read_bytes() == rows
    assert {path: path.stat().st_mtime_ns for path in folder.glob("checkpoints/*")} == now

    assert end(start(prepared(point, until=3))) == 0  # all of them
    assert status(folder) == ("done", 3, 4)
    same(folder, whole)
    assert not (folder / "progress.json").exists()
    return folder


def test_paused_twice_and_killed_between_it_ends_as_one_trained_straight_through(whole):
    assert_paused_and_killed_it_ends_as(whole, "paused")


@pytest.mark.slow
def test_with_accumulated_gradients_too_and_its_tensorboard_is_one():
    words = ["+trainer.accumulate_grad_batches=2", "data.batch_size=50", "checkpoint.every_n_steps=3"]
    straight = prepared(planned("straight", *words))
    assert end(start(straight)) == 0
    folder = assert_paused_and_killed_it_ends_as(straight, "accumulated", "logger=tensorboard", *words)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    scalars = EventAccumulator(str(folder / "tensorboard")).Reload().Scalars("val/accuracy")
    assert [scalar.step for scalar in scalars] == ledger.read_rows(folder / "metrics.csv")[0]["step"]


@pytest.mark.slow
def test_its_wandb_run_is_one(whole):
    folder = assert_paused_and_killed_it_ends_as(whole, "wandb", "logger=wandb")
    paths = sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime)
    told = [(record.WhichOneof("record_type"), record) for path in paths for record in records(path)]
    ids = {record.run.run_id for kind, record in told if kind == "run"}
    assert ids == {ledger.read_json(folder / "point.json")["wandb_id"]}
    assert [record.exit.exit_code for kind, record in told if kind == "exit"] == [0, 0, 0]  # but for the killed one
    assert "preempting" not in {kind for kind, _ in told}


@pytest.mark.slow  # a search from the command line shows the most of it: tests/sweep/search/test_driver.py
def test_two_slots_pause_and_go_on(whole, capsys):
    """The local launcher's own processes; the second round has nothing to train, and a plain command ends it."""
    words = ["-m", *TINY, "seed=0,1", "study=slots"]
    points = plan.make(words).points
    for point in points:
        point.until = 1
    for _ in range(2):
        local.launch(points, cpu_slots=2)
        assert [status(point.folder) for point in points] == [("paused", 1, 1)] * 2
        assert capsys.readouterr().out.count("  paused after epoch 1 of 3  val ") == 2
    made = plan.make(words)
    assert [point.state for point in made.todo] == ["paused"] * 2
    local.launch(made.todo, cpu_slots=2)
    assert [status(point.folder) for point in points] == [("done", None, 2)] * 2
    same(points[0].folder, whole)


@pytest.mark.slow
def test_what_another_launcher_has_prepared_for_less_goes_on(monkeypatch):
    """Between our prepare and our process, somebody asks for one epoch."""
    (point,) = plan.make(["-m", *TINY, "trainer.max_epochs=2", "study=race"]).points
    begin, begun = local._start, []

    def interfere(*words):
        if not begun:
            ledger.prepare(point.folder, point.config, until=1)
        begun.append(words)
        return begin(*words)

    monkeypatch.setattr(local, "_start", interfere)
    local.launch([point], cpu_slots=1)
    assert len(begun) == 2
    assert status(point.folder) == ("done", None, 2)


@pytest.mark.slow
def test_a_pack_pauses_and_goes_on():
    """Each where it shall; together again, they end as alone."""
    words = ["backbone=lenet5", "attention=se", "sites=unit", *TINY[3:], "trainer.precision=64-true"]
    points = plan.make(["-m", *words, "seed=0,1", "study=pack"]).points
    folders = [point.folder for point in points]
    for rungs in ((1, 2), (None, None)):
        for point, until in zip(points, rungs, strict=True):
            prepared(point, until)
        pack = packed.Pack(folders, [folder.name for folder in folders], 1)
        pack.together = True
        assert pack.train() == 0
        if all(rungs):
            assert [status(folder)[:2] for folder in folders] == [("paused", until) for until in rungs]
            assert [len(epochs(folder)) for folder in folders] == list(rungs)
    alone = prepared(plan.make([*words, "seed=1", "study=alone"]).points[0])
    assert worker.main(alone, threads=1) == 0
    last, other = (torch.load(f / "checkpoints" / "last.ckpt", weights_only=True) for f in (folders[1], alone))
    for key, value in other["state_dict"].items():
        torch.testing.assert_close(last["state_dict"][key], value, rtol=0, atol=1e-9)


@pytest.mark.slow
def test_ranks_pause_together():
    words = ["trainer.max_epochs=2", "trainer=ddp", "data.batch_size=300"]
    point, straight = planned("ranks", *words), planned("undivided", *words)
    for until in (1, None):
        point.until = until
        local.launch([point], cpu_slots=2)
        if until:
            assert status(point.folder) == ("paused", 1, 1)
    assert status(point.folder) == ("done", None, 2)
    local.launch([straight], cpu_slots=2)
    same(point.folder, straight.folder)
    assert "Traceback" not in (point.folder / "log.txt").read_text()
