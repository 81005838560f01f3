"""Points' folders to variants, their labels and levels."""

import pytest

from attnlab import ledger
from attnlab.errors import InputError
from attnlab.study import factors
from attnlab.study.collect import baselines, read_study
from tests.study.points import write_point


def test_labels_tell_apart_what_differs(tmp_path):
    root = tmp_path / "data"
    write_point(root, "none", 0, 0.9, data={"name": "d", "_target_": "x.Digits", "seed": 0})
    write_point(root, "none", 0, 0.9, data={"name": "d", "_target_": "x.Digits", "seed": 1})
    write_point(root, "none", 0, 0.9, data={"name": "c", "_target_": "x.Clutter", "canvas": 40})
    study = read_study(root)
    labels = {variant.label for variant in study.variants}
    assert labels == {"none data=Digits data.seed=0", "none data=Digits data.seed=1", "none data=Clutter"}
    assert study.factors == {"data": ["Clutter", "Digits"], "data.seed": ["0", "1"]}

    root = tmp_path / "loss"
    write_point(root, "none", 0, 0.9, loss={"l2": None})
    write_point(root, "none", 0, 0.9, loss={"l2": {"stem": 0.01}})
    write_point(root, "none", 0, 0.9, loss={"l2": None}, trainer={"max_epochs": 3, "accumulate_grad_batches": 2})
    labels = [variant.label for variant in read_study(root).variants]
    assert len(set(labels)) == 3
    assert "none loss.l2.stem=0.01" in labels

    root = tmp_path / "s"
    for sites in ("branch", "block"):
        for ratio in (4.0, 16.0):
            write_point(root, "se", 0, 0.9, sites=sites, ratio=ratio)
    study = read_study(root)
    assert {variant.label for variant in study.variants} == {
        f"se {sites} ratio={ratio}" for sites in ("branch", "block") for ratio in (4, 16)
    }
    assert {tuple(v.levels.items()) for v in study.variants} == {
        (("sites", sites), ("attention.ratio", ratio)) for sites in ("branch", "block") for ratio in ("4", "16")
    }


def test_what_most_backbones_have_is_not_in_the_labels(tmp_path):
    for name in ("se", "cbam", "none"):
        write_point(tmp_path / "s", name, 0, 0.9, backbone={"width": 1.0})
    write_point(tmp_path / "s", "none", 0, 0.9, backbone={"width": 1.1})
    assert {v.label for v in read_study(tmp_path / "s").variants} == {"se", "cbam", "none", "none backbone.width=1.1"}


def test_a_default_of_another_class_is_no_factor(tmp_path):
    write_point(tmp_path / "s", "eca", 0, 0.9, kernel=3)
    write_point(tmp_path / "s", "spatial", 0, 0.9, kernel=7)
    assert read_study(tmp_path / "s").factors == {"attention": ["eca", "spatial"]}


def test_the_attentions_learning_rate_is_a_setting_of_the_attention(tmp_path):
    write_point(tmp_path / "s", "none", 0, 0.9)
    write_point(tmp_path / "s", "se", 0, 0.9)
    write_point(tmp_path / "s", "se", 0, 0.9, optimizer={"attention_lr_scale": 10.0})
    study = read_study(tmp_path / "s")
    assert {variant.label for variant in study.variants} == {
        "none",
        "se attention_lr_scale=1",
        "se attention_lr_scale=10",
    }
    assert [base and base.label for base in baselines(study, study.baseline)].count("none") == 2
    for variant in study.variants:  # settings are written as they are hashed
        folder = variant.points[0].folder
        assert variant.settings == ledger.without_seed(ledger.read_json(folder / "point.json")["identity"])


def test_compiled_attention_is_judged_against_the_bare_network(tmp_path):
    write_point(tmp_path / "s", "none", 0, 0.9)
    write_point(tmp_path / "s", "none", 0, 0.9, trainer={"max_epochs": 3, "compile": "network"})
    for compiled in ("attention", "network"):
        write_point(tmp_path / "s", "se", 0, 0.9, trainer={"max_epochs": 3, "compile": compiled})
    study = read_study(tmp_path / "s")
    bases = baselines(study, study.baseline)
    found = {variant.label: base and base.label for variant, base in zip(study.variants, bases, strict=True)}
    assert found == {
        "none trainer.compile=none": None,
        "none trainer.compile=network": None,
        "se torch.compile=attention trainer.compile=none": "none trainer.compile=none",
        "se torch.compile=none trainer.compile=network": "none trainer.compile=network",
    }


def test_an_attentions_own_setting_named_compile_is_a_factor(tmp_path):
    for own in (3, 4):
        write_point(tmp_path / "s", "mine", 0, 0.9, trainer={"max_epochs": 3, "compile": "attention"}, compile=own)
    assert read_study(tmp_path / "s").factors == {"attention.compile": ["3", "4"]}


def test_parts_of_a_hybrid_are_its_attention(tmp_path):
    for parts in (["eca", "spatial"], ["se", "spatial"]):
        write_point(tmp_path / "s", "sequence", 0, 0.9, parts=[{"name": f"x.{part}"} for part in parts])
    assert read_study(tmp_path / "s").factors == {"attention": ["sequence eca+spatial", "sequence se+spatial"]}


def test_levels_are_in_order():
    assert factors.in_order(["16", "4", "8"]) == ["4", "8", "16"]
    assert factors.in_order(["se", "none", "cbam"]) == ["none", "se", "cbam"]
    assert factors.in_order(["[3]", "[1]", "all", "[2]"]) == ["all", "[1]", "[2]", "[3]"]


def test_a_baseline_shares_all_that_both_have(tmp_path):
    root = tmp_path / "s"
    for epochs in (3, 6):
        trainer = {"max_epochs": epochs}
        write_point(root, "none", 0, 0.9, trainer=trainer)
        for attention in ("se", "cbam"):
            for ratio in (4.0, 16.0):
                write_point(root, attention, 0, 0.9, trainer=trainer, ratio=ratio)
    study = read_study(root)
    label = lambda variant: variant and variant.label  # noqa: E731
    bare = {v.label: label(b) for v, b in zip(study.variants, baselines(study, {"attention": "none"}), strict=True)}
    assert bare["se ratio=4 trainer.max_epochs=6"] == bare["cbam ratio=16 trainer.max_epochs=6"]
    assert bare["se ratio=4 trainer.max_epochs=6"] == "none trainer.max_epochs=6"
    assert bare["none trainer.max_epochs=6"] is None
    se = {v.label: label(b) for v, b in zip(study.variants, baselines(study, {"attention": "se"}), strict=True)}
    assert se["cbam ratio=16 trainer.max_epochs=3"] == "se ratio=16 trainer.max_epochs=3"
    assert se["none trainer.max_epochs=3"] is None  # two could serve
    one = {v.label: label(b) for v, b in zip(study.variants, baselines(study, {"ratio": "4"}), strict=True)}
    assert one["cbam ratio=16 trainer.max_epochs=3"] == "cbam ratio=4 trainer.max_epochs=3"


def test_nothing_finished_is_named(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        read_study(tmp_path / "no")
    write_point(tmp_path / "s", "se", 0, None, state="failed")
    with pytest.raises(InputError, match=r"no finished points \(1 failed\)"):
        read_study(tmp_path / "s")


def test_a_paused_point_is_named_and_not_judged(tmp_path):
    write_point(tmp_path, "none", 0, 0.9)
    folder = write_point(tmp_path, "se", 0, None, state="paused", curve=[0.5])
    ledger.set_status(folder, "paused", until=1)
    study = read_study(tmp_path)
    assert [variant.label for variant in study.variants] == ["none"]
    assert [tuple(vars(point).values()) for point in study.unfinished] == [(folder, "paused", "after epoch 1 of 3")]


def test_choices_of_one_class_are_told_by_their_names(tmp_path):
    """cbam and cbam_article: what differs between them is no factor, and not in their labels."""
    article = {"ratio": 8.0, "batchnorm": False, "gate": "hardsigmoid_keras2"}
    authors = {"ratio": 16.0, "batchnorm": True, "gate": "sigmoid"}
    write_point(tmp_path / "s", "none", 0, 0.7)
    for init in ("authors", "identity"):
        write_point(tmp_path / "s", "cbam", 0, 0.8, init=init, **authors)
    folder = write_point(tmp_path / "s", "cbam", 0, 0.8, sites="shortcut", init="he_normal", **article)
    about = ledger.read_json(folder / "point.json")
    ledger.write_json(folder / "point.json", {**about, "names": {**about["names"], "attention": "cbam_article"}})
    study = read_study(tmp_path / "s")
    labels = {variant.label for variant in study.variants}
    assert labels == {"none", "cbam branch init=authors", "cbam branch init=identity", "cbam_article shortcut"}
    assert set(study.factors) == {"attention", "sites", "attention.init"}
