"""What an exported file computes, and how it is compared with PyTorch."""

import copy

import torch
from torch import Tensor, nn

from attnlab.trained.model import Trained

TOLERANCE = 1e-4  # of what ``difference`` gives
LEAST = 1e-30  # below it float32 is no longer exact


class Refused(Exception):
    """A file that does not compute what the network does, or cannot be made; the message is one line."""


class Whole(nn.Module):
    """A trained network as one function, in eval mode on the CPU.

    ``pixels``: it takes uint8 pixels (N, H, W, C), as NumPy holds images, and normalises them itself; else normalised
    float32 images (N, C, H, W). ``softmax``: it gives probabilities, else logits (N, classes). If the point was
    evaluated with mirror images, it averages the logits with theirs.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, trained: Trained, *, pixels: bool = False, softmax: bool = False) -> None:
        super().__init__()
        self.net = trained.net if trained.device.type == "cpu" else copy.deepcopy(trained.net).cpu()
        self.pixels, self.softmax = pixels, softmax
        self.flip, self.shape = trained.preprocess.flip, trained.preprocess.shape
        self.register_buffer("mean", torch.tensor(trained.preprocess.mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(trained.preprocess.std).view(-1, 1, 1))
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        x = self.normalised(images.permute(0, 3, 1, 2)) if self.pixels else images
        logits = self.net(x).float()
        if self.flip:
            logits = (logits + self.net(x.flip(3)).float()) / 2
        return logits.softmax(1) if self.softmax else logits

    def normalised(self, pixels: Tensor) -> Tensor:
        """uint8 (N, C, H, W) -> float32"""
        return (pixels.float() / 255 - self.mean) / self.std

    def takes(self, pixels: Tensor) -> Tensor:
        """Its input for images that are uint8 (N, C, H, W)."""
        return pixels.permute(0, 2, 3, 1).contiguous() if self.pixels else self.normalised(pixels)

    def random(self, n: int, height: int | None = None, width: int | None = None) -> Tensor:
        """``n`` random inputs, always the same: noise of the pixels' whole range, or of standard deviation 1."""
        channels, own_height, own_width = self.shape
        h, w, generator = height or own_height, width or own_width, torch.Generator().manual_seed(0)
        if self.pixels:
            return torch.randint(0, 256, (n, h, w, channels), dtype=torch.uint8, generator=generator)
        return torch.randn(n, channels, h, w, generator=generator)

    @property
    def axes(self) -> tuple[int, int]:
        """Which axes of the input are height and width."""
        return (1, 2) if self.pixels else (2, 3)

    @property
    def output(self) -> str:
        return "probabilities" if self.softmax else "logits"


def difference(expected: Tensor, found: Tensor, *, probabilities: bool = False) -> float:
    """The largest difference of logits (N, classes), in units of the image's spread of them, largest minus smallest.

    Of ``probabilities`` the logarithms are compared, which are logits but for a constant. Where float32 tells no
    less, the spread counts as a tenth of the largest logit, or as 0.01 of logarithms.
    """
    if expected.shape != found.shape:
        return float("inf")
    a, b = expected.double(), found.double()
    if probabilities:
        a, b = a.clamp(min=LEAST).log(), b.clamp(min=LEAST).log()
    least = torch.full_like(a[:, 0], 0.01) if probabilities else a.abs().amax(1) / 10
    spread = (a.amax(1) - a.amin(1)).maximum(least).clamp(min=LEAST)
    largest = float(((a - b).abs().amax(1) / spread).max())
    return largest if largest == largest else float("inf")  # NaN


def require_close(what: str, differences: dict[str, float | None]) -> None:
    """Raise Refused if one of the differences is above the tolerance."""
    for images, found in differences.items():
        if found is not None and found > TOLERANCE:
            raise Refused(
                f"{what}: differs from PyTorch by {found:.1e} on {images} images, more than {TOLERANCE:.0e}; the file "
                "was not kept"
            )
