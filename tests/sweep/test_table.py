"""What the plan says: which combinations collapsed, what is done, what the rest will take, and which code made it."""

import pytest

from attnlab import ledger
from attnlab.errors import InputError
from attnlab.sweep import plan, table

QUICK = ["data=digits", "trainer.max_epochs=1"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def finish(point, seconds=60.0, source="aaaa"):
    """Write what a finished point leaves."""
    ledger.prepare(point.folder, point.config)
    about = ledger.read_json(point.folder / "point.json")
    ledger.write_json(point.folder / "point.json", {**about, "code": [{"source": source, "git": None}]})
    ledger.write_json(
        point.folder / "result.json",
        {
            "test": {"accuracy": 0.5},
            "times": {"train_s": seconds, "total_s": seconds},
            "cost": {"parameters": 7, "macs": 8000, "latency_ms": 1.0},
        },
    )
    ledger.set_status(point.folder, "done")


def test_what_collapsed_and_why():
    planned = plan.make(["-m", "attention=none,se", "attention.ratio=4,8", "attention.order=channel_first,parallel"])
    assert list(table.summary(planned)) == [
        "8 combinations are 3 points: 3 new",
        "  attention=none: attention.ratio, attention.order make no difference (4 combinations are 1 point)",
        "  attention=se: attention.order makes no difference (4 combinations are 2 points)",
    ]


def test_states_decide_what_is_to_do():
    argv = ["-m", "seed=range(6)", *QUICK]
    states = ["done", "failed", "preempted", "running", "paused"]
    for point, state in zip(plan.make(argv).points, states, strict=False):
        if state == "done":
            finish(point)
        else:
            ledger.prepare(point.folder, point.config)
            ledger.set_status(point.folder, state, error="x")
    planned = plan.make(argv)  # nobody holds the lock of the one that says running
    assert [point.state for point in planned.points] == ["done", "failed", "preempted", "killed", "paused", "new"]
    assert [point.config["seed"] for point in planned.todo] == [2, 3, 4, 5]
    summary = list(table.summary(planned))
    assert summary[0] == "6 points: 1 done, 2 to resume, 1 paused, 1 failed, 1 new"
    assert "sweep.retry=failed retries them" in summary[1]
    again = plan.make([*argv, "sweep.retry=failed"])
    assert [point.config["seed"] for point in again.todo] == [1, 2, 3, 4, 5]
    assert len(plan.make([*QUICK, "seed=1"]).todo) == 1  # a point asked for by itself is tried again


def test_all_errors_stop_everything_or_leave_out_the_wrong_points():
    argv = ["-m", "attention=se,cbam", "attention.kernel=7", "sites.stages=[1],[9]", "seed=0,1", *QUICK]
    argv = [*argv, "attention.ratio=0,4"]
    with pytest.raises(InputError) as error:
        plan.make([*argv])
    told = str(error.value).splitlines()
    assert len(told) == len(set(told)) >= 2
    planned = plan.make(["-m", "attention=se,cbam", "sites.stages=[1],[9]", "seed=0,1", "sweep.on_error=skip", *QUICK])
    assert len(planned.errors) == 1
    assert {point.config["sites"]["stages"][0] for point in planned.points} == {1}
    assert len(planned.points) == 4
    with pytest.raises(InputError, match=r"sites.stages=\[9\]"):
        plan.make(["-m", "attention=se", "sites.stages=[9]", "sweep.on_error=skip", *QUICK])
    with pytest.raises(InputError, match=r"sweep.on_error=sikp: must be 'stop' or 'skip'"):
        plan.make(["-m", "seed=0,1", "sweep.on_error=sikp", *QUICK])


def test_zip_and_exclude_shape_the_plan():
    planned = plan.make(
        [
            *("-m", "attention=se,cbam", "attention.ratio=4,8", "sites=branch,block", *QUICK),
            *("sweep.zip=[attention,attention.ratio]", "sweep.exclude=[{attention:se,sites:block}]"),
        ]
    )
    kinds = [
        (p.config["attention"]["name"], p.config["attention"]["ratio"], p.config["sites"]["name"])
        for p in planned.points
    ]
    assert kinds == [("se", 4, "branch"), ("cbam", 8, "branch"), ("cbam", 8, "block")]


def test_expected_time_comes_from_points_alike(capsys):
    argv = ["-m", "attention=none,se", "seed=0,1", *QUICK]
    none, _, se, _ = plan.make(argv).points
    assert table.expected_seconds([none, se]) == {}
    finish(none, seconds=600)
    planned = plan.make(argv)
    expected = table.expected_seconds(planned.points)
    assert list(expected.values()) == [600] * 4  # se: by the bare backbone
    finish(planned.points[2], seconds=900)
    planned = plan.make(argv)
    assert list(table.expected_seconds(planned.points).values()) == [600, 600, 900, 900]
    table.show(planned, 2)
    shown = capsys.readouterr().out
    assert "about 25 min of training; 2 at a time: about 12 min" in shown
    assert "1 done, 1 new" in shown
    assert table.expected_seconds(plan.make(["data=digits", "trainer.max_epochs=2"]).points) == {}  # other training


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "under a minute"), (125, "about 2 min"), (12000, "about 3 h 20 min")]
)
def test_durations(seconds, text):
    assert table.duration(seconds) == text


def test_mixed_versions_of_the_code_are_told():
    points = plan.make(["-m", "seed=range(3)", *QUICK]).points
    for point, source in zip(points, ["aaaa", "aaaa", "bbbb"], strict=True):
        finish(point, source=source)
    assert "aaaa (2), bbbb (1)" in "\n".join(table.summary(plan.make(["-m", "seed=range(3)", *QUICK])))
    assert "versions" not in "\n".join(table.summary(plan.make(["-m", "seed=range(2)", *QUICK])))


def test_finished_points_are_planned_without_building_one(monkeypatch):
    argv = ["-m", "attention=se,cbam", "attention.ratio=2,4,8,16", "seed=range(10)", *QUICK]
    for point in plan.make(argv).points:
        finish(point)

    def build(*_):
        raise AssertionError("a finished point was built")

    monkeypatch.setattr("attnlab.training.rehearsal.build_network", build)
    assert [point.state for point in plan.make(argv).points] == ["done"] * 80
