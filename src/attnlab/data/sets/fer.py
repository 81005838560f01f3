"""FER-2013 (Goodfellow et al. 2013, arXiv 1307.0414): 35,887 faces, 48×48 grey, 7 emotions, from its official CSV."""

import contextlib
import gzip
import io
import lzma
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from attnlab.data.decode import fingerprint
from attnlab.data.images import Images, Splits
from attnlab.data.module import ImageData, positive
from attnlab.data.scan import pixel_hash
from attnlab.data.sets.files import Duplicates, fraction, listed
from attnlab.data.splits import Parts, divided, require_every_class, without_duplicates
from attnlab.errors import InputError, MissingData, first_line
from attnlab.ledger import write_bytes

SIDE = 48  # pixels
USAGES = {b"training": 0, b"publictest": 1, b"privatetest": 2}
ROWS = 512  # parsed at a time


class Fer2013(ImageData):
    """The official CSV, ``emotion,pixels,Usage`` in any order, also as .gz, .xz or .zip.

    Training is train, PublicTest val, PrivateTest test. Without PrivateTest rows, PublicTest is the test split, and
    ``val`` the share of Training drawn by ``seed``, classes in equal shares. ``size`` None keeps 48 pixels.
    ``duplicates``: what to do with identical images in two splits; they are counted in any case.
    """

    num_classes = 7

    def __init__(
        self, *, file: str, val: float = 0.1, size: int | None = None, duplicates: Duplicates = "keep", **common: Any
    ) -> None:
        super().__init__(**common)
        fraction(val=val)
        positive(size=SIDE if size is None else size)
        self.file, self.val, self.size, self.duplicates = Path(file), val, size, duplicates
        self.shape = (1, size or SIDE, size or SIDE)
        self.classes = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]

    def load(self) -> Splits:
        where = f"data.file={self.file}"
        if not self.file.is_file():
            raise MissingData(f"{where}: must be FER-2013's CSV (emotion,pixels,Usage), or that as .gz, .xz or .zip")
        pixels, labels, usage = self.rows(where)
        train, public, private = (np.flatnonzero(usage == part) for part in range(3))
        notes = []
        if len(private):
            parts = Parts(train, public, private)
        else:
            if not (len(train) and len(public)):
                raise InputError(f"{where}: no row of Usage {'PublicTest' if len(train) else 'Training'}")
            parts = Parts(*divided(train, labels, self.val, self.seed), public)
            notes.append(f"no PrivateTest rows: test is PublicTest, val a share of {self.val:g} of Training")
        hashes = np.array([pixel_hash(image.tobytes()) for image in pixels], np.uint64)
        parts, note = without_duplicates(parts, hashes, self.duplicates == "drop")
        self.notes = [f"{where}: {text}" for text in (*notes, note) if text]
        require_every_class([labels[part] for part in parts], self.classes)
        return Splits(*(self.images(pixels[part], labels[part]) for part in parts))

    def rows(self, where: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pixels, emotions and usages, from the cache if the file is as it was: parsing takes seconds."""
        name = fingerprint(str(self.file.parent), np.array([os.fsencode(self.file.name)]))
        path = self.cache and self.cache / f"fer2013-{name}.npz"
        if path:
            with contextlib.suppress(Exception), np.load(path) as kept:  # none yet, or damaged
                return kept["pixels"], kept["labels"], kept["usage"]
        try:
            with _opened(self.file) as file:
                pixels, labels, usage = read_rows(file, where)
        except (OSError, EOFError, lzma.LZMAError, zipfile.BadZipFile) as error:
            raise InputError(f"{where}: cannot be read: {first_line(error)}") from None
        if path:
            kept_bytes = io.BytesIO()
            np.savez(kept_bytes, pixels=pixels, labels=labels, usage=usage)
            with contextlib.suppress(OSError):  # without it, the next process parses again
                write_bytes(path, kept_bytes.getvalue())
        return pixels, labels, usage

    def images(self, pixels: np.ndarray, labels: np.ndarray) -> Images:
        images = torch.from_numpy(pixels).view(-1, 1, SIDE, SIDE)
        if self.size is not None and self.size != SIDE:
            from torchvision.transforms.v2.functional import resize

            images = resize(images, [self.size, self.size], antialias=True)
        return Images(images, torch.from_numpy(labels))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    suffix = path.suffix.lower()
    with contextlib.ExitStack() as stack:
        if suffix == ".zip":
            archive = stack.enter_context(zipfile.ZipFile(path))
            names = [name for name in archive.namelist() if name.lower().endswith(".csv") and "__MACOSX" not in name]
            if len(names) != 1:
                raise InputError(f"data.file={path}: must hold one .csv; it holds {len(names)}: unpack it")
            yield io.BufferedReader(stack.enter_context(archive.open(names[0])))
        elif suffix == ".gz":
            yield stack.enter_context(gzip.open(path, "rb"))
        elif suffix == ".xz":
            yield stack.enter_context(lzma.open(path, "rb"))
        else:
            yield stack.enter_context(open(path, "rb"))


def read_rows(file: BinaryIO, where: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels uint8 (N, 2304), emotions int64 (N,) and usages (N,) of the CSV's rows.

    Raises InputError that names the lines of malformed rows.
    """
    header = [name.strip().strip(b'"').lower() for name in file.readline().removeprefix(b"\xef\xbb\xbf").split(b",")]
    try:
        emotion, pixel, usage = (header.index(name) for name in (b"emotion", b"pixels", b"usage"))
    except ValueError:
        raise InputError(f"{where}: line 1 must name the columns emotion, pixels and Usage") from None
    wrong: list[str] = []
    numbers: list[int] = []  # of lines
    fields: list[bytes] = []  # pixels of some rows
    images, emotions, usages = [], [], []

    def parse() -> None:
        parsed = parse_pixels(fields)
        wrong.extend(f"line {n} ({why})" for n, why in zip(numbers, parsed[1], strict=True) if why)
        images.append(parsed[0])
        fields.clear()
        numbers.clear()

    for number, line in enumerate(file, 2):
        row = [cell.strip().strip(b'"') for cell in line.split(b",")]
        if row == [b""]:
            continue
        if len(row) != len(header):
            wrong.append(f"line {number} ({len(row)} cells, must be {len(header)})")
        elif row[emotion] not in (b"0", b"1", b"2", b"3", b"4", b"5", b"6"):
            wrong.append(f"line {number} (emotion {row[emotion].decode(errors='replace')[:20]!r}, must be 0 to 6)")
        elif row[usage].lower() not in USAGES:
            wrong.append(f"line {number} (Usage {row[usage].decode(errors='replace')[:20]!r})")
        else:
            emotions.append(int(row[emotion]))
            usages.append(USAGES[row[usage].lower()])
            fields.append(row[pixel])
            numbers.append(number)
            if len(fields) == ROWS:
                parse()
    parse()
    if wrong:
        raise InputError(f"{where}: malformed: {listed(wrong)}")
    return np.concatenate(images), np.array(emotions, np.int64), np.array(usages, np.int8)


def parse_pixels(fields: list[bytes]) -> tuple[np.ndarray, list[str]]:
    """The 2,304 numbers of each field, uint8 (N, 2304); and what is wrong with each (empty: nothing)."""
    total = len(fields) * SIDE * SIDE
    if all(field.count(b" ") == SIDE * SIDE - 1 for field in fields):
        values = _numbers(b" ".join(fields))
        if values is not None and len(values) == total:
            return values.reshape(-1, SIDE * SIDE), [""] * len(fields)
    images, reasons = np.zeros((len(fields), SIDE * SIDE), np.uint8), []
    for image, field in zip(images, fields, strict=True):
        found = _numbers(field)
        if found is None:
            reasons.append("pixels must be numbers from 0 to 255")
        elif len(found) != SIDE * SIDE:
            reasons.append(f"{len(found)} pixels, must be {SIDE * SIDE}")
        else:
            image[:] = found
            reasons.append("")
    return images, reasons


def _numbers(text: bytes) -> np.ndarray | None:
    """Numbers from 0 to 255 between spaces, uint8; None where anything else stands.

    Array by array: 75 million numbers one by one would take a minute.
    """
    # Each number has three characters before it.
    digits = np.frombuffer(b"    " + text + b" ", np.uint8) - np.uint8(ord("0"))
    space = np.uint8(256 + ord(" ") - ord("0"))
    if ((digits > 9) & (digits != space)).any():
        return None
    inside = digits < 10
    ends = np.flatnonzero(inside[:-1] & ~inside[1:])
    ones, tens, hundreds, more = (digits[ends - back] for back in range(4))
    has_tens = tens < 10
    has_hundreds = has_tens & (hundreds < 10)
    values = ones + np.where(has_tens, tens, 0) * np.uint16(10) + np.where(has_hundreds, hundreds, 0) * np.uint16(100)
    if (has_hundreds & (more < 10)).any() or values.max(initial=0) > 255:
        return None
    return values.astype(np.uint8)
