"""attnlab data: what a data set holds, and how its images look as batches."""

import contextlib
import io
import itertools
import json
import sys
import time
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table
from rich.text import Text
from torch import Tensor

from attnlab.config import schema
from attnlab.config.build import build_data, named
from attnlab.data import ImageData, Lazy
from attnlab.data.decode import CONVERSIONS
from attnlab.data.scan import Index
from attnlab.ledger import write_bytes
from attnlab.terminal import plain_console

MOST_CLASSES = 30  # rows of the table
COLUMNS, EPOCHS = 8, 3  # of the sheet: images, and how often each is augmented
SECONDS = 10.0  # at most, to time an epoch


def print_data(config: Any, sheet: str | None = None, as_json: bool = False) -> None:
    """Print what the config's data set holds, and write the sheet. Raises InputError as training would."""
    checked = schema.check(config)
    with contextlib.redirect_stdout(sys.stderr):  # what others print is no part of the answer
        with named("data", checked):
            data = build_data(checked)
            notes = _load(data)
        path = Path(sheet or Path(checked["output_dir"]) / f"data-{checked['data']['name']}.png")
        write_bytes(path, draw(data))
        about = {**_about(checked, data, notes), "sheet": str(path)}
    if as_json:
        print(json.dumps(about, indent=2, ensure_ascii=False))
    else:
        _print(about)


def _load(data: ImageData) -> list[str]:
    """Load the splits, and as a batch at most all training images. Returns what is to be told."""
    asked, data.batch_size = data.batch_size, 1
    images = len(data.loaded.train)
    data.batch_size = min(asked, images)
    too_large = f"data.batch_size={asked}: there are only {images} training images, so training would not start"
    return [*data.notes, *([too_large] if asked > images else [])]


def _about(checked: dict[str, Any], data: ImageData, notes: list[str]) -> dict[str, Any]:
    splits = data.splits._asdict()
    counts = {
        name: torch.bincount(split.labels.cpu(), minlength=data.num_classes).tolist() for name, split in splits.items()
    }
    mean, std = data.moments
    index = getattr(data, "index", None)
    return {
        "data": checked["data"]["name"],
        "augment": checked["augment"]["name"],
        "shape": list(data.shape),
        "classes": list(data.classes),
        "images": counts,
        "files": None if index is None else _files(index),
        "normalise": {"by": data.normalise, "mean": mean.tolist(), "std": std.tolist()},
        "epoch": _epoch(data),
        "notes": notes,
    }


def _files(index: Index) -> dict[str, Any]:
    """Of all files that can be decoded: sizes in pixels, colours, and how many were converted how."""
    sides = {"height": index.heights, "width": index.widths}
    return {
        "number": len(index.grey),
        **{
            name: {"min": int(side.min()), "median": int(np.median(side)), "max": int(side.max())}
            for name, side in sides.items()
        },
        "grey": int(index.grey.sum()),
        "converted": {
            what: count for i, what in enumerate(CONVERSIONS) if (count := int((index.converted >> i & 1).sum()))
        },
    }


def _epoch(data: ImageData) -> dict[str, Any]:
    """How long the training images of an epoch take as the loop gets them, from the first seconds of one."""
    streamed = isinstance(data.splits.train, Lazy)
    batches = data.batches(data.splits.train, shuffle=True)
    images, started = 0, time.perf_counter()
    for x, _ in batches:
        images += len(x)
        if time.perf_counter() - started > SECONDS:
            break
    taken = time.perf_counter() - started
    total = len(batches) * data.batch_size
    return {
        "images": total,
        "seconds": total * taken / images,
        "images_per_second": images / taken,
        "streamed": streamed,
        "workers": data.stream.workers if streamed else 0,
        "waiting": data.stream.waited / taken if streamed else 0.0,  # share of the time
    }


def _print(about: dict[str, Any]) -> None:
    counts, files, epoch, by = about["images"], about["files"], about["epoch"], about["normalise"]
    sizes = ", ".join(f"{name} {sum(each):,}" for name, each in counts.items())
    shape = "×".join(map(str, about["shape"]))
    print(f"{about['data']}: {len(counts['train'])} classes, images of {shape}; {sizes}")
    plain_console().print(_table(about["classes"], counts))
    if files:
        height, width = ("/".join(map(str, files[side].values())) for side in ("height", "width"))
        print(
            f"files: {files['number']:,}, {files['grey']:,} of them grey; height {height}, width {width} pixels "
            "(min/median/max)"
        )
        if files["converted"]:
            print(f"converted: {', '.join(f'{count:,} {what}' for what, count in files['converted'].items())}")
    print(*about["notes"], sep="\n", end="\n" if about["notes"] else "")
    where = "of the training images" if by["by"] == "train" else f"data.normalise={by['by']}"
    print(f"mean {_numbers(by['mean'])}, deviation {_numbers(by['std'])} ({where})")
    way = "held in memory"
    if epoch["streamed"]:
        way = (
            f"decoded in each epoch by {epoch['workers']} worker{'s' * (epoch['workers'] != 1)}, "
            f"waiting for which takes {epoch['waiting']:.0%} of that"
        )
    print(
        f"augment={about['augment']}: an epoch takes {_duration(epoch['seconds'])} to read "
        f"({epoch['images_per_second']:,.0f} images/s); {way}"
    )
    print(f"samples: {about['sheet']}")


def _table(classes: Sequence[str], counts: dict[str, list[int]]) -> Table:
    """Images of each class; of many classes, the largest and the smallest."""
    table = Table("class", *counts, "share")
    for column in table.columns[1:]:
        column.justify = "right"
    total = [sum(each) for each in zip(*counts.values(), strict=True)]
    rows = list(range(len(total)))
    if len(rows) > MOST_CLASSES:
        rows.sort(key=lambda label: (-total[label], label))
        rows = [*rows[: MOST_CLASSES // 2], -1, *rows[-MOST_CLASSES // 2 :]]
    for label in rows:
        if label < 0:
            table.add_row(f"… {len(total) - MOST_CLASSES} more", *[""] * (len(counts) + 1))
        else:
            share = f"{100 * total[label] / sum(total):.1f} %"
            table.add_row(Text(classes[label]), *(f"{each[label]:,}" for each in counts.values()), share)
    return table


def draw(data: ImageData) -> bytes:
    """A PNG: a column an image; as its file is, as in evaluation, and what augmentation makes of it in some epochs."""
    from matplotlib.figure import Figure

    chosen = torch.from_numpy(of_different_classes(data.loaded.train.labels.numpy(), COLUMNS))
    original, part = (splits.train.take(chosen) for splits in (data.loaded, data.splits))
    names = [_short(data.classes[label]) for label in part.labels.tolist()]
    rows: list[tuple[str, Iterable[np.ndarray], list[str]]] = []  # name, images, titles
    if isinstance(original, Lazy):
        files = [np.asarray(original[i]) for i in range(len(original))]
        sizes = [f"{image.shape[0]} × {image.shape[1]}" for image in files]
        rows.append(("file", files, [f"{name}\n{size}" for name, size in zip(names, sizes, strict=True)]))
        names = []
    rows.append(("evaluation", _pixels(data, data.shown(part)[0]), names))
    for epoch in range(0 if data.augment.nothing else EPOCHS):
        x, y = data.shown(part, epoch)
        mixes = [_mix(data.classes, each) for each in y] if y.ndim == 2 else []
        rows.append((f"epoch {epoch + 1}", _pixels(data, x), mixes))
    figure = Figure(figsize=(1.4 * len(part), 1.6 * len(rows)), dpi=120, layout="constrained")
    cells = figure.subplots(len(rows), len(part), squeeze=False)
    for line, (row, images, titles) in zip(cells, rows, strict=True):
        line[0].set_ylabel(row, fontsize=8)
        for cell, image, title in zip(line, images, titles or itertools.repeat(""), strict=False):
            cell.imshow(image, cmap="gray", vmin=0, vmax=255)
            cell.set(xticks=[], yticks=[])
            cell.set_title(title, fontsize=7, parse_math=False)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a class's name in letters that the font lacks
        figure.savefig(file, format="png")
    return file.getvalue()


def of_different_classes(labels: np.ndarray, count: int, before: np.ndarray | None = None) -> np.ndarray:
    """Indices of so many images: the first of each class, then the second of each, ...

    ``before``: the labels of images that are chosen already.
    """
    order = np.argsort(labels, kind="stable")
    place = np.arange(len(labels)) - np.searchsorted(labels[order], labels[order])  # within its class
    if before is not None:
        place += np.bincount(before, minlength=labels.max(initial=0) + 1)[labels[order]]
    return order[np.argsort(place, kind="stable")][:count]


def _pixels(data: ImageData, images: Tensor) -> np.ndarray:
    """Normalised (N, C, H, W) as what matplotlib draws: uint8 (N, H, W) or (N, H, W, 3)."""
    shown = data.unnormalised(images).permute(0, 2, 3, 1).numpy()
    return shown[..., :3] if shown.shape[-1] >= 3 else shown[..., 0]


def _mix(classes: Sequence[str], label: Tensor) -> str:
    """A soft label (classes,), the larger part first."""
    shares, which = label.topk(2)
    parts = [f"{share:.0%} {_short(classes[i])}" for share, i in zip(shares.tolist(), which.tolist(), strict=True)]
    return "\n".join(parts if shares[1] else parts[:1])


def _short(text: str) -> str:
    return text if len(text) < 18 else f"{text[:16]}…"


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)
