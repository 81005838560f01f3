"""The last lines of a command: what could not be written, what failed, what to type next."""

import os
import re
import subprocess

import pytest

from attnlab import ledger
from attnlab.cli.summary import say_how_it_went
from attnlab.sweep.plan import Plan, Planned
from tests.conftest import attnlab
from tests.study.points import ABOUT

BASIC = {"sweeper": {"_target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"}}


def planned(study, logger="csv", retry=False, **states):
    points = []
    for name, state in states.items():
        ledger.write_json(study / name / "point.json", ABOUT)
        ledger.set_status(study / name, state, error="killed by SIGKILL (out of memory?)")
        points.append(Planned(study / name, {"logger": {"name": logger}}, [[]], state, 1, "", "a"))
    return Plan(points, len(points), [], [], multirun=True, retry=retry, hydra=BASIC)


def test_failed_points_say_what_to_type(tmp_path, capsys):
    study = tmp_path / "s"
    command = ["train", "-m", "seed=0,1", "study='a b'"]
    assert say_how_it_went(planned(study, a="failed", b="preempted"), command) == 1
    said = capsys.readouterr()
    assert said.err == (
        f"attnlab: 1 of 2 points failed\nattnlab:   killed by SIGKILL (out of memory?): see {study}/a/log.txt\n"
    )
    typed = """attnlab train -m seed=0,1 'study='"'"'a b'"'"'' """
    assert said.out.startswith(f"to retry failed points: {typed}sweep.retry=failed\n")
    say_how_it_went(planned(study, a="failed", retry=True), [*command, "sweep.retry=failed"])
    assert capsys.readouterr().out.startswith(f"to retry failed points: {typed}sweep.retry=failed\n")
    say_how_it_went(planned(study, a="failed"), ["more", str(study)])
    again = f"to retry failed points: attnlab train --config-dir {study}/a --config-name config"
    assert capsys.readouterr().out.startswith(again)


def test_a_paused_point_is_no_failure(tmp_path, capsys):
    assert say_how_it_went(planned(tmp_path, a="paused"), ["train"]) == 0
    said = capsys.readouterr()
    assert (said.out, said.err) == (f"progress: attnlab status {tmp_path}\n", "")


def test_wandb_is_to_be_synchronised_only_where_something_waits(tmp_path, capsys, monkeypatch):
    plan = planned(tmp_path, logger="wandb", a="preempted")
    say_how_it_went(plan, ["train"])
    assert "attnlab sync" not in capsys.readouterr().out
    file = tmp_path / "a" / "wandb" / "offline-run-1" / "run-1.wandb"
    file.parent.mkdir(parents=True)
    file.touch()
    say_how_it_went(plan, ["train"])
    assert f"attnlab sync {tmp_path}\n" in capsys.readouterr().out
    monkeypatch.setenv("WANDB_MODE", "disabled")
    say_how_it_went(plan, ["train"])
    assert "nothing is logged to W&B: WANDB_MODE=disabled\n" in capsys.readouterr().out


@pytest.fixture
def small_disk(tmp_path):
    """A disk of its own, of 600 KB."""
    if os.name != "posix" or os.geteuid():
        pytest.skip("only root may mount a small disk")
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "none", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.decode()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_told_in_a_line_and_the_point_goes_on_once_there_is_room(small_disk, tmp_path):
    words = ["data=digits", "trainer.max_epochs=1", f"output_dir={small_disk}", "study=s", "backbone.width=0.25"]
    stays = small_disk / "ballast"
    stays.write_bytes(bytes(500_000))
    for multirun in ([], ["-m"]):
        full = attnlab("train", *multirun, *words, cwd=tmp_path)
        assert full.returncode == 1, full.stderr
        (line,) = full.stderr.splitlines()
        said = (
            r"attnlab: \S+/small/s(/\S+)?: could not be written: No space left on device; "
            "free some space there, then run the same command again to continue"
        )  # whatever of the study comes when the space ends
        assert re.fullmatch(said, line), line
    assert stays.stat().st_size == 500_000
    subprocess.run(["mount", "-o", "remount,size=50m", small_disk], check=True)
    done = attnlab("train", "-m", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "to resume" in done.stdout
    assert len(list(small_disk.glob("s/*/result.json"))) == 1


def test_an_output_dir_where_nothing_can_be_written_is_bad_input(tmp_path):
    refused = attnlab("train", "data=digits", "output_dir=/proc/x", cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr == (
        "attnlab: /proc/x: could not be written: No such file or directory; "
        "set output_dir to a folder that can be written\n"
    )
