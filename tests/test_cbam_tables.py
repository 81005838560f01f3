"""The cost columns of Tables 4 and 5 of the CBAM paper (arXiv 1807.06521), every row, to the last printed digit.

224×224, 1000 classes, ratio 16; one module at the end of each residual branch (Table 4), one after each conv-norm of
MobileNet (Table 5). The ResNets halve H and W in the first 1×1 of a bottleneck. No cell had to be explained away.

ResNet-18, ResNet-50 and MobileNet α = 1 were checked against the paper; the other rows are written down from memory of
it, and the counts, made without them, meet every one. SE-ResNeXts count as in imgclsmob's tables of models.
"""

import pytest
import torch

import attnlab

TABLE_4 = {
    # network, widen: (millions of parameters, GMACs) bare, with SE, with CBAM
    ("resnet18", 1.0): [("11.69", "1.814"), ("11.78", "1.814"), ("11.78", "1.815")],
    ("resnet34", 1.0): [("21.80", "3.664"), ("21.96", "3.664"), ("21.96", "3.665")],
    ("resnet50", 1.0): [("25.56", "3.858"), ("28.09", "3.860"), ("28.09", "3.864")],
    ("resnet101", 1.0): [("44.55", "7.570"), ("49.33", "7.575"), ("49.33", "7.581")],
    ("wide_resnet18", 1.5): [("25.88", "3.866"), ("26.07", "3.867"), ("26.08", "3.868")],
    ("wide_resnet18", 2.0): [("45.62", "6.696"), ("45.97", "6.696"), ("45.97", "6.697")],
    ("resnext50_32x4d", 1.0): [("25.03", "3.768"), ("27.56", "3.771"), ("27.56", "3.774")],
    ("resnext101_32x4d", 1.0): [("44.18", "7.508"), ("48.96", "7.512"), ("48.96", "7.519")],
}
TABLE_5 = {
    0.7: [("2.30", "0.283"), ("2.71", "0.283"), ("2.71", "0.289")],
    1.0: [("4.23", "0.569"), ("5.07", "0.570"), ("5.07", "0.576")],
}
EXACT = {
    ("resnet18", 1.0): [11_689_512, 11_778_592, 11_779_392],
    ("resnet34", 1.0): [21_797_672, 21_958_868, 21_960_468],
    ("resnet50", 1.0): [25_557_032, 28_088_024, 28_089_624],
    ("resnet101", 1.0): [44_549_160, 49_326_872, 49_330_172],
    ("resnext50_32x4d", 1.0): [25_028_904, 27_559_896, 27_561_496],
    ("resnext101_32x4d", 1.0): [44_177_704, 48_955_416, 48_958_716],
}
ATTENTIONS = (None, "se", "cbam")


def costs(name, at, **settings):
    """Parameters and MACs bare, with SE and with CBAM."""
    found = []
    for attention in ATTENTIONS:
        with torch.device("meta"):
            net = attnlab.create(name, num_classes=1000, **settings)
            if attention:
                attnlab.attach(net, attention, at=at, ratio=16)
        cost = attnlab.cost(net, (3, 224, 224))
        found.append((cost.parameters, cost.macs))
    return found


def printed(found):
    return [(f"{parameters / 1e6:.2f}", f"{macs / 1e9:.3f}") for parameters, macs in found]


DEEPER = ("resnet34", "resnet101", "resnext101_32x4d")  # the same blocks as another
ROWS = [pytest.param(*row, marks=pytest.mark.slow if row[0] in DEEPER else ()) for row in TABLE_4]


@pytest.mark.parametrize(("name", "widen"), ROWS)
def test_table_4(name, widen):
    found = costs(name, "branch", widen=widen, stride_on="1x1")
    assert printed(found) == TABLE_4[name, widen]
    if (name, widen) in EXACT:
        assert [parameters for parameters, _ in found] == EXACT[name, widen]


@pytest.mark.parametrize("width", TABLE_5)
def test_table_5(width):
    """The paper does not say how α = 0.7 is rounded: only down (22, 44, 89, 179, 358, 716) fits its numbers.

    To the nearest would give 0.285 GMACs bare, to multiples of 8 2.32 M parameters.
    """
    assert printed(costs("mobilenet_v1", "unit", width=width)) == TABLE_5[width]


def test_cbam_over_se_is_a_conv_and_a_norm_a_place():
    """7·7·2 weights and a batch norm of one channel: 100 parameters at each of the places."""
    for name, places in (("resnet18", 8), ("resnet50", 16), ("resnet101", 33)):
        se, cbam = EXACT[name, 1.0][1:]
        assert cbam - se == 100 * places
