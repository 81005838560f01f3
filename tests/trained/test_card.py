"""The model card says what the point's files and its study's report say, and its code runs."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

import attnlab
from attnlab.study.analysis import read_analysis
from attnlab.study.report import headline
from attnlab.trained.card import card_text
from tests.conftest import attnlab as command


@pytest.fixture(scope="module")
def text(exported):
    return (exported / "README.md").read_text("utf-8")


def test_the_hub_reads_its_metadata(text, exported):
    hub = pytest.importorskip("huggingface_hub")
    about = hub.ModelCard(text, ignore_metadata_errors=False).data
    result = json.loads((exported.parent / "result.json").read_text())
    assert (about.library_name, about.pipeline_tag, about.license) == ("attnlab", "image-classification", None)
    assert {"cbam", "mini_xception", "image-classification"} <= set(about.tags)
    found = {each.metric_type: each for each in about.eval_results}
    assert found["accuracy"].metric_value == pytest.approx(result["test"]["accuracy"], abs=1e-6)
    assert found["f1"].metric_value == pytest.approx(result["test"]["f1"], abs=1e-6)
    assert (found["accuracy"].dataset_name, found["accuracy"].dataset_split) == ("cluttered_digits", "test")
    assert about.model_name == exported.parent.name


def test_it_tells_the_points_facts_and_the_reports_verdict(text, exported, study):
    result = json.loads((exported.parent / "result.json").read_text())
    told = read_analysis(study)
    row = next(row for row in told["variants"] if row["label"] == "cbam")
    mean, half_width = (100 * row["accuracy"][key] for key in ("mean", "half_width"))
    for words in (
        headline(told),
        f"| accuracy % | {100 * result['val']['accuracy']:.1f} | {100 * result['test']['accuracy']:.1f} | "
        f"{mean:.1f} ± {half_width:.1f} |",
        f"| parameters | {result['cost']['parameters']:,}, {result['cost']['attention_parameters']:,} of them the",
        "Images: 1,197 train, 300 val, 300 test.",
        "| optimiser | adamw (",
        f"| epochs | 2; the best by validation accuracy was {result['best_epoch'] + 1} |",
        "Licence of the data: CC BY 4.0",
        "Licence of these weights: not stated",
        "timm alone cannot load it",
        "subtract the mean (0.1126), divide by the deviation (0.2481)",
        json.loads((exported.parent / "point.json").read_text())["hash"],
    ):
        assert words in text
    assert re.search(r"\| none \|.*\n\| cbam \|.*undecided", text)  # what it was compared with
    assert "This is the variant `cbam` of the study `small`, which has 2 variants:" in text
    (command_line,) = re.findall(r"```sh\n(.*)\n```", text)
    assert command_line.startswith("attnlab train attention=cbam attention.ratio=8 sites=branch seed=0")
    run = command("plan", *command_line.split()[2:], cwd=exported)
    assert run.returncode == 0, run.stderr
    assert exported.parent.name[-8:] in run.stdout


def test_its_code_runs(text, exported, tmp_path):
    from PIL import Image

    folder = tmp_path / "export"
    shutil.copytree(exported, folder)
    Image.fromarray(np.zeros((50, 60, 3), np.uint8)).save(folder / "photo.jpg")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert [re.search(r"import (\w+)", block)[1] for block in blocks] == ["attnlab", "json", "torch"]
    code = f"for block in {blocks}: exec(block, {{}})"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, check=True, timeout=120)


def test_it_says_what_the_test_images_are_and_whose_licence_applies(point):
    trained = attnlab.load(point)
    config = {
        **trained.config,
        "data": {**trained.config["data"], "name": "imagenet", "folder": "/home/jane doe/pictures"},
        "backbone": {**trained.config["backbone"], "pretrained": "/home/jane/first.pth"},
    }
    preprocess = dataclasses.replace(trained.preprocess, flip=True, fit=None)
    changed = dataclasses.replace(trained, config=config, preprocess=preprocess)
    text = card_text(changed, {"model.safetensors": {"bytes": 10, "by_timm": False}}, None)
    for words in (
        "split: validation",
        "The test images are the official validation images",
        "The licence of the pretrained weights that it began with applies, too.",
        "its evaluation makes two, one of the mirror image",
        "fitting is up to you",
    ):
        assert words in text
    assert "jane" not in text
    assert "photo.jpg" not in text
