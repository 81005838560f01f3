"""A way around a fault of oneDNN, with which PyTorch computes on CPUs.

The backward pass of a 1×1 convolution with stride, of fewer input channels than a vector holds (16 with AVX-512),
writes past its memory if tensors are channels_last: it crashes, or damages the heap (oneDNN issue 6035; seen in PyTorch
2.13 to 2.15 at mini-Xception's first shortcut, 8 channels). The same convolution without stride, of every n-th pixel,
gives the same output and gradients, to the bit where the fault does no harm. To be deleted when the oldest PyTorch
allowed has it mended.
"""

import functools

import torch.nn.functional as F
from torch import Tensor, nn

VECTOR = 16  # channels


def avoid_onednn_bug(net: nn.Module) -> None:
    """Have the convolutions of ``net`` that oneDNN would fail at take every n-th pixel first, in place."""
    for conv in net.modules():
        if type(conv) is nn.Conv2d and conv.groups == 1 and conv.in_channels < VECTOR and _is_strided_1x1(conv):
            conv.forward = functools.partial(_of_every_nth_pixel, conv)  # type: ignore[method-assign]


def _is_strided_1x1(conv: nn.Conv2d) -> bool:
    return conv.kernel_size == (1, 1) and max(conv.stride) > 1 and conv.padding in ((0, 0), "valid")


def _of_every_nth_pixel(conv: nn.Conv2d, x: Tensor) -> Tensor:
    if x.device.type != "cpu":
        return nn.Conv2d.forward(conv, x)
    # As a mean of one pixel each: the gradient of a slice would not be channels_last, which slows all that it meets.
    every_nth = F.avg_pool2d(x, kernel_size=1, stride=conv.stride)
    return F.conv2d(every_nth, conv.weight, conv.bias)
