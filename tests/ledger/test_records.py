"""Readers of records: whole ones as they are, damaged ones named."""

import json
import math

import numpy as np
import pytest

from attnlab import ledger
from attnlab.errors import InputError
from attnlab.ledger import lock
from attnlab.ledger.shapes import PLAN
from tests.damage import KINDS, VALUES, set_value
from tests.study.points import ABOUT, RESULT, write_point

ROWS = [{"epoch": 0, "step": 3, "val/accuracy": 0.5}, {"epoch": 1, "step": 6, "val/accuracy": math.nan, "lr": 0.1}]
WHOLE = {
    "point.json": json.dumps({**ABOUT, "wandb_id": "abc"}),
    "status.json": '{"state": "done", "attempts": 1, "error": null}',
    "result.json": json.dumps({**RESULT, "val": {"loss": math.nan}}),
    "progress.json": '{"epoch": 1, "epochs": 3, "step": 0, "steps": 9, "val_accuracy": null}',
    "job.json": '{"slurm": "12_3"}',
    "wandb.json": '{"id": "abc", "versions": 1, "workspace": ["a", "b"], "report": "c"}',
}


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_record_is_empty_and_says_why(tmp_path, name, kind):
    path = tmp_path / name
    assert (ledger.read_json(path), ledger.read_json(path).damage) == ({}, "")
    path.write_text(WHOLE[name])
    whole = ledger.read_json(path)
    assert (repr(whole), whole.damage) == (repr(json.loads(WHOLE[name])), "")
    KINDS[kind](path)
    read = ledger.read_json(path)
    if (name, kind) == ("wandb.json", "lacking"):
        assert read.damage == ""
        return
    assert read == {}
    assert read.damage.startswith(name)
    assert "\n" not in read.damage
    assert ledger.damage(path) == read.damage


@pytest.mark.parametrize(("name", "key", "value"), VALUES)
def test_values_that_verbs_rely_on(tmp_path, name, key, value):
    folder = write_point(tmp_path / "s", "se", 0, 0.9)
    about = {**ledger.read_json(folder / "point.json"), "libraries": {}, "threads": 1}
    ledger.write_json(folder / "point.json", {**about, "hash": ledger.digest(about["identity"])})
    result = {**ledger.read_json(folder / "result.json"), "val": {}, "times": {}}
    ledger.write_json(folder / "result.json", result)
    assert ledger.is_done(folder)
    set_value(folder / name, key, value)
    read = ledger.read_point(folder)
    assert read.state == "damaged"
    assert read.damage.startswith(f"{name}: {key.partition('.')[0]}")
    assert len(read.damage) < 150


def test_numbers_of_a_diverged_training_are_no_damage(tmp_path):
    folder = write_point(tmp_path / "s", "se", 0, math.nan)
    set_value(folder / "result.json", "test.loss", math.inf)
    set_value(folder / "result.json", "val", {"loss": math.nan})
    assert ledger.is_done(folder)
    ledger.write_rows(folder / "metrics.csv", [{"epoch": 0, "train/loss": math.nan, "lr": math.inf}])
    assert ledger.damage(folder / "metrics.csv") == ""


def test_an_older_point_is_whole(tmp_path):
    """Without what was added later: hash, libraries, threads, val, times."""
    assert ledger.is_done(write_point(tmp_path / "s", "se", 0, 0.9))


def test_a_point_json_that_is_gone(tmp_path):
    folder = write_point(tmp_path / "s", "se", 0, 0.9)
    (folder / "point.json").unlink()
    assert ledger.points(tmp_path / "s") == [folder]
    assert (ledger.state(folder), ledger.read_point(folder).damage) == ("damaged", "point.json is missing")


@pytest.mark.parametrize("kind", KINDS)
def test_rows_and_arrays(tmp_path, kind):
    ledger.write_rows(tmp_path / "metrics.csv", ROWS)
    ledger.write_array(tmp_path / "test.npy", np.arange(8, dtype=np.uint8).reshape(2, 4))
    columns, damage = ledger.read_rows(tmp_path / "metrics.csv")
    assert (columns["step"], repr(columns["lr"]), damage) == ([3, 6], "[nan, 0.1]", "")
    assert ledger.read_array(tmp_path / "test.npy")[0].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    for path, read, nothing in (
        (tmp_path / "metrics.csv", ledger.read_rows, {}),
        (tmp_path / "test.npy", ledger.read_array, None),
    ):
        KINDS[kind](path)
        found, damage = read(path)
        assert found == nothing
        assert damage.startswith(path.name)


@pytest.mark.parametrize("array", [np.zeros((2, 4)), np.zeros((4, 4), int), np.zeros((2, 0), int), np.array(["a"])])
def test_arrays_of_another_kind(tmp_path, array):
    np.save(tmp_path / "test.npy", array)
    found, damage = ledger.read_array(tmp_path / "test.npy")
    assert found is None
    assert damage.startswith("test.npy is truncated or overwritten")


def test_json_of_depth_without_end(tmp_path):
    (tmp_path / "status.json").write_text("[" * 100_000)
    assert ledger.read_json(tmp_path / "status.json").damage


def test_a_config_names_its_file_and_what_to_do(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.yaml").write_text("seed: [")
    with pytest.raises(
        InputError, match=r"a/config.yaml is truncated or overwritten: .*; copy the config.yaml of another seed"
    ):
        ledger.read_config(tmp_path / "a")
    with pytest.raises(InputError, match=r"b/config.yaml is missing"):
        ledger.read_config(tmp_path / "b")


def test_what_is_set_aside_is_kept(tmp_path, caplog):
    path = tmp_path / "status.json"
    for number, content in enumerate(["", "[", "{}"]):
        path.write_text(content)
        ledger.set_status(tmp_path, "running")
        assert ledger.read_json(path)["attempts"] == 1
        kept = ["status.json.damaged", "status.json.2.damaged", "status.json.3.damaged"][number]
        assert (tmp_path / kept).read_text() == content
        assert caplog.messages[-1].startswith(f"{tmp_path}/status.json")
        assert caplog.messages[-1].endswith(f": kept as {kept}")


def test_what_cannot_be_read_now_may_be_whole(tmp_path, monkeypatch):
    folder = write_point(tmp_path / "s", "se", 0, 0.9)
    ledger.write_json(folder / "result.json", RESULT)
    read_bytes = type(folder).read_bytes

    def refuse(path):
        if path.name == "result.json":
            raise PermissionError(13, "Permission denied", str(path))
        return read_bytes(path)

    with monkeypatch.context() as patch:
        patch.setattr(type(folder), "read_bytes", refuse)
        assert ledger.read_point(folder).damage == "result.json cannot be read: Permission denied"
        with pytest.raises(PermissionError):
            ledger.prepare(folder, {})
    assert ledger.is_done(folder)


def test_what_stands_in_the_way_is_set_aside(tmp_path):
    (tmp_path / "report.md").mkdir()
    (tmp_path / "plans").write_text("")
    ledger.write_text(tmp_path / "report.md", "text")
    ledger.write_json(tmp_path / "plans" / "a.json", {})
    assert {path.name for path in tmp_path.iterdir()} == {"report.md", "report.md.damaged", "plans", "plans.damaged"}


def test_damaged_plans_are_told_from_whole_ones(tmp_path):
    plan = {"time": 1.0, "command": "attnlab train -m", "points": ["a"], "baseline": None}
    ledger.write_json(tmp_path / "plans" / "a.json", plan)
    ledger.write_json(tmp_path / "plans" / "b.json", {**plan, "time": "now"})
    ledger.write_json(tmp_path / "plans" / "c.json", {**plan, "points": "a"})
    whole, damaged = ledger.plans(tmp_path)
    assert whole == [plan]
    assert damaged == [
        f"{tmp_path}/plans/b.json: time is 'now', must be a finite number from 0 up",
        f"{tmp_path}/plans/c.json: points is 'a', must be a list",
    ]
    assert ledger.mended(tmp_path / "plans" / "c.json", PLAN) == {}
    assert (tmp_path / "plans" / "c.json.damaged").is_file()


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_lock_is_given_up_when_it_is_stale(tmp_path, kind):
    import os

    with lock.hold(tmp_path):
        pass
    KINDS[kind](tmp_path / "lock" / "1.json")
    assert str(lock.holder(tmp_path)).startswith("unknown")  # who knows: another machine may be writing it
    os.utime(tmp_path / "lock" / "1.json", (1.5e9, 1.5e9))
    assert lock.holder(tmp_path) is None
    with lock.hold(tmp_path):
        assert ledger.read_json(tmp_path / "lock" / "2.json")["process"] == os.getpid()


def test_a_lock_that_is_a_file_is_set_aside(tmp_path):
    (tmp_path / "lock").write_text("")
    assert lock.holder(tmp_path) is None
    with lock.hold(tmp_path):
        assert (tmp_path / "lock.damaged").is_file()
