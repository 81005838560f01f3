"""Figures of where a network looks: a grid of images and maps, one image's gates, and gates of channels."""

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor

from attnlab.explain.colours import on_top
from attnlab.explain.looking import NAMES, Seeing, Subjects
from attnlab.ledger import write_bytes
from attnlab.study.figures import COLOURS, GREY, LINES, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL import Image

PANELS = 5  # sites in a picture
ROWS = 8  # images in a grid
CLASSES = 5  # in a figure of channels
DPI = 110
TILE, GAP, WORDS = 1.15, 0.05, 0.12  # inches: an image, between images, a line of a title
SIGNED = ("integrated_gradients",)


def draw_grid(subjects: Subjects, seen: Sequence[Seeing], rows: int = ROWS) -> "Figure":
    """A row an image and network: the image, a map of each site (of at most five), the map of each method.

    Of more images than ``rows``, the first.
    """
    sites = max(len(_panels(each.sites)) for each in seen)
    methods = list(dict.fromkeys(method for each in seen for method in each.cams))
    lines: list[list[_Tile | str]] = []
    for i in range(min(rows, len(subjects))):
        pixels = subjects.pixels[i]
        for each in seen:
            named = [each.name] if len(seen) > 1 else []
            line: list[_Tile | str] = [_Tile(pixels, "\n".join([*named, *said(subjects, each, i)]))]
            for site in _panels(each.sites):
                words, seen_map = _of_site(each, site, i)
                line.append(_Tile(pixels, words, on_top(seen_map)))
            if not each.sites and sites:
                line.append("no attention")
            line += [""] * (1 + sites - len(line))
            for method in methods:
                words, seen_map = _of_method(subjects, each, method, i)
                line.append(_Tile(pixels, words, on_top(seen_map, method in SIGNED)))
            lines.append(line)
    return _drawn(lines, TILE, WORDS * (3.2 if len(seen) > 1 else 2.2), together=len(seen))


class _Tile(NamedTuple):
    pixels: Tensor  # uint8 (C, H, W)
    title: str
    over: np.ndarray | None = None  # RGBA


def _drawn(lines: Sequence[Sequence[_Tile | str]], wide: float, title: float, together: int = 1) -> "Figure":
    """Tiles, or words, in rows and columns; after so many rows ``together`` there is some room."""
    from matplotlib.figure import Figure
    from PIL import Image

    first = lines[0][0]
    assert isinstance(first, _Tile)
    height, width = first.pixels.shape[1:]
    tall = wide * height / width
    tops = [title + i * (title + tall + GAP) + i // together * 2 * GAP for i in range(len(lines))]
    size = (wide * len(lines[0]), tops[-1] + tall)
    figure = Figure(figsize=size, dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    # All in one image: matplotlib takes seconds for a hundred.
    sheet = Image.new("RGB", (round(DPI * size[0]), round(DPI * size[1])), "white")
    for top, line in zip(tops, lines, strict=True):
        for column, tile in enumerate(line):
            left, right = column * wide + GAP / 2, (column + 1) * wide - GAP / 2
            if isinstance(tile, str):
                axes.text((left + right) / 2, top + tall / 2, tile, fontsize=7, ha="center", va="center", color=GREY)
                continue
            place = (round(DPI * (right - left)), round(DPI * tall))
            sheet.paste(composed(tile.pixels, tile.over, place), (round(DPI * left), round(DPI * top)))
            where = ((left + right) / 2, top - 0.03)
            axes.text(*where, tile.title, fontsize=5.5, ha="center", va="bottom", linespacing=1.1, parse_math=False)
    axes.imshow(np.asarray(sheet), extent=(0, size[0], size[1], 0), aspect="auto")
    axes.set(xlim=(0, size[0]), ylim=(size[1], 0))
    return figure


def composed(pixels: Tensor, over: np.ndarray | None, size: tuple[int, int]) -> "Image.Image":
    """The image (C, H, W) uint8 with RGBA (h, w, 4) on it, as RGB of this width and height."""
    from PIL import Image

    grey = len(pixels) != 3
    array = pixels.float().mean(0).byte() if grey else pixels.permute(1, 2, 0)
    image = Image.fromarray(array.numpy()).convert("RGBA")
    image = image.resize(size, Image.Resampling.NEAREST if image.width < size[0] else Image.Resampling.LANCZOS)
    if over is not None:
        image.alpha_composite(Image.fromarray(over).resize(size, Image.Resampling.BICUBIC))
    return image.convert("RGB")


def said(subjects: Subjects, seen: Seeing, i: int) -> list[str]:
    """``is 3``, where that is known; ``says 8, 61 %``."""
    truth, says = subjects.truth[i], subjects.classes[seen.predicted[i]]
    known = [] if truth is None else [f"is {shortened(subjects.classes[truth])}"]
    return [*known, f"says {shortened(says)}, {100 * seen.confidence[i]:.0f} %"]


def _of_site(seen: Seeing, site: str, i: int) -> tuple[str, Tensor]:
    look = seen.looks[site]
    assert look.map is not None
    seen_map = look.map[i]
    what = "gate" if look.of_gate else "mean |output|"
    return f"{shortened(site)}\n{what} {float(seen_map.min()):.2f} to {float(seen_map.max()):.2f}", seen_map


def _of_method(subjects: Subjects, seen: Seeing, method: str, i: int) -> tuple[str, Tensor]:
    seen_map = seen.cams[method][i]
    found = "for" if seen_map.any() else "nothing for"
    return f"{NAMES[method]}\n{found} {shortened(subjects.classes[subjects.asked[i]])}", seen_map


def picture(image: Tensor, maps: Mapping[str, Tensor], title: str) -> bytes:
    """A PNG: the image (C, H, W) uint8, and beside it the image under each map (height, width); at most five maps."""
    tiles = [_Tile(image, shortened(site), on_top(maps[site])) for site in _panels([*maps])]
    return as_file(_drawn([[_Tile(image, title), *tiles]], 1.5, WORDS), "png", dpi=100)


def draw_channels(
    gates: Mapping[str, Tensor], labels: Sequence[int], classes: Sequence[str], title: str
) -> "Figure | None":
    """A column a site: its gates of channels (images, C), sorted; and by class, as figures 5 and 6 of the SE paper.

    ``labels``: the class of each image. Shows at most five sites, and the five classes with most images.
    (Hu et al. 2018, arXiv 1709.01507, section 6.4.) None without gates.
    """
    from matplotlib.figure import Figure

    panels = _panels([*gates])
    if not panels:
        return None
    which, counts = np.unique(np.asarray(labels), return_counts=True)
    chosen = sorted(which[np.argsort(-counts, kind="stable")][:CLASSES].tolist())
    with styled():
        figure = Figure(figsize=(1 + 2.6 * len(panels), 4.6), layout="constrained")
        top, below = figure.subplots(2, len(panels), squeeze=False, sharey="row")
        for sorted_axes, axes, site in zip(top, below, panels, strict=True):
            values = gates[site].numpy()
            _draw_sorted(sorted_axes, values)
            sorted_axes.set_title(shortened(site, 34), parse_math=False)
            _draw_by_class(axes, values, np.asarray(labels), chosen, classes)
        top[0].set_ylabel("gate, sorted in each image")
        below[0].set_ylabel("mean gate of a class")
        handles, names = below[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=len(names), fontsize=8)
        figure.suptitle(title, fontsize=9, parse_math=False)
    return figure


def _draw_sorted(axes: "Axes", gates: np.ndarray) -> None:
    """The median image, and a band from the lowest image to the highest."""
    ordered = -np.sort(-gates, axis=1)
    x = np.arange(1, 1 + gates.shape[1])
    axes.fill_between(x, ordered.min(0), ordered.max(0), color=COLOURS[0], alpha=0.2, linewidth=0)
    axes.plot(x, np.median(ordered, 0), color=COLOURS[0], linewidth=1.5)
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel("channels by rank")


def _draw_by_class(
    axes: "Axes", gates: np.ndarray, labels: np.ndarray, chosen: Sequence[int], classes: Sequence[str]
) -> None:
    x = np.arange(1, 1 + gates.shape[1])
    axes.plot(x, gates.mean(0), color=GREY, linewidth=4, alpha=0.5, label="all images")
    for label, colour, line in zip(chosen, COLOURS, LINES, strict=False):
        name = shortened(classes[label])
        axes.plot(x, gates[labels == label].mean(0), color=colour, linestyle=line, linewidth=1, label=name)
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel("channel")


def save(figure: "Figure", folder: Path, name: str) -> list[Path]:
    """Write name.png and name.svg into a folder."""
    paths = []
    for kind in ("png", "svg"):
        path = folder / f"{name}.{kind}"
        write_bytes(path, as_file(figure, kind))
        paths.append(path)
    return paths


def as_file(figure: "Figure", kind: str, dpi: int = DPI, *, transparent: bool = False) -> bytes:
    """The same bytes each time."""
    import matplotlib

    file = io.BytesIO()
    with styled(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a class's name in letters that the font lacks
        matplotlib.rcParams["svg.hashsalt"] = "attnlab"
        dates = {"Date": None} if kind == "svg" else None
        figure.savefig(file, format=kind, dpi=dpi, transparent=transparent, metadata=dates)
    return file.getvalue()


def shortened(text: str, most: int = 22) -> str:
    """Its end, which tells paths of modules and files apart."""
    return text if len(text) <= most else f"…{text[1 - most :]}"


def _panels(sites: Sequence[str]) -> Sequence[str]:
    """At most five, evenly, the last one included."""
    if len(sites) <= PANELS:
        return sites
    return [sites[round((i + 1) * len(sites) / PANELS) - 1] for i in range(PANELS)]
