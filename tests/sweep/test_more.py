"""attnlab more: real points get the seeds that they need, and no others."""

import json

import pytest

from tests.conftest import attnlab

SMALL = ["data=digits", "trainer.max_epochs=1", "data.batch_size=100", "backbone.bn_momentum=0.5"]


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
