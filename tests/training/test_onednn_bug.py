"""The way around oneDNN's fault: the same numbers, and no crash."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from attnlab.training.onednn_bug import avoid_onednn_bug


@pytest.mark.parametrize("stride", [2, (2, 1), 3])
@pytest.mark.parametrize("bias", [False, True])
def test_output_and_gradients_are_those_of_the_convolution(stride, bias):
    conv, x = nn.Conv2d(8, 24, 1, stride=stride, bias=bias), torch.randn(8, 8, 19, 18)
    exact, x64 = copy.deepcopy(conv).double(), x.double().requires_grad_()
    conv, x = conv.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last).requires_grad_()
    avoid_onednn_bug(conv)
    y, y64 = conv(x), exact(x64)
    for given in (y, y64):
        given.square().sum().backward()
    torch.testing.assert_close(y.double(), y64, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(x.grad.double(), x64.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(conv.weight.grad.double(), exact.weight.grad, rtol=1e-5, atol=1e-5)


def test_padding_by_name_is_no_other_convolution():
    conv, x = nn.Conv2d(8, 24, 1, stride=2, padding="valid"), torch.randn(2, 8, 6, 7)
    y = conv(x)
    avoid_onednn_bug(conv)
    assert "forward" in vars(conv)
    torch.testing.assert_close(conv(x), y)


def test_gradients_keep_the_layout():
    """Else the network before mixes layouts, which is slow."""
    conv, x = nn.Conv2d(8, 24, 1, stride=2), torch.randn(2, 8, 6, 7).to(memory_format=torch.channels_last)
    avoid_onednn_bug(conv)
    y = conv(x.requires_grad_())
    (gradient,) = torch.autograd.grad(y, x, torch.ones_like(y))
    assert gradient.is_contiguous(memory_format=torch.channels_last)


def test_other_convolutions_are_left_alone():
    for conv in (
        nn.Conv2d(8, 16, 1),
        nn.Conv2d(8, 16, 3, stride=2),
        nn.Conv2d(16, 16, 1, stride=2),
        nn.Conv2d(8, 16, 1, stride=2, groups=8),
        nn.Conv2d(8, 16, 1, stride=2, padding=1),
    ):
        avoid_onednn_bug(conv)
        assert "forward" not in vars(conv)


def test_mini_xception_trains_on_larger_images():
    """Without it, PyTorch 2.13 to 2.15 die of a segmentation fault here, on a CPU with AVX-512."""
    code = """
import torch, attnlab
from attnlab.training.onednn_bug import avoid_onednn_bug
net = attnlab.create("mini_xception", num_classes=5, in_channels=3).to(memory_format=torch.channels_last)
avoid_onednn_bug(net)
for size in (64, 128):
    net(torch.randn(16, 3, size, size).to(memory_format=torch.channels_last)).sum().backward()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
