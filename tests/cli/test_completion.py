"""Completion: what could follow, and a real bash that completes by it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from attnlab.cli import dispatch
from attnlab.cli.verbs.completion import candidates


@pytest.mark.parametrize(
    ("line", "present", "absent"),
    [
        ("attnlab ", {"train ", "report "}, {"attention="}),
        ("attnlab re", {"report ", "repro "}, {"train "}),
        ("attnlab train att", {"attention=", "attention.ratio="}, {"backbone="}),
        ("attnlab train attention=ca", set(), {"attention=cbam"}),
        ("attnlab train attention=cb", {"attention=cbam", "attention=cbam_article"}, {"attention=se"}),
        ("attnlab train -m attention=se,cb", {"attention=se,cbam"}, {"attention=cbam"}),
        ("attnlab plan attention=se attention.", {"attention.ratio="}, {"attention.kernel="}),
        ("attnlab train hydra/launcher=", {"hydra/launcher=slurm"}, set()),
        ("attnlab train hydra.launcher.p", {"hydra.launcher.partition="}, set()),
        ("attnlab train sweep.r", {"sweep.retry="}, {"seed="}),
        ("attnlab train optimizer.att", {"optimizer.attention_lr_scale="}, set()),
        ("attnlab report out", set(), {"attention="}),
    ],
)
def test_candidates(line, present, absent):
    found = set(candidates(line))
    assert present <= found
    assert not absent & found


def test_bash_completes():
    script = """
        eval "$(attnlab completion bash)"
        COMP_LINE="$1"; COMP_POINT=${#COMP_LINE}; _attnlab; printf '%s\\n' "${COMPREPLY[@]}"
    """
    bash, here = shutil.which("bash"), Path(sys.executable).parent
    if bash is None or not (here / "attnlab").exists():
        pytest.skip("no bash, or attnlab is not on the path")
    for line, expected in (("attnlab tr", "train "), ("attnlab train attention=tri", "triplet")):
        env = {**os.environ, "PATH": f"{here}:{os.environ['PATH']}"}
        done = subprocess.run([bash, "-c", script, "bash", line], env=env, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines() == [expected], done.stderr


def test_every_verb_has_its_line_in_the_help():
    lines = dispatch.usage().splitlines()
    for verb in dispatch.names():
        module = dispatch.load(verb)
        assert module.GROUP in dispatch.GROUPS
        assert [line for line in lines if line.startswith(f"  attnlab {verb} ") and line.endswith(module.__doc__)]


def test_nothing_heavy_is_loaded_for_it():
    check = (
        "import sys; from attnlab.cli import main; main(['completion', '--line', 'attnlab train attention.']); "
        "assert not {'torch', 'hydra', 'yaml', 'rich'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", check], check=True, capture_output=True)
