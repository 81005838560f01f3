"""Where the object is, as the network sees the images: boxes of the data set, or boxes or masks of the user's."""

import csv
import os
from collections import defaultdict
from collections.abc import Mapping
from math import ceil, floor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from attnlab.data.decode import ORIENTATION, Files, extensions, fitted
from attnlab.data.images import Images, Lazy
from attnlab.data.module import ImageData
from attnlab.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

COLUMNS = ("file", "x0", "y0", "x1", "y1")
WIDTH, HEIGHT = 256, 257  # tags of TIFF
Box = tuple[float, float, float, float]


class Places(NamedTuple):
    """``indices`` (M,) of the test images whose place is known, and bool ``masks`` (M, H, W) of the places."""

    indices: Tensor
    masks: Tensor
    left_out: int  # of the images asked for


class Given:
    """Places that the user gives: a CSV of boxes, or a folder of masks.

    The CSV has the columns file, x0, y0, x1, y1: x1 and y1 are exclusive, in pixels of the file as it is stored (before
    EXIF turns it), and pixels that are partly inside count; several rows of one file are one place. A mask is an image
    of the same size, not black where the object is. Files are named as in the data's folder; of a mask's name, the
    extension does not count.
    Raises InputError for what is not there, or not of this form.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.boxes: Mapping[str, list[Box]] = {}
        self.masks: Mapping[str, Path] = {}
        if self.path.is_dir():
            self.masks = _masks_below(self.path)
        elif self.path.is_file():
            self.boxes = _boxes_in(self.path)
        else:
            raise InputError(f"explain.boxes={self.path}: no such file or folder")

    def mask(self, name: str, size: tuple[int, int]) -> "Image.Image | None":
        """White where the object is, of a stored image's (width, height); None for a file that has no place."""
        from PIL import Image, ImageDraw

        if self.masks:
            path = self.masks.get(os.path.splitext(name)[0])
            if path is None:
                return None
            with Image.open(path) as opened:
                grey = opened.mode in ("1", "L", "F") or opened.mode.startswith("I")
                values = np.asarray(opened if grey else opened.convert("RGB"))
                marked = values > 0 if values.ndim == 2 else values.any(2)
                mask = Image.fromarray(marked.astype(np.uint8) * 255)
            if mask.size != size:
                raise InputError(
                    f"explain.boxes: {path} is {mask.width}×{mask.height}, its image {size[0]}×{size[1]}: must be alike"
                )
            return mask
        if name not in self.boxes:
            return None
        mask = Image.new("L", size)
        for x0, y0, x1, y1 in self.boxes[name]:
            corners = (floor(x0), floor(y0), ceil(x1) - 1, ceil(y1) - 1)  # PIL's are inclusive
            ImageDraw.Draw(mask).rectangle(corners, fill=255)
        return mask


def masks_of(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes (N, 4) of x0, y0, x1, y1 in pixels, x1 and y1 exclusive -> bool (N, H, W)."""
    y, x = (torch.arange(length, device=boxes.device) for length in size)
    x0, y0, x1, y1 = boxes[:, :, None].unbind(1)  # (N, 1) each
    rows, columns = (y >= y0) & (y < y1), (x >= x0) & (x < x1)
    return rows[:, :, None] & columns[:, None, :]


def known_places(data: ImageData, given: Given | None, count: int) -> Places:
    """The places in at most ``count`` test images, evenly over the split; as evaluation has the images.

    Raises InputError where nothing tells them, see ``require_places``.
    """
    require_places(data, given)
    test = data.loaded.test
    asked = evenly(len(test), count)
    if given is None:
        assert isinstance(test, Images)
        assert test.boxes is not None
        masks = masks_of(test.boxes[asked.to(test.boxes.device)].cpu(), data.shape[1:])
    else:
        assert isinstance(test, Lazy)
        assert isinstance(test.read, Files)
        masks = torch.stack([_fitted_place(data, test.read, int(test.indices[i]), given) for i in asked])
    known = masks.flatten(1).any(1)
    if not known.any():
        raise InputError(_none_known(data, given, len(asked)))
    return Places(asked[known], masks[known], int((~known).sum()))


def require_places(data: ImageData, given: Given | None) -> None:
    """Raise InputError unless the data set knows where its objects are, or its images are files that ``given`` names.

    Loads the data.
    """
    test = data.loaded.test
    if given is not None:
        if not (isinstance(test, Lazy) and isinstance(test.read, Files)):
            raise InputError(f"explain.boxes={given.path}: only images in files have names that boxes can refer to")
        if type(data).fit is not ImageData.fit or data.shape[1] != data.shape[2]:
            raise InputError(f"explain.boxes={given.path}: {type(data).__name__} has its own way to fit images")
        if not any(_knows(given, name) for name in _names(test)):
            raise InputError(_none_known(data, given, len(test)))
    elif not (isinstance(test, Images) and test.boxes is not None):
        raise InputError(
            "explain.scores=true: these data do not tell where the objects are; set explain.boxes to a CSV of "
            f"{','.join(COLUMNS)} or to a folder of masks, or explain.scores=false"
        )


def evenly(images: int, count: int) -> Tensor:
    """At most ``count`` indices, evenly spaced: where images are sorted by class, all classes are among them."""
    count = min(images, count)
    return torch.arange(count) * images // max(1, count)


def _names(split: Lazy) -> list[str]:
    assert isinstance(split.read, Files)
    return [os.fsdecode(split.read.names[i]).replace(os.sep, "/") for i in split.indices.tolist()]


def _knows(given: Given, name: str) -> bool:
    return name in given.boxes or os.path.splitext(name)[0] in given.masks


def _none_known(data: ImageData, given: Given | None, images: int) -> str:
    test = data.loaded.test
    if given is None or not isinstance(test, Lazy):
        return f"no place is known in {images} test images"
    return (
        f"explain.boxes={given.path}: tells no place in any of {images} test images; their files are named "
        f"{_names(test)[0]}, say"
    )


def _fitted_place(data: ImageData, files: Files, i: int, given: Given) -> Tensor:
    """bool (H, W): the place in image i, which went the way of its pixels; no pixel if nothing of it is seen.

    A pixel belongs to it if half of what it shows does.
    """
    from PIL import Image, ImageOps

    name = os.fsdecode(files.names[i]).replace(os.sep, "/")
    if not _knows(given, name):
        return torch.zeros(data.shape[1:], dtype=torch.bool)
    with Image.open(files.path(i)) as opened:
        size, orientation = _stored_size(opened), _orientation(opened)
    mask = given.mask(name, size)
    assert mask is not None
    mask.getexif()[ORIENTATION] = orientation
    turned = ImageOps.exif_transpose(mask)
    return fitted(turned, data.shape[-1], data.fit_how, "black", data.augment.eval_share)[0] >= 128


def _stored_size(opened: "Image.Image") -> tuple[int, int]:
    """(width, height) before EXIF turns it. Pillow tells a TIFF's as it will be after, and turns it when it loads."""
    tags = getattr(opened, "tag_v2", {}) if opened.format == "TIFF" else {}
    return tags.get(WIDTH, opened.width), tags.get(HEIGHT, opened.height)


def _orientation(opened: "Image.Image") -> int:
    try:
        return int(opened.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged EXIF: the pixels stay as they are
        return 1


def _boxes_in(path: Path) -> Mapping[str, list[Box]]:
    found: dict[str, list[Box]] = defaultdict(list)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            if absent := [name for name in COLUMNS if name not in (rows.fieldnames or ())]:
                raise InputError(
                    f"explain.boxes={path}: has no column {absent[0]}; must have {', '.join(COLUMNS)} in its first row"
                )
            for row in rows:
                found[row["file"].replace("\\", "/")].append(_box(path, rows.line_num, row))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"explain.boxes={path}: cannot be read: {error}") from None
    return found


def _box(path: Path, line: int, row: Mapping[str, str | None]) -> Box:
    try:
        x0, y0, x1, y1 = (float(row[name] or "") for name in COLUMNS[1:])
        if not (np.isfinite([x0, y0, x1, y1]).all() and x0 < x1 and y0 < y1):
            raise ValueError
    except ValueError:
        told = ", ".join(f"{name}={row[name]}" for name in COLUMNS[1:])
        raise InputError(f"explain.boxes={path}, line {line}: {told}: must be numbers with x0 < x1, y0 < y1") from None
    return x0, y0, x1, y1


def _masks_below(folder: Path) -> Mapping[str, Path]:
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in extensions():
            found[path.relative_to(folder).with_suffix("").as_posix()] = path
    if not found:
        raise InputError(f"explain.boxes={folder}: must hold masks: images named as those of the data")
    return found
