"""Identity, folder and ledger."""

import copy
import json
import os
import subprocess
import sys

import pytest

from attnlab import ledger
from tests.study.points import ABOUT, RESULT

CONFIG = {
    "backbone": {"name": "b", "_target_": "x.B"},
    "attention": {"name": "cbam", "_target_": "x.A", "ratio": 16.0},
    "sites": {"name": "branch", "role": "branch"},
    "data": {"name": "d", "_target_": "x.D", "root": "/somewhere", "seed": 0},
    "optimizer": {"name": "adamw", "_target_": "x.O", "lr": 0.1},
    "scheduler": {"name": "none"},
    "loss": {"label_smoothing": 0.0},
    "trainer": {"max_epochs": 3, "precision": "32-true", "accelerator": "auto", "devices": 1},
    "logger": {"name": "csv"},
    "seed": 3,
    "study": "s",
    "output_dir": "outputs",
    "tags": [],
}


def changed(path, value):
    config = copy.deepcopy(CONFIG)
    *parents, key = path.split(".")
    node = config
    for parent in parents:
        node = node[parent]
    node[key] = value
    return ledger.digest(ledger.identity(config))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seed", 4),
        ("attention.ratio", 8.0),
        ("sites.role", "block"),
        ("data.seed", 1),
        ("data.folder", "/my/images"),
        ("optimizer.lr", 0.2),
        ("loss.label_smoothing", 0.1),
        ("trainer.max_epochs", 4),
        ("trainer.precision", "bf16-mixed"),
        ("backbone._target_", "x.C"),
        ("backbone.name", "c"),
        ("sites", None),
    ],
)
def test_what_can_change_the_result_changes_the_identity(path, value):
    assert changed(path, value) != ledger.digest(ledger.identity(CONFIG))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("study", "t"),
        ("output_dir", "/elsewhere"),
        ("tags", ["a"]),
        ("logger.name", "wandb"),
        ("explain", {"name": "score", "scores": True}),
        ("data.root", "/other"),
        ("data.eval_batch_size", 7),
        ("trainer.accelerator", "gpu"),
        ("trainer.devices", 2),
        ("trainer.num_nodes", 2),
        ("trainer.enable_progress_bar", False),
        ("attention.name", "my_cbam"),
    ],
)
def test_what_cannot_does_not(path, value):
    assert changed(path, value) == ledger.digest(ledger.identity(CONFIG))


def test_digest_is_sha256_of_canonical_json_whatever_the_order():
    identity = ledger.identity(CONFIG)
    backwards = dict(reversed(list(identity.items())))
    assert ledger.digest(backwards) == ledger.digest(identity)
    import hashlib

    assert ledger.digest({"b": 1, "a": [2.5, "µ"]}) == hashlib.sha256('{"a":[2.5,"µ"],"b":1}'.encode()).hexdigest()


def test_folder():
    hash8 = ledger.digest(ledger.identity(CONFIG))[:8]
    assert str(ledger.folder(CONFIG)) == f"outputs/s/b-cbam-branch-s3-{hash8}"
    bare = {**CONFIG, "attention": {"name": "none"}, "sites": None}
    assert ledger.folder(bare).name.startswith("b-none-s3-")


def test_status_goes_through_its_states(tmp_path):
    ledger.set_status(tmp_path, "pending")
    ledger.set_status(tmp_path, "running")
    status = ledger.read_json(tmp_path / "status.json")
    assert (status["state"], status["attempts"], status["process"]) == ("running", 1, os.getpid())
    assert status["started"]
    assert not status["ended"]
    ledger.set_status(tmp_path, "failed", error="ValueError: no")
    ledger.set_status(tmp_path, "running")
    status = ledger.read_json(tmp_path / "status.json")
    assert (status["attempts"], status["error"]) == (2, None)
    assert not ledger.is_done(tmp_path)
    ledger.set_status(tmp_path, "done")
    assert not ledger.is_done(tmp_path)  # no result
    ledger.write_json(tmp_path / "result.json", RESULT)
    assert not ledger.is_done(tmp_path)  # of what?
    ledger.write_json(tmp_path / "point.json", ABOUT)
    assert ledger.is_done(tmp_path)


def test_until_lasts_as_long_as_it_is_asked_for(tmp_path):
    def status():
        read = ledger.read_json(tmp_path / "status.json")
        return read["state"], read.get("until")

    ledger.prepare(tmp_path, CONFIG, until=2)
    assert status() == ("pending", 2)
    ledger.set_status(tmp_path, "preempted")
    assert status() == ("preempted", 2)  # whoever starts it again, it is paused there
    assert not ledger.is_paused(tmp_path, 2)
    ledger.set_status(tmp_path, "paused")
    assert ledger.read_point(tmp_path).paused == "after epoch 2 of 3"
    assert not ledger.is_paused(tmp_path, 1)  # metrics.csv is lost: it must be started to write it again
    ledger.write_rows(tmp_path / "metrics.csv", [{"epoch": 0, "step": 1}, {"epoch": 1, "step": 2}])
    assert [ledger.is_paused(tmp_path, until) for until in (1, 2, 3, None)] == [True, True, False, False]
    ledger.prepare(tmp_path, CONFIG, until=1)
    assert status() == ("paused", 2)  # it has them
    ledger.prepare(tmp_path, CONFIG)
    assert status() == ("pending", None)
    assert "until" not in ledger.read_json(tmp_path / "status.json")
    assert ledger.read_point(tmp_path).paused == ""


def test_writing_is_atomic(tmp_path):
    """A writer killed at any moment leaves the old file or the new one."""
    code = """
import sys
from pathlib import Path
from attnlab.ledger import write_json
n = 0
while True:
    n += 1
    write_json(Path(sys.argv[1]), {"n": n, "filler": "x" * 200_000})
"""
    path = tmp_path / "status.json"
    for _ in range(5):
        writer = subprocess.Popen([sys.executable, "-c", code, str(path)])
        while not path.exists():
            assert writer.poll() is None
        for _ in range(50):
            assert len(json.loads(path.read_text())["filler"]) == 200_000
        writer.kill()
        writer.wait()
        assert len(json.loads(path.read_text())["filler"]) == 200_000


def test_rows_have_the_union_of_columns(tmp_path):
    ledger.write_rows(tmp_path / "m.csv", [{"a": 1}, {"a": 2, "b": "x,y"}])
    assert (tmp_path / "m.csv").read_text() == 'a,b\n1,\n2,"x,y"\n'


def test_settings_that_a_class_got_later_count_only_at_other_values():
    folder = {"name": "image_folder", "_target_": "attnlab.data.ImageFolder", "folder": "photos", "seed": 0}
    hashes = {
        text: ledger.digest(ledger.identity({**CONFIG, "data": {**folder, **more}}))
        for text, more in {
            "then": {},
            "now": {"channels": None, "fit": "crop", "folds": None, "duplicates": "keep", "unreadable": "error"},
            "pad": {"fit": "pad"},
            "fold": {"folds": 5, "fold": 0},
        }.items()
    }
    assert hashes["then"] == hashes["now"]
    assert len(set(hashes.values())) == 3
    assert ledger.in_full({"data": folder})["data"]["fit"] == "crop"
    assert "fit" not in ledger.in_full(CONFIG)["data"]  # another class
