"""What a search has found, apart from what fresh seeds confirmed of it."""

import csv
import json
import shutil
import subprocess
import sys
from statistics import fmean

import pytest
from scipy import stats

from attnlab import ledger
from attnlab.errors import InputError
from attnlab.study.collect import read_study
from attnlab.study.report import print_per_class, write_report
from attnlab.study.search import tell
from attnlab.study.seeds import needs
from attnlab.study.trials import searched_seeds
from attnlab.sweep import more
from attnlab.tracking import dashboard, mirror
from tests.study.points import write_point
from tests.study.searched import DESIGNS, TRAINER, best, confirm


@pytest.fixture
def study(whole_search, tmp_path):
    """A search of 24 designs, of which one failed, with its random search and the confirmation of both."""
    shutil.copytree(whole_search.parent, tmp_path, dirs_exist_ok=True)
    return tmp_path / "demo"


@pytest.fixture
def unconfirmed(study):
    """The search alone."""
    for name in ("demo-random", "demo-confirmed"):
        shutil.rmtree(study.with_name(name))
    told = trials_of(study)
    ledger.write_json(
        study / "search" / "trials.json", {k: v for k, v in told.items() if k not in ("random", "confirmed")}
    )
    return study


def trials_of(study):
    return json.loads((study / "search" / "trials.json").read_text(encoding="utf-8"))


def change(study, **changes):
    ledger.write_json(study / "search" / "trials.json", {**trials_of(study), **changes})


def fresh_results(home, folder):
    """result.json by seed of the confirmed points of a design that this search has found."""
    wanted = without_seed(home / folder)
    points = [point for point in home.with_name("demo-confirmed").glob("net-*") if without_seed(point) == wanted]
    return {ledger.read_json(p / "point.json")["identity"]["seed"]: ledger.read_json(p / "result.json") for p in points}


def without_seed(point):
    return {k: v for k, v in ledger.read_json(point / "point.json")["identity"].items() if k != "seed"}


def shown(capsys):
    return " ".join(capsys.readouterr().out.split())


def test_optimism_is_validation_at_selection_minus_test_over_fresh_seeds(study):
    written = trials_of(study)
    searched = tell(study)[0]["search"]
    own = [design for design in searched["designs"] if design["origin"] == "search"]
    assert [design["number"] for design in own] == [
        trial["number"] for folder in best(written) for trial in written["trials"] if trial["folder"] == folder
    ]
    gaps, selected = [], []
    for design, folder in zip(own, best(written), strict=True):
        trial = next(trial for trial in written["trials"] if trial["folder"] == folder)
        fresh = fresh_results(study, folder)
        assert sorted(fresh) == [1, 2, 3, 4]
        test = [result["test"]["accuracy"] for result in fresh.values()]
        gaps.append(trial["values"]["accuracy"] - fmean(test))
        selected.append(trial["values"]["accuracy"] - fmean(result["val"]["accuracy"] for result in fresh.values()))
        assert design["optimism"] == pytest.approx(gaps[-1])
        low, high = stats.t.interval(0.95, 3, fmean(test), stats.sem(test))
        assert design["test"]["half_width"] == pytest.approx((high - low) / 2)
    assert searched["optimism"] == {
        "mean": pytest.approx(fmean(gaps)), "of_selection": pytest.approx(fmean(selected)), "designs": 3,
    }  # fmt: skip


def test_the_search_against_random_search_is_paired_by_seed(study):
    homes = (study, study.with_name("demo-random"))
    own, other = ([fresh_results(home, folder) for folder in best(trials_of(home))] for home in homes)
    expected = {}
    for what, n in (("best", 1), ("mean", 3)):
        ours, theirs = (
            [fmean(design[seed]["test"]["accuracy"] for design in designs[:n]) for seed in (1, 2, 3, 4)]
            for designs in (own, other)
        )
        expected[what] = (fmean(ours) - fmean(theirs), stats.ttest_rel(ours, theirs).pvalue)
    found = {each["of"]: each for each in tell(study)[0]["search"]["random"]["against"]}
    smaller, larger = sorted(p for _, p in expected.values())
    holm = {smaller: min(1, 2 * smaller), larger: max(larger, min(1, 2 * smaller))}
    for what, (mean, p) in expected.items():
        assert found[what]["mean"] == pytest.approx(mean)
        assert found[what]["p"] == pytest.approx(p)
        assert found[what]["p_holm"] == pytest.approx(holm[p])
        assert found[what]["n"] == 4


def test_history_and_fronts(study):
    trials = trials_of(study)["trials"]
    done = [trial for trial in trials if trial["state"] == "done"]
    searched = tell(study)[0]["search"]
    numbers = range(24)
    so_far = [max((t["values"]["accuracy"] for t in done if t["number"] <= n), default=None) for n in numbers]
    assert [step["best"] for step in searched["history"]["by_trial"]] == so_far
    assert searched["history"]["by_trial"][-1]["epochs"] == sum(t["epochs"] for t in trials) == searched["epochs"]
    for cost in ("macs", "parameters", "latency_ms"):
        front = {
            trial["number"]
            for trial in done
            if not any(
                other["values"]["accuracy"] >= trial["values"]["accuracy"]
                and other["values"][cost] <= trial["values"][cost]
                and (other["values"]["accuracy"], other["values"][cost])
                != (trial["values"]["accuracy"], trial["values"][cost])
                for other in done
            )
        }
        assert set(searched["fronts"][cost]) == front
    times = [ledger.read_json(study / trial["folder"] / "status.json") for trial in trials]
    for number, (trial, status) in enumerate(zip(trials, times, strict=True)):  # the last trial ended first
        if trial["state"] in ("done", "paused"):
            ledger.write_json(
                study / trial["folder"] / "status.json", {**status, "state": "done", "ended": 100.0 - number}
            )
            ledger.write_json(study / trial["folder"] / "result.json", {})
    history = tell(study)[0]["search"]["history"]
    assert [step["number"] for step in history["by_epoch"]][:3] == [23, 22, 21]
    bests = [step["best"] for step in history["by_epoch"] if step["best"] is not None]
    assert bests == sorted(bests)
    assert [step["best"] for step in history["by_trial"]] == so_far


def test_what_is_confirmed_comes_first_and_labels_are_the_same(study, capsys, undrawn):
    (study / "search" / "best.txt").write_text("stem\n └─ [red]block[/red] se \x1b[31m\n", encoding="utf-8")
    told = write_report(study)
    text = shown(capsys)
    assert text.index("winner's-curse estimates") < text.index("confirmed: test accuracy with fresh seeds (1, 2, 3, 4)")
    assert text.index("confirmed: test") < text.index("optimism: +2.4 points") < text.index("searched: 24 designs")
    assert (
        "random search (demo-random, 53 epochs): of 24 trials the best in validation is se ratio=4 init=authors" in text
    )
    assert (
        "searched: 24 designs: 12 trained to the end, 5 stopped at epoch 1, 6 stopped at epoch 2, 1 failed; "
        "65 epochs, 68 % of what training all to the end would take" in text
    )
    assert "passed over before training: 9 macs<=1.05x, 3 known already" in text
    assert "attention.ratio 31 %" in text
    assert "└─ [red]block[/red] se ?[31m" in text
    assert "one pair" not in text
    assert "not in the tables" not in text
    assert text.endswith("Confirmed with fresh seeds: se ratio=16 init=identity is better than none: +2.7 ± 0.6 points "
                         "for 1.0 % more parameters.")  # fmt: skip
    labels = {row["id"]: row["label"] for row in told["variants"]}
    for design in told["search"]["designs"]:
        assert labels[design["id"]].removesuffix(" (random search)") == design["label"]
    write_report(study.with_name("demo-random"))
    assert f"This is the random search beside {study}, whose report has what is confirmed of both." in shown(capsys)
    ordinary = read_study(study.with_name("demo-confirmed"))
    assert len(ordinary.variants) == len(told["variants"])
    write_report(study.with_name("demo-confirmed"))
    text = shown(capsys)
    assert "outputs" not in text
    assert "demo-confirmed: test accuracy, best first" in text
    assert "searched" not in text


def test_each_format(study, capsys, undrawn):
    outputs = {}
    for form in ("md", "csv", "json", "latex"):
        write_report(study, form)
        outputs[form] = capsys.readouterr().out
    rows = list(csv.DictReader(outputs["csv"].splitlines()))
    assert [row["origin"] for row in rows].count("random") == 24
    assert {row["state"] for row in rows} == {"done", "paused", "failed"}
    designs = {row["folder"]: row for row in rows if row["origin"] == "search"}
    first = designs[best(trials_of(study))[0]]
    assert float(first["optimism"]) == pytest.approx(
        float(first["validation_accuracy"]) - float(first["confirmed_test_accuracy"])
    )
    assert first["attention"] == "se"
    assert first["confirmed_verdict"] == "better"
    assert sum(bool(row["optimism"]) for row in designs.values()) == 3
    told = json.loads(outputs["json"], parse_constant=pytest.fail)
    assert len(told["variants"]) == 6  # what may be cited
    assert len(told["search"]["trials"]) == 24
    assert "seeds 1, 2" not in told["methods"]
    assert (
        "in 24 trials of one seed each, by validation accuracy. Successive halving stopped the worse designs after "
        "1, 2 of 4 epochs (ASHA's rule, decided a batch of designs at a time). "
        "The best 3 designs and the bare network were then trained anew with 4 fresh "
        "seeds" in told["methods"]
    )
    assert "Main effects" not in told["methods"]
    assert outputs["md"].startswith("# demo\n\n**Confirmed with fresh seeds: se ratio=16")
    assert (
        "| se ratio=16 init=identity | 90.2 | 87.5 ± 1.7 | +2.7 | +2.7 ± 0.6 | 0.6 | .004 | better |" in outputs["md"]
    )
    table = outputs["latex"].splitlines()
    assert table[6].startswith(r"se ratio=16 init=identity & \boldmath$87.5 \pm 1.7$ & 4 & $+2.7 \pm 0.6$")
    assert "90.2" not in outputs["latex"]  # a search's numbers are for no paper


def test_what_was_found_after_the_confirmation_is_named(study, capsys, undrawn):
    write_report(study, "md")
    assert "but not confirmed" not in capsys.readouterr().out
    told = trials_of(study)
    first, *others = told["confirmed"]["designs"]
    change(study, confirmed={**told["confirmed"], "designs": others})
    for point in study.with_name("demo-confirmed").glob("net-*"):
        if without_seed(point) == without_seed(study / first):
            shutil.rmtree(point)
    capsys.readouterr()
    write_report(study, "md")
    text = capsys.readouterr().out
    (trial,) = (trial for trial in told["trials"] if trial["folder"] == first)
    better = f"(trial {trial['number']}, {100 * trial['values']['accuracy']:.1f})"
    (line,) = (line for line in text.split("\n\n") if "but not confirmed" in line)
    assert line.startswith(
        f"better in validation than confirmed ones, but not confirmed: se ratio=16 init=identity {better}; "
    )
    assert "the search's command with confirm=4 confirms the best again" in text


def test_a_search_in_progress_tells_what_there_is(unconfirmed, tmp_path, capsys, undrawn):
    study = unconfirmed
    first = [{**trial, "state": "running"} if trial["number"] == 11 else trial for trial in trials_of(study)["trials"]]
    change(study, importance={}, trials=first[:12])
    for trial in first[12:]:
        shutil.rmtree(study / trial["folder"])
    ledger.set_status(study / first[11]["folder"], "running")
    write_report(study)
    text = shown(capsys)
    assert "confirmed: nothing. Type the search's command again with confirm=4 (attnlab search … confirm=4)" in text
    assert "searched: 12 of 24 designs: " in text
    assert "1 killed" in text  # trials.json says running, but there is no process
    assert "importance of the dimensions: unknown" in text
    assert (
        "Nothing is confirmed yet. Of 12 trials the best in validation is eca ratio=8 init=authors: accuracy 8" in text
    )
    assert "which cannot be cited." in text
    with pytest.raises(InputError, match="nothing is confirmed yet that attention=se could be compared with"):
        write_report(study, baseline={"attention": "se"})
    write_report(study, "latex")
    assert capsys.readouterr().out == "% nothing is confirmed yet, and what was only searched cannot be cited\n"
    write_report(study, "html")
    assert "Type the search's command again" in capsys.readouterr().out
    change(study, settings={"confirm": 8})
    write_report(study)
    assert "when the search has ended it trains its best designs and the bare network with 8 fresh seeds" in shown(
        capsys
    )
    change(study, confirmed={"study": "demo-confirmed", "designs": best(trials_of(study)), "seeds": [1, 2]})
    for seed in (1, 2):
        write_point(tmp_path / "demo-confirmed", "none", seed, None, state="pending", trainer=TRAINER)
    write_report(study)
    assert f"confirmed: nothing yet: {tmp_path}/demo-confirmed: no finished points (2 pending)" in shown(capsys)
    confirm(tmp_path / "demo-confirmed", DESIGNS[0], seeds=(1, 2))
    confirm(tmp_path / "demo-confirmed", trials_of(study)["trials"][4]["params"], seeds=(1,))
    write_report(study)
    assert "not confirmed yet: " in shown(capsys)


def test_before_any_design_is_trained_to_the_end(unconfirmed, tmp_path, capsys, undrawn):
    study = unconfirmed
    early = [{**trial, "state": "paused", "epochs": 1, "values": {}} for trial in trials_of(study)["trials"][6:]]
    change(study, trials=[{**trial, "rungs": {"1": trial["rungs"]["1"]}} for trial in early])
    write_report(study)
    assert "by validation" not in (text := shown(capsys))
    assert "0 trained to the end, 18 stopped at epoch 1" in text
    assert " % after 1 epoch, which cannot be cited" in text
    change(study, trials=[{**early[0], "rungs": {}, "state": "running", "epochs": 0}])
    write_report(study, "md")
    assert "Nothing is found yet: no trial has a validation result." in shown(capsys)
    change(study, trials=[])
    with pytest.raises(InputError, match="the search has no trials yet"):
        write_report(study)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "trials.json is missing"),
        ("", "trials.json is empty"),
        ('{"trials": [', "trials.json is truncated or overwritten: "),
        ('{"trials": 7}', "trials.json: trials is 7, must be a list"),
        ('{"trials": [{"number": 0, "state": "done", "values": {"accuracy": "high"}}]}',
         "trials.json: trials[0].values.accuracy is 'high', must be a number or null"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_told_and_the_rest_reported(study, capsys, undrawn, content, words):
    file = study / "search" / "trials.json"
    file.unlink()
    if content is not None:
        file.write_text(content, encoding="utf-8")
    told = write_report(study)
    text = shown(capsys)
    assert text.count(f"warning: {study}/search/{words}") == 1
    assert "confirmed: test accuracy with fresh seeds (1, 2, 3, 4)" in text
    assert "searched: 24 designs" in text
    assert told["search"]["random"]["against"]


def test_a_damaged_point_or_value_is_no_end(study, capsys, undrawn):
    trials = trials_of(study)["trials"]
    trials[0]["values"] = {"accuracy": float("nan"), "macs": None}
    trials[0]["rungs"] = {"1": None}
    trials[1].pop("folder")
    shutil.rmtree(study / trials[2]["folder"])
    (study / trials[3]["folder"] / "point.json").write_text("{", encoding="utf-8")
    change(study, trials=trials, random={"study": "gone"})
    write_point(study, "se", 9, 0.9)
    write_report(study)
    text = shown(capsys)
    assert "the folders of these trials are gone or damaged: 2, 3" in text
    assert f"{study.parent}/gone: the random search's trials are gone" in text
    assert "2 points of " in text
    assert "are no trials of the search: they are not told here" in text


def test_of_a_loss_the_lower_is_better(tmp_path, capsys, undrawn):
    study = tmp_path / "demo"
    trainer = {**TRAINER, "monitor": "loss"}
    trials = []
    for number, loss in enumerate((0.5, 0.3, 0.4)):
        folder = write_point(study, "se", 0, 0.8, ratio=float(number), trainer=trainer)
        trials.append(
            {"number": number, "folder": folder.name, "state": "done", "epochs": 4, "values": {"accuracy": loss}}
        )
        for seed in (1, 2):
            point = write_point(
                tmp_path / "demo-confirmed",
                "se",
                seed,
                0.8,
                ratio=float(number),
                trainer=trainer,
                others={"loss": 0.45},
            )
            ledger.write_json(point / "result.json", {**ledger.read_json(point / "result.json"), "val": {"loss": 0.4}})
    confirmed = {"study": "demo-confirmed", "designs": [trials[1]["folder"]], "seeds": [1, 2]}
    ledger.write_json(study / "search" / "trials.json", {"trials": trials, "confirmed": confirmed})
    told, _ = tell(study, metric="loss")
    assert told["search"]["ranked"] == [1, 2, 0]
    assert told["search"]["optimism"]["mean"] == pytest.approx(0.15)
    assert told["search"]["optimism"]["of_selection"] == pytest.approx(0.1)
    write_report(study, "md", metric="loss")
    assert "optimism: +0.150 nats" in capsys.readouterr().out
    with pytest.raises(InputError, match="--metric f3: no such metric"):
        tell(study, metric="f3")


def test_more_seeds_are_for_confirmed_designs_and_fresh(unconfirmed, tmp_path, capsys):
    study = unconfirmed
    for judge in (lambda: more.plan_round(study, 20, {}, ["hydra/launcher=local"]), lambda: print_per_class(study)):
        with pytest.raises(InputError, match=r"is a search, whose designs have one seed each; .*: add confirm=4 to"):
            judge()
    confirmed = tmp_path / "demo-confirmed"
    for seed, luck in ((1, 0.01), (2, 0.03)):
        write_point(confirmed, "none", seed, 0.8, trainer=TRAINER)
        write_point(confirmed, "se", seed, 0.8 + luck, ratio=4.0, trainer=TRAINER)
    with pytest.raises(InputError, match=r"attnlab more .*demo-confirmed"):
        more.plan_round(study, 20, {}, ["hydra/launcher=local"])
    assert searched_seeds(confirmed) == {0}
    ((need,), _) = needs(read_study(confirmed), {"attention": "none"})
    assert need.seeds == [3]  # not 0, the search's own
    shutil.rmtree(study)
    ((need,), _) = needs(read_study(confirmed), {"attention": "none"})
    assert need.seeds == [0]


def test_a_report_of_a_search_needs_neither_torch_nor_optuna(study):
    code = f"""
import sys
from attnlab.cli import main
assert main(["report", {str(study)!r}, "--format", "csv"]) == 0
heavy = {{"torch", "lightning", "hydra", "wandb", "optuna", "matplotlib"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)


def test_wandb_shows_what_was_searched_apart(study):
    told, _ = tell(study)
    assert len(mirror.leaderboard(told)) == 6
    assert mirror.headline(told)["search/optimism"] == pytest.approx(0.024, abs=0.001)
    made = dashboard.make(told, {"project": "p", "entity": ""})
    spec = json.dumps(made["report"]._to_model().model_dump(mode="json", by_alias=True, exclude_none=True))
    assert "winner's-curse" in spec
    assert "best/val_accuracy" in spec
    assert "Accuracy over macs" not in spec
    assert "| se ratio=16 init=identity | 87.5 ± 1.7 | 4 | +2.7 ± 0.6 | better |" in spec.encode().decode(
        "unicode_escape"
    )
