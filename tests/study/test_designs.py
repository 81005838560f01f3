"""Designs of several placements: their labels, factors, effects, baselines and costs."""

import itertools
import shutil

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf

from attnlab.errors import InputError
from attnlab.study import designs, report
from attnlab.study.analysis import analyse
from attnlab.study.collect import baselines, read_study
from attnlab.study.texts import written
from tests.study.designs import attention, config, sites, write_by_stage, write_design


def labels(root):
    return [variant.label for variant in read_study(root).variants]


def levels(root):
    return {variant.label: variant.levels for variant in read_study(root).variants}


def compared(root, **wanted):
    study = read_study(root)
    found = zip(study.variants, baselines(study, wanted), strict=True)
    return {variant.label: base and base.label for variant, base in found}


def test_places_are_factors_and_stages_that_are_alike_are_one(tmp_path):
    root = tmp_path / "s"
    for stages in ["none" * 4, "se" * 4, "cbam" * 4]:
        write_by_stage(root, *([stages[: len(stages) // 4]] * 4))
    write_by_stage(root, "se", "se", "cbam", "cbam")
    assert levels(root) == {
        "none": {"stages 1-2": "none", "stages 3-4": "none"},
        "se": {"stages 1-2": "se", "stages 3-4": "se"},
        "cbam": {"stages 1-2": "cbam", "stages 3-4": "cbam"},
        "se+cbam": {"stages 1-2": "se", "stages 3-4": "cbam"},
    }
    write_by_stage(root, "se", "se", "cbam", "none")  # se+cbam no longer tells all apart
    assert levels(root)["se 1-2 + cbam 3-4"] == {"stages 1-2": "se", "stage 3": "cbam", "stage 4": "cbam"}
    assert set(labels(root)) == {"cbam", "none", "se", "se 1-2 + cbam 3-4", "se 1-2 + cbam 3"}


def test_without_such_a_design_attention_and_sites_are_the_factors(tmp_path):
    write_by_stage(tmp_path / "s", "none", "se")
    write_by_stage(tmp_path / "s", "se", "se")
    study = read_study(tmp_path / "s")
    assert study.designs is None
    assert {v.label for v in study.variants} == {"se sites.stages=[2]", "se sites.stages=all"}


def test_settings_are_of_a_place_unless_designs_have_them_throughout(tmp_path):
    root = tmp_path / "common"
    for ratio in (4.0, 16.0):
        write_by_stage(root, "se", "cbam", ratio=ratio)
        write_by_stage(root, "se", "se", ratio=ratio)
    assert levels(root)["se+cbam ratio=4"] == {"stage 2": "cbam", "attention.ratio": "4"}  # stage 1 is se in all
    root = tmp_path / "own"
    for early, late in itertools.product((4.0, 16.0), repeat=2):
        nodes = [(attention("se", ratio=early), sites(stages=[1])), (attention("se", ratio=late), sites(stages=[2, 3]))]
        write_design(root, *(nodes if early != late else [(attention("se", ratio=early), sites())]))
    assert levels(root)["se 1 ratio=4 + se 2-3 ratio=16"] == {"stage 1 ratio": "4", "stages 2-3 ratio": "16"}
    assert levels(root)["se ratio=4"] == {"stage 1 ratio": "4", "stages 2-3 ratio": "4"}


def test_roles_blocks_and_modules_are_places(tmp_path):
    root, se, cbam = tmp_path / "s", attention("se"), attention("cbam")
    write_design(root, (se, sites()), (attention("eca"), sites("stem")))
    write_design(root, (se, sites(stages=[1, 2])), (cbam, sites("shortcut", [2])))
    write_design(root, (se, sites(stages=[1], blocks="first")), (cbam, sites(stages=[1], blocks=[2, 3])))
    write_design(root, (se, sites("module", names="a.*")), (cbam, sites("module", names=["b", "c"])))
    write_design(root)
    found = levels(root)
    blocks = {"branch stage 1 blocks 2+3": "none", "branch stage 1 blocks first": "none", "branch stage 2": "none"}
    rest = {"module a.*": "none", "module b+c": "none", "shortcut stage 2": "none", "stem": "none"}
    everywhere = dict.fromkeys(blocks, "se")
    assert found == {
        "none": {**blocks, **rest},
        "se branch + eca stem": {**everywhere, **rest, "stem": "eca"},
        "se branch 1-2 + cbam shortcut 2": {**everywhere, **rest, "shortcut stage 2": "cbam"},
        "cbam branch 1 blocks 2+3 + se branch 1 blocks first": {
            **blocks, **rest, "branch stage 1 blocks 2+3": "cbam", "branch stage 1 blocks first": "se"
        },
        "se module a.* + cbam module b+c": {**blocks, **rest, "module a.*": "se", "module b+c": "cbam"},
    }  # fmt: skip


def test_stages_that_no_design_names_tell_apart_if_nothing_else_does(tmp_path):
    root, se, cbam = tmp_path / "s", attention("se"), attention("cbam")
    write_design(root, (se, sites()))
    write_design(root, (se, sites(stages=[1, 2])))
    write_design(root, (se, sites(stages=[1])), (cbam, sites(stages=[2])))
    assert levels(root) == {
        "se": {"stage 2": "se", "other stages": "se"},
        "se 1-2": {"stage 2": "se", "other stages": "none"},
        "se 1 + cbam 2": {"stage 2": "cbam", "other stages": "none"},
    }


def test_a_baseline_is_equal_at_all_other_places(tmp_path):
    root = tmp_path / "s"
    for stages in itertools.product(["none", "se", "cbam"], repeat=3):
        write_by_stage(root, *stages)
    bare = compared(root, attention="none")
    assert bare.pop("none") is None
    assert set(bare.values()) == {"none"}
    assert len(bare) == 26
    at_3 = compared(root, **{"stage 3": "se"})
    assert at_3["cbam 1 + se 2"] == "cbam 1 + se 2-3"
    assert at_3["cbam"] == "cbam 1-2 + se 3"
    assert at_3["none"] == "se 3"
    assert at_3["se 3"] is None
    se = compared(root, attention="se")  # wherever there is one
    assert se["cbam 1 + se 2"] == "se 1-2"
    assert se["cbam 3"] == "se 3"
    assert se["cbam"] == "se"
    assert se["none"] is None  # many could serve
    whole = compared(root, attention="se 1-2 + cbam 3")
    assert set(whole.values()) == {None, "se 1-2 + cbam 3"}
    study = read_study(root)
    with pytest.raises(InputError, match=r"baseline stage 4=se: no such factor here"):
        baselines(study, {"stage 4": "se"})
    with pytest.raises(InputError, match="baseline stage 3=eca: no such level here"):
        baselines(study, {"stage 3": "eca"})
    with pytest.raises(InputError, match="baseline attention=eca: no such level here"):
        baselines(study, {"attention": "eca"})


def test_a_stage_names_those_that_are_like_it(tmp_path):
    root = tmp_path / "s"
    for late, ratio in itertools.product(("se", "cbam"), (4.0, 8.0)):
        write_design(root, (attention("eca"), sites(stages=[1])), (attention(late, ratio=ratio), sites(stages=[2, 3])))
    assert compared(root, **{"stage 3": "se"})["eca+cbam ratio=4"] == "eca+se ratio=4"
    assert compared(root, ratio="4")["eca+cbam ratio=8"] == "eca+cbam ratio=4"


def test_effects_of_places_are_those_of_least_squares(tmp_path):
    """Of 20 of 27 designs, against statsmodels within each seed."""
    root, random, rows = tmp_path / "s", np.random.default_rng(0), []
    chosen = random.permutation([*itertools.product(["none", "se", "cbam"], repeat=3)])[:20].tolist()
    for seed, stages in itertools.product(range(3), chosen):
        value = 0.8 + 0.05 * (stages[2] == "cbam") + 0.02 * (stages[0] == "se") + 0.01 * random.normal()
        write_by_stage(root, *stages, seed=seed, accuracy=value)
        rows.append({**dict(zip("abc", stages, strict=True)), "seed": seed, "y": value})
    told = analyse(read_study(root))
    tables = {table["factor"]: table for table in told["tables"]}
    assert list(tables) == ["stage 1", "stage 2", "stage 3"]
    assert not any("too few" in text for text in told["untold"])
    data = pd.DataFrame(rows)
    pairs = [term["factors"] for term in told["interactions"]]
    names = {"stage 1": "a", "stage 2": "b", "stage 3": "c"}
    terms = [*(f"C({n}, Sum)" for n in "abc"), *(f"C({names[x]}, Sum):C({names[y]}, Sum)" for x, y in pairs)]
    fits = [smf.ols("y ~ " + " + ".join(terms), part).fit().params for _, part in data.groupby("seed")]
    for factor, name in names.items():
        for level in tables[factor]["levels"]:
            own = [fit.get(f"C({name}, Sum)[S.{level['level']}]") for fit in fits]
            if own[0] is not None:  # the last one is minus the others
                assert level["effect"] == pytest.approx(np.mean(own), abs=1e-9)
    best = max(tables["stage 3"]["levels"], key=lambda level: level["effect"])
    assert best["level"] == "cbam"
    assert best["effect"] == pytest.approx(2 / 3 * 0.05, abs=0.01)


def test_where_designs_are_too_few_the_whole_design_is_the_factor(tmp_path):
    root = tmp_path / "s"
    for seed, epochs in itertools.product(range(2), (3, 6)):
        for i, stages in enumerate([("none", "none"), ("se", "se"), ("cbam", "cbam"), ("se", "cbam")]):
            write_by_stage(root, *stages, seed=seed, epochs=epochs, accuracy=0.7 + 0.02 * i + 0.001 * seed * i)
    told = analyse(read_study(root))
    assert "stage 1, stage 2: the designs are too few to tell the effects of the places apart" in told["untold"]
    tables = {table["factor"]: table for table in told["tables"]}
    assert list(tables) == ["attention", "trainer.max_epochs"]
    means = {level["level"]: level["mean"] for level in tables["attention"]["levels"]}
    assert means == {
        "none": pytest.approx(0.7), "se": pytest.approx(0.7205), "cbam": pytest.approx(0.741),
        "se+cbam": pytest.approx(0.7615),
    }  # fmt: skip
    assert sorted(told["factors"]["attention"]) == sorted(means)
    assert {row["factors"]["attention"] for row in told["variants"]} == set(means)
    for folder in root.glob("*"):  # nothing else varies
        if "max_epochs" in (text := (folder / "point.json").read_text()) and '"max_epochs": 6' in text:
            shutil.rmtree(folder)
    told = analyse(read_study(root))
    assert told["tables"] == []
    assert "attention" not in told["factors"]


def test_a_settings_effect_is_among_what_has_it(tmp_path):
    root = tmp_path / "s"
    for seed, late, ratio in itertools.product(range(2), ("se", "cbam"), (4.0, 8.0)):
        early = (attention("se", ratio=16.0), sites(stages=[1]))
        write_design(
            root, early, (attention(late, ratio=ratio), sites(stages=[2])), seed=seed, accuracy=0.8 + 0.01 * seed
        )
    write_by_stage(root, "se", "none")
    terms = {table["factor"]: table["among"] for table in analyse(read_study(root))["tables"]}
    assert terms == {"stage 2": "", "stage 2 ratio": "stage 2=cbam, se"}


def test_a_wider_bare_network_is_of_equal_cost(tmp_path, undrawn, capsys):
    root = tmp_path / "s"
    for seed in range(3):
        write_by_stage(root, "none", "none", seed=seed, accuracy=0.7, width=1.0)
        write_by_stage(root, "se", "cbam", seed=seed, accuracy=0.8 + 0.01 * seed, parameters=1100, width=1.0)
        write_by_stage(root, "none", "none", seed=seed, accuracy=0.75, parameters=1101, width=1.1)
    told = report.write_report(root)
    (row,) = [row for row in told["variants"] if row["equal_cost"]]
    assert (row["label"], row["equal_cost"]["label"]) == ("se+cbam", "none backbone.width=1.1")
    assert row["difference"]["mean"] == pytest.approx(0.11)
    assert told["headline"].startswith("se+cbam is better than none on these images: +11.0")
    out = " ".join(capsys.readouterr().out.split())
    assert "Numbers after an attention are stages. se+cbam is se 1 + cbam 2." in out
    assert r"se+cbam & $81.0 \pm" in (root / "report.tex").read_text()
    assert "| se+cbam |" in (root / "report.md").read_text()
    assert '"stage 1": "se"' in (root / "report.json").read_text()
    assert '"placements":{"branch 1":{"attention":{"_target_":"x.SE"' in (root / "report.html").read_text()


def test_what_a_comparison_also_differs_in_is_told_by_place(tmp_path):
    root, cbam = tmp_path / "s", attention("cbam", bias=False)
    write_design(root, (attention("se", bias=True), sites()))
    write_design(root, (attention("se", bias=True), sites(stages=[1])), (cbam, sites(stages=[2])))
    told = analyse(read_study(root), {"attention": "se"})
    assert "se+cbam and its baseline se also differ in: stage 2 attention.bias (false, true)" in told["warnings"]


def test_hybrids_are_told_by_their_parts(tmp_path):
    root = tmp_path / "s"
    for parts in (["eca", "spatial"], ["se", "spatial"]):
        node = attention("sequence", parts=[{"name": f"x.{part}"} for part in parts])
        write_design(root, (node, sites(stages=[1])), (attention("se"), sites(stages=[2])))
    assert set(labels(root)) == {"sequence eca+spatial 1 + se 2", "sequence se+spatial 1 + se 2"}


def at_paths(study, variant, nodes, stages):
    """The levels of a variant as its W&B run's config has them, where the study says."""
    run, told = designs.by_place(config(study.folder, *nodes), stages), {}
    for factor in variant.levels:
        value = run
        for key in study.designs.paths.get(factor) or factor.split("."):
            value = value.get(key) if value else None
        told[factor] = "none" if value is None else value if isinstance(value, str) else written(value)
    return told


SE, CBAM, ECA = (attention(name, ratio=4.0) for name in ("se", "cbam", "eca"))
EARLY, LATE = (attention("se", ratio=4.0), sites(stages=[1])), (attention("se", ratio=8.0), sites(stages=[2, 3]))


@pytest.mark.parametrize(
    "several",
    [
        [
            [EARLY, LATE, (attention("eca"), sites("stem", blocks="first"))],
            [LATE, (attention("cbam", ratio=4.0), sites("stem"))],
            [EARLY, (attention("se", ratio=16.0), sites(stages=[2]))],
        ],
        [  # selections at one stage, of a placement at all
            [(SE, sites(blocks="first")), (CBAM, sites(stages=[2], blocks="last"))],
            [(ECA, sites(blocks="first")), (CBAM, sites(stages=[2], blocks="last"))],
            [(SE, sites(blocks="first")), (ECA, sites(stages=[2], blocks="last"))],
        ],
        [  # all stages, beside designs that name them
            [(SE, sites()), (ECA, sites("stem"))],
            [(CBAM, sites(stages=[1])), (SE, sites(stages=[2, 3])), (ECA, sites("stem"))],
        ],
        [  # stages that no design names
            [(SE, sites()), (ECA, sites("stem"))],
            [(SE, sites(stages=[1, 2])), (ECA, sites("stem"))],
            [(SE, sites(stages=[1])), (CBAM, sites(stages=[2])), (ECA, sites("stem"))],
        ],
        [  # names that differ in their signs only
            [(SE, sites(stages=[1], names=["a*"])), (CBAM, sites(stages=[1], names=["a?"]))],
            [(SE, sites(stages=[1], names=["a*"])), (ECA, sites(stages=[1], names=["a?"]))],
            [(ECA, sites(stages=[1], names=["a*"])), (CBAM, sites(stages=[1], names=["a?"]))],
        ],
        [  # a setting of one placement, which the others have, too
            [(attention("se", ratio=ratio), sites(stages=[1])), (attention("cbam", ratio=16.0), sites(stages=[2]))]
            for ratio in (4.0, 8.0)
        ],
    ],
)
def test_the_config_of_a_run_has_the_factors_where_the_study_says(tmp_path, several):
    root, stages = tmp_path / "s", {"branch": [1, 2, 3], "stem": [0]}
    folders = [write_design(root, *nodes) for nodes in several]
    study = read_study(root)
    found = {next(iter(v.points.values())).folder: v for v in study.variants}
    for folder, nodes in zip(folders, several, strict=True):
        assert found[folder].levels == at_paths(study, found[folder], nodes, stages)
        assert set(found[folder].levels) - {"attention.ratio"}
    assert len({str(v.levels) for v in study.variants}) == len(several)


def test_a_setting_that_varies_at_one_place_is_that_ones_alone(tmp_path):
    root = tmp_path / "ratio"
    late = (attention("cbam", ratio=16.0), sites(stages=[2]))
    for ratio in (4.0, 8.0):
        write_design(root, (attention("se", ratio=ratio), sites(stages=[1])), late)
        write_design(root, (attention("se", ratio=ratio), sites()))
    assert levels(root) == {
        "se 1 ratio=4 + cbam 2": {"stage 2": "cbam", "stage 1 ratio": "4"},
        "se 1 ratio=8 + cbam 2": {"stage 2": "cbam", "stage 1 ratio": "8"},
        "se ratio=4": {"stage 2": "se", "stage 1 ratio": "4", "stage 2 ratio": "4"},
        "se ratio=8": {"stage 2": "se", "stage 1 ratio": "8", "stage 2 ratio": "8"},
    }
    for key, values in {"merge": ("scale", "concat"), "blocks": ("all", [1])}.items():
        root = tmp_path / key
        for value in values:
            write_design(root, (attention("se"), sites(stages=[1], **{key: value})), late)
        assert levels(root) == {
            f"se 1 {key}={written(value)} + cbam 2": {f"stage 1 {key}": written(value)} for value in values
        }


def test_selections_that_may_overlap_are_a_warning(tmp_path):
    first, last, two = (
        [sites(stages=[1], blocks=blocks) for blocks in pair] for pair in (["first", [2, 3]], ["last", [1]], [[1, 2]])
    )
    root = tmp_path / "apart"
    write_design(root, *zip((SE, CBAM), first, strict=True))
    write_design(root, *zip((ECA, SE), first, strict=True))
    assert not any("may share sites" in text for text in analyse(read_study(root))["warnings"])
    write_design(root, (ECA, two[0]))
    (text,) = [text for text in analyse(read_study(root))["warnings"] if "may share sites" in text]
    assert text == (
        "places that may share sites: stage 1 blocks 1+2 and stage 1 blocks 2+3; stage 1 blocks 1+2 and stage 1 "
        "blocks first: a design counts only where it names a place so, or has all of it"
    )
    root = tmp_path / "last"
    write_design(root, *zip((SE, CBAM), last, strict=True))
    write_design(root, (ECA, first[1]))
    (text,) = [text for text in analyse(read_study(root))["warnings"] if "may share sites" in text]
    assert "stage 1 blocks 2+3 and stage 1 blocks last:" in text


@pytest.mark.parametrize(
    ("placement", "words"),
    [
        ((attention("se", ratio=8.0, gate="sigmoid"), sites(stages=[1, 2, 4])), "se ratio=8 at branch 1-2+4"),
        ((attention("eca", ratio=None), sites("stem", merge="concat")), "eca at stem merge=concat"),
        (
            (attention("sequence", parts=[{"name": "x.eca"}, {"name": "x.spatial"}]), sites(stages=[1], blocks=[1, 2])),
            "sequence eca+spatial at branch 1 blocks 1+2",
        ),
        ((attention("se"), sites("module", names="a.*", exclude=["a.b"])), "se at module a.* without a.b"),
    ],
)
def test_a_placement_in_words(placement, words):
    assert designs.in_words(dict(zip(("attention", "sites"), placement, strict=True))) == words
