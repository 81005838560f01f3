"""attnlab sync through the real command line and the real `wandb sync`, against a server on this machine."""

import json
import shutil

import pytest
import wandb
import yaml

from attnlab.ledger import lock
from attnlab.training.loggers import open_loggers
from attnlab.training.stop import Preempted
from tests.conftest import attnlab
from tests.study.points import ABOUT, RESULT
from tests.wandb_server import wandb_server

CONFIG = {
    "study": "s",
    "seed": 0,
    "tags": [],
    "backbone": {"name": "resnet18"},
    "attention": {"name": "none"},
    "sites": None,
    "data": {"name": "digits"},
    "logger": {"name": "wandb", "project": "p", "entity": None, "mode": "offline"},
}


def make_point(folder, *attempts):
    """Each attempt is the steps that it logs; all but the last are preempted."""
    folder.mkdir(parents=True)
    (folder / "point.json").write_text(json.dumps(ABOUT))
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    (folder / "status.json").write_text('{"state": "done"}')
    (folder / "result.json").write_text(json.dumps(RESULT))
    for number, steps in enumerate(attempts, 1):
        try:
            with open_loggers(CONFIG, folder) as (logger,):
                for step in steps:
                    logger.log_metrics({"val/accuracy": step / 100}, step)
                if number < len(attempts):
                    raise Preempted("SIGTERM")
        except Preempted:
            pass


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two points: one of two attempts, one of one; few, as a process that takes seconds to start uploads each."""
    study = tmp_path_factory.mktemp("made") / "s"
    make_point(study / "a", [10, 20], [30])
    make_point(study / "b", [10])
    wandb.teardown()  # its own process writes the files
    return study


@pytest.fixture
def study(made, tmp_path):
    shutil.copytree(made, tmp_path / "s")
    return tmp_path / "s"


def run_id(point):
    return json.loads((point / "point.json").read_text())["wandb_id"]


def sync(study, env, *options):
    return attnlab("sync", "s", *options, cwd=study.parent, env={"WANDB__GRAPHQL_RETRY_MAX": "1", **env})


def test_uploads_what_is_not_uploaded_and_no_more(study):
    with wandb_server() as server:
        server.refuse = {run_id(study / "b")}
        done = sync(study, server.environment)
        assert done.returncode == 1, done.stdout + done.stderr
        assert f"s: 2 runs to upload\nuploaded 1 run: {server.address}/me/p\n" in done.stdout
        assert "attnlab: 1 of 2 runs failed; run the same command again to retry them" in done.stderr
        assert "attnlab:   b: permission denied" in done.stderr
        assert set(server.runs) == {run_id(study / "a")}
        a = server.runs[run_id(study / "a")]
        assert [row["_step"] for row in a.history] == [10, 20, 30]  # two attempts, one run
        assert a.exit_codes == [1, 0]
        assert (a.about["groupName"], a.about["jobType"], a.about["displayName"]) == ("s", "train", "a")

        server.refuse, server.runs = set(), {}
        done = sync(study, server.environment)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "s: 1 run to upload, 1 uploaded before\nuploaded 1 run: " in done.stdout
        assert set(server.runs) == {run_id(study / "b")}

        done = sync(study, {})  # nothing to do: no account is needed
        assert done.returncode == 0
        assert done.stdout == "s: 0 runs to upload, 2 uploaded before\n"
    assert {path.name for path in study.parent.iterdir()} == {"s"}  # W&B leaves no logs behind


def test_an_attempt_that_was_killed_while_it_wrote_does_not_hold_up_the_next(study):
    first, _ = sorted(study.glob("a/wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime)
    first.write_bytes(first.read_bytes()[:-300])
    (b,) = study.glob("b/wandb/offline-run-*/*.wandb")
    b.write_bytes(b.read_bytes()[:7])
    with wandb_server() as server:
        done = sync(study, server.environment, "--jobs", "1")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "  a: an attempt was killed while writing; everything written before is uploaded" in done.stdout
        assert "  b: an attempt was killed" in done.stdout
        steps = [row["_step"] for row in server.runs[run_id(study / "a")].history]
        assert steps[0] == 10
        assert steps[-1] == 30
        assert run_id(study / "b") not in server.runs
        assert sync(study, server.environment).stdout == "s: 0 runs to upload, 2 uploaded before\n"


def test_running_points_are_left_out(study):
    (study / "a" / "status.json").write_text('{"state": "running"}')
    with wandb_server() as server, lock.hold(study / "a"):
        done = sync(study, server.environment)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "s: 1 run to upload\n  left out, still running: a\n" in done.stdout
        assert run_id(study / "a") not in server.runs


def test_no_network_is_a_failure_of_each_run_with_its_reason(study):
    done = sync(study, {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "a" * 40})
    assert done.returncode == 1
    assert "attnlab: 2 of 2 runs failed" in done.stderr
    assert done.stderr.count("connection refused") == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("env", "reason"),
    [
        ({}, "attnlab: no W&B account: run `wandb login` once, or set WANDB_API_KEY\n"),
        ({"WANDB_API_KEY": "short"}, "attnlab: W&B: WANDB_API_KEY invalid: API key must have 40+ characters, has 5.\n"),
    ],
)
def test_without_an_account(study, env, reason, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    done = sync(study, {"HOME": str(study), "NETRC": str(study / "none"), **env})
    assert (done.returncode, done.stderr) == (2, reason)


def test_bad_input(tmp_path):
    (tmp_path / "empty").mkdir()
    for words, reason in [
        (["nowhere"], "attnlab: nowhere: no such folder; a study is a folder of points, such as outputs/demo\n"),
        (["empty"], "attnlab: empty: no W&B runs; train points with logger=wandb\n"),
        (["empty", "--jobs", "0"], "attnlab: --jobs 0: must be at least 1\n"),
    ]:
        done = attnlab("sync", *words, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (2, reason)
