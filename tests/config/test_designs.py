"""Designs of several placements: what is written, its normal form, its identity, and what is refused."""

import copy
import itertools

import pytest
import torch

from attnlab import attach
from attnlab.attention import CBAM, SE
from attnlab.config import schema
from attnlab.config.build import build_data, build_network, drawing
from attnlab.config.compose import composing
from attnlab.config.stages import number_of_stages, stages_of
from attnlab.errors import InputError
from attnlab.ledger import digest, folder, identity, placements, prepare
from attnlab.sweep import plan

EARLY = "{attention: se, ratio: 8, at: branch, stages: [1, 2]}"
LATE = "{attention: cbam, stages: [3]}"  # of resnet20
STEM = "{attention: eca, at: stem}"


@pytest.fixture
def compose():
    with composing() as compose_one:
        yield lambda *overrides: compose_one(["backbone=resnet20", *overrides])


def checked(compose, *overrides):
    return schema.check(compose(*overrides))


def hash_of(compose, *overrides):
    return digest(identity(checked(compose, *overrides)))


def composed(*overrides):
    with composing() as compose_one:
        return compose_one(overrides)


def listed(*several):
    return f"placements=[{', '.join(several)}]"


def test_a_mixed_design_in_normal_form(compose):
    config = checked(compose, listed(EARLY, LATE, STEM))
    found = [(p["attention"]["_target_"], p["sites"]["role"], p["sites"]["stages"]) for p in config["placements"]]
    where = "attnlab.attention"
    assert found == [
        (f"{where}.ECA", "stem", "all"),
        (f"{where}.SE", "branch", [1, 2]),
        (f"{where}.CBAM", "branch", [3]),
    ]
    assert config["placements"][1]["attention"]["ratio"] == 8.0
    assert (config["attention"], config["sites"]) == ({"name": "eca+se+cbam"}, {"name": "stem+branch"})
    assert folder(config).name.startswith("resnet20-eca+se+cbam-stem+branch-s0-")
    assert schema.check(copy.deepcopy(config)) == config


def test_order_and_names_are_no_part_of_the_identity(compose):
    hashes = {hash_of(compose, listed(*order)) for order in itertools.permutations([EARLY, LATE, STEM])}
    named = f"placements={{late: {LATE}, early: {EARLY}, first: {STEM}}}"
    assert hashes == {hash_of(compose, named)}
    assert len(hashes) == 1


@pytest.mark.parametrize(
    ("design", "simple"),
    [
        ([listed("{attention: se, ratio: 8}")], ["attention=se", "attention.ratio=8"]),
        (
            [listed("{attention: cbam_article, at: shortcut, stages: [2], merge: add}")],
            [
                "attention=cbam_article",
                "sites=shortcut",
                "sites.stages=[2]",
                "sites.merge=add",
            ],
        ),
        ([listed(EARLY, "{attention: none}")], ["attention=se", "attention.ratio=8", "sites.stages=[1,2]"]),
        ([listed("{attention: none}")], ["attention=none"]),
        (["placements=[]"], ["attention=none"]),
        (
            [listed("{attention: se, stages: [3]}", "{attention: se, stages: [1]}")],
            ["attention=se", "sites.stages=[1,3]"],
        ),
        (["attention=by_stage", "attention.stages=[se,se,se]"], ["attention=se"]),
        (["attention=by_stage", "attention.stages=[none,none,none]", "attention.ratio=4"], ["attention=none"]),
        (["attention=by_stage", "attention.stages=[none,se,se]"], ["attention=se", "sites.stages=[2,3]"]),
        (
            ["attention=by_stage", "attention.stages.2=se", "attention.stages.3=none"],
            ["attention=se", "sites.stages=[2]"],
        ),
        (
            ["attention=by_stage", "attention.stages=[se,se,{attention: cbam}]", "attention.ratio=8"],
            [listed(EARLY, "{attention: cbam, ratio: 8, stages: [3]}")],
        ),
        (
            ["attention=by_stage", "attention.stages=[eca,eca,none]", "attention.ratio=8"],
            ["attention=eca", "sites.stages=[1,2]"],
        ),
        ([listed(EARLY, LATE), "sites=block"], [listed(EARLY, "{attention: cbam, at: block, stages: [3]}")]),
        ([listed("{attention: se}"), "sites=stem"], ["attention=se", "sites=stem"]),
        (
            [listed("{attention: {name: se, ratio: 8}, stages: [1]}")],
            ["attention=se", "attention.ratio=8", "sites.stages=[1]"],
        ),
        ([listed("{attention: se, stages: [1, 2]}", "{attention: se, stages: [3]}")], ["attention=se"]),
        ([listed("{attention: se, stages: [3, 1, 2]}", STEM)], [listed("{attention: se}", STEM)]),
        (
            [listed("{attention: se, blocks: [1], exclude: x}", STEM)],
            [listed("{attention: se, blocks: first, exclude: [x]}", STEM)],
        ),
        (["placements.1.ratio=4", listed(STEM, "{attention: se}")], [listed(STEM, "{attention: se, ratio: 4}")]),
        (
            ["attention=by_stage", "attention.stages=[se,se,se]", "++attention.stages.1=eca"],
            ["attention=by_stage", "attention.stages=[eca,se,se]"],
        ),
        (
            ["attention=by_stage", "attention.stages=[eca,cbam,se]", "+attention.kernel=3"],
            ["attention=by_stage", "attention.stages=[{attention: eca, kernel: 3},{attention: cbam, kernel: 3},se]"],
        ),
    ],
)
def test_one_design_has_one_identity(compose, design, simple):
    assert hash_of(compose, *design) == hash_of(compose, *simple)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (listed(EARLY, LATE), listed(EARLY, STEM)),
        (listed(EARLY, LATE), listed(EARLY, "{attention: cbam, stages: [3], ratio: 4}")),
        (listed(EARLY, LATE), listed(EARLY, "{attention: cbam, stages: [3], blocks: last}")),
        (listed("{attention: se, stages: [1]}"), listed("{attention: se, stages: [2]}")),
    ],
)
def test_other_designs_are_other_points(compose, one, other):
    assert hash_of(compose, one) != hash_of(compose, other)


def test_the_network_is_that_of_attach(compose):
    config = checked(compose, listed(LATE, EARLY))
    data = build_data(config)
    net, sites = build_network(config, data)
    torch.manual_seed(0)
    other, _ = build_network(checked(compose), data)
    made = attach(other, SE, stages=[1, 2], ratio=8, input_size=data.shape)
    made += attach(other, CBAM, stages=[3], input_size=data.shape)
    assert [site.name for site in sites] == [site.name for site in made]
    assert net.state_dict().keys() == other.state_dict().keys()
    for mine, theirs in zip(net.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)


def test_fields_are_axes():
    words = ["backbone=resnet20", listed(EARLY, LATE), "placements.0.ratio=4,16", "placements.1.kernel=3,7"]
    found = [placements(point.config) for point in plan.make(["-m", *words]).points]
    assert [(p[0]["attention"]["ratio"], p[1]["attention"]["kernel"]) for p in found] == [
        *((4.0, 3), (4.0, 7)),
        *((16.0, 3), (16.0, 7)),
    ]
    named = ["backbone=resnet20", f"placements={{early: {EARLY}, late: {LATE}}}", "placements.late.attention=cbam,eca"]
    attentions = [[p["attention"]["name"] for p in placements(q.config)] for q in plan.make(["-m", *named]).points]
    assert attentions == [["se", "cbam"], ["se", "eca"]]
    crossed = ["attention=by_stage", "attention.stages=[none,se,se],[se,se,se],[se,none,cbam]", "attention.ratio=4,8"]
    assert len(plan.make(["-m", "backbone=resnet20", *crossed]).points) == 6
    single = ["attention=by_stage", "attention.stages.2=none,se", "attention.stages.3=cbam"]
    assert [point.config["attention"]["name"] for point in plan.make(["-m", "backbone=resnet20", *single]).points] == [
        "cbam",
        "se+cbam",
    ]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([listed("{attention: se, stage: [1]}")], r"placements\.0\.stage: no such setting; nearest: stages"),
        (
            [listed("{attention: se, sites: {stages: [1]}}")],
            r"placements\.0\.sites: at, stages, blocks, names, exclude",
        ),
        ([listed("{attention: se, sites: branch}")], r"placements\.0\.sites: at, stages, blocks, names, exclude"),
        ([listed("se")], r"placements\.0=se: must be a placement, such as {attention: se"),
        (["placements=se"], r"placements=se: must be a list of placements"),
        ([listed("{ratio: 8}")], r"placements\.0\.attention: must be set"),
        (["placements.late.ratio=8"], r"placements\.late\.attention: must be set"),
        ([listed("{attention: sse}")], r"placements\.0\.attention=sse: no such config; nearest: se"),
        ([listed("{attention: se, at: brnch}")], r"placements\.0\.at=brnch: no such config; nearest: branch"),
        ([listed("{attention: se, ratoi: 4}")], r"placements\.0\.ratoi: no such setting; nearest: ratio"),
        ([listed(STEM, "{attention: se, ratio: 0}")], r"placements\.1\.ratio=0: must be at least 1"),
        ([listed("{attention: se, stages: first}")], r"placements\.0\.stages=first: must be 'all' or"),
        (
            [listed("{attention: [se, cbam]}")],
            r"placements\.0\.attention=\[se, cbam\]: takes one; {attention: sequence, parts",
        ),
        (
            [listed("{attention: se, at: [stem, branch]}")],
            r"placements\.0\.at=\[stem, branch\]: takes one; write a placement",
        ),
        ([listed("{attention: by_stage}")], r"placements\.0\.attention=by_stage: is a design of its own"),
        (
            ["attention=cbam", listed(EARLY)],
            r"attention=cbam: placements say all; add a placement such as {attention: cbam",
        ),
        (
            ["attention=by_stage", "attention.stages=[se,se,se]", listed(EARLY)],
            r"attention=by_stage: placements say all",
        ),
        (["attention=by_stage"], r"attention\.stages: must be set"),
        (
            ["attention=by_stage", "attention.stages=se"],
            r"attention\.stages=se: must be a list with an attention for each",
        ),
        (
            ["attention=by_stage", "attention.stages=[se,cbam]"],
            r"\[se,cbam\]: resnet20 has branch sites in 3 stages, not 2",
        ),
        (
            ["attention=by_stage", "attention.stages=[se,[se,cbam],eca]"],
            r"attention\.stages\.2=\[se, cbam\]: takes one",
        ),
        (
            ["attention=by_stage", "attention.stages=[se,cbm,eca]"],
            r"attention\.stages\.2\.attention=cbm: no such config",
        ),
        (
            ["attention=by_stage", "attention.stages=[se,se,{attention: se, ratio: 0}]"],
            r"attention\.stages\.3\.ratio=0: must",
        ),
        (
            ["attention=by_stage", "attention.stages=[se,se,se]", "sites.stages=[1]"],
            r"sites\.stages: attention=by_stage says",
        ),
        (["attention=by_stage", "attention.stages.0=se"], r"attention\.stages\.0=se: stages count from 1"),
        (
            ["attention=by_stage", "attention.stages=[se,eca,se]", "+attention.spam=1"],
            r"attention\.spam: none of attention\.stages has such a setting",
        ),
        (
            [listed(STEM), "placements.3.ratio=4"],
            r"placements\.3\.ratio=4: no such placement; they are",
        ),
        (["attention=cbam", "+sites=[branch,stem]"], r"sites=\[branch,stem\]: only .*{attention: cbam, at: stem}"),
        (["attention=se", "attention.stages.1=se"], r"attention\.stages\.1: attention=se has no such setting; choose"),
        (
            ["attention=by_stage", "attention.stages=[se,se,se]", "sites=stem"],
            r"resnet20 has stem sites in 0 stages, not 3",
        ),
    ],
)
def test_what_is_refused(compose, overrides, message):
    with pytest.raises(InputError, match=message) as error:
        schema.check(compose(*overrides))
    assert "\n" not in str(error.value)


def test_the_config_of_a_mixed_point_takes_changes(compose, tmp_path):
    config = checked(compose, listed(EARLY, LATE))
    prepare(tmp_path / "point", config)
    with composing(config_dir=str(tmp_path / "point"), config_name="config") as compose_one:
        assert schema.check(compose_one([])) == config
        changed = schema.check(compose_one(["placements.1.ratio=2", "placements.1.at=block"]))
        late = next(p for p in changed["placements"] if p["attention"]["name"] == "cbam")
        assert (late["attention"]["ratio"], late["sites"]["role"]) == (2.0, "block")
        with pytest.raises(InputError, match=r"attention\.ratio: placements say all; set it of one of them"):
            schema.check(compose_one(["+attention.ratio=2"]))


def test_a_primary_config_with_a_design(tmp_path):
    text = "defaults: [train, _self_]\nbackbone: {name: resnet20}\nattention: {ratio: 2}\n"
    (tmp_path / "mine.yaml").write_text(f"{text}placements: [{EARLY}, {STEM}]\n")
    (tmp_path / "attention").mkdir()
    (tmp_path / "attention" / "wide.yaml").write_text("defaults: [se]\nname: wide\nratio: ${seed}\n")
    with composing(config_dir=str(tmp_path), config_name="mine") as compose_one:
        found = compose_one(["attention.ratio=null", "seed=3", "placements.1.attention=wide"]).placements
        assert (found[0].attention.ratio, found[1].attention.ratio, found[1].sites.role) == (8, 3, "stem")


def test_many_placements_are_all_drawn():
    each = ", ".join(
        f"{{attention: se, at: module, names: [stages.stage{i}.block{j}]}}" for i in (1, 2, 3) for j in (1, 2, 3)
    )
    config = schema.check(composed("backbone=resnet20", f"placements=[{each}, {STEM}]", "placements.3.ratio=2"))
    lines = drawing(config, build_data(config))
    assert len({line[0] for line in lines[lines.index("") + 1 :]}) == len(config["placements"])


def test_placements_that_meet_are_an_error_that_names_the_site():
    with pytest.raises(InputError, match=r"stages\.stage3\.block1\.branch") as error:
        plan.make(["backbone=resnet20", listed("{attention: se}", LATE)])
    assert "\n" not in str(error.value)


def test_a_wrong_field_is_found_without_torch():
    from attnlab.config.first_check import precheck

    with composing() as compose_one:
        raw = schema.plain(compose_one([listed("{attention: cbam, kernel: 5}")]))
    with pytest.raises(InputError, match=r"placements\.0\.kernel=5: must be 3 or 7"):
        precheck(raw)


@pytest.mark.parametrize(("backbone", "stages"), [("mini_xception", 4), ("resnet18", 4), ("vgg11_bn", 5)])
def test_stages_of_a_backbone(backbone, stages):
    with composing() as compose_one:
        config = schema.check(compose_one([f"backbone={backbone}", "data=digits"]))
    role = "branch" if backbone != "vgg11_bn" else "unit"
    assert number_of_stages(config, role) == stages
    assert [stage for stage in stages_of(config, role) if stage] == list(range(1, stages + 1))
