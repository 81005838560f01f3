"""From a file of any kind to an upright 8-bit image, and from that to the pixels that a network gets."""

import contextlib
import functools
import hashlib
import os
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from attnlab.errors import InputError, first_line

if TYPE_CHECKING:
    from PIL import Image

Fit = Literal["crop", "pad", "stretch"]
Background = Literal["white", "black"]
GREY = ("1", "L", "LA", "La", "I", "F")  # PIL's modes without colour, and those that begin with I;
ORIENTATION = 0x0112  # EXIF's tag
CONVERSIONS = (
    "turned as EXIF says",
    "transparency laid on the background",
    "palette to colours",
    "16 or 32 bits to 8",
    "CMYK or the like to RGB",
    "first picture of several",
)
NO_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"}  # PIL knows them, but cannot read them by itself


class Files:
    """Image i, upright, of the file ``names[i]`` in ``root``. ``names`` holds bytes: it is copied to worker processes
    as one block. Raises InputError for a file that cannot be read."""

    def __init__(self, root: str, names: np.ndarray, channels: int | None, background: Background = "white") -> None:
        self.root, self.names, self.channels, self.background = root, names, channels, background

    @functools.cached_property
    def key(self) -> str:
        """Names the files, as they are now, and how they are read."""
        return f"{fingerprint(self.root, self.names)} {self.channels} {self.background}"

    def path(self, i: int) -> str:
        return os.path.join(self.root, os.fsdecode(self.names[i]))

    def __call__(self, i: int) -> "Image.Image":
        with self._named(i):
            return upright(self.path(i), self.channels, self.background)

    def cropped(self, i: int, crop: Callable[["Image.Image"], Tensor]) -> Tensor:
        """``crop`` of image i. It gets an ordinary JPEG before that is decoded, and may draft it to a smaller size."""
        from PIL import Image

        with self._named(i), Image.open(self.path(i)) as opened:
            return crop(opened) if _is_plain(opened, self.channels) else crop(self(i))

    @contextlib.contextmanager
    def _named(self, i: int) -> Iterator[None]:
        try:
            yield
        except InputError:
            raise
        except Exception as error:  # whatever a decoder raises
            raise InputError(f"{self.path(i)}: cannot be read: {reason(error)}; repair or remove it") from None


def fingerprint(root: str, names: np.ndarray) -> str:
    """Changes with the folder, and with the names, sizes and times of the files; a change of status counts, too."""
    found = hashlib.sha256(os.fsencode(os.path.realpath(root)))
    for name in names:
        about = os.stat(os.path.join(os.fsencode(root), name))
        found.update(b"%b\0%d %d %d\n" % (name, about.st_size, about.st_mtime_ns, about.st_ctime_ns))
    return found.hexdigest()[:16]


def reason(error: Exception) -> str:
    """Why a file could not be decoded."""
    from PIL import UnidentifiedImageError

    return "no image" if isinstance(error, UnidentifiedImageError) else first_line(error)


@functools.cache
def extensions() -> frozenset[str]:
    """Of the files that PIL can read, in lower case, with the dot."""
    from PIL import Image

    Image.init()
    known = Image.registered_extensions()
    return frozenset(name for name, kind in known.items() if kind in Image.OPEN and kind not in NO_PICTURES)


def is_grey(image: "Image.Image") -> bool:
    """Whether an image without its pixels (just opened) has no colours."""
    if image.mode == "P" and (palette := image.getpalette()):
        return palette[0::3] == palette[1::3] == palette[2::3]
    return image.mode in GREY or image.mode.startswith("I;")


def upright(path: str, channels: int | None = None, background: Background = "white") -> "Image.Image":
    """The file's first image as a person would see it: mode L (``channels=1``), RGB (3), or what the file is (None).

    Turned as its EXIF orientation says; transparent pixels lie on ``background``; 16 bits become 8.
    """
    from PIL import Image

    _quiet()
    with Image.open(path) as opened:
        return _upright(opened, channels, background)


def upright_image(image: "Image.Image", channels: int | None = None, background: Background = "white") -> "Image.Image":
    """``upright`` of an image that is open already; a file's EXIF counts here, too."""
    _quiet()
    return _upright(image, channels, background)


def upright_and_why(path: str) -> tuple["Image.Image", int]:
    """``upright``, and which of ``CONVERSIONS`` that took: bit i for the one of that index."""
    from PIL import Image

    _quiet()
    with Image.open(path) as opened:
        image = _upright(opened, None, "white")
        orientation = 1
        with contextlib.suppress(Exception):
            orientation = opened.getexif().get(ORIENTATION, 1)
        took = (
            orientation in range(2, 9),
            _is_transparent(opened),
            opened.mode in ("P", "PA"),
            opened.mode.startswith(("I", "F")),
            opened.mode in ("CMYK", "YCbCr", "LAB", "HSV"),
            getattr(opened, "is_animated", False),
        )
        return image, sum(done << i for i, done in enumerate(took))


def _upright(opened: "Image.Image", channels: int | None, background: Background) -> "Image.Image":
    from PIL import Image, ImageOps

    channels = channels or (1 if is_grey(opened) else 3)
    opened.load()
    image: Image.Image = opened
    with contextlib.suppress(Exception):  # damaged EXIF: the pixels are there
        image = ImageOps.exif_transpose(opened)
    if image.mode.startswith(("I", "F")):
        image = _eight_bits(image)
    if _is_transparent(image):
        image = image.convert("RGBA")
        flat = Image.new("RGBA", image.size, background)
        image = Image.alpha_composite(flat, image).convert("RGB")
    mode = "L" if channels == 1 else "RGB"
    return image.convert(mode) if image is opened or image.mode != mode else image


def _is_transparent(image: "Image.Image") -> bool:
    return "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa")


def _is_plain(opened: "Image.Image", channels: int | None) -> bool:
    """Whether the pixels of a file just opened are those of ``upright``."""
    _quiet()
    if opened.format != "JPEG" or opened.mode != ("L" if channels == 1 else "RGB"):
        return False
    try:
        return opened.getexif().get(ORIENTATION, 1) == 1
    except Exception:  # damaged EXIF
        return False


@functools.cache
def _quiet() -> None:
    """PIL warns about metadata. (``catch_warnings`` would not do: there are threads.)"""
    warnings.filterwarnings("ignore", module=r"PIL\.")


def _eight_bits(image: "Image.Image") -> "Image.Image":
    """Of 16 bits (which some versions of PIL hold in 32), or of float pixels in 0 .. 1 or 0 .. 255."""
    from PIL import Image

    pixels = np.asarray(image).astype(np.float64)
    top = pixels.max(initial=0)
    eight = top > 1 if image.mode == "F" else image.mode == "I" and top <= 255
    pixels *= 1 if eight else 255 if image.mode == "F" else 255 / 65535
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


def fitted(
    image: "Image.Image", size: int, how: Fit = "crop", background: Background = "white", share: float = 1.0
) -> Tensor:
    """An image of mode L or RGB as uint8 (C, size, size).

    ``crop``: the shorter side becomes ``size``, then the centre is cut out, as torchvision's Resize and CenterCrop do
    to the bit; ``pad``: the longer side becomes ``size``, the rest is ``background``; ``stretch``: both sides do.
    With a ``share`` below 1, the middle of an image that is larger by so much.
    """
    if share < 1:
        margin = (round(size / share) - size) // 2
        larger = fitted(image, round(size / share), how, background)
        return larger[:, margin : margin + size, margin : margin + size].contiguous()
    from PIL import Image

    bilinear = Image.Resampling.BILINEAR
    short, long = sorted(image.size)
    if how == "stretch":
        image = image.resize((size, size), bilinear)
    elif how == "crop":
        other = int(size * long / short)
        width, height = (size, other) if image.width <= image.height else (other, size)
        image = image.resize((width, height), bilinear)
        left, top = round((width - size) / 2), round((height - size) / 2)
        image = image.crop((left, top, left + size, top + size))
    else:
        width, height = (max(1, round(size * side / long)) for side in image.size)
        canvas = Image.new(image.mode, (size, size), background)
        canvas.paste(image.resize((width, height), bilinear), ((size - width) // 2, (size - height) // 2))
        image = canvas
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()
