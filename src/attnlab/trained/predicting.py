"""What a network says of any number of images, in bounded memory: files are decoded in threads beside it."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from attnlab.errors import InputError
from attnlab.trained.listing import Listed
from attnlab.trained.model import BATCH, Trained

T = TypeVar("T")
R = TypeVar("R")


class Prediction(NamedTuple):
    """Of one image: the best classes (indices) and their probabilities, the best first; or why it cannot be read."""

    image: Listed
    best: list[tuple[int, float]]
    error: str = ""


def predict_all(
    trained: Trained, images: Iterable[Listed], top: int = 1, *, flip: bool | None = None
) -> Iterator[Prediction]:
    """A prediction for each image, in order; ``flip``: see ``Trained.predict``."""
    decoded = _decoded(trained, images)
    while batch := list(itertools.islice(decoded, BATCH)):
        readable = [pixels for _, pixels in batch if isinstance(pixels, Tensor)]
        found = iter(_best(trained, readable, top, flip))
        for image, pixels in batch:
            if isinstance(pixels, Tensor):
                yield Prediction(image, next(found))
            else:
                yield Prediction(image, [], pixels)


def _best(trained: Trained, pixels: list[Tensor], top: int, flip: bool | None) -> list[list[tuple[int, float]]]:
    if not pixels:
        return []
    x = trained.preprocess.normalised(torch.stack(pixels))
    best = trained.logits(x, flip=flip).softmax(1).topk(min(top, len(trained.classes)), 1)
    return [
        list(zip(which, shares, strict=True))
        for which, shares in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def _decoded(trained: Trained, images: Iterable[Listed]) -> Iterator[tuple[Listed, Tensor | str]]:
    """The pixels of each image, or why there are none."""

    def read(image: Listed) -> tuple[Listed, Tensor | str]:
        try:
            return image, trained.preprocess.pixels(image.path)
        except InputError as error:
            return image, str(error)

    return in_threads(read, images)


def in_threads(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """What it returns for each item, in order; it works two batches ahead at most."""
    pool = ThreadPoolExecutor(max(1, torch.get_num_threads()))
    waiting = deque[Future[R]]()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * BATCH:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
