"""attnlab repro: a real point again."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from attnlab.sweep import repro
from tests.conftest import attnlab

SMALL = ["backbone=lenet5", "sites=unit", "data=digits", "trainer.max_epochs=2", "data.batch_size=100"]


@pytest.fixture(scope="module")
def cwd(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("repro")
    done = attnlab("train", "attention=cbam", "study=s", *SMALL, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return cwd


def folder(cwd):
    return next(cwd.glob("outputs/s/*/result.json")).parent


def test_the_same_to_the_bit(cwd):
    point = folder(cwd)
    done = attnlab("repro", "outputs/s", point.name[-8:], cwd=cwd)
    assert done.returncode == 0, done.stderr
    accuracy = 100 * json.loads((point / "result.json").read_text())["test"]["accuracy"]
    last = done.stdout.splitlines()[-1]
    assert last == f"the same to the bit: 2 epochs of metrics.csv, 300 predictions, test accuracy {accuracy:.1f} %"
    assert not (cwd / "outputs" / "s" / "repro").exists()


def test_what_differs_and_why_is_told(cwd, tmp_path):
    shutil.copytree(cwd / "outputs", tmp_path / "outputs")
    point = folder(tmp_path)
    config = (point / "config.yaml").read_text()  # somebody has changed it by hand, and the library too
    (point / "config.yaml").write_text(config.replace("lr: 0.005", "lr: 0.004"))
    about = json.loads((point / "point.json").read_text())
    about["libraries"]["torch"] = "1.0"
    (point / "point.json").write_text(json.dumps(about))
    done = attnlab("repro", "outputs/s", str(point.relative_to(tmp_path)), cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "different:\n  test " in done.stdout
    assert "metrics.csv: from epoch 1 on; " in done.stdout
    assert "possible reasons:\n  torch: 1.0, now " in done.stdout
    assert (tmp_path / "outputs" / "s" / "repro" / point.name / "result.json").exists()
    assert len(list((tmp_path / "outputs" / "s").glob("*/result.json"))) == 1  # it is no point of the study


def test_bad_input(cwd):
    name = folder(cwd).name
    for words, message in [
        (["outputs/no", "x"], "outputs/no: no such folder"),
        (["outputs/s", "wrong"], f"outputs/s: no point wrong; valid: {name}"),
    ]:
        done = attnlab("repro", *words, cwd=cwd)
        assert done.returncode == 2
        assert done.stderr.startswith(f"attnlab: {message}")


def test_another_number_of_test_images_is_told():
    def point(images):
        answers = np.zeros((2, images), np.uint8)
        return SimpleNamespace(result={"test": {"accuracy": 0.5}}, answers=lambda: answers, curve=dict)

    assert list(repro._differences(point(30), point(31))) == ["test images: 30, now 31: the data have changed"]
