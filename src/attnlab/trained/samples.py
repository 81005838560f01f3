"""The images of a point's data set, as its network gets them: to check an export, to calibrate it, to measure it."""

from collections.abc import Iterator

import torch
from torch import Tensor

from attnlab.config.build import build_data, named
from attnlab.data import Images, Lazy, Splits
from attnlab.trained.model import Trained

CHUNK = 64  # images at a time


def load_splits(trained: Trained) -> Splits:
    """The data that the point's config names, where they lie now: nothing is downloaded.

    Raises InputError if they are not there.
    """
    config = dict(trained.config)
    data = dict(config["data"])
    if "download" in data:
        data["download"] = False
    config |= {"data": data, "output_dir": str(trained.folders[0].parent.parent)}  # where decoded images are kept
    built = build_data(config)
    with named("data", config):
        return built.loaded


def evenly(split: Images | Lazy, count: int) -> Tensor:
    """At most ``count`` indices, evenly spread over the split, in order."""
    return torch.linspace(0, len(split) - 1, min(count, len(split))).round().long()


def chunks(trained: Trained, split: Images | Lazy, indices: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Pixels uint8 (N, C, H, W) as in evaluation, and labels (N,), some images at a time."""
    for some in indices.split(CHUNK):
        part = split.take(some)
        if isinstance(part, Images):
            yield part.images, part.labels
        else:
            yield torch.stack([trained.preprocess.pixels(part[i]) for i in range(len(part))]), part.labels
