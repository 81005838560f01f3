"""Images that lie in files: decoded once into memory, or by worker processes while a point trains."""

import contextlib
import ctypes
import os
import signal
import sys
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from attnlab.data.decode import Files
from attnlab.data.images import Lazy, generator
from attnlab.errors import InputError
from attnlab.ledger import lock
from attnlab.terminal import with_progress

if TYPE_CHECKING:
    from PIL import Image

Make = Callable[["Image.Image", torch.Generator | None], Tensor]  # uint8 (C, H, W); without generator as in evaluation
Item = tuple[int, int, tuple[int, int] | None]  # which reader, which of its images, (seed, epoch)
TOGETHER = 1024  # images that wait for a thread
T = TypeVar("T")
GRACE = 30  # seconds that a worker which is asked to end goes on
AT_RANDOM = 1  # tells the key of an image from that of a step


class Stream:
    """Reads the images of batches in ``workers`` processes, which stay for all epochs; 0: in this process.

    What ``make`` draws for an image depends on (seed, epoch, image) alone: neither the number of workers nor an
    interruption changes a batch. ``waited`` counts the seconds for which the training had to wait.
    """

    def __init__(self, splits: Sequence[Lazy], make: Make, workers: int, pinned: bool = False) -> None:
        self.readers, self.workers = [split.read for split in splits], workers
        self.waited, self._turn, self._sampler = 0.0, 0, _Sampler()
        warnings.filterwarnings("ignore", message="This DataLoader will create")  # more workers than cores, if asked
        self._loader: DataLoader[Tensor] = DataLoader(
            _Reader(self.readers, make),
            batch_sampler=self._sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            prefetch_factor=4 if workers else None,
            # Points are children of a fork server, whose way would be to pickle and import all anew.
            multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
            pin_memory=pinned,
            collate_fn=torch.stack,
            worker_init_fn=_start_worker,
            # The workers' generator, which nobody uses, is not drawn from the global one.
            generator=torch.Generator(),
        )
        weakref.finalize(self, _end_workers, self._loader, os.getpid())

    def close(self) -> None:
        """End the workers; the next batch starts new ones."""
        _end_workers(self._loader, os.getpid())

    def read(self, split: Lazy, batches: Sequence[Tensor], key: tuple[int, int] | None) -> Iterator[Tensor]:
        """uint8 (B, C, H, W) of each batch of indices; ``key``: (seed, epoch), or None for images as in evaluation."""
        which = next(i for i, reader in enumerate(self.readers) if reader is split.read)
        filled = [split.indices[batch] for batch in batches if len(batch)]
        self._turn += 1
        turn, self._sampler.next = self._turn, (filled, which, key)
        images = iter(self._loader)
        empty = torch.empty(0)
        for batch in batches:  # a rank's part of a small last batch may be empty
            if turn != self._turn:
                raise RuntimeError("another epoch of this data set was begun; workers read one at a time")
            before = time.perf_counter()
            try:
                x = next(images) if len(batch) else empty
            except InputError as error:  # of a worker, with its traceback
                raise InputError(str(error).rstrip().splitlines()[-1].rpartition("InputError: ")[2]) from None
            self.waited += time.perf_counter() - before
            yield x


class _Sampler:
    """The items of the epoch that is begun next."""

    next: "tuple[Sequence[Tensor], int, tuple[int, int] | None]" = ((), 0, None)

    def __iter__(self) -> Iterator[list[Item]]:
        return self._items(*self.next)

    def _items(self, batches: Sequence[Tensor], which: int, key: tuple[int, int] | None) -> Iterator[list[Item]]:
        for batch in batches:
            yield [(which, i, key) for i in batch.tolist()]

    def __len__(self) -> int:
        return len(self.next[0])


class _Reader(Dataset[Tensor]):
    def __init__(self, readers: Sequence[Callable[[int], "Image.Image"]], make: Make) -> None:
        self.readers, self.make = readers, make

    def __getitem__(self, item: Item) -> Tensor:
        which, i, key = item
        read = self.readers[which]
        if key is None:
            return self.make(read(i), None)
        random = generator(*key, i, AT_RANDOM)
        if isinstance(read, Files):
            return read.cropped(i, lambda image: self.make(image, random))
        return self.make(read(i), random)


def _start_worker(number: int) -> None:
    """A worker leaves signals to the process that trains, which may save first, and ends with it."""
    for name in ("SIGINT", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: even if that is killed
    torch.set_num_threads(1)


def _end_workers(loader: "DataLoader[Tensor]", process: int) -> None:
    """Python at its end would send the SIGTERM that they do not hear, and wait. A forked process has only copies."""
    workers = loader._iterator  # for persistent ones, torch has no public way
    if isinstance(workers, _MultiProcessingDataLoaderIter) and os.getpid() == process:
        loader._iterator = None
        workers._shutdown_workers()


def decode(split: Lazy, make: Make, shape: tuple[int, int, int]) -> Tensor:
    """Every image of the split as in evaluation, uint8 (N, C, H, W), decoded in threads."""
    pixels = np.empty((len(split), *shape), np.uint8)
    _decode_into(pixels, split, make)
    return torch.from_numpy(pixels)


def decode_once(files: Files, make: Make, shape: tuple[int, int, int], path: Path) -> Tensor:
    """Every image of ``files`` as in evaluation, uint8 (N, C, H, W), mapped from ``path`` (NumPy's format).

    One process of all that ask for it decodes and writes it, and the others wait. Raises OSError where it cannot be
    written.
    """
    whole = (len(files.names), *shape)
    every = torch.arange(whole[0])
    while True:
        with contextlib.suppress(OSError, ValueError):  # none yet, or damaged
            kept = np.load(path, mmap_mode="c")
            if kept.shape == whole:
                return torch.from_numpy(kept)
        try:
            with lock.hold(path.with_suffix(".lock"), lost=lambda: None):
                temporary = path.with_suffix(".tmp")  # of a process that was killed, perhaps
                mapped = np.lib.format.open_memmap(temporary, "w+", np.uint8, whole)
                with open(temporary, "r+b") as file:
                    if hasattr(os, "posix_fallocate"):  # else a full disk would kill us while we write into the map
                        os.posix_fallocate(file.fileno(), 0, temporary.stat().st_size)
                _decode_into(mapped, Lazy(files, every, every), make)
                mapped.flush()
                os.replace(temporary, path)
        except lock.Busy:
            time.sleep(0.2)


def _decode_into(pixels: "np.ndarray", split: Lazy, make: Make) -> None:
    def one(i: int) -> None:
        pixels[i] = make(split[i], None).numpy()

    for _ in with_progress(_in_threads(one, len(split)), len(split), "decoding images"):
        pass


def _in_threads(function: Callable[[int], T], count: int) -> Iterator[T]:
    """What it returns for 0 to ``count``, in order."""
    pool = ThreadPoolExecutor(max(1, torch.get_num_threads()))
    try:
        for start in range(0, count, TOGETHER):  # a million tasks at once would fill the memory
            yield from pool.map(function, range(start, min(start + TOGETHER, count)))
    finally:
        pool.shutdown(cancel_futures=True)


def histogram(images: Tensor) -> Tensor:
    """How often each value occurs in each channel of uint8 (N, C, H, W): int64 (C, 256). No float copy of the data."""
    return torch.stack([torch.bincount(channel.flatten().int(), minlength=256) for channel in images.unbind(1)])


def sum_of_histograms(split: Lazy, make: Make) -> Tensor:
    """The histogram of a split's images as in evaluation, one at a time."""
    each = _in_threads(lambda i: histogram(make(split[i], None)[None]), len(split))
    return sum(with_progress(each, len(split), "reading images"), start=torch.zeros((), dtype=torch.long))
