"""Points of a pack, trained in one process as one network: each as it would be alone."""

import json
import shutil
import time

import numpy as np
import pytest
import torch
from PIL import Image

from attnlab import ledger
from attnlab.ledger import lock
from attnlab.sweep import plan
from attnlab.training import loop, packed
from attnlab.training.packed import Pack
from attnlab.training.stacked import Stacked
from attnlab.training.stop import Preempted, Stop
from tests.wandb_file import records

SMALL = ["data=digits", "data.batch_size=20", "trainer.accelerator=cpu", "trainer.precision=64-true"]
SMALL += ["+trainer.limit_train_batches=3", "trainer.max_epochs=2", "scheduler=cosine", "checkpoint.every_n_steps=2"]
CBAM = ["backbone.width=0.25", "backbone.bn_momentum=0.1", "attention=cbam", "augment=shift"]


def prepared(folder, *settings):
    """The folders of a sweep's points, ready to be trained."""
    points = plan.make(["-m", *SMALL, *settings, f"output_dir={folder}"]).points
    for point in points:
        ledger.prepare(point.folder, point.config, point.overrides)
    return [point.folder for point in points]


def pack(folders, together=True):
    """``together=None``: if that is faster."""
    made = Pack(folders, [folder.name for folder in folders], 1)
    made.together = together
    return made


def checkpoint(folder, name="last"):
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def same(folder, reference, tolerance=1e-9):
    """Files of the two points say the same, within the tolerance in float64."""
    assert ledger.state(folder) == ledger.state(reference) == "done"
    for name in ("metrics.csv", "gates.csv"):
        columns, expected = (ledger.read_rows(each / name)[0] for each in (folder, reference))
        assert columns.keys() == expected.keys()
        for key, values in expected.items():
            if isinstance(values[0], str):
                assert columns[key] == values
            else:
                assert columns[key] == pytest.approx(values, abs=max(1e-6, tolerance), nan_ok=True), key
    for name in ("best", "last"):
        mine, other = checkpoint(folder, name), checkpoint(reference, name)
        assert mine.keys() == other.keys()
        for key, value in other["state_dict"].items():
            torch.testing.assert_close(mine["state_dict"][key], value, rtol=0, atol=tolerance, msg=key)
        assert [mine[key] for key in ("loops", "epoch", "global_step")] == [
            other[key] for key in ("loops", "epoch", "global_step")
        ]
        states, expected = ([*each["optimizer_states"][0]["state"].values()] for each in (mine, other))
        for state, those in zip(states, expected, strict=True):
            for key, value in those.items():
                torch.testing.assert_close(state[key], value, rtol=0, atol=tolerance, msg=key)
        drawn, expected = (each["ranks"][0]["torch"] for each in (mine, other))
        assert torch.equal(drawn, expected)
    assert (np.load(folder / "test.npy") == np.load(reference / "test.npy")).all()
    mine, other = (json.loads((each / "result.json").read_text()) for each in (folder, reference))
    assert mine.keys() == other.keys()
    assert mine["test"] == pytest.approx(other["test"], abs=max(1e-6, tolerance))


def test_packed_is_as_alone_and_one_that_fails_or_is_elsewhere_leaves_the_others_alone(tmp_path):
    rates = ["sweep.zip=[seed,optimizer.lr,optimizer.attention_lr_scale]", "seed=0,1,2,3"]
    rates += ["optimizer.lr=0.004,0.002,1e200,0.004", "optimizer.attention_lr_scale=1,10,1,1"]
    folders = prepared(tmp_path / "packed", *CBAM, *rates)
    with lock.hold(folders[3]):
        assert pack(folders).train() == 0
    states = [ledger.read_json(folder / "status.json") for folder in folders]
    assert [status["state"] for status in states] == ["done", "done", "failed", "pending"]
    assert "FloatingPointError: the training loss is" in states[2]["error"]
    for folder in folders[:3]:
        assert ledger.read_json(folder / "point.json")["packed"] == 3
    assert "Traceback" not in "".join((folder / "log.txt").read_text() for folder in folders[:2])
    assert "Traceback" in (folders[2] / "log.txt").read_text()
    for folder, reference in zip(folders, prepared(tmp_path / "alone", *CBAM, *rates)[:2], strict=False):
        loop.run(reference, threads=1)
        same(folder, reference)


def test_begun_packed_and_ended_alone_and_the_other_way_round(tmp_path, monkeypatch):
    lenet = ["backbone=lenet5", "backbone.freeze=1", "attention=se", "sites=unit", "seed=0,1"]
    begun, unlike = prepared(tmp_path / "begun", *lenet), prepared(tmp_path / "unlike", *lenet)
    first = pack(begun)
    leg = first._leg

    def asked_to_stop(group):
        first.stop.signal = "SIGTERM"
        return leg(group)

    first._leg = asked_to_stop
    assert first.train() == loop.PREEMPTED
    assert [ledger.state(folder) for folder in begun] == ["preempted"] * 2
    assert [[path.name for path in folder.glob("checkpoints/*")] for folder in begun] == [["step-00000001.ckpt"]] * 2
    shutil.copytree(tmp_path / "begun", tmp_path / "alone")
    alone = [tmp_path / "alone" / folder.relative_to(tmp_path / "begun") for folder in begun]
    assert pack(begun, together=None).train() == 0  # it was packed before, so it is not asked whether that is faster
    for folder, reference in zip(begun, alone, strict=True):
        assert "packed with 1 other\n" in (folder / "log.txt").read_text().partition("attempt 2")[2]
        loop.run(reference, threads=1)
        same(folder, reference)

    with monkeypatch.context() as patched:
        asked = Stop()
        asked.asked = "SIGTERM"
        patched.setattr(loop, "Stop", lambda: asked)
        with pytest.raises(Preempted):
            loop.run(unlike[0], threads=1)
    assert [len(list(folder.glob("checkpoints/*"))) for folder in unlike] == [1, 0]
    assert pack(unlike).train() == 0  # the second one is trained alone until it is as far as the first
    for folder, reference in zip(unlike, alone, strict=True):
        same(folder, reference)


def failing(times, error):
    """A step that fails the second time."""
    step = Stacked.step

    def one(*args):
        times.append(1)
        if len(times) == 2:
            raise error
        return step(*args)

    return one


@pytest.mark.parametrize(
    ("together", "patch", "words"),
    [
        (None, (packed, "_gain", lambda group: 0.5), "trained alone: packing is slower here (0.5 ×)"),
        (True, (Stacked, "step", failing([], RuntimeError("broken"))), "alone from here on: RuntimeError: broken"),
    ],
)
def test_where_packing_is_slower_or_fails_the_points_are_left_to_be_trained_alone(
    tmp_path, monkeypatch, together, patch, words
):
    monkeypatch.setattr(*patch)
    folders = prepared(tmp_path, "backbone=lenet5", "seed=0,1")
    assert pack(folders, together=together).train() == loop.ALONE
    for folder in folders:
        text = (folder / "log.txt").read_text()
        assert words in text
        assert ("Traceback" in text) == (together is True)
        assert ledger.state(folder) == "preempted"
        assert "packed" not in ledger.read_json(folder / "point.json")
        assert not [*folder.glob("checkpoints/*")]


def test_after_a_cuda_error_nothing_more_is_tried_in_this_process(tmp_path, monkeypatch):
    monkeypatch.setattr(Stacked, "step", failing([], RuntimeError("CUDA error: an illegal memory access")))
    folders = prepared(tmp_path, "backbone=lenet5", "seed=0,1,2")
    begun = pack(folders)
    assert begun.train() == loop.ALONE
    assert [ledger.read_json(folder / "status.json")["state"] for folder in folders] == ["running"] * 3
    for member in begun.members:  # which ends with the process
        member.resume()


def test_a_point_that_another_process_takes_over_ends_the_pack_but_not_as_if_asked_to_stop(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT_S", 0.05)
    codes = []
    monkeypatch.setattr(loop.os, "_exit", codes.append)
    folders = prepared(tmp_path, "backbone=lenet5", "seed=0,1")
    begun = pack(folders)
    leg = begun._leg

    def taken_over(group):
        shutil.rmtree(folders[0] / "lock")
        time.sleep(0.5)
        begun.stop.signal = "SIGTERM"
        return leg(group)

    begun._leg = taken_over
    begun.train()
    assert codes[:1] == [loop.ALONE]


def test_folds_of_different_length_have_schedules_of_their_own(tmp_path):
    """Of 31, 31 and 32 images, in batches of 16: one batch an epoch, or two."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(25):
            image = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(image).save(tmp_path / "images" / name / f"{i}.png")
    words = ["data=image_folder", f"data.folder={tmp_path}/images", "data.size=32", "data.folds=4", "data.fold=0,1,2"]
    words += ["backbone=lenet5", "data.batch_size=16"]
    folders = prepared(tmp_path / "packed", *words)
    assert pack(folders).train() == 0
    lengths = set()
    for folder, reference in zip(folders, prepared(tmp_path / "alone", *words), strict=True):
        loop.run(reference, threads=1)
        same(folder, reference)
        lengths.add(checkpoint(folder)["global_step"])
        assert ledger.read_json(folder / "point.json")["packed"] > 1
    assert len(lengths) == 2


def test_each_point_has_a_wandb_run_of_its_own(tmp_path):
    folders = prepared(tmp_path, "backbone=lenet5", "seed=0,1", "logger=wandb")
    assert pack(folders).train() == 0
    for folder in folders:
        (path,) = folder.glob("wandb/offline-run-*/*.wandb")
        kept = [
            {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            for record in records(path)
            if record.WhichOneof("record_type") == "history"
        ]
        losses = [row["train/loss"] for row in kept if "train/loss" in row]
        assert losses == pytest.approx(ledger.read_rows(folder / "metrics.csv")[0]["train/loss"])


def config(*settings):
    return plan.make(["-m", *SMALL, *settings]).points[0].config


def test_which_points_are_alike():
    base = packed.likeness(config())
    for settings in (["seed=1"], ["optimizer.lr=0.1", "optimizer.weight_decay=0"], ["scheduler.warmup=0.2", "seed=3"]):
        assert packed.likeness(config(*settings)) == base
    for settings in (["attention=se"], ["optimizer=sgd"], ["scheduler=none"], ["trainer.max_epochs=3"], ["study=x"]):
        assert packed.likeness(config(*settings)) != base


ELEMENTWISE = "SGD, Adam, AdamW, NAdam, RAdam, RMSprop, Adagrad, Adadelta, Adamax"


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (["attention=cbam"], ""),
        (["backbone=resnet20", "data.size=32", "attention=bam"], ""),
        (["backbone=squeezenet1_1", "data.size=64"], "its network draws random numbers in training (dropout, say)"),
        (["+trainer.accumulate_grad_batches=2"], "trainer.accumulate_grad_batches=2"),
        (["trainer.precision=16-mixed"], "trainer.precision=16-mixed"),
        (
            ["optimizer=adamw", "optimizer._target_=torch.optim.ASGD"],
            f"ASGD is not one of {ELEMENTWISE}",
        ),
    ],
)
def test_what_is_trained_alone(settings, why):
    assert packed.obstacle(config(*settings)) == why
