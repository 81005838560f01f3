"""Confirmation: fresh seeds, the bare network beside each design, the optimism; points are not trained."""

import json
import re
from statistics import fmean

import pytest

from attnlab import ledger
from attnlab.study.report import write_report
from attnlab.sweep.launch import launchers
from attnlab.sweep.search import confirming, driver
from tests.sweep.search import surrogate
from tests.sweep.search.surrogate import told

SPACE = ["backbone=lenet5", "sites=unit", "data=digits", "study=s", "hydra.launcher.cpu_slots=2"]
SPACE += ["attention=se,cbam", "attention.ratio=2,4,8"]


@pytest.fixture
def search(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launchers, "launch", surrogate.launch)
    return lambda *words: driver.search([*SPACE, *words], lambda line: None)


def points(study):
    return {path: ledger.read_config(path) for path in study.glob("lenet5-*")}


@pytest.mark.parametrize(("number", "searched", "seeds"), [(3, 0, [1, 2, 3]), (3, 2, [1, 3, 4]), (1, 1, [2])])
def test_seeds_are_fresh(number, searched, seeds):
    assert confirming.fresh_seeds(number, searched) == seeds


def test_the_best_and_the_bare_network_are_trained_with_fresh_seeds(search, tmp_path):
    outcome = search("trials=5", "seed=2", "confirm=3", "best=2", "optimizer.lr=log(1e-3,1e-1)")
    study = tmp_path / "outputs" / "s-confirmed"
    found = points(study)
    best = outcome.best(2)
    assert told(tmp_path / "outputs" / "s")["confirmed"] == {
        "study": "s-confirmed",
        "designs": [trial.chosen.folder for trial in best],
        "seeds": [1, 3, 4],
        "shared": ["optimizer.lr"],
    }
    assert {config["seed"] for config in found.values()} == {1, 3, 4}
    attended = {ledger.digest(ledger.without_seed(ledger.identity(c))) for c in found.values() if c["sites"]}
    chosen = [ledger.read_config(tmp_path / "outputs" / "s" / trial.chosen.folder) for trial in best]
    assert attended == {ledger.digest(ledger.without_seed(ledger.identity(config))) for config in chosen}
    # Each beside a bare network that is equal in all else.
    rates = {config["optimizer"]["lr"] for config in chosen}
    assert {config["optimizer"]["lr"] for config in found.values() if config["sites"] is None} == rates
    assert len(found) == 3 * (2 + len(rates))
    (plan,) = (json.loads(path.read_text()) for path in study.glob("plans/*.json"))
    assert plan["confirms"] == "s"
    assert sorted(plan["points"]) == sorted(path.name for path in found)


@pytest.mark.parametrize(
    ("monitor", "sign", "scale"),
    [pytest.param("accuracy", 1, 100, marks=pytest.mark.slow), ("f1", 1, 100), ("loss", -1, 1)],
)
def test_it_is_judged_by_what_the_search_monitored(search, tmp_path, monitor, sign, scale):
    outcome = search("trials=4", "confirm=2", "best=1", f"trainer.monitor={monitor}")
    (best,) = outcome.best(1)
    study = tmp_path / "outputs" / "s-confirmed"
    tests = [ledger.read_json(path / "result.json")["test"][monitor] for path, c in points(study).items() if c["sites"]]
    assert len(tests) == 2
    digits, unit = (3, "nats") if monitor == "loss" else (1, "points")
    optimism = sign * scale * (best.values["accuracy"] - fmean(tests))
    assert optimism > 0
    said = outcome.confirmed
    assert said[0].startswith(f"confirmed by 2 fresh seeds (test {'macro F1' if monitor == 'f1' else monitor}; ")
    assert f": {scale * fmean(tests):.{digits}f} ± " in said[1]
    assert said[1].endswith(f"optimism {optimism:+.{digits}f} {unit}")
    assert said[-1].startswith("Confirmed with fresh seeds: ")


def titles(monkeypatch):
    """Of the points that are confirmed, as the launcher gets them."""
    found = []

    def launch(plan, launcher):
        if plan.todo[0].folder.parent.name == "s-confirmed":
            found.extend(point.title for point in plan.todo)
        surrogate.launch(plan, launcher)

    monkeypatch.setattr(launchers, "launch", launch)
    return found


def test_a_bare_network_that_was_tuned_too_is_confirmed_and_compared_with(search, tmp_path, monkeypatch, capsys):
    found = titles(monkeypatch)
    space = [*SPACE[:-2], "attention=none,se", "optimizer.lr=0.1,0.01,0.001"]
    outcome = driver.search([*space, "trials=9", "confirm=2", "best=2"], lambda line: None)
    assert not any(title.endswith("] bare s1") for title in found)
    assert len({title.partition("] ")[2] for title in found}) == len(found)
    study = tmp_path / "outputs" / "s"
    trials = {trial["folder"]: trial for trial in told(study)["trials"]}
    bare_ones = {f: t["values"]["accuracy"] for f, t in trials.items() if "none" in t["params"].values()}
    confirmed = told(study)["confirmed"]
    assert confirmed["bare"] == max(bare_ones, key=lambda folder: bare_ones[folder])
    assert not bare_ones.keys() & set(confirmed["designs"])
    rate = ledger.read_config(study / confirmed["bare"])["optimizer"]["lr"]
    fresh = [c for c in points(tmp_path / "outputs" / "s-confirmed").values() if c["sites"] is None]
    assert {c["seed"] for c in fresh if c["optimizer"]["lr"] == rate} == {1, 2}
    (at,) = (i for i, line in enumerate(outcome.confirmed) if line.startswith("optimizer.lr was tuned for designs"))
    assert "against the bare network at the best settings that the search found for it" in outcome.confirmed[at]
    results = {
        path: (ledger.read_config(path), ledger.read_json(path / "result.json")["test"]["accuracy"])
        for path in points(tmp_path / "outputs" / "s-confirmed")
    }
    best = ledger.read_config(study / confirmed["designs"][0])
    ours = [v for c, v in results.values() if c["sites"] and c["optimizer"]["lr"] == best["optimizer"]["lr"]
            and c["attention"] == best["attention"]]  # fmt: skip
    theirs = [v for c, v in results.values() if c["sites"] is None and c["optimizer"]["lr"] == rate]
    assert f": {100 * (fmean(ours) - fmean(theirs)):+.1f} ± " in outcome.confirmed[at + 1]
    write_report(study, "md")
    text = capsys.readouterr().out
    assert "optimizer.lr was tuned for designs with attention" in text
    methods = " ".join(text.split())
    assert "optimizer.lr was chosen along with the attention" in methods


def test_without_a_bare_trial_it_says_how_to_tune_the_bare_network_too(search):
    said = search("trials=3", "confirm=1", "best=1", "optimizer.lr=log(1e-3,1e-1)").confirmed
    (line,) = (line for line in said if "was tuned for designs with attention" in line)
    assert line.endswith(
        "include none among the attentions, so that the bare network is tuned, too, or fix optimizer.lr"
    )
    assert not any("tuned" in line for line in search("study=t", "trials=3", "confirm=1", "best=1").confirmed)


def test_where_the_bare_network_won_the_best_with_attention_are_confirmed(search, tmp_path, monkeypatch, capsys):
    quality = surrogate.accuracy
    monkeypatch.setattr(surrogate, "accuracy", lambda c, epoch: 0.99 if c["sites"] is None else quality(c, epoch))
    said = []
    outcome = driver.search([*SPACE[:-2], "attention=none,se,cbam", "trials=3", "confirm=1", "best=1"], said.append)
    (folder,) = told(tmp_path / "outputs" / "s")["confirmed"]["designs"]
    assert "bare" not in folder
    assert "none" not in folder
    assert outcome.best(1)[0].chosen.params == {"attention": "none"}
    assert "the bare network won the search: accuracy 99.0 %; confirmed are designs with attention" in said
    write_report(tmp_path / "outputs" / "s", "md")
    assert "the bare network is the best in validation" in capsys.readouterr().out


def test_mixed_designs_have_the_studys_labels(search):
    space = ["attention=by_stage", "attention.stages=each(none,se,cbam)"]
    words = ["backbone=mini_xception", "data=digits", "study=s", "hydra.launcher.cpu_slots=2", *space]
    said = driver.search([*words, "trials=3", "confirm=1", "best=2"], lambda line: None).confirmed
    labels = [line.partition(":")[0].strip() for line in said[1:3]]
    assert all(re.match(r"(se|cbam) \d", label) and len(label) < 30 for label in labels), labels
    assert any(f" {label}" in said[-1] for label in labels), said[-1]


@pytest.mark.slow
def test_random_search_has_the_same_budget_and_is_confirmed_too(search, tmp_path):
    outcome = search("trials=5", "rungs=1,2", "compare=random", "confirm=2", "best=1")
    own, random = (told(tmp_path / "outputs" / name) for name in ("s", "s-random"))
    assert own["random"] == {"study": "s-random"}
    assert random["settings"]["sampler"] == "random"
    assert random["settings"]["rungs"] == own["settings"]["rungs"]
    assert len(random["trials"]) == len(own["trials"]) == 5
    assert "confirmed" not in random
    (rival,) = own["confirmed"]["random_designs"]
    assert rival in {trial["folder"] for trial in random["trials"] if trial["state"] == "done"}
    assert any(line.startswith("  random search: ") for line in outcome.confirmed)


def test_it_goes_on_where_it_was_stopped(search, monkeypatch, tmp_path):
    words = ("trials=4", "confirm=2", "best=1")
    stopped = []

    def interrupted(plan, launcher):
        if plan.todo[0].folder.parent.name == "s-confirmed" and not stopped:
            stopped.append(True)
            surrogate.train(plan.todo[0])
            raise KeyboardInterrupt
        surrogate.launch(plan, launcher)

    monkeypatch.setattr(launchers, "launch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        search(*words)
    assert not search(*words).failed
    done = points(tmp_path / "outputs" / "s-confirmed")
    assert len(done) == 4
    assert all(ledger.is_done(path) for path in done)
