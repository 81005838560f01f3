"""The real command line: help, tables, and bad input that ends in one clear line and exit code 2."""

import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from attnlab import __version__
from tests.conftest import attnlab

# fmt: off
BAD = {
    "unknown command": (["trian"], "attnlab trian: no such command; nearest: train; valid: completion, cost,"),
    "unknown key": (["train", "attention=cbam", "attention.rato=4"], "attention.rato: attention=cbam has no such "),
    "unknown top-level key": (["train", "sed=3"], "sed: no such setting; nearest: seed; valid:"),
    "unknown name": (["train", "attention=cbm"], "attention=cbm: no such config; nearest: cbam; valid:"),
    "wrong type": (["train", "attention=cbam", "attention.ratio=four"], "attention.ratio=four: must be a valid number"),
    "ratio below 1": (["train", "attention=se", "attention.ratio=0"], "attention.ratio=0: must be at least 1"),
    "no such order": (
        ["train", "-m", "attention=none,se,cbam", "attention.order=sideways"],
        "attention.order=sideways: must be 'channel_first', 'spatial_first', 'parallel', 'channel_only' or 'spat",
    ),
    "no such role": (["train", "attention=se", "sites.role=neck"], "sites.role=neck: this network has no such site;"),
    "no such stage": (
        ["train", "-m", "attention=se", "backbone=resnet18", "sites.stages=[7]", "seed=0,1"],
        "sites.stages=[7]: no branch site matches; there are layer1.0.bn2 (stage 1, block 1),",
    ),
    "a sweep without -m": (["train", "seed=0,1"], "seed=0,1: several values need -m"),
    "a stranger's target": (
        ["train", "attention=se", "attention._target_=os.system"],
        "attention._target_=os.system: package 'os' is not allowed",
    ),
    "absent data": (["train", "data=image_folder", "data.folder=none"], "data.folder=none: no such folder"),
    "absent study of a status": (["status", "nowhere"], "nowhere: no such folder; a study is a folder of points"),
    "a plan's unknown key": (["plan", "-m", "attention=cbam", "attention.rato=4"], "attention.rato: attention=cbam"),
    "no axis": (["train", "-m", "seed=0,1", "sweep.zip=[seed,sed]"], "sweep.zip"),
    "a launcher's wrong setting": (
        ["train", "-m", "seed=0,1", "hydra.launcher.gpus=-1"], "hydra.launcher.gpus=-1: must be "
    ),
    "absent study": (["report", "nowhere"], "nowhere: no such folder; a study is a folder of points"),
    "sites of an unknown backbone": (["sites", "backbone=resnet19"], "backbone=resnet19: no such config; nearest:"),
    "a batch of nothing": (["cost", "--latency", "--batch", "0"], "--batch 0: must be at least 1"),
    "compiled, but not timed": (["cost", "--compile"], "--compile: needs --latency"),
    "an unknown option": (["cost", "--batch", "x"], "argument --batch: invalid int value: 'x'; see attnlab cost"),
    "no such role to cost": (["cost", "attention=se", "sites.role=neck"], "sites.role=neck: this network has no such"),
    "bad input size": (["sites", "--input", "224"], "--input 224: must be CxHxW, such as 3x224x224"),
}
# fmt: on


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("bad")
    with ThreadPoolExecutor(2) as pool:
        return cwd, dict(zip(BAD, pool.map(lambda case: attnlab(*case[0], cwd=cwd), BAD.values()), strict=True))


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line_and_exit_code_2(outcomes, case):
    cwd, results = outcomes
    result = results[case]
    assert result.returncode == 2
    assert result.stderr.startswith(f"attnlab: {BAD[case][1]}")
    assert len(result.stderr.splitlines()) == 1
    assert "Traceback" not in result.stdout
    assert list(cwd.iterdir()) == []  # before anything starts


def test_help(tmp_path):
    everything = attnlab("--help", cwd=tmp_path, fresh=True)
    assert everything.returncode == 0
    for verb in ("train", "plan", "status", "sites", "cost", "report"):
        assert f"attnlab {verb}" in everything.stdout
        own = attnlab(verb, "--help", cwd=tmp_path)
        assert own.returncode == 0, own.stderr
        assert f"attnlab {verb}" in own.stdout
    page = attnlab("train", "--help", cwd=tmp_path).stdout
    for word in (
        "attention: bam, by_stage, cbam, cbam_article",
        "sites: block, branch",
        "max_epochs: 10",
        "--config-dir",
        "ATTNLAB_ALLOW",
    ):
        assert word in page
    assert "version_base" not in page
    assert "attnlab train --help" in attnlab("plan", "--help", cwd=tmp_path).stdout
    for words in (["--version"], ["train", "--version"]):
        assert attnlab(*words, cwd=tmp_path).stdout == f"{__version__}\n"  # attnlab's, not Hydra's
    assert list(tmp_path.iterdir()) == []


def test_sites_of_resnet18(tmp_path):
    words = ("backbone=resnet18", "attention=se", "--input", "3x224x224", "sites.blocks=last")
    shown = attnlab("sites", *words, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "resnet18, input 3×224×224" in shown.stdout
    drawn = "stage 4  7×7×512    block 1  ○ pre ─ ○○○ unit ─ ○ branch ─ (+ ○ shortcut) ─ ○ block\n"
    assert drawn in shown.stdout
    rows = cells_of(shown.stdout)
    marked = [row for row in rows if row[0] == "●"]
    assert [row[1:] for row in marked] == [
        ["branch", "1", "2", "64", "56 × 56", "layer1.1.bn2", "580", "512"],
        ["branch", "2", "2", "128", "28 × 28", "layer2.1.bn2", "2,184", "2,048"],
        ["branch", "3", "2", "256", "14 × 14", "layer3.1.bn2", "8,464", "8,192"],
        ["branch", "4", "2", "512", "7 × 7", "layer4.1.bn2", "33,312", "32,768"],
    ]
    assert ["", "shortcut", "2", "1", "128", "28 × 28", "layer2.0.downsample", "", ""] in rows
    assert "se: 44,540 parameters, 43,520 MACs in all" in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 100
    assert list(tmp_path.iterdir()) == []


def cells_of(text):
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines() if "│" in line]


def test_cost_of_the_articles_attention(tmp_path):
    # the golden integers of the article's code: 58,423 parameters, with its attention 58,813
    words = ["attention=cbam_article", "sites=shortcut", "sites.stages=[2]", "data=digits", "--input", "1x64x64"]
    shown = attnlab("cost", *words, "--latency", "--batch", "2", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "mini_xception, input 1×64×64 (--input), 10 classes" in shown.stdout
    rows = {row[0]: row[1:] for row in cells_of(shown.stdout)}
    extra = 3 * (128 * 9 + 1)  # of the head, for 10 classes in place of 7
    attention = 58_813 - 58_423
    before, after = 58_423 - 1472 + extra, 58_423 - 1472 + extra + attention
    share = f"(+{100 * attention / before:.1f} %)"
    assert rows["parameters"] == [f"{before:,}", f"{after:,}", f"+{attention} {share}"]
    assert rows["attention parameters"] == ["0", f"{attention}", f"+{attention}"]
    assert list(rows)[3:] == [
        *("MACs", "attention element-wise ops", "attention traffic, MiB", "activation memory, MiB"),
        *("latency, 1 image, ms", "latency, 2 images, ms"),
    ]
    assert re.fullmatch(r"\d+\.\d\d \[\d+\.\d\d, \d+\.\d\d\]", rows["latency, 2 images, ms"][1])
    assert "eager on cpu" in shown.stdout

    told = json.loads(attnlab("cost", *words, "--json", cwd=tmp_path).stdout)
    assert told["input_size"] == [1, 64, 64]
    assert told["bare"]["parameters"] == before
    assert told["attended"]["attention_parameters"] == attention
    assert told["attended"]["attention_elementwise"] > told["bare"]["attention_elementwise"] == 0
    assert list(tmp_path.iterdir()) == []


def test_a_plan_without_the_data_shows_costs_and_says_so(tmp_path):
    argv = ["data=image_folder", "data.folder=absent", "data.num_classes=7", "data.size=48"]
    result = attnlab("plan", *argv, cwd=tmp_path)
    assert result.returncode == 1
    assert "57,095" in result.stdout
    assert result.stderr == (
        "attnlab: data are missing, so attnlab train would not start: "
        "data.folder=absent: no such folder; it must be a folder with a subfolder of images for each class\n"
    )
    assert attnlab("train", *argv, cwd=tmp_path).returncode == 2
    assert list(tmp_path.iterdir()) == []
