"""The study's own W&B run, read back from its offline files."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import wandb
from PIL import Image

from attnlab.errors import InputError
from attnlab.tracking.mirror import COLUMNS, log_study
from attnlab.tracking.sync import offline_runs
from tests.study.points import ABOUT
from tests.wandb_file import records


def written(study):
    wandb.teardown()  # its own process writes the file
    path = max(study.glob("wandb/offline-run-*/*.wandb"))
    return path, list(records(path))


@pytest.fixture
def files(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "pareto.png")
    (tmp_path / "report.html").write_text("<p>")
    return [tmp_path / "pareto.png", tmp_path / "report.html"]


def test_leaderboard_figures_page_and_headline(study, told, files):
    log_study(study, told, files)
    path, found = written(study)
    run = next(r.run for r in found if r.WhichOneof("record_type") == "run")
    kept = json.loads((study / "wandb.json").read_text())
    assert (run.run_id, run.display_name, run.run_group, run.job_type) == (kept["id"], "zoo report", "zoo", "report")
    assert (run.project, run.entity) == ("proj", "team")
    (table,) = path.parent.glob("files/media/table/leaderboard_*.json")
    table = json.loads(table.read_text())
    assert table["columns"] == [*COLUMNS, "attention", "ratio"]
    assert [row[0] for row in table["data"]] == ["a|b", "none"]
    assert table["data"][1][5:10] == [None] * 5
    assert [row[-2:] for row in table["data"]] == [["a|b", "16"], ["none", None]]
    (image,) = path.parent.glob("files/media/images/figures/pareto_*.png")
    assert image.read_bytes() == files[0].read_bytes()
    summary = {
        item.key or "/".join(item.nested_key): json.loads(item.value_json)
        for r in found
        if r.WhichOneof("record_type") == "summary"
        for item in r.summary.update
    }
    expected = {"points/done": 4, "points/unfinished": 1, "variants": 2, "best/variant": "a|b", "best/accuracy": 0.85}
    expected |= {"verdicts/better": 1, "verdicts/worse": 0, "verdicts/undecided": 0}
    assert expected.items() <= summary.items()
    artifacts = {r.artifact.type: r.artifact for r in found if r.WhichOneof("record_type") == "artifact"}
    local = {content.path: Path(content.local_path) for content in artifacts["report"].manifest.contents}
    assert {name: path.read_bytes() for name, path in local.items()} == {f.name: f.read_bytes() for f in files}
    assert all(path.is_relative_to(study / "wandb") for path in local.values())  # a later report changes its files
    assert "WANDB_DATA_DIR" not in os.environ


def test_a_second_report_continues_the_run_and_takes_the_place_of_what_was_not_uploaded(study, told, files):
    log_study(study, told, files)
    first, _ = written(study)
    time.sleep(1)  # W&B's folders are named by the second
    log_study(study, told, files)
    second, _ = written(study)
    assert not first.exists()
    assert first.name == second.name
    assert offline_runs(study)[0][-1] == ("zoo report", [second])
    copies = len(list(study.glob("wandb/artifacts/staging/*")))
    second.with_name(f"{second.name}.synced").touch()
    time.sleep(1)
    log_study(study, told, files)
    third, _ = written(study)
    assert second.exists()
    assert offline_runs(study)[0][-1].waiting == [third]
    assert len(list(study.glob("wandb/artifacts/staging/*"))) == copies


def test_without_wandb_points_nothing_of_it_is_imported(study, told, tmp_path):
    (study / "resnet18-none-s0-00000000" / "point.json").write_text(json.dumps(ABOUT))
    with pytest.raises(InputError, match="no W&B runs"):
        log_study(study, told, [])
    check = "import sys; import attnlab.tracking.mirror, attnlab.tracking.sync; assert 'wandb' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)
