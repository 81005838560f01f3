"""Figures of what the gates do and of which sites earn their cost, from what points have written."""

import pytest

from attnlab import ledger
from attnlab.study.attending import draw_ablation, draw_gates
from attnlab.study.collect import read_study
from tests.study.points import write_point


@pytest.fixture
def folders(tmp_path):
    """Two seeds of SE at two sites, with gates and ablation, and a bare point."""
    root = tmp_path / "s"
    write_point(root, "none", 0, 0.5)
    found = []
    for seed in (0, 1):
        folder = write_point(root, "se", seed, 0.6)
        rows = [
            {
                "epoch": epoch,
                "site": site,
                "gate": "gate",
                "mean": mean + 0.1 * seed,
                "spread": 0.02,
                "dead": 0.5 * epoch,
            }
            | {"saturated": float("nan")}
            for epoch in range(3)
            for site, mean in (("a", 0.4), ("b", 0.7))
        ]
        ledger.write_rows(folder / "gates.csv", rows)
        loss = {"a": 0.1 + 0.1 * seed, "b": 0.0, "all": 0.3}
        ablation = {"accuracy": 0.6, "mean_gate": {}, "one": loss, "interaction": {"one": 0.2 - 0.1 * seed}}
        ledger.write_json(folder / "explain.json", {"ablation": ablation})
        found.append(folder)
    return found


def told_of(study):
    return {"variants": [{"label": variant.label} for variant in study.variants]}


def test_a_line_is_the_mean_over_seeds(folders):
    study = read_study(folders[0].parent)
    figure = draw_gates(told_of(study), study)
    means, shares = figure.axes
    assert means.get_title() == "se"
    assert [line.get_ydata().tolist() for line in means.lines] == [pytest.approx([0.45] * 3), pytest.approx([0.75] * 3)]
    assert shares.lines[0].get_ydata().tolist() == [0, 0.5, 1]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


def test_ablation_has_a_row_for_each_site_all_and_interaction(folders):
    study = read_study(folders[0].parent)
    (axes,) = draw_ablation(told_of(study), study).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["interaction", "all", "b", "a"]
    dots = {round(y[0] + 0.12): x[0] for x, y in (line.get_data() for line in axes.lines) if len(x) == 1}
    assert dots == pytest.approx({0: 15, 1: 30, 2: 0, 3: 15})


def test_nothing_is_drawn_where_nothing_was_measured(folders):
    for folder in folders:
        (folder / "gates.csv").write_text("")  # damaged, which is told
        (folder / "explain.json").write_text("{")
    study = read_study(folders[0].parent)
    assert draw_gates(told_of(study), study) is None
    assert draw_ablation(told_of(study), study) is None
    damage = {damage for v in study.variants for point in v.points.values() for damage in point.damage}
    assert any(text.startswith("gates.csv is empty") for text in damage)
    assert any(text.startswith("explain.json is truncated") for text in damage)
