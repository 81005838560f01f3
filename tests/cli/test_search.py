"""attnlab search on the real command line: its help, its dry run, and bad input in one line."""

import pytest

from tests.conftest import attnlab


def test_help_and_a_dry_run_write_nothing(tmp_path):
    page = attnlab("search", "--help", cwd=tmp_path).stdout
    for word in ("attention.stages=each(none,se)", "rungs=1,2,4", "compare=random", "--dry-run", "--wandb-sweep"):
        assert word in page
    words = [
        "attention=by_stage",
        "attention.stages=each(none,se,cbam)",
        "attention.ratio=4,8",
        "trials=6",
        "rungs=1,2",
    ]
    shown = attnlab("search", *words, "constraints=parameters<=1.001x", "--dry-run", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert lines[0] == (
        "outputs/default: 5 dimensions (stages.1, stages.2, stages.3, stages.4, ratio), 162 combinations"
    )
    assert "at most 12 epochs, about 9 as only the better go on" in lines[1]
    assert "  attention.stages.1: none, se, cbam" in lines
    assert any(line.startswith("of 50 drawn at random, ") for line in lines)
    assert any(line.endswith("do not: parameters<=1.001x") for line in lines)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to search: give a setting several values, such as attention=none,se,cbam"),
        (["attention=none,se", "sampler=tree"], "search.sampler=tree: must be 'tpe', 'nsga2', 'random' or 'grid'"),
        (["attention=none,cbm"], "attention=cbm: no such config; nearest: cbam; valid: bam, by_stage, cbam"),
        (
            ["attention=by_stage", "attention.stages=each(none,sse)"],
            "attention.stages.1=sse: no such config; nearest: se; valid: bam, ",
        ),
        (["attention=none,se", "trails=3"], "trails: no such setting; nearest: "),
        (["attention=se", "attention.rato=2,4"], "attention.rato: attention=se has no such setting; nearest: ratio"),
        (["optimizer.lr=log(0,1)"], "optimizer.lr=log(0,1): the logarithm needs numbers above 0"),
    ],
)
def test_bad_input(tmp_path, words, message):
    done = attnlab("search", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"attnlab: {message}"), done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
