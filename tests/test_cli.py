"""The real command line: help, tables, and bad input that ends in one clear line and exit code 2."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conftest import attnlab

# fmt: off
BAD = {
    "unknown command": (["trian"], "attnlab trian: no such command; nearest: train; valid: plan, report, sites, s"),
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
    "absent data": (["train", "data=image_folder", "data.folder=none"], "data.folder=none: must be a folder"),
    "absent study of a status": (["status", "nowhere"], "nowhere: no such folder; a study is a folder of points"),
    "a plan's unknown key": (["plan", "-m", "attention=cbam", "attention.rato=4"], "attention.rato: attention=cbam"),
    "no axis": (["train", "-m", "seed=0,1", "sweep.zip=[seed,sed]"], "sweep.zip"),
    "a launcher's wrong setting": (
        ["train", "-m", "seed=0,1", "hydra.launcher.gpus=-1"], "hydra.launcher.gpus=-1: must be "
    ),
    "absent study": (["report", "nowhere"], "nowhere: no such folder; a study is a folder of points"),
    "sites of an unknown backbone": (["sites", "backbone=resnet19"], "backbone=resnet19: no such config; nearest:"),
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
    everything = attnlab("--help", cwd=tmp_path)
    assert everything.returncode == 0
    for verb in ("train", "plan", "status", "sites", "report"):
        assert f"attnlab {verb}" in everything.stdout
        own = attnlab(verb, "--help", cwd=tmp_path)
        assert own.returncode == 0, own.stderr
        assert f"attnlab {verb}" in own.stdout
    page = attnlab("train", "--help", cwd=tmp_path).stdout
    for word in (
        "attention: cbam, cbam_article",
        "sites: block, branch",
        "max_epochs: 10",
        "--config-dir",
        "ATTNLAB_ALLOW",
    ):
        assert word in page
    assert "version_base" not in page
    assert list(tmp_path.iterdir()) == []


def test_sites_of_resnet18(tmp_path):
    shown = attnlab("sites", "backbone=resnet18", "--input", "3x224x224", "sites.blocks=last", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "resnet18, input 3×224×224" in shown.stdout
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in shown.stdout.splitlines() if "│" in line]
    marked = [row for row in rows if row[0] == "●"]
    assert [row[1:] for row in marked] == [
        ["branch", "1", "2", "64", "56 × 56", "layer1.1.bn2"],
        ["branch", "2", "2", "128", "28 × 28", "layer2.1.bn2"],
        ["branch", "3", "2", "256", "14 × 14", "layer3.1.bn2"],
        ["branch", "4", "2", "512", "7 × 7", "layer4.1.bn2"],
    ]
    assert ["", "shortcut", "2", "1", "128", "28 × 28", "layer2.0.downsample"] in rows
    assert list(tmp_path.iterdir()) == []


def test_a_plan_without_the_data_shows_costs_and_says_so(tmp_path):
    argv = ["data=image_folder", "data.folder=absent", "data.num_classes=7", "data.size=48"]
    result = attnlab("plan", *argv, cwd=tmp_path)
    assert result.returncode == 1
    assert "57,095" in result.stdout
    assert result.stderr == (
        "attnlab: the data are not there, and attnlab train would not start: "
        "data.folder=absent: must be a folder with a subfolder of images for each class\n"
    )
    assert attnlab("train", *argv, cwd=tmp_path).returncode == 2
    assert list(tmp_path.iterdir()) == []
