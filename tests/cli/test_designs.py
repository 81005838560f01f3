"""A design of several placements from the command line to the model card: as a new user would go."""

import os
import signal
import time

import numpy as np
import pytest
import torch

import attnlab
from attnlab import ledger
from attnlab.study.collect import read_study
from tests import warm
from tests.conftest import attnlab as command

SMALL = ("data=digits", "data.batch_size=30", "backbone.width=0.25", "backbone.bn_momentum=0.1")
SMALL += ("trainer.max_epochs=1", "checkpoint.every_n_steps=5", "hydra.launcher.cpu_slots=1")
DESIGN = "[se,none,{attention: eca, kernel: 3},cbam]"
PLACED = "placements=[{attention: cbam, at: branch, stages: [4]}, {attention: se, stages: [1]}, "
PLACED += "{attention: eca, kernel: 3, stages: [3]}]"


@pytest.fixture(scope="module")
def cwd(tmp_path_factory):
    """Two studies of one design: one that was killed, typed again and has a bare network; one in other words."""
    cwd = tmp_path_factory.mktemp("designs")
    words = ("train", "-m", "attention=by_stage", f"attention.stages={DESIGN},[none,none,none,none]", "study=killed")
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (cwd / "killed.txt").open("w") as told:
        process = warm.start([*words, *SMALL], cwd, env, told.fileno(), told.fileno())
    deadline = time.monotonic() + 120
    while not list(cwd.glob("outputs/killed/*cbam*/checkpoints/step-*.ckpt")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    for run in (command(*words, *SMALL, cwd=cwd), command("train", PLACED, "study=whole", *SMALL, cwd=cwd)):
        assert run.returncode == 0, run.stderr
    return cwd


@pytest.fixture(scope="module")
def point(cwd):
    (found,) = cwd.glob("outputs/killed/*cbam*")
    return found


def test_killed_it_goes_on_to_the_bit(cwd, point):
    (other,) = cwd.glob("outputs/whole/*")
    assert other.name == point.name == f"mini_xception-se+eca+cbam-branch-s0-{point.name[-8:]}"
    assert "from the beginning" not in (point / "log.txt").read_text().split("from outputs/")[1]
    one, two = (torch.load(f / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for f in (point, other))
    assert one.keys() == two.keys()
    assert all(torch.equal(value, two[key]) for key, value in one.items())
    assert ledger.read_json(point / "result.json")["test"] == ledger.read_json(other / "result.json")["test"]


def test_it_is_labelled_reported_and_goes_on(cwd):
    study = read_study(cwd / "outputs" / "killed")
    assert {v.label: v.levels for v in study.variants} == {
        "none": {"stage 1": "none", "stage 3": "none", "stage 4": "none"},
        "se+eca+cbam": {"stage 1": "se", "stage 3": "eca", "stage 4": "cbam"},
    }
    run = command("report", "outputs/killed", cwd=cwd)
    assert run.returncode == 0, run.stderr
    assert "se+eca+cbam is se 1 + eca 3 + cbam 4" in " ".join(run.stdout.split())
    assert "The best attention is se+eca+cbam" in run.stdout
    run = command("more", "outputs/killed", "--dry-run", cwd=cwd)
    assert run.stdout.splitlines()[0] == "se+eca+cbam against none: 2 more pairs, 4 points to run"


def test_exported_it_is_read_back_and_its_card_tells_each_attention(cwd, point):
    run = command("export", str(point), "--to", "safetensors", cwd=cwd)
    assert run.returncode == 0, run.stderr
    trained, x = attnlab.load(point), torch.randn(3, 1, 32, 32)
    assert "mini_xception, se ratio=16 at branch 1 + eca at branch 3 + cbam ratio=16 at branch 4, 10 classes" in repr(
        trained
    )
    assert torch.equal(attnlab.load(point / "export").logits(x), trained.logits(x))
    card = (point / "export" / "README.md").read_text()
    assert "- se\n- eca\n- cbam\n- attention\n" in card
    assert "| attention at branch 3 | eca (kernel 3, gate sigmoid, init authors);" in card
    assert "the attention, se (arXiv 1709.01507), eca (arXiv 1910.03151) and cbam (arXiv 1807.06521)." in card


@pytest.mark.slow
def test_all_formats_compute_the_same(cwd, point):
    onnxruntime = pytest.importorskip("onnxruntime")
    made = cwd / "all"
    run = command("export", str(point), "--to", "torch,onnx", "--quantize", "int8", "--output", str(made), cwd=cwd)
    assert run.returncode == 0, run.stderr
    x = torch.randn(3, 1, 32, 32)
    expected = attnlab.load(point).logits(x)
    session = onnxruntime.InferenceSession(str(made / "model.onnx"))
    np.testing.assert_allclose(session.run(None, {"images": x.numpy()})[0], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.export.load(made / "model.pt2").module()(x), expected)
    (int8,) = onnxruntime.InferenceSession(str(made / "model.int8.onnx")).run(None, {"images": x.numpy()})
    assert int8.shape == (3, 10)


@pytest.mark.slow
def test_its_page_shows_each_site(cwd, point):
    run = command("explain", str(point), "--images", "2", cwd=cwd)
    assert run.returncode == 0, run.stderr
    page = (point / "explain" / "page.html").read_text()
    assert "<title>Where se ratio=16 at branch 1 + eca at branch 3 + cbam ratio=16 at branch 4 looks" in page
    assert all(f"module{n}.branch" in page for n in (1, 3, 4))
