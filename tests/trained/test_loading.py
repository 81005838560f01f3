"""Loading: what training measured is what the loaded network does."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

import attnlab
from attnlab import ledger
from attnlab.config.build import build_data


def test_a_loaded_point_answers_as_it_did_in_training(point):
    trained = attnlab.load(point)
    data = build_data(ledger.read_config(point))
    labels, predicted = np.load(point / "test.npy")
    probabilities = trained.probabilities(data.splits.test.images)
    assert probabilities.argmax(1).tolist() == predicted.tolist()
    torch.testing.assert_close(probabilities.sum(1), torch.ones(len(labels)))
    with torch.no_grad():
        logits = trained.net(data.shown(data.splits.test)[0])
    torch.testing.assert_close(logits.softmax(1), probabilities)
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels).long())
    assert float(loss) == pytest.approx(trained.metrics["test"]["loss"], rel=1e-5)
    assert trained.classes == [str(digit) for digit in range(10)]
    assert trained.cost["parameters"] == sum(p.numel() for p in trained.net.parameters())
    assert not trained.net.training
    assert "cbam ratio=8 at branch, 10 classes, input 1×40×40" in repr(trained)


def test_an_older_point_asks_its_data(point, tmp_path):
    old = tmp_path / point.name
    old.mkdir()
    for path in point.iterdir():
        if path.name != "result.json":
            (old / path.name).symlink_to(path)
    result = json.loads((point / "result.json").read_text())
    facts = result.pop("preprocess")
    (old / "result.json").write_text(json.dumps(result))
    assert json.loads(json.dumps(attnlab.load(old).preprocess.facts)) == facts


def test_the_best_is_chosen_by_validation(study):
    best = attnlab.load(study, best=True)
    results = {path.parent: json.loads(path.read_text()) for path in study.glob("*/result.json")}
    means = {
        name: np.mean([r["val"]["accuracy"] for folder, r in results.items() if name in folder.name])
        for name in ("none", "cbam")
    }
    name = max(means, key=means.get)
    seeds = {f: r["val"]["accuracy"] for f, r in results.items() if name in f.name}
    assert seeds[best.folders[0]] == max(seeds.values())


def test_variants_on_other_data_have_no_best(study, tmp_path):
    for folder in (path.parent for path in study.glob("*/point.json")):
        shutil.copytree(folder, tmp_path / "s" / folder.name)
    for path in (tmp_path / "s").glob("*none*/point.json"):
        text = json.loads(path.read_text())
        text["identity"]["data"] |= {"clutter": 2, "batch_size": 8}
        path.write_text(json.dumps({**text, "hash": ledger.digest(text["identity"])}))
    with pytest.raises(
        attnlab.InputError, match=r"its variants differ in data\.clutter, so they have other validation"
    ):
        attnlab.load(tmp_path / "s", best=True)


def test_seeds_are_averaged(study, point):
    x = torch.rand(5, 1, 40, 40)
    ensemble = attnlab.load(point, seeds="all")
    assert "first seed's test accuracy" in repr(ensemble)
    assert ensemble.folders == [point, *(f for f in study.glob("*cbam*") if f != point and f.is_dir())]
    members = [attnlab.load(folder).probabilities(x) for folder in ensemble.folders]
    torch.testing.assert_close(ensemble.probabilities(x), torch.stack(members).mean(0))
    with attnlab.record(ensemble.net) as seen:
        ensemble.predict(x)
    assert len(seen) == 8


def test_what_serves_as_images(point, tmp_path):
    from PIL import Image

    trained, random = attnlab.load(point), np.random.default_rng(0)
    array = random.integers(0, 256, (40, 40, 3), np.uint8)
    image = Image.fromarray(array)
    image.save(tmp_path / "image.png")
    ways = [image, array, torch.from_numpy(array).permute(2, 0, 1), str(tmp_path / "image.png"), tmp_path / "image.png"]
    pixels = [trained.preprocess.pixels(way) for way in ways]
    assert all(torch.equal(pixels[0], other) for other in pixels[1:])
    assert pixels[0].shape == (1, 40, 40)
    assert torch.equal(trained.preprocess.pixels(array / 255), pixels[0])
    assert torch.equal(trained.preprocess.pixels(array.astype(np.uint16) * 257), pixels[0])
    assert trained.predict(ways) == trained.predict(iter(ways))
    (name, share) = trained.predict(image)[0]
    assert trained.top(image, 3)[0][0] == (name, share)
    assert trained.predict(image, flip=True) != trained.predict(image)
    assert trained.predict([]) == []
    for wrong, why in (
        (tmp_path / "nowhere.png", "no such file"),
        (point / "config.yaml", "cannot be read: no image"),
        (np.zeros((2, 3, 4, 5, 6)), "of shape"),
        (np.full((4, 4), 3.5), "must be 0 to 1"),
        (np.zeros((4, 4), np.int64), "of int64"),
        ("image", "no such file"),
        (7, "must be a path"),
    ):
        with pytest.raises(attnlab.InputError, match=why):
            trained.predict(wrong)


def test_what_cannot_be_loaded_is_told(study, point, tmp_path):
    for path, words, why in (
        (tmp_path / "nowhere", {}, "no such folder"),
        (study, {}, "best=True takes the best point"),
        (point, {"best": True}, "is one point; give its study's folder"),
        (point, {"seeds": "some"}, "must be 'all'"),
    ):
        with pytest.raises(attnlab.InputError, match=why):
            attnlab.load(path, **words)
    half = tmp_path / "half" / point.name
    half.mkdir(parents=True)
    for name in ("config.yaml", "point.json", "result.json"):
        (half / name).symlink_to(point / name)
    (half / "status.json").write_text('{"state": "preempted"}')
    with pytest.raises(attnlab.InputError, match=r"not finished \(preempted\)"):
        attnlab.load(half)
    (half / "status.json").write_text('{"state": "done"}')
    with pytest.raises(attnlab.InputError, match="weights are gone"):
        attnlab.load(half)
    (half / "checkpoints").mkdir()
    (half / "checkpoints" / "best.ckpt").write_bytes(b"no checkpoint")
    with pytest.raises(attnlab.InputError, match="cannot be read"):
        attnlab.load(half)
    state = torch.load(point / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    wrong = {key: value for key, value in state.items() if "conv" not in key}
    torch.save({"state_dict": wrong}, half / "checkpoints" / "best.ckpt")
    with pytest.raises(attnlab.InputError, match=r"best.ckpt: does not fit .*: Missing key.*repro") as told:
        attnlab.load(half)
    assert "\n" not in str(told.value)


def test_loading_needs_neither_hydra_nor_lightning_and_keeps_random_states(point):
    code = f"""
import random, sys, numpy, torch, attnlab
torch.manual_seed(5)
trained = attnlab.load({str(point)!r})
after = torch.rand(3)
torch.manual_seed(5)
assert torch.equal(after, torch.rand(3))
assert not {{"hydra", "lightning", "wandb", "matplotlib"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
