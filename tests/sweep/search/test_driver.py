"""The loop of a search: kills, launchers beside each other, budgets, limits; with points that are trained, and not."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from attnlab import ledger
from attnlab.cli.verbs import search as verb
from attnlab.errors import InputError
from attnlab.ledger import lock
from attnlab.sweep.launch import launchers
from attnlab.sweep.search import asking, driver, journal
from tests import warm
from tests.conftest import attnlab
from tests.sweep.search import surrogate
from tests.sweep.search.surrogate import told

POINT = ["backbone=lenet5", "sites=unit", "data=digits", "data.batch_size=100", "study=s", "hydra.launcher.cpu_slots=2"]
SPACE = [*POINT, "attention=none,se,eca,cbam", "attention.ratio=2,4,8", "optimizer.lr=log(1e-4,1e-1)"]


class Killed(BaseException):
    """In place of SIGKILL."""


@pytest.fixture
def search(tmp_path, monkeypatch):
    """A function ``(*words, space=SPACE) -> Outcome`` whose points are not trained; what it says is in ``said``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launchers, "launch", surrogate.launch)

    def run(*words, space=SPACE):
        run.said = []
        return driver.search([*space, *words], run.said.append)

    run.study = tmp_path / "outputs" / "s"
    return run


def loaded(study):
    storage = JournalStorage(JournalFileBackend(str(study / "search" / "journal.log")))
    return optuna.load_study(study_name="s", storage=storage)


def test_promotes_the_better_ones_and_tells_reports_and_optuna(search):
    outcome = search("trials=8", "rungs=1,2,4", "constraints=macs<=1.5x")
    found = told(search.study)
    assert [trial["number"] for trial in found["trials"]] == list(range(8))
    assert len({trial["folder"] for trial in found["trials"]}) == 8
    epochs = Counter(trial["epochs"] for trial in found["trials"])
    assert set(epochs) == {1, 2, 4}
    assert epochs[4] + epochs[2] >= 4
    for trial in found["trials"]:
        config = ledger.read_config(search.study / trial["folder"])
        assert config["trainer"]["max_epochs"] == 4
        assert list(trial["rungs"]) == [str(rung) for rung in (1, 2, 4) if rung <= trial["epochs"]]
        assert all(trial["rungs"][r] == surrogate.accuracy(config, int(r)) for r in trial["rungs"])
        assert trial["state"] == ("done" if trial["epochs"] == 4 else "paused")
        assert trial["values"]["accuracy"] == surrogate.accuracy(config, trial["epochs"])
        assert trial["values"]["macs"] <= 1.5 * found["bare"]["macs"]
    best = max(found["trials"], key=lambda trial: trial["rungs"].get("4", 0))
    assert outcome.best(1)[0].number == best["number"]
    assert found["objectives"] == ["accuracy"]
    assert found["space"]["optimizer.lr"] == {"low": 1e-4, "high": 0.1, "log": True}
    assert found["settings"]["rungs"] == [1, 2, 4]

    study = loaded(search.study)
    assert [trial.params for trial in study.trials] == [trial["params"] for trial in found["trials"]]
    assert [trial.user_attrs["folder"] for trial in study.trials] == [trial["folder"] for trial in found["trials"]]
    assert study.best_trial.number == best["number"]
    assert study.best_value == best["values"]["accuracy"]
    assert study.trials[best["number"]].intermediate_values == {int(k): v for k, v in best["rungs"].items()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The trials of six designs with two rungs, and what was passed over."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("undisturbed"))
        patch.setattr(launchers, "launch", surrogate.launch)
        driver.search([*SPACE, "trials=6", "rungs=1,2"], lambda line: None)
        found = told(Path("outputs/s"))
    return found["trials"], found["passed_over"]


@pytest.mark.parametrize("moment", [pytest.param(m, marks=() if m == 4 else pytest.mark.slow) for m in range(1, 26)])
@pytest.mark.parametrize("half", [pytest.param(False, marks=pytest.mark.slow), True])
def test_killed_at_any_append_to_the_journal_it_ends_as_if_nothing_had_happened(
    search, undisturbed, monkeypatch, moment, half
):
    """``half``: the process had written a part of the line."""
    words = ("trials=6", "rungs=1,2")
    count = 0
    write = JournalFileBackend.append_logs

    def killed(self, logs):
        nonlocal count
        count += 1
        if count == moment:
            if half:
                with open(self._file_path, "a", encoding="utf-8") as file:
                    file.write(json.dumps(logs[0])[:-5])
            raise Killed
        write(self, logs)

    monkeypatch.setattr(JournalFileBackend, "append_logs", killed)
    with pytest.raises(Killed):
        search(*words)
    monkeypatch.setattr(JournalFileBackend, "append_logs", write)
    assert told_of(search, words) == undisturbed
    assert [trial.number for trial in loaded(search.study).trials] == list(range(6))


def told_of(search, words):
    search(*words)
    found = told(search.study)
    return found["trials"], found["passed_over"]


@pytest.mark.parametrize("moment", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 4, 5, 6, 7))])
def test_killed_while_a_batch_is_trained_it_goes_on_with_the_rest(search, undisturbed, monkeypatch, moment):
    words = ("trials=6", "rungs=1,2")
    trained = []

    def killed(plan, launcher):
        for point in plan.todo:
            if len(trained) == moment:
                raise Killed
            surrogate.train(point)
            trained.append(point.folder.name)

    monkeypatch.setattr(launchers, "launch", killed)
    with pytest.raises(Killed):
        search(*words)
    monkeypatch.setattr(launchers, "launch", surrogate.launch)
    assert told_of(search, words) == undisturbed


def test_more_trials_extend_it(search):
    few = told_of(search, ("trials=4",))[0]
    assert told_of(search, ("trials=7",))[0][:4] == few
    assert len(told(search.study)["trials"]) == 7
    assert len(search("trials=7").trials) == 7


@pytest.mark.parametrize(
    ("words", "space", "message"),
    [
        pytest.param(["sampler=random"], SPACE, "sampler=tpe there, random here", marks=pytest.mark.slow),
        pytest.param(["rungs=1,2"], SPACE, "rungs=nothing there, [1, 2] here", marks=pytest.mark.slow),
        (["trainer.max_epochs=3"], SPACE, "trainer.max_epochs=3 only here"),
        (["sites.merge=add"], SPACE, "sites.merge=add only here"),  # without effect on the first design
        ([], [*SPACE[:-1], "optimizer.lr=log(1e-4,1)"], '"high": 0.1'.replace('"', "")),
    ],
)  # fmt: skip
def test_another_search_in_the_same_study_is_refused_in_a_line(search, words, space, message):
    search("trials=2", "hours=1", "patience=9")
    before = (search.study / "search" / "journal.log").read_bytes()
    with pytest.raises(InputError, match="searches something else") as error:
        search("trials=2", *words, space=space)
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert (search.study / "search" / "journal.log").read_bytes() == before


def killed(*arguments):
    raise Killed


def test_where_nothing_was_begun_anything_may_be_searched(search, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(journal, "decide", killed)
        with pytest.raises(Killed):
            search("trials=2")
    outcome = search("trials=2", "objectives=accuracy,macs", space=[*POINT, "attention=none,se,eca"])
    assert len(outcome.trials) == len(loaded(search.study).trials) == 2


def test_where_a_batch_was_decided_nothing_else_may_be_searched(search, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(journal, "add_chosen", lambda study, distributions: killed() if journal.batches(study) else None)
        with pytest.raises(Killed):
            search("trials=2")
    assert not loaded(search.study).trials
    with pytest.raises(InputError, match="searches something else"):
        search("trials=2", space=[*POINT, "optimizer.weight_decay=0.01,0.1"])
    assert len(search("trials=2").trials) == 2


def test_designs_beyond_a_limit_cost_nothing_and_are_counted(search):
    outcome = search("trials=3", "constraints=parameters<=61800")
    found = told(search.study)
    assert all(trial["values"]["parameters"] <= 61800 for trial in found["trials"])
    assert found["passed_over"]["parameters<=61800"] > 0
    assert len(list(search.study.glob("lenet5-*"))) == len(outcome.trials) == 3


def test_where_no_design_fits_an_error_says_so_and_another_limit_may_be_tried(search):
    space = [*POINT, "attention=none,se,eca,cbam", "attention.ratio=2,4,8"]
    with pytest.raises(InputError, match="none of 8 designs fits: 8 not parameters<=100"):
        search("trials=3", "constraints=parameters<=100", space=space)
    assert list(search.study.iterdir()) == [search.study / "search"]
    assert len(search("trials=1", space=space).trials) == 1


@pytest.mark.parametrize("sampler", ["tpe", "grid"])
def test_a_space_that_is_used_up_ends_the_search(search, sampler):
    space = [*POINT, "attention=none,se", "attention.ratio=2,4"]
    outcome = search("trials=9", f"sampler={sampler}", space=space)
    assert len({trial.chosen.hash for trial in outcome.trials}) == len(outcome.trials) == 3
    assert "no new design was found" in search.said[-1]


@pytest.mark.parametrize("sampler", ["tpe", "grid"])
def test_designs_that_cannot_be_built_are_passed_over_with_their_reason_once(search, sampler):
    space = [*POINT, "attention=sge", "attention.groups=4,5,7,2,1"]  # lenet5 has 6 channels, and 16
    outcome = search("trials=4", f"sampler={sampler}", space=space)
    assert [trial.state for trial in outcome.trials] == ["done", "done"]
    over = told(search.study)["passed_over"]
    reasons = {reason: many for reason, many in over.items() if reason != "known already"}
    assert all(reason.startswith("cannot be built: ") and "groups" in reason for reason in reasons)
    assert sum(reasons.values()) == 3
    assert over.get("known already", 0) <= 2
    assert {trial.state.name for trial in loaded(search.study).trials} == {"COMPLETE"}


def test_if_no_design_can_be_built_nothing_is_begun(search):
    with pytest.raises(InputError, match=r"^none of 3 designs fits: 1 cannot be built: .*groups"):
        search("trials=9", space=[*POINT, "attention=sge", "attention.groups=4,5,7"])
    assert not list(search.study.glob("lenet5-*"))


def fail(plan, launcher):
    for point in plan.todo:
        ledger.prepare(point.folder, point.config, point.overrides)
        ledger.set_status(point.folder, "failed", error="RuntimeError: no")


def test_if_all_of_the_first_points_fail_it_stops_and_they_can_be_retried(search, monkeypatch):
    monkeypatch.setattr(launchers, "launch", fail)
    outcome = search("trials=5")
    assert outcome.failed
    assert len(outcome.trials) == 4  # two batches
    assert search.said[-1] == (
        "stopped: all of the first 4 designs failed: RuntimeError: no; "
        "to train them again: the same command with sweep.retry=failed"
    )
    monkeypatch.setattr(launchers, "launch", surrogate.launch)
    assert search("trials=5").failed  # not by itself
    again = search("trials=5", "sweep.retry=failed")
    assert [trial.chosen.hash for trial in again.trials[:4]] == [trial.chosen.hash for trial in outcome.trials]
    assert [trial["state"] for trial in told(search.study)["trials"]] == ["done"] * 5


def test_a_trial_that_fails_again_is_retried_once_a_command(search, monkeypatch):
    monkeypatch.setattr(launchers, "launch", fail)
    search("trials=4")
    assert search("trials=4", "sweep.retry=failed").failed


def test_failed_points_of_the_confirmation_are_retried(search, monkeypatch):
    def launch(plan, launcher):
        (fail if plan.todo[0].folder.parent.name == "s-confirmed" else surrogate.launch)(plan, launcher)

    words = ("trials=2", "confirm=1", "best=1")
    monkeypatch.setattr(launchers, "launch", launch)
    assert search(*words).failed
    monkeypatch.setattr(launchers, "launch", surrogate.launch)
    assert search(*words).failed
    assert not search(*words, "sweep.retry=failed").failed


def test_a_paused_trial_that_lost_its_metrics_goes_on(search):
    words = ("trials=4", "rungs=1,2")
    search(*words)
    before = told(search.study)["trials"]
    paused = next(trial["folder"] for trial in before if trial["state"] == "paused")
    (search.study / paused / "metrics.csv").unlink()
    search(*words)
    assert told(search.study)["trials"] == before


def test_a_step_that_nobody_trains_ends_it_with_a_line(search, monkeypatch):
    monkeypatch.setattr(launchers, "launch", lambda plan, launcher: None)
    with pytest.raises(InputError, match=r"was launched twice and is still new after 0 epochs; see its log.txt"):
        search("trials=4")


def test_patience_ends_it(search):
    outcome = search("trials=40", "patience=2")
    values = [trial.values["accuracy"] for trial in outcome.trials]
    assert values.index(max(values)) <= len(values) - 1 - 2
    assert len(values) < 40


def test_patience_compares_at_the_same_rung(search):
    """Where the order of designs is that of their first rung, it is patient with the best of the first rung."""
    outcome = search("trials=40", "patience=5", "rungs=1,4,16")
    first = [trial.rungs[1] for trial in outcome.trials]
    since = len(first) - 1 - first.index(max(first))
    assert 5 <= since <= 6 or len(first) == 40  # a batch has two
    for number in range(6, len(first) - 1):  # it did not end before
        earlier = first[:number]
        assert number - 1 - earlier.index(max(earlier)) < 5


@pytest.fixture
def clock(monkeypatch):
    """Each batch takes an hour."""
    now = [0.0]

    def launch(plan, launcher):
        now[0] += 3600
        surrogate.launch(plan, launcher)

    monkeypatch.setattr(launchers, "launch", launch)
    monkeypatch.setattr(driver, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=time.sleep))


def test_when_its_time_is_up_the_best_design_is_finished_and_random_search_gets_as_much(search, clock):
    outcome = search("trials=40", "rungs=1,4,16", "hours=1.5", "compare=random")
    assert len(outcome.trials) == 4  # two batches in two hours
    (done,) = (trial for trial in outcome.trials if trial.state == "done")
    assert done.rungs[1] == max(trial.rungs[1] for trial in outcome.trials)
    spent = sum(trial.epochs for trial in outcome.trials)
    assert f"the same for random search, 4 designs and {spent} epochs, in outputs/s-random" in search.said
    assert len(outcome.random) == 4
    assert sum(trial.epochs for trial in outcome.random) == spent
    assert sum(trial.state == "done" for trial in outcome.random) == 1


@pytest.mark.slow
def test_random_search_spends_no_more_epochs(search):
    outcome = search("trials=12", "rungs=1,4", "compare=random", "patience=4")
    own, random = (sum(trial.epochs for trial in trials) for trials in (outcome.trials, outcome.random))
    assert len(outcome.random) <= len(outcome.trials)
    assert random <= own + 3  # the best one is finished


def test_of_several_objectives_the_front_is_best(search):
    outcome = search("trials=6", "objectives=accuracy,macs", "sampler=nsga2")
    done = [(trial.values["accuracy"], -trial.values["macs"]) for trial in outcome.trials]
    front = [mine for mine in done if not any(o[0] >= mine[0] and o[1] >= mine[1] and o != mine for o in done)]
    found = [(trial.values["accuracy"], -trial.values["macs"]) for trial in outcome.best(len(front))]
    assert found == sorted(front, reverse=True)
    assert len(loaded(search.study).best_trials) == len(front)


def test_steps_of_a_launcher_that_is_gone_are_taken_over(search, monkeypatch):
    def killed(plan, launcher):
        raise Killed

    with lock.hold(search.study / "search" / "launchers" / "1"):
        monkeypatch.setattr(launchers, "launch", killed)
        with pytest.raises(Killed):
            search("trials=4")
    assert list(search.study.glob("search/launchers/2"))
    monkeypatch.setattr(launchers, "launch", surrogate.launch)
    outcome = search("trials=4")
    assert [trial.state for trial in outcome.trials] == ["done"] * 4


def test_a_trial_whose_folder_was_deleted_is_trained_again(search):
    outcome = search("trials=3", "rungs=1,2")
    shutil.rmtree(search.study / outcome.trials[1].chosen.folder)
    again = search("trials=3", "rungs=1,2")
    assert [trial.chosen.hash for trial in again.trials] == [trial.chosen.hash for trial in outcome.trials]
    assert again.trials[1].rungs[1] == outcome.trials[1].rungs[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["constraints=mac<=2x"], "mac<=2x: must be such as macs<=1.05x (of the bare network's) or parameters"),
        (["constraints=latency_ms<=2"], "latency is measured after training; make it an objective"),
        (["constraints=macs<=1..5x"], "macs<=1..5x: must be such as macs<=1.05x"),
        (["rungs=1,2", "objectives=accuracy,macs"], "rungs keep the best by trainer.monitor alone, whatever"),
        (["rungs=1,2", "objectives=macs"], "or set objectives=accuracy and limit the cost (constraints=macs<=1.05x)"),
        (["rungs=1,2", "sampler=nsga2"], "nsga2 learns nothing from stopped designs; leave rungs out or set sampler="),
        (["attention.stages=each(none,se)"], "attention.stages=each(...): add attention=by_stage"),
        (["rungs=2,1"], "search.rungs=[2, 1]: must be epochs in ascending order"),
        (["rungs=1,2", "trainer.max_epochs=4"], "trainer.max_epochs=4: the last of search.rungs=[1, 2] is the number"),
        (["trials=0"], "search.trials=0: must be at least 1"),
        (["sampler=grid"], "search.sampler=grid: optimizer.lr has no end of values"),
        (["sampler=random", "compare=random"], "search.compare=random: search.sampler is random itself"),
        (["hydra/launcher=basic"], "hydra/launcher=BasicLauncher: must be one of attnlab's launchers"),
        (["sweep.pack=seeds"], "sweep.pack: a search chooses its designs itself"),
        (["sweep.on_error=skip"], "sweep.on_error: a search passes over what cannot be built"),
        (["seed=0,1"], "seed=0,1: a search trains each design with one seed"),
    ],
)  # fmt: skip
def test_bad_words_are_refused_before_anything_starts(search, words, message):
    space = [word for word in SPACE if not word.startswith("hydra.launcher.")]  # others have no such setting
    with pytest.raises(InputError) as error:
        search(*words, space=space)
    assert message in str(error.value)
    assert not search.study.exists()


def test_a_dry_run_says_the_whole_budget_and_refuses_another_search(search, capsys):
    words = ["attention=se,cbam", "trainer.max_epochs=1,20", "trials=6", "best=2", "confirm=3", "compare=random"]
    space = [*POINT, "attention.ratio=2,4", *words]
    assert verb.run([*space, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "6 designs by tpe, 2 at a time: at most 120 epochs\n" in said
    assert "then random search: 6 designs, at most 120 epochs\n" in said
    # Two designs of each search, a bare network for each, and the best bare one.
    assert "then the confirmation: at most 27 points with fresh seeds, 540 epochs\n" in said
    assert not search.study.exists()
    search("trials=1")
    with pytest.raises(InputError, match="searches something else"):
        verb.run([*space, "--dry-run"])
    capsys.readouterr()
    verb.run([*SPACE, "trials=5", "--dry-run"])
    assert f"begun already: {search.study.relative_to(Path.cwd())}/search; the same" in capsys.readouterr().out


def test_the_launchers_slots_stay_the_same_in_smaller_batches(search):
    with asking.prepared([*SPACE, "hydra.launcher.cpu_slots=auto"]) as wanted:
        assert wanted.hydra["launcher"]["cpu_slots"] == wanted.at_once


def test_the_journal_waits_with_a_line_while_another_launcher_chooses(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(journal, "PATIENCE_S", 0)
    monkeypatch.setattr(journal.time, "sleep", lambda seconds: outer.__exit__(None, None, None))
    outer = lock.hold(tmp_path)
    outer.__enter__()
    with journal.alone(tmp_path, said.append):
        pass
    assert len(said) == 1
    assert said[0].startswith("waiting: another launcher is choosing: ")


REAL = [*POINT, "attention=none,se,eca,cbam", "attention.ratio=2,4", "trials=4", "rungs=1,2", "constraints=macs<=1.5x"]


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A search with rungs, a limit and a confirmation, its points trained: what it said, and its folder."""
    cwd = tmp_path_factory.mktemp("searched")
    started = time.monotonic()
    done = attnlab("search", *REAL, "confirm=2", "best=1", cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout, cwd / "outputs" / "s", time.monotonic() - started


def real_trials(study):
    """Less what differs each time."""
    return [
        {**trial, "values": {key: value for key, value in trial["values"].items() if key != "latency_ms"}}
        for trial in told(study)["trials"]
    ]


def test_a_search_from_the_command_line_to_its_confirmation(searched):
    said, study, _ = searched
    trials = real_trials(study)
    assert Counter(trial["epochs"] for trial in trials).keys() == {1, 2}
    done = {trial["folder"]: trial for trial in trials if trial["state"] == "done"}
    confirmed = told(study)["confirmed"]
    assert confirmed["study"] == "s-confirmed"
    assert confirmed["seeds"] == [1, 2]
    (best,) = confirmed["designs"]
    assert done[best]["values"]["accuracy"] == max(trial["values"]["accuracy"] for trial in done.values())
    points = list(study.with_name("s-confirmed").glob("lenet5-*"))
    seeds = Counter(ledger.read_config(point)["seed"] for point in points)
    assert seeds == dict.fromkeys((1, 2), len(points) // 2)
    assert all(ledger.is_done(point) for point in points)
    assert "confirmed by 2 fresh seeds" in said
    assert len(list(study.with_name("s-confirmed").glob("plans/*.json"))) == 1
    for folder, trial in done.items():  # values are the ledger's
        result = ledger.read_json(study / folder / "result.json")
        assert trial["values"]["accuracy"] == result["val"]["accuracy"]
        assert trial["values"]["macs"] == result["cost"]["macs"]
    for trial in trials:
        attempts = ledger.read_json(study / trial["folder"] / "status.json")["attempts"]
        assert attempts == trial["epochs"]  # an attempt for each rung


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_ends_with_the_same_trials_each_once(searched, tmp_path, kills):
    _, undisturbed, seconds = searched
    chance = random.Random(kills)
    for _ in range(kills):
        process = started(tmp_path)
        try:
            process.wait(chance.uniform(0, seconds))
        except subprocess.TimeoutExpired:
            # The launcher alone, whose points then save; or all of its processes at once.
            (os.kill if chance.random() < 0.5 else os.killpg)(process.pid, signal.SIGKILL)
            process.wait(60)
    done = attnlab("search", *REAL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    study = tmp_path / "outputs" / "s"
    assert real_trials(study) == real_trials(undisturbed)
    assert len(list(study.glob("lenet5-*"))) == len(loaded(study).trials) == 4


def started(cwd, *words):
    with open(cwd / f"said-{time.monotonic_ns()}", "wb") as out:
        command = ["search", *REAL, *words]
        return warm.start(command, cwd, {**os.environ, "OMP_NUM_THREADS": "1"}, out.fileno(), out.fileno())


def test_two_launchers_at_once_choose_no_design_and_train_no_step_twice(tmp_path):
    words = ["hydra.launcher.cpu_slots=1", "trials=5"]
    two = [started(tmp_path, *words) for _ in range(2)]
    assert [process.wait(250) for process in two] == [0, 0]
    study = tmp_path / "outputs" / "s"
    trials = real_trials(study)
    assert len({trial["folder"] for trial in trials}) == len(trials) == len(loaded(study).trials) == 5
    assert {path.name for path in (study / "search" / "launchers").iterdir()} == {"1", "2"}
    for trial in trials:
        assert trial["state"] in ("done", "paused")
        attempts = ledger.read_json(study / trial["folder"] / "status.json")["attempts"]
        assert attempts == trial["epochs"]
