"""The operations of TrivialAugment, RandAugment and colour jitter, each image of a batch with its own one.

Images are uint8 (n, C, H, W), C = 1 or 3, on any device; operations and magnitudes are CPU tensors (n,).
What an operation does, and the range of its magnitudes, is torchvision's (transforms.v2); geometry takes the nearest
pixel, and black comes in. Blending may differ from torchvision by one grey level, where a product is near an integer.
"""

import functools
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Policy = Literal["trivial", "rand"]
BINS = 31  # magnitudes of an operation

# The first 14 are those of both policies, in torchvision's order; the five that move pixels stand together.
OPERATIONS = (
    *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate"),
    *("brightness", "color", "contrast", "sharpness", "posterize", "solarize", "autocontrast", "equalize"),
    "hue",
)
IN_POLICIES = 14
SIGNED = slice(1, 10)  # shear_x to sharpness: the magnitude is negative for half of the images
MOVES = 5  # shear_x to rotate


def draw(
    policy: Policy, size: int, height: int, width: int, random: torch.Generator, magnitude: int = 9
) -> tuple[Tensor, Tensor]:
    """Operations and magnitudes, each (size,), one for each image: operations uniform, half of the signs negative.

    trivial: TrivialAugmentWide (arXiv 2103.10158), the bin of the magnitude uniform too; rand: one of the
    operations of RandAugment (arXiv 1909.13719), the bin is ``magnitude``.
    """
    operation = torch.randint(IN_POLICIES, (size,), generator=random)
    bins = torch.randint(BINS, (size,), generator=random) if policy == "trivial" else torch.tensor(magnitude)
    amount = magnitudes(policy, height, width)[operation, bins]
    negative = (torch.rand(size, generator=random) < 0.5) & (operation >= SIGNED.start) & (operation < SIGNED.stop)
    return operation, torch.where(negative, -amount, amount)


@functools.cache
def magnitudes(policy: Policy, height: int, width: int) -> Tensor:
    """The magnitude of each operation and bin, float32 (14, 31): the wide ranges for trivial.

    Shears are tangents, shifts are pixels, rotations degrees, blends what is added to a factor of 1, posterize
    has bits, solarize the share of the full scale from which a pixel is inverted.
    """
    wide = policy == "trivial"
    blend, bits = (0.99, 6) if wide else (0.9, 4)
    most = {
        **dict.fromkeys(("shear_x", "shear_y"), 0.99 if wide else 0.3),
        "translate_x": 32.0 if wide else 150 / 331 * width,
        "translate_y": 32.0 if wide else 150 / 331 * height,
        "rotate": 135.0 if wide else 30.0,
        **dict.fromkeys(("brightness", "color", "contrast", "sharpness"), blend),
    }
    table = torch.stack([torch.linspace(0, most.get(name, 0.0), BINS) for name in OPERATIONS[:IN_POLICIES]])
    table[OPERATIONS.index("posterize")] = (8 - torch.arange(BINS) / ((BINS - 1) / bits)).round()
    table[OPERATIONS.index("solarize")] = torch.linspace(1, 0, BINS)
    return table


def apply(x: Tensor, operation: Tensor, magnitude: Tensor) -> Tensor:
    """Do ``OPERATIONS[operation[i]]`` at ``magnitude[i]`` to image i."""
    order = operation.argsort()  # images of one operation stand together: a few calls for each operation that occurs
    operation, magnitude = operation[order], magnitude[order]
    counts = operation.bincount(minlength=len(OPERATIONS)).tolist()
    counts[1 : MOVES + 1] = [sum(counts[1 : MOVES + 1])]
    inverse = _inverse(operation, magnitude, *x.shape[-2:]).to(x.device)
    back, order, magnitude = (t.to(x.device) for t in (order.argsort(), order, magnitude[:, None, None, None]))
    groups = zip(_DOES, *(t.split(counts) for t in (x.index_select(0, order), magnitude, inverse)), strict=True)
    done = [do(part, to if do is _move else m) if len(part) else part for do, part, m, to in groups]
    return torch.cat(done).index_select(0, back)


def _inverse(operation: Tensor, magnitude: Tensor, height: int, width: int) -> Tensor:
    """Where the pixel at (x, y) comes from, as float32 (n, 6): x' = a x + b y + c, y' = d x + e y + f.

    Coordinates have their origin at the image's centre. Shears keep the top left corner, as torchvision's do.
    """
    magnitude = magnitude.double()
    shear_x, shear_y, right, down, angle = (torch.where(operation == k, magnitude, 0.0) for k in range(1, MOVES + 1))
    cos, sin = angle.deg2rad().cos(), angle.deg2rad().sin()
    c, f = shear_x * height / 2 - right.trunc(), shear_y * width / 2 - down.trunc()
    return torch.stack([cos, shear_x - sin, c, shear_y + sin, cos, f], 1).float()


def _identity(x: Tensor, _: Tensor) -> Tensor:
    return x


def _move(x: Tensor, inverse: Tensor) -> Tensor:
    H, W = x.shape[-2:]
    across = torch.linspace((1 - W) / 2, (W - 1) / 2, W, device=x.device)
    along = torch.linspace((1 - H) / 2, (H - 1) / 2, H, device=x.device)[:, None]
    a, b, c, d, e, f = inverse[:, :, None, None].unbind(1)  # each (n, 1, 1)
    column = (a * across + (b * along + (c + (W - 1) / 2))).round_()
    row = (d * across + (e * along + (f + (H - 1) / 2))).round_()
    inside = (column >= 0) & (column < W) & (row >= 0) & (row < H)
    source = (row * W + column).mul_(inside).long().flatten(1)[:, None]  # (n, 1, H W)
    return x.flatten(2).gather(2, source.expand(-1, x.shape[1], -1)).view(x.shape) * inside[:, None]


def _blend(x: Tensor, other: Tensor, more: Tensor) -> Tensor:
    """x where ``more`` is 0, ``other`` where it is -1, beyond x where it is positive."""
    return (x * (1 + more)).addcmul_(other, more, value=-1).clamp_(0, 255).to(torch.uint8)


def _grey(x: Tensor) -> Tensor:
    from torchvision.transforms.v2 import functional as F  # late: importing it takes a second

    return x if x.shape[1] == 1 else F.rgb_to_grayscale(x)


def _brightness(x: Tensor, more: Tensor) -> Tensor:
    return (x * (1 + more)).clamp_(0, 255).to(torch.uint8)


def _color(x: Tensor, more: Tensor) -> Tensor:
    return x if x.shape[1] == 1 else _blend(x, _grey(x), more)


def _contrast(x: Tensor, more: Tensor) -> Tensor:
    return _blend(x, _grey(x).float().mean((1, 2, 3), keepdim=True), more)


def _sharpness(x: Tensor, more: Tensor) -> Tensor:
    """The blur is (the sum of 3×3 pixels + 4 times the middle) / 13, rounded: no sum is near a half."""
    wide = x.short()
    down = wide[..., :-2, :] + wide[..., 1:-1, :] + wide[..., 2:, :]
    inner = wide[..., 1:-1, 1:-1]  # the outermost pixels stay
    total = (inner * 4).add_(down[..., :-2]).add_(down[..., 1:-1]).add_(down[..., 2:])
    blurred = x.float()
    blurred[..., 1:-1, 1:-1] = (total / 13).round_()
    return blurred.sub_(x).mul_(-more).add_(x).clamp_(0, 255).to(torch.uint8)


def _posterize(x: Tensor, bits: Tensor) -> Tensor:
    return x & (256 - 2 ** (8 - bits)).to(torch.uint8)


def _solarize(x: Tensor, threshold: Tensor) -> Tensor:
    return torch.where(x >= 255 * threshold, ~x, x)


def _autocontrast(x: Tensor, _: Tensor) -> Tensor:
    from torchvision.transforms.v2 import functional as F

    return F.autocontrast(x)


def _equalize(x: Tensor, _: Tensor) -> Tensor:
    from torchvision.transforms.v2 import functional as F

    return F.equalize(x)


def _hue(x: Tensor, turn: Tensor) -> Tensor:
    """Turn the hue by a share of the circle; value and saturation stay."""
    if x.shape[1] == 1:
        return x
    rgb = x / 255
    value, chroma = rgb.amax(1, keepdim=True), rgb.amax(1, keepdim=True) - rgb.amin(1, keepdim=True)
    r, g, b = rgb.split(1, 1)
    in_red, in_green, in_blue = (g - b) / chroma, (b - r) / chroma + 2, (r - g) / chroma + 4  # sixths of the circle
    hue = torch.where(value == r, in_red, torch.where(value == g, in_green, in_blue)).nan_to_num_(0, 0, 0)  # grey: 0
    k = (hue + 6 * turn + torch.tensor([5.0, 3.0, 1.0], device=x.device).view(1, 3, 1, 1)) % 6
    return ((value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1)) * 255.999).to(torch.uint8)


# As in OPERATIONS, those that move pixels as one.
_DOES: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    *(_identity, _move, _brightness, _color, _contrast, _sharpness),
    *(_posterize, _solarize, _autocontrast, _equalize, _hue),
)
