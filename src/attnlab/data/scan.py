"""What is in each file of a data set, found by decoding each once; kept in a file, so that it is once a machine."""

import contextlib
import hashlib
import io
import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from attnlab.data.decode import Files, fingerprint, reason, upright_and_why
from attnlab.ledger import write_bytes
from attnlab.terminal import with_progress

TOGETHER = 64  # files of a task


class Index(NamedTuple):
    """What a scan found in each of N files."""

    heights: np.ndarray  # (N,) int32, pixels; 0 where the file cannot be decoded
    widths: np.ndarray
    grey: np.ndarray  # (N,) bool
    hashes: np.ndarray  # (N,) uint64, of the upright pixels
    errors: np.ndarray  # (N,) bytes: why a file cannot be decoded; empty where it can
    converted: np.ndarray  # (N,) uint8: bit i: ``decode.CONVERSIONS[i]`` was done

    def take(self, which: np.ndarray) -> "Index":
        return Index(*(array[which] for array in self))


Row = tuple[int, int, bool, int, bytes, int]
_known: dict[str, Index] = {}  # folds of one folder are loaded in one process


def index_of(root: str, names: np.ndarray, cache: Path | None = None) -> Index:
    """Decode each of the files ``names`` (bytes) in ``root``, unless ``cache`` (a folder) knows them.

    A file that has changed its size or time, and one that came or went, make it scan again.
    """
    key = fingerprint(root, names)
    path = cache and cache / f"scan-{key}.npz"
    if key not in _known and path:
        with contextlib.suppress(Exception), np.load(path) as arrays:  # none yet, or damaged
            _known[key] = Index(*(arrays[field] for field in Index._fields))
    if fresh := key not in _known:
        _known[key] = _scan(root, names)
    if path and (fresh or not path.exists()):
        file = io.BytesIO()
        np.savez_compressed(file, **_known[key]._asdict())
        with contextlib.suppress(OSError):  # without it, the next scan takes as long
            write_bytes(path, file.getvalue())
    return _known[key]


def _scan(root: str, names: np.ndarray) -> Index:
    read, n = Files(root, names, None), len(names)
    index = Index(*(np.zeros(n, kind) for kind in (np.int32, np.int32, bool, np.uint64, "S80", np.uint8)))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    some = [range(n)[start : start + TOGETHER] for start in range(0, n, TOGETHER)]
    pool = ThreadPoolExecutor(cores)  # PIL decodes without the GIL; measured as fast as processes
    try:
        found = pool.map(lambda these: [_look(read.path(i)) for i in these], some)
        for i, row in enumerate(with_progress(itertools.chain.from_iterable(found), n, "checking images")):
            for array, value in zip(index, row, strict=True):
                array[i] = value
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C waits for no more than has begun
    return index


def _look(path: str) -> Row:
    try:
        image, converted = upright_and_why(path)
    except Exception as error:  # whatever a decoder raises
        return 0, 0, False, 0, reason(error).encode("utf-8", "replace"), 0
    grey = image.mode == "L"
    pixels = pixel_hash(image.tobytes(), (image.height, image.width, grey))
    return image.height, image.width, grey, pixels, b"", converted


def pixel_hash(pixels: bytes, shape: tuple[int, ...] = ()) -> int:
    """64 bits: of a million images, two different ones agree with a probability of 3e-8."""
    return int.from_bytes(hashlib.blake2b(pixels, digest_size=8, key=repr(shape).encode()).digest(), "little")
