"""Several placements at once: the same as calls one after the other, and all or nothing."""

import pytest
import torch
import torchvision
from torch import nn

import attnlab
from attnlab import Placement
from attnlab.attention import CBAM, SE
from attnlab.errors import InputError
from attnlab.insertion import attached

DESIGN = [
    {"attention": "se", "at": "branch", "stages": [1, 2], "ratio": 8},
    {"attention": CBAM, "at": "branch", "stages": [3, 4], "merge": "concat"},
    {"attention": "eca", "at": "stem"},
    {"attention": "coordinate", "at": "pre", "blocks": "last"},
    {"attention": "simam", "at": "module", "names": "layer1.0.conv1"},
]


def small():
    torch.manual_seed(0)
    return torchvision.models.resnet18(num_classes=3).eval()


def test_a_list_and_calls_one_after_the_other_agree():
    together, alone, x = small(), small(), torch.rand(2, 3, 64, 64)
    torch.manual_seed(1)
    sites = attnlab.attach(together, [Placement(**each) for each in DESIGN], input_size=(3, 64, 64))
    torch.manual_seed(1)
    assert sites == [site for each in DESIGN for site in attnlab.attach(alone, **each, input_size=(3, 64, 64))]
    assert list(together.state_dict()) == list(alone.state_dict())
    assert torch.equal(together(x), alone(x))
    assert not torch.equal(together(x), small()(x))
    kinds = [type(module).__name__ for module in attached(together).values()]
    assert [kinds.count(name) for name in ("SE", "CBAM", "ECA", "CoordinateAttention", "SimAM")] == [4, 4, 1, 4, 1]
    attnlab.check(together, (3, 64, 64))
    assert attnlab.detach(together) == 14
    assert list(together.state_dict()) == list(small().state_dict())


def test_a_list_runs_the_bare_network_once_and_checks_once():
    net, runs = small(), []
    net.register_forward_pre_hook(lambda net, args: runs.append(len(attached(net))))
    attnlab.attach(net, [Placement(**each) for each in DESIGN], input_size=(3, 64, 64))
    assert runs == [0, 14]


def test_a_list_of_one_is_that_placement():
    one, listed = small(), small()
    for net, what in (
        (one, {"attention": "se", "at": "stage", "ratio": 4}),
        (listed, {"attention": [Placement("se", at="stage", ratio=4)]}),
    ):
        torch.manual_seed(1)
        attnlab.attach(net, **what, input_size=(3, 64, 64))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), listed.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("placements", "keywords", "message"),
    [
        (
            [Placement(SE, stages=[1, 2]), Placement("cbam", stages=[2, 3])],
            {},
            r"layer2\.0\.bn2: two placements meet at this output, se and cbam; for one after the other: "
            r'attach\(net, "sequence", parts=\["se", "cbam"\], ...\)',
        ),
        ([Placement("se", at="block"), Placement("eca", at="stage")], {}, "layer1: two placements meet at this output"),
        (
            [Placement("se"), Placement("cbam", at="stem", ratio=0)],
            {},
            r"placement 2 \(cbam\): ratio=0: must be at least 1",
        ),
        (
            [Placement("se"), Placement("eca", at="stem", ration=4)],
            {},
            r"placement 2 \(eca\): ration: neither attach nor ECA has",
        ),
        (
            [Placement("se"), Placement(CBAM, at="brunch")],
            {},
            r"placement 2 \(cbam\): sites.role=brunch: .*nearest: branch",
        ),
        (
            [Placement("se"), Placement(lambda channels: nn.AdaptiveAvgPool2d(1), at="stem")],
            {},
            "maxpool: AdaptiveAvgPool2d maps .*, but attention must keep the shape",
        ),
        ([Placement("se")], {"at": "stem"}, r"at: with a list, each placement has its own: \[Placement\(..., at=...\)"),
        ([Placement("se")], {"ratio": 4}, "ratio: with a list, each placement has its own"),
        (["se", "cbam"], {}, r"a list holds placements, not 'se': \[Placement\('se', at=...\)"),
        ([], {}, "the list of placements is empty"),
    ],
)
def test_what_does_not_fit_leaves_the_network_bare(placements, keywords, message):
    net = small()
    modules = list(net.named_modules())
    with pytest.raises(InputError, match=message) as error:
        attnlab.attach(net, placements, input_size=(3, 64, 64), **keywords)
    assert "\n" not in str(error.value)
    assert list(net.named_modules()) == modules
    attnlab.check(net)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attention": "cbm"}, "attention=cbm: unknown; nearest: cbam"),
        ({"attention": "se", "merge": "mul"}, "merge=mul: must be one of scale, add, concat"),
        ({"attention": "cbam", "merge": "add", "init": "identity"}, r"f \+ A\(f\) would start at 2 f"),
    ],
)
def test_a_placement_is_checked_when_it_is_written(arguments, message):
    with pytest.raises(InputError, match=message):
        Placement(**arguments)


def test_a_placement_is_a_value():
    assert Placement("se", stages=[1], ratio=8) == Placement("se", stages=[1], ratio=8) != Placement("se", stages=[1])
    with pytest.raises(AttributeError):
        Placement("se").at = "stem"


def test_a_declared_sequence_stands_where_two_would_meet():
    net = small()
    attnlab.attach(
        net, [Placement("sequence", parts=["se", "cbam"]), Placement("eca", at="stem")], input_size=(3, 64, 64)
    )
    assert len(attached(net)) == 9
