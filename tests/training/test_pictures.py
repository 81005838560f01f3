"""Pictures in the course of a training: they are there, and the training does not notice."""

import sys

import pytest
import torch
import yaml
from PIL import Image

from attnlab import ledger
from attnlab.sweep import plan
from attnlab.training import loop
from attnlab.training.pictures import EpochPictures

# With dropout, which draws from the global generator.
ARGV = [
    *("backbone=squeezenet1_1", "attention=cbam", "sites=block", "data=digits", "data.batch_size=16"),
    *("trainer.max_epochs=2", "+trainer.limit_train_batches=2", "data.eval_batch_size=300"),
]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def trained(study, every=None, logger="csv"):
    (point,) = plan.make([*ARGV, f"study={study}", f"logger={logger}"]).points
    ledger.prepare(point.folder, point.config)
    if every:
        config = yaml.safe_load((point.folder / "config.yaml").read_text())
        text = yaml.dump({**config, "explain": {**config.get("explain", {}), "every_n_epochs": every}})
        (point.folder / "config.yaml").write_text(text)
    loop.run(point.folder)
    return point.folder


def test_results_are_the_same_to_the_bit_and_pictures_are_there():
    plain, pictured = trained("plain"), trained("pictured", every=2, logger="tensorboard")
    assert (plain / "metrics.csv").read_text() == (pictured / "metrics.csv").read_text()
    results = [ledger.read_json(folder / "result.json") for folder in (plain, pictured)]
    assert results[0]["test"] == results[1]["test"]
    states = [torch.load(f / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for f in (plain, pictured)]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert not (plain / "pictures").exists()
    (path,) = (pictured / "pictures").iterdir()
    assert path.name == "epoch-002.png"
    with Image.open(path) as picture:
        assert picture.size[0] > 600  # with five sites and two methods
    assert "pictures" not in (pictured / "log.txt").read_text()  # no complaint
    assert any(b"pictures/epoch" in file.read_bytes() for file in pictured.glob("tensorboard/events*"))


def test_without_the_libraries_the_log_says_what_to_install(monkeypatch, tmp_path, caplog):
    assert EpochPictures(tmp_path, 1).methods
    monkeypatch.setitem(sys.modules, "captum", None)
    assert not EpochPictures(tmp_path, 1).methods
    assert "no class activation maps: maps need captum: pip install 'attnlab[explain]'" in caplog.text
