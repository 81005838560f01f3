"""Training through the real command line: folders, W&B's files, failures, what stands finished."""

import csv
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from attnlab import ledger
from attnlab.explain.health import Gate
from attnlab.sweep import plan
from tests.conftest import COMMAND, attnlab
from tests.wandb_file import records

SMALL = ["backbone=lenet5", "sites=unit", "data=digits", "trainer.max_epochs=2", "data.batch_size=100"]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Two attentions × two seeds with W&B offline, run once for the tests below."""
    cwd = tmp_path_factory.mktemp("sweep")
    wandb = ["logger=wandb", "logger.pictures=2", "logger.checkpoints=true", "tags=[quick]"]
    command = ["train", "attention=none,cbam", "-m", "seed=0,1", "study=two", *wandb, *SMALL]
    done = attnlab(*command, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return cwd, command, done


def folders(cwd, study="two"):
    return sorted(path.parent for path in (cwd / "outputs" / study).glob("*/status.json"))


def test_four_complete_point_folders(sweep):
    cwd, _, done = sweep
    assert len(folders(cwd)) == 4
    for folder in folders(cwd):
        names = {path.name for path in folder.iterdir()}
        assert names >= {
            "config.yaml",
            "point.json",
            "status.json",
            "log.txt",
            "metrics.csv",
            "checkpoints",
            "result.json",
        }
        status, about, result = (
            json.loads((folder / f"{name}.json").read_text()) for name in ("status", "point", "result")
        )
        assert status["state"] == "done"
        assert status["attempts"] == 1
        assert folder.name.endswith(about["hash"][:8])
        assert about["overrides"] == [o for o in about["overrides"] if "=" in o] != []
        assert about["libraries"]["torch"] == torch.__version__.partition("+")[0]
        metrics = {"accuracy", "f1", "balanced_accuracy", "calibration_error", "loss"}
        assert set(result["test"]) == set(result["val"]) == metrics
        assert result["classes"] == [*result["per_class"]] == list("0123456789")
        recalls = [about["recall"] for about in result["per_class"].values()]
        assert sum(recalls) / 10 == pytest.approx(result["test"]["balanced_accuracy"])
        assert sum(about["support"] for about in result["per_class"].values()) == 300
        assert set(result["cost"]) >= {"parameters", "macs", "latency_ms"}
        rows = list(csv.DictReader((folder / "metrics.csv").open()))
        assert [row["epoch"] for row in rows] == ["0", "1"]
        assert all(row["val/accuracy"] and row["train/loss"] and row["lr"] for row in rows)
        assert all(row["val/balanced_accuracy"] for row in rows)
        best = max(rows, key=lambda row: float(row["val/accuracy"]))
        assert result["val"]["accuracy"] == float(best["val/accuracy"])
        assert {p.name for p in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
        assert "MACs" in (folder / "log.txt").read_text()
        assert not list(folder.glob(".*"))  # no temporary files are left
    assert done.stdout.count("✓ [") == 4
    assert "next: attnlab report outputs/two\n      attnlab sync outputs/two\n" in done.stdout
    assert "Traceback" not in done.stderr + done.stdout


def test_the_reported_test_accuracy_is_that_of_the_best_checkpoint(sweep):
    from attnlab.config.build import build_data, build_network
    from attnlab.training.classifier import Classifier
    from attnlab.training.optimisation import build_optimisation

    folder = next(f for f in folders(sweep[0]) if "cbam" in f.name)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    data = build_data(config)
    net, _ = build_network(config, data)
    classifier = Classifier(build_optimisation(config, net, data), 10).eval()
    best = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    classifier.load_state_dict(best["state_dict"])
    right = total = 0
    with torch.no_grad():
        for x, y in data.batches(data.splits.test):
            right += int((classifier(x).argmax(1) == y).sum())
            total += len(y)
    result = json.loads((folder / "result.json").read_text())
    assert result["test"]["accuracy"] == pytest.approx(right / total)
    labels, predicted = np.load(folder / "test.npy")
    assert (labels == data.splits.test.labels.numpy()).all()
    assert (labels == predicted).sum() == right
    assert result["best_epoch"] == best["epoch"]


def test_wandb_files_hold_config_group_curves_and_summary(sweep):
    for folder in folders(sweep[0]):
        (path,) = folder.glob("wandb/offline-run-*/*.wandb")
        found = list(records(path))
        run = next(r.run for r in found if r.WhichOneof("record_type") == "run")
        about, result = (json.loads((folder / name).read_text()) for name in ("point.json", "result.json"))
        assert (run.run_group, run.display_name, run.run_id) == ("two", folder.name, about["wandb_id"])
        assert run.job_type == "train"
        bare = about["names"]["attention"] == "none"
        chosen = ["none"] if bare else ["cbam", "unit", "digits", "ratio=16", "order=channel_first"]
        assert set(run.tags) == {"quick", "lenet5", "digits", *chosen}
        config = {item.key: json.loads(item.value_json) for item in run.config.update}
        assert config["seed"] == about["identity"]["seed"]
        assert config["attention"]["name"] in folder.name
        assert config["data"]["size"] == 32

        rows = [
            {item.key or item.nested_key[0]: json.loads(item.value_json) for item in r.history.item}
            for r in found
            if r.WhichOneof("record_type") == "history"
        ]
        curve = [row["val/accuracy"] for row in rows if "val/accuracy" in row]
        written = [float(row["val/accuracy"]) for row in csv.DictReader((folder / "metrics.csv").open())]
        assert curve == pytest.approx(written)
        assert sum("train/loss" in row for row in rows) == 2
        summary = {
            item.key or item.nested_key[0]: json.loads(item.value_json)
            for r in found
            if r.WhichOneof("record_type") == "summary"
            for item in r.summary.update
        }
        assert summary["test/accuracy"] == pytest.approx(result["test"]["accuracy"])
        assert {key: summary[f"cost/{key}"] for key in result["cost"]} == result["cost"]
        assert summary["best/epoch"] == result["best_epoch"]
        (exit_code,) = (r.exit.exit_code for r in found if r.WhichOneof("record_type") == "exit")
        assert exit_code == 0


def test_wandb_files_hold_confusion_gates_pictures_and_checkpoints(sweep):
    for folder in folders(sweep[0]):
        (path,) = folder.glob("wandb/offline-run-*/*.wandb")
        found = list(records(path))
        media = path.parent / "files" / "media"
        (file,) = media.glob("table/confusion_matrix_table_*.json")
        cells = np.array(json.loads(file.read_text())["data"]).astype(int)  # label, predicted class, images
        labels, predicted = np.load(folder / "test.npy").astype(int)
        assert len(cells) == 100
        assert all(((labels == a) & (predicted == b)).sum() == n for a, b, n in cells)

        pngs = sorted(folder.glob("pictures/*.png"))
        assert [png.name for png in pngs] == ["00.png", "01.png"]
        assert {png.read_bytes() for png in pngs} == {png.read_bytes() for png in media.glob("images/*.png")}

        artifacts = {r.artifact.type: r.artifact for r in found if r.WhichOneof("record_type") == "artifact"}
        weights = {c.path: c.local_path for c in artifacts["model"].manifest.contents}
        assert weights == {name: str(folder.resolve() / "checkpoints" / name) for name in ("best.ckpt", "last.ckpt")}
        tables = {c.local_path for c in artifacts["run_table"].manifest.contents}
        assert all(Path(table).is_relative_to(folder / "wandb") for table in tables)  # not in the user's home

        rows = [
            {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in r.history.item}
            for r in found
            if r.WhichOneof("record_type") == "history"
        ]
        curves = {key for row in rows for key in row if key.startswith("gates/")}
        if "none" in folder.name:
            assert not curves
            continue
        sites = json.loads((folder / "result.json").read_text())["sites"]
        gates = {f"gates/{site}/{gate}" for site in sites for gate in ("channel", "spatial")}
        assert curves == gates | {f"{gate}/{key}" for gate in gates for key in ("spread", "saturated", "dead")}
        assert sum(f"gates/{sites[0]}/channel" in row for row in rows) == 2
        (file,) = media.glob("table/gate_numbers_*.json")
        table = json.loads(file.read_text())
        assert table["columns"] == [*Gate._fields]
        assert [row[:2] for row in table["data"]] == [[site, gate] for site in sites for gate in ("channel", "spatial")]
        assert all(0 < mean < 1 and 0 <= zero <= 1 and 0 <= one <= 1 for _, _, mean, _, zero, one, *_ in table["data"])


def test_the_same_command_again_does_nothing_again(sweep):
    cwd, command, _ = sweep
    before = {path: path.stat().st_mtime_ns for folder in folders(cwd) for path in folder.rglob("*")}
    done = attnlab(*command, cwd=cwd)
    assert done.returncode == 0
    assert "4 points: 4 done" in done.stdout
    assert "✓" not in done.stdout
    assert {path: path.stat().st_mtime_ns for folder in folders(cwd) for path in folder.rglob("*")} == before


def test_config_yaml_runs_the_point_again(sweep):
    cwd, _, _ = sweep
    folder = next(f for f in folders(cwd) if "cbam" in f.name)
    line = (folder / "config.yaml").read_text().splitlines()[0]
    assert line.startswith("# attnlab train --config-dir ")
    done = attnlab(*line.removeprefix("# attnlab ").split(), cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert f"✓ {folder.name}  test" in done.stdout
    assert json.loads((folder / "status.json").read_text())["attempts"] == 1


def test_a_point_repeats_to_the_bit(sweep):
    cwd, _, _ = sweep
    done = attnlab("train", "attention=cbam", "seed=1", "study=again", *SMALL, cwd=cwd)
    assert done.returncode == 0, done.stderr
    (again,) = folders(cwd, "again")
    (first,) = (f for f in folders(cwd) if f.name == again.name)
    assert (again / "metrics.csv").read_text() == (first / "metrics.csv").read_text()
    results = [json.loads((f / "result.json").read_text()) for f in (first, again)]
    assert results[0]["test"] == results[1]["test"]


def test_a_failed_point_is_reported_and_the_others_go_on(tmp_path):
    """The first point's checkpoints cannot be written: their folder leads nowhere."""
    command = ["train", "-m", "attention=none,se", "study=f", "logger=wandb", *SMALL]
    from attnlab.sweep import plan

    first = plan.make([*command[1:], f"output_dir={tmp_path}/outputs"]).points[0].folder
    first.mkdir(parents=True)
    (first / "checkpoints").symlink_to(first / "checkpoints")
    done = attnlab(*command, cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert "✗ [1/2] none s0 " in done.stdout
    assert "✓ [2/2]" in done.stdout
    assert "attnlab: 1 of 2 points failed" in done.stderr
    assert f"{first.name}/log.txt" in done.stderr
    status = json.loads((first / "status.json").read_text())
    assert status["state"] == "failed"
    assert "checkpoints" in status["error"]
    assert "Traceback" in (first / "log.txt").read_text()
    (path,) = first.glob("wandb/offline-run-*/*.wandb")
    assert [r.exit.exit_code for r in records(path) if r.WhichOneof("record_type") == "exit"] == [1]

    (first / "checkpoints").unlink()  # mended
    done = attnlab(*command, cwd=tmp_path)
    assert done.returncode == 1
    assert "2 points: 1 done, 1 failed\n  failed points are skipped; sweep.retry=failed" in done.stdout
    done = attnlab(*command, "sweep.retry=failed", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.count("✓") == 1
    assert json.loads((first / "status.json").read_text())["attempts"] == 2


def test_interrupted_says_how_to_go_on(tmp_path):
    command = ["train", "backbone=lenet5", "data=digits", "trainer.max_epochs=10000", "study=i"]
    process = subprocess.Popen(
        [*COMMAND, *command],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("outputs/i/*/metrics.csv")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again to continue" in errors
    assert "Traceback" not in errors
    (folder,) = folders(tmp_path, "i")
    assert json.loads((folder / "status.json").read_text())["state"] == "preempted"


def test_tensorboard(tmp_path):
    done = attnlab("train", "logger=tensorboard", "attention=se", "study=t", *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder,) = folders(tmp_path, "t")
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert len(events.Scalars("val/accuracy")) == 2
    assert events.Scalars("cost/macs")[0].value > 4e5
    for site in json.loads((folder / "result.json").read_text())["sites"]:
        assert len(events.Scalars(f"gates/{site}")) == 2
    assert len(events.Scalars("test/accuracy")) == 1


def test_amp_precision_trains_with_balanced_classes(tmp_path):
    balanced = ["loss.class_weights=balanced", "data.sampler=balanced", "trainer.monitor=val/loss"]
    done = attnlab(
        "train", "attention=cbam", "trainer.precision=bf16-mixed", "study=b", *balanced, *SMALL, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    (folder,) = folders(tmp_path, "b")
    losses = [float(row["val/loss"]) for row in csv.DictReader((folder / "metrics.csv").open())]
    result = json.loads((folder / "result.json").read_text())
    assert result["best_epoch"] == losses.index(min(losses))
    assert result["val"]["loss"] == min(losses)


def test_groups_of_test_images_are_kept_beside_the_answers(tmp_path, monkeypatch):
    from attnlab.training import loop

    monkeypatch.chdir(tmp_path)
    for name, colour in (("calm", 40), ("glad", 200)):
        (tmp_path / "faces" / name).mkdir(parents=True)
        for i in range(30):
            Image.new("L", (32, 32), colour + i).save(tmp_path / "faces" / name / f"person{i % 10}_{i}.png")
    words = [
        "data=image_folder",
        f"data.folder={tmp_path}/faces",
        "data.size=32",
        "data.batch_size=8",
        "backbone=lenet5",
    ]
    (point,) = plan.make([*words, r'data.group="/(person\d+)_"', "trainer.max_epochs=1"]).points
    ledger.prepare(point.folder, point.config)
    loop.run(point.folder)
    labels, _, groups = np.load(point.folder / "test.npy")
    people = len({*groups.tolist()})
    assert 1 < people < 10
    assert len(labels) == 6 * people  # each person has three calm faces and three glad ones
