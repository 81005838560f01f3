"""Parameters and MACs on ResNet-50: published counts, hand derivations, and the README's table."""

import re

import pytest
import torch

import attnlab
from tests.conftest import REPOSITORY

BLOCKS = [(256, 56)] * 3 + [(512, 28)] * 4 + [(1024, 14)] * 6 + [(2048, 7)] * 3  # channels, height = width
K = {256: 5, 512: 5, 1024: 5, 2048: 7}  # ECA's kernels
COUNTS = {  # name -> parameters and MACs of one module with C channels, S × S positions and hidden width C / 16
    "se": lambda c, s, h: (2 * c * h + c + h, 2 * c * h),
    "ese": lambda c, s, h: (c * c + c, c * c),
    "eca": lambda c, s, h: (K[c], K[c] * c),
    "gct": lambda c, s, h: (3 * c, 0),
    "srm": lambda c, s, h: (4 * c, 0),
    "gather_excite": lambda c, s, h: (0, 0),
    "spatial": lambda c, s, h: (2 * 49 + 2, 2 * 49 * s * s),
    "cbam": lambda c, s, h: (2 * c * h + c + h + 100, 4 * c * h + 98 * s * s),
    "bam": lambda c, s, h: (3 * c * h + c + 18 * h * h + 13 * h + 1, 2 * c * h + s * s * (c * h + 18 * h * h + h)),
    "coordinate": lambda c, s, h: (3 * c * (h // 2) + 3 * (h // 2) + 2 * c, 4 * c * (h // 2) * s),
    "triplet": lambda c, s, h: (300, 98 * (s * s + 2 * c * s)),
    "simam": lambda c, s, h: (0, 0),
    "sge": lambda c, s, h: (128, 0),
    "shuffle": lambda c, s, h: (6 * c // 128, 0),
    "gc": lambda c, s, h: (2 * c * h + 2 * c + 3 * h + 1, c * s * s + 2 * c * h),
    "non_local": lambda c, s, h: (4 * c * c // 2 + c + 3 * c // 2, 4 * c * c // 2 * s * s),
    "sk": lambda c, s, h: (
        2 * (9 * c * c // 32 + 2 * c) + 3 * c * max(h, 32) + 2 * max(h, 32),
        2 * 9 * c * c // 32 * s * s + 3 * c * max(h, 32),
    ),
}
PUBLISHED = {"se": 28_088_024 - 25_557_032, "cbam": 28_089_624 - 25_557_032, "eca": 86}


def cost_of(name, backbone="resnet50", **where):
    with torch.device("meta"):
        net = attnlab.create(backbone, num_classes=1000)
        attnlab.attach(net, name, **{"at": "branch", **where})
    return attnlab.cost(net, (3, 224, 224))


def readme_table():
    """module -> parameters, MACs in M, MiB of traffic"""
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\| ([\d,]+) \| ([\d,.]+) \| ([\d,.]+) \|", README, re.MULTILINE)
    return {name: tuple(float(cell.replace(",", "")) for cell in cells) for name, *cells in rows}


README = (REPOSITORY / "src" / "attnlab" / "attention" / "README.md").read_text()


QUICK = ("se", "eca", "cbam", "bam", "coordinate", "sk", "non_local")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in COUNTS]
)
def test_on_resnet50(name):
    cost = cost_of(name)
    parameters, macs = (sum(of) for of in zip(*(COUNTS[name](c, s, c // 16) for c, s in BLOCKS), strict=True))
    assert cost.attention_parameters == parameters == PUBLISHED.get(name, parameters)
    assert cost.attention_macs == macs
    *counted, traffic = readme_table()[name]
    assert counted == [parameters, round(macs / 1e6, 1)]
    # PyTorch's releases differ in how they take an operation apart.
    assert traffic == pytest.approx(cost.attention_traffic_bytes / 2**20, rel=0.1)


def test_the_readme_lists_all():
    assert readme_table().keys() == COUNTS.keys()


def test_bam_at_the_bottlenecks_of_resnet18():
    assert cost_of("bam", "resnet18", at="stage", stages=[1, 2, 3]).parameters == 11_712_503
