"""attnlab more: real points get the seeds that they need, and no others."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.conftest import attnlab

SMALL = ["backbone=lenet5", "sites=unit", "data=digits", "trainer.max_epochs=1", "data.batch_size=100"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """One seed each of bare and SE, and a plan that says so."""
    cwd = tmp_path_factory.mktemp("more")
    done = attnlab("train", "-m", "attention=none,se", "study=s", *SMALL, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return cwd


def seeds(cwd):
    identities = [json.loads(path.read_text())["identity"] for path in cwd.glob("outputs/s/*/point.json")]
    return sorted(("se" if identity["sites"] else "none", identity["seed"]) for identity in identities)


def test_a_dry_run_runs_nothing(study):
    done = attnlab("more", "outputs/s", "--dry-run", cwd=study)
    assert done.returncode == 0
    assert done.stdout == "se against none: 2 more pairs, 4 points to run\n4 points: 4 new\n"
    done = attnlab("more", "outputs/s", "--budget", "3", cwd=study)
    assert done.stdout.splitlines() == [
        "beyond --budget 3:",
        "  se against none: 2 more pairs, 4 points",
        "nothing to run within the budget: the cheapest comparison needs --budget 4",
    ]
    assert seeds(study) == [("none", 0), ("se", 0)]


def test_the_seeds_are_run_and_the_report_says_so(study):
    done = attnlab("more", "outputs/s", "hydra.launcher.cpu_slots=1", cwd=study)
    assert done.returncode == 0, done.stderr
    assert seeds(study) == [(name, seed) for name in ("none", "se") for seed in range(3)]
    plans = [json.loads(path.read_text()) for path in study.glob("outputs/s/plans/*.json")]
    assert sorted((plan.get("more", False), len(plan["points"])) for plan in plans) == [(False, 2), (True, 4)]
    report = attnlab("report", "outputs/s", "--format", "json", cwd=study)
    told = json.loads(report.stdout)
    assert told["looks"] == 1
    se = next(row for row in told["variants"] if row["label"] == "se")
    assert se["looks"] == 2
    assert se["p_holm"] == pytest.approx(min(1, 4 * se["p"]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["outputs/no"], "outputs/no: no such folder; a study is a folder of points, such as outputs/demo"),
        (["outputs/s", "--budget", "0"], "--budget 0: must be at least 1"),
        (
            ["outputs/s", "attention=se"],
            "attention=se: cannot be changed: more reuses the study's configs; only hydra/launcher and",
        ),
        (["outputs/s", "hydra/launcher=basic"], "hydra/launcher=basic: must be one of attnlab's launchers"),
        (["outputs/s", "--baseline", "se"], "--baseline se: must be KEY=VALUE, such as attention=se"),
        (["outputs/s", "--baseline", "attention=eca"], "baseline attention=eca: no such level here; "),
    ],
)
def test_bad_input(study, words, message):
    done = attnlab("more", *words, cwd=study)
    assert done.returncode == 2
    assert done.stderr.startswith(f"attnlab: {message}")
    assert "Traceback" not in done.stderr


def test_in_cross_validation_a_seed_is_all_its_folds(tmp_path):
    """Sixty images of noise in two classes: two of three folds are trained, so that the third is asked for."""
    random = np.random.default_rng(0)
    for name, i in ((name, i) for name in ("cat", "dog") for i in range(30)):
        (tmp_path / "photos" / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (16, 16), np.uint8)).save(tmp_path / "photos" / name / f"{i}.png")
    words = ["data=image_folder", "data.folder=photos", "data.size=32", "data.batch_size=8", "data.folds=3"]
    words += ["backbone=lenet5", "sites=unit", "attention=none,se", "trainer.max_epochs=1", "study=cv"]
    done = attnlab("train", "-m", *words, "data.fold=0,1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "se s0 fold 1 " in done.stdout
    assert "2 of 3 × 1" in attnlab("report", "outputs/cv", cwd=tmp_path).stdout
    done = attnlab("more", "outputs/cv", "hydra.launcher.cpu_slots=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "se against none: 1 more seed in all 3 folds, 2 points to run\n" in done.stdout
    told = json.loads(attnlab("report", "outputs/cv", "--format", "json", cwd=tmp_path).stdout)
    assert told["replicates"] == "3 folds × 1 seed"
    assert told["factors"] == {"attention": ["none", "se"]}
    for row in told["variants"]:
        assert list(row["values"]) == [f"seed 0 fold {fold}" for fold in range(3)]
        assert row["accuracy_test"] is not None
        assert row["looks"] in (None, 2)
