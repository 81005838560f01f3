"""``Trained``: a network with all that it takes to use it."""

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attnlab.data import Preprocess
from attnlab.insertion import in_mode
from attnlab.ledger import placements
from attnlab.study.designs import in_words

BATCH = 64


@dataclass(frozen=True, repr=False)
class Trained:
    """A finished point, or an ensemble of points that differ in the seed.

    ``net``: a plain ``nn.Module`` with its attention, in eval mode, ``(N, C, H, W)`` -> logits ``(N, classes)``.
    ``preprocess`` makes the tensor (C, H, W) of an image of any kind, see ``Preprocess``. ``config`` is the point's;
    ``result`` what its result.json says; ``folders`` are those of the points.
    """

    net: nn.Module
    classes: Sequence[str]
    preprocess: Preprocess
    config: Mapping[str, Any]
    result: Mapping[str, Any]
    folders: Sequence[Path]

    @property
    def metrics(self) -> dict[str, Mapping[str, float]]:
        """``{"val": ..., "test": ...}``: of the (first) point, as training measured them."""
        return {split: self.result[split] for split in ("val", "test") if split in self.result}

    @property
    def cost(self) -> Mapping[str, Any]:
        """Parameters, MACs, latency and more, of the (first) point: as ``attnlab.cost``."""
        return self.result["cost"]

    @property
    def device(self) -> torch.device:
        return next((p.device for p in self.net.parameters()), torch.device("cpu"))

    def predict(self, images: Any, *, flip: bool | None = None) -> list[tuple[str, float]]:
        """For each image the most probable class and its probability.

        ``images``: one of what ``preprocess`` takes, or several: a sequence, an iterator, an array (N, H, W, C) or a
        tensor (N, C, H, W). ``flip``: average with the mirror image; None: as the point was evaluated.
        Raises InputError for what cannot be read.
        """
        best = self.probabilities(images, flip=flip).max(1)
        return [(self.classes[i], p) for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)]

    def top(self, images: Any, k: int, *, flip: bool | None = None) -> list[list[tuple[str, float]]]:
        """For each image the ``k`` most probable classes, the first of them first: see ``predict``."""
        best = self.probabilities(images, flip=flip).topk(min(k, len(self.classes)), 1)
        return [
            [(self.classes[i], p) for p, i in zip(*row, strict=True)]
            for row in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]

    def probabilities(self, images: Any, *, flip: bool | None = None) -> Tensor:
        """(N, classes), on the CPU: see ``predict``."""
        several = iter(_each(images))
        found = []
        while batch := list(itertools.islice(several, BATCH)):
            x = torch.stack([self.preprocess(image) for image in batch])
            found.append(self.logits(x, flip=flip).softmax(1).cpu())
        return torch.cat(found) if found else torch.empty(0, len(self.classes))

    @torch.no_grad()
    def logits(self, x: Tensor, *, flip: bool | None = None) -> Tensor:
        """(N, classes) of a batch of preprocessed images (N, C, H, W), on the network's device."""
        x = x.to(self.device)
        with in_mode(self.net, training=False):
            logits = self.net(x).float()
            if self.preprocess.flip if flip is None else flip:
                logits = (logits + self.net(x.flip(3)).float()) / 2
        return logits

    def __repr__(self) -> str:
        design, several = design_in_words(self.config) or "bare", len(self.folders) > 1
        members, whose = (f", {len(self.folders)} seeds", "first seed's ") if several else ("", "")
        shape = "×".join(map(str, self.preprocess.shape))
        accuracy = 100 * self.result["test"]["accuracy"]
        return (
            f"Trained({self.config['backbone']['name']}, {design}, {len(self.classes)} classes, input {shape}, "
            f"{whose}test accuracy {accuracy:.1f} %{members}: {self.folders[0]})"
        )


def design_in_words(config: Mapping[str, Any]) -> str:
    """``cbam ratio=16 at branch``; ``se ratio=8 at branch 1-2 + eca at branch 3-4``; empty without attention."""
    return " + ".join(map(in_words, placements(config)))


def _each(images: Any) -> Iterable[Any]:
    """One image as a list of one; a batch as its images."""
    if isinstance(images, (np.ndarray, Tensor)):
        return images if images.ndim == 4 else [images]
    if isinstance(images, (str, os.PathLike)) or not isinstance(images, (Sequence, Iterator)):
        return [images]
    return images
