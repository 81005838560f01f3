"""sweep.equal_cost: bare backbones as wide as costs the same."""

import pytest

from attnlab.errors import InputError
from attnlab.sweep import equal_cost, plan
from attnlab.sweep.equal_cost import STEP

EQUAL = "sweep.equal_cost={parameters:backbone.width}"


def widened(planned):
    return [p for p in planned.points if p.config["sites"] is None and p.config["backbone"]["width"] > 1]


def test_widths_are_the_nearest_of_all(tmp_path):
    planned = plan.make(
        ["-m", "attention=none,se,cbam", "attention.ratio=16", "seed=0,1", EQUAL, f"output_dir={tmp_path}"]
    )
    assert len(planned.points) == 6 + 4
    targets = {p.cost.parameters for p in planned.points if p.config["sites"] is not None}
    found = {p.config["backbone"]["width"]: p.cost.parameters for p in widened(planned)}
    from attnlab.config.schema import check
    from attnlab.training.rehearsal import rehearse

    bare = next(p.config for p in planned.points if p.config["sites"] is None)
    base = next(p.cost.parameters for p in planned.points if p.config == bare)
    steps = [round(1 + i * STEP, 6) for i in range(20, 45)]
    configs = [check({**bare, "backbone": {**bare["backbone"], "width": width}}) for width in steps]
    costs = dict(zip(steps, [r.cost.parameters for r in rehearse(configs)], strict=True))
    for target in targets:
        best = min(abs(cost - target) for cost in costs.values())
        nearest = [width for width, cost in found.items() if abs(cost - target) == best]
        assert nearest, (target, found)
        assert costs[nearest[0]] == found[nearest[0]]
        assert costs.get(round(nearest[0] - STEP, 6)) != found[nearest[0]]  # the least width with these channels
        assert best <= 0.25 * (target - base)
    assert {p.config["seed"] for p in widened(planned)} == {0, 1}
    assert "of these, 4 are bare backbones widened to the cost of one with attention" in planned.collapsed


def test_a_mixed_design_has_one(tmp_path):
    design = ["attention=by_stage", "attention.stages=[none,se,se,cbam]", "attention.ratio=4"]
    planned = plan.make(["-m", *design, EQUAL, f"output_dir={tmp_path}"])
    (mixed,) = [point for point in planned.points if point.config["sites"] is not None]
    (wide,) = widened(planned)
    assert "placements" not in wide.config
    bare = 60_410  # as the README's demo has it
    assert abs(wide.cost.parameters - mixed.cost.parameters) <= 0.25 * (mixed.cost.parameters - bare)
    assert {point.variant for point in planned.points} == {
        "se+cbam backbone.width=1",
        f"none backbone.width={wide.config['backbone']['width']}",
    }


def test_one_that_costs_nothing_has_none():
    planned = plan.make(["-m", "attention=none,simam,eca", EQUAL])
    assert not widened(planned)
    assert planned.collapsed == [
        "attention=simam (60,410 parameters): no backbone.width costs the same to within 25% of what attention adds",
        "attention=eca (60,424 parameters): no backbone.width costs the same to within 25% of what attention adds",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["sweep.equal_cost={parameters:backbone.depth}"],
            "sweep.equal_cost: backbone.depth is not a width of backbone=mini_x",
        ),
        (["sweep.equal_cost={time:backbone.width}"], "sweep.equal_cost={.*}: must be 'parameters' or 'macs'"),
        (
            ["backbone=lenet5", "sites=unit", EQUAL],
            "sweep.equal_cost: backbone.width is not a width of backbone=lenet5",
        ),
    ],
)
def test_bad_input(words, message):
    with pytest.raises(InputError, match=message):
        plan.make(["-m", "attention=none,se", *words])


def test_data_are_looked_at_once(tmp_path, monkeypatch):
    from attnlab.data import ClutteredDigits

    looks = []
    monkeypatch.setattr(ClutteredDigits, "check", lambda data: looks.append(data))
    plan.make(["-m", "attention=none,se", "attention.ratio=16", "seed=0,1", EQUAL, f"output_dir={tmp_path}"])
    assert len(looks) == 1


def test_a_finished_study_finds_its_widths_in_the_cache(tmp_path, monkeypatch):
    from attnlab.config import cache
    from attnlab.sweep import equal_cost

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    cache._known.cache_clear()
    argv = ["-m", "attention=none,cbam", "sweep.equal_cost={parameters: backbone.width}", "study=e"]
    before = [(point.folder, point.config) for point in plan.make(argv).points]
    cache._known.cache_clear()
    monkeypatch.setattr(equal_cost, "_fit", lambda *args: pytest.fail("it is known"))
    assert [(point.folder, point.config) for point in plan.make(argv).points] == before
    monkeypatch.setenv("ATTNLAB_ALLOW", "mine")  # whose files may change
    with pytest.raises(pytest.fail.Exception):
        plan.make(argv)
    cache._known.cache_clear()


def test_a_width_is_counted_once_for_all_designs(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # nothing is known of them
    widths, count = [], equal_cost._counted
    monkeypatch.setattr(
        equal_cost, "_counted", lambda config: widths.append(config["backbone"]["width"]) or count(config)
    )
    planned = plan.make(["-m", "attention=se,cbam", "attention.ratio=4,8", EQUAL, f"output_dir={tmp_path}"])
    assert len(widened(planned)) > 1
    assert len(widths) == len(set(widths)) > 12  # a search of 3,000 widths by halves
