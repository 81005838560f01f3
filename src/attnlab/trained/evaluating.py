"""How good a network is on other images than those of its own training's test."""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from attnlab.data import ImageData, Images, Lazy, Preprocess
from attnlab.data.measures import metrics, per_class, update
from attnlab.errors import InputError
from attnlab.terminal import with_progress
from attnlab.trained.model import Trained
from attnlab.trained.predicting import in_threads

KEPT = 1 << 30  # bytes: a split whose pixels are no more is decoded once for all networks


class Source:
    """The splits of a data set as networks get them: each network's own preprocessing, whatever the data set's is.

    ``test``: take these images instead of the split.
    """

    def __init__(self, data: ImageData, where: str, test: Lazy | None = None) -> None:
        data.batch_size = 1  # nobody trains on it: a set of few images will do
        self.data, self.where = data, where  # of messages: "data=digits"
        self.test = test
        self._kept: dict[str, Images] = {}  # the last, as each may be large

    def part(self, name: str, preprocess: Preprocess) -> Images | Lazy:
        """The split ``val`` or ``test``: Images of the network's shape, or Lazy if it is large."""
        split: Images | Lazy = self.test if name == "test" and self.test else getattr(self.data.loaded, name)
        shape = preprocess.shape
        if isinstance(split, Images) and _fits(split, preprocess):
            return split
        if len(split) * math.prod(shape) > KEPT:
            return split
        facts = {key: value for key, value in preprocess.facts.items() if key not in ("mean", "std", "flip")}
        key = f"{name} {facts}"
        if key not in self._kept:
            self._kept = {}
            pixels = torch.empty(len(split), *shape, dtype=torch.uint8)
            decoded = with_progress(_pixels(preprocess, split), len(split), "decoding images")
            for i, image in enumerate(decoded):
                pixels[i] = image
            self._kept = {key: Images(pixels, split.labels)}
        return self._kept[key]

    def labels_for(self, classes: Sequence[str]) -> Tensor:
        """(classes of the data,): for each of its labels that of a network with these ``classes``, found by name.

        Raises InputError if a class of the data is none of the network's.
        """
        if self.test is None:
            _ = self.data.loaded  # some sets know their classes by then
        mine = list(self.data.classes)
        index = {name: i for i, name in enumerate(classes)}
        if set(mine) <= index.keys():
            return torch.tensor([index[name] for name in mine])
        strange = [name for name in mine if name not in index]
        raise InputError(
            f"{self.where}: its class{'es' * (len(strange) > 1)} {', '.join(strange[:4])}"
            f"{f' and {len(strange) - 4} more' if len(strange) > 4 else ''} "
            f"{'are' if len(strange) > 1 else 'is'} none of the network's {len(classes)} "
            f"({', '.join(classes[:4])}{', ...' * (len(classes) > 4)}); classes must be the same by name"
        )


def measure(pairs: Iterable[tuple[Trained, Source]], split: str = "test", *, progress: bool = False) -> dict[str, Any]:
    """``metrics`` as result.json has them, ``images`` and ``per_class``, of a split.

    Of several networks, each with its own images, such as folds: those of all images together. They have the same
    classes. ``progress``: a bar shows how many batches are done. Raises InputError as ``Source.labels_for``, and for
    an image that cannot be read.
    """
    collection, answers, classes = None, [], list[str]()
    for trained, source in pairs:
        classes = list(trained.classes)
        collection = collection or metrics(len(classes)).to(trained.device)
        labels = source.labels_for(classes)
        part = source.part(split, trained.preprocess)
        size = source.data.eval_batch_size
        batches = _batches(trained.preprocess, part, size)
        if progress:
            batches = with_progress(batches, math.ceil(len(part) / size), "evaluating batches")
        for pixels, y in batches:
            y = labels[y].to(trained.device)
            logits = trained.logits(trained.preprocess.normalised(pixels.to(trained.device)))
            update(collection, logits, y)
            answers.append(torch.stack([y, logits.argmax(1)]).cpu())
    if collection is None:
        raise ValueError("no network to measure")
    together = torch.cat(answers, 1)
    found = {name: float(value) for name, value in collection.compute().items()}
    answered = per_class(together, classes)
    return {"metrics": found, "images": together.shape[1], "per_class": answered}


def _batches(preprocess: Preprocess, split: Images | Lazy, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """uint8 pixels (B, C, H, W) and labels (B,)."""
    ready = split.images if isinstance(split, Images) and _fits(split, preprocess) else None
    each = iter(()) if ready is not None else _pixels(preprocess, split)
    for start in range(0, len(split), size):
        y = split.labels[start : start + size]
        x = ready[start : start + size] if ready is not None else torch.stack(list(itertools.islice(each, len(y))))
        yield x, y


def _fits(split: Images, preprocess: Preprocess) -> bool:
    return tuple(split.images.shape[1:]) == preprocess.shape


def _pixels(preprocess: Preprocess, split: Images | Lazy) -> Iterator[Tensor]:
    """uint8 (C, H, W) of each image, as the network sees it."""

    def one(i: int) -> Tensor:
        return preprocess.pixels(split.images[i] if isinstance(split, Images) else split[i])

    return in_threads(one, range(len(split)))
