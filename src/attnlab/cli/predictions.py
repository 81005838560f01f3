"""attnlab predict: predictions as they are made, as a table, CSV or JSON; and how good they are, where labels tell."""

import csv
import io
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from rich.table import Table
from rich.text import Text

from attnlab.data.measures import per_class
from attnlab.errors import InputError
from attnlab.ledger import write_bytes
from attnlab.ledger.records import make_folder, put
from attnlab.terminal import plain_console, printable, with_progress
from attnlab.trained import Trained
from attnlab.trained.listing import Listed
from attnlab.trained.predicting import Prediction, predict_all

MOST_CLASSES = 30  # rows of the table of classes
COUNTED = 25  # classes of a confusion matrix whose cells have room for their numbers
SOFTWARE = "attnlab predict"  # marks its pictures, which alone it writes over unasked
Rows = Iterable[Prediction]
Form = Callable[[Trained, Sequence[Listed], int, Rows, "Tally"], Iterator[str]]


class Tally:
    """What is kept of all predictions: of images with a label that and the predicted class, and how many failed."""

    def __init__(self) -> None:
        self.labels, self.predicted, self.skipped = list[int](), list[int](), 0

    def counting(self, rows: Rows) -> Iterator[Prediction]:
        """The predictions that were made; files that cannot be read are named on stderr."""
        for row in rows:
            if row.error:
                self.skipped += 1
                print(printable(f"skipped: {row.error}"), file=sys.stderr)
                continue
            if row.image.label is not None:
                self.labels.append(row.image.label)
                self.predicted.append(row.best[0][0])
            yield row

    @property
    def answers(self) -> np.ndarray:
        """(2, N): labels and predicted classes."""
        return np.array([self.labels, self.predicted], np.int64)

    @property
    def accuracy(self) -> float | None:
        return float((self.answers[0] == self.answers[1]).mean()) if self.labels else None


def print_predictions(
    trained: Trained,
    images: Sequence[Listed],
    *,
    top: int = 3,
    form: str = "table",
    flip: bool | None = None,
    output: Path | None = None,
    confusion: Path | None = None,
) -> int:
    """Write what the network says of each image; return how many were skipped, as they cannot be read."""
    tally, out = Tally(), sys.stdout  # a progress bar would take what is printed to sys.stdout for its own
    rows: Rows = predict_all(trained, images, top, flip=flip)
    if output or not out.isatty():
        rows = with_progress(rows, len(images), "predicting")
    text = FORMS[form](trained, images, min(top, len(trained.classes)), tally.counting(rows), tally)
    if output:
        _write(output, text)
    else:
        for part in text:
            out.write(_shown(part) if out.isatty() else part)
    out.flush()
    beside = None if output or form == "table" else sys.stderr  # the numbers are not the machine's
    if tally.labels:
        _print_how_good(trained, tally, beside)
        picture = confusion or _beside(output)
        if confusion is None and _is_anothers(picture):
            print(f"confusion matrix: not drawn, as {picture} is another's; --confusion FILE draws it", file=sys.stderr)
        else:
            write_bytes(picture, draw_confusion(tally.answers, trained.classes))
            print(f"confusion matrix: {picture}", file=beside)
    if output:
        print(f"written: {output}")
    return tally.skipped


def _write(path: Path, text: Iterator[str]) -> None:
    """Atomically, as it comes."""
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            file.writelines(text)
        put(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _beside(output: Path | None) -> Path:
    return Path("confusion.png") if output is None else output.with_name(f"{output.stem}-confusion.png")


def _is_anothers(picture: Path) -> bool:
    """Whether there is a file that ``draw_confusion`` has not made."""
    from PIL import Image

    if not os.path.lexists(picture):
        return False
    try:
        with Image.open(picture) as image:
            return image.info.get("Software") != SOFTWARE
    except Exception:  # no image, or none that can be read
        return True


def require_others(written: Iterable[Path | None], words: Iterable[str], images: Iterable[Listed]) -> None:
    """Raise InputError if a file that will be written is one of those that are read."""
    there = {_number(path): path for path in written if path is not None and path.exists()}
    if there:
        for name in (*words, *(image.path for image in images)):
            if os.path.exists(name) and (path := there.get(_number(name))):
                raise InputError(f"{path}: is read, so it must not be written; choose another name")


def _number(path: str | Path) -> tuple[int, int]:
    """The same for all names of a file."""
    about = os.stat(path)
    return about.st_dev, about.st_ino


def _shown(part: str) -> str:
    return "\n".join(map(printable, part.split("\n")))


def _as_table(trained: Trained, images: Sequence[Listed], top: int, rows: Rows, tally: Tally) -> Iterator[str]:
    """A line an image; the widths are known before the first is."""
    labelled = any(image.label is not None for image in images)
    file, name = max(4, *(len(image.path) for image in images)), max(6, *map(len, trained.classes))
    classes = [printable(each) for each in trained.classes]

    def line(path: str, label: str, best: Iterable[str]) -> str:
        cells = [f"{path:{file}}", *([f"{label:{name}}"] if labelled else []), *(f"{each:{name + 8}}" for each in best)]
        return "  ".join(cells).rstrip() + "\n"

    yield line("file", "label", ["predicted", *(f"{i}." for i in range(2, top + 1))])
    for row in rows:
        best = (f"{classes[i]:{name}} {f'{100 * p:.1f} %':>7}" for i, p in row.best)
        yield line(printable(row.image.path), printable(_label(trained, row)), best)


def _label(trained: Trained, row: Prediction) -> str:
    return "" if row.image.label is None else trained.classes[row.image.label]


def _as_csv(trained: Trained, images: Sequence[Listed], top: int, rows: Rows, tally: Tally) -> Iterator[str]:
    labelled = any(image.label is not None for image in images)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")

    def line(cells: Sequence[Any]) -> str:
        text.seek(0)
        text.truncate()
        writer.writerow(cells)
        return text.getvalue()

    heads = [f"{name}{'' if i == 1 else f'_{i}'}" for i in range(1, top + 1) for name in ("class", "probability")]
    yield line(["file", *(["label"] if labelled else []), *heads])
    for row in rows:
        best = [cell for i, p in row.best for cell in (trained.classes[i], f"{p:.6g}")]
        yield line([row.image.path, *([_label(trained, row)] if labelled else []), *best])


def _as_json(trained: Trained, images: Sequence[Listed], top: int, rows: Rows, tally: Tally) -> Iterator[str]:
    yield '{"images": ['
    for number, row in enumerate(rows):
        best = [{"class": trained.classes[i], "probability": float(f"{p:.6g}")} for i, p in row.best]
        label = {} if row.image.label is None else {"label": _label(trained, row)}
        yield (",\n" if number else "\n") + json.dumps(
            {"file": row.image.path, **label, "top": best}, ensure_ascii=False
        )
    rest: dict[str, Any] = {"skipped": tally.skipped}
    if tally.labels:
        rest |= {"accuracy": tally.accuracy, "per_class": per_class(tally.answers, trained.classes)}
    yield f"\n], {json.dumps(rest, ensure_ascii=False)[1:]}\n"


FORMS: dict[str, Form] = {"table": _as_table, "csv": _as_csv, "json": _as_json}


def _print_how_good(trained: Trained, tally: Tally, file: TextIO | None) -> None:
    accuracy, n = tally.accuracy or 0.0, len(tally.labels)
    table = Table("class", "precision %", "recall %", "F1 %", "images")
    for column in table.columns[1:]:
        column.justify = "right"
    found = {name: each for name, each in per_class(tally.answers, trained.classes).items() if each["support"]}
    names = list(found)
    if len(names) > MOST_CLASSES:
        names.sort(key=lambda name: found[name]["f1"] or 0.0)
    for name in names[:MOST_CLASSES]:
        shares = ("" if (value := found[name][key]) is None else f"{100 * value:.1f}" for key in _SHARES)
        table.add_row(Text(printable(name)), *shares, f"{found[name]['support']:,}")
    if len(names) > MOST_CLASSES:
        table.add_row(f"… {len(names) - MOST_CLASSES} more, of better F1", *[""] * 4)
    console = plain_console()
    console.file = file or sys.stdout
    console.print(table)
    print(f"accuracy {100 * accuracy:.1f} % of {n:,} labelled image{'s' * (n != 1)}", file=file)


_SHARES = ("precision", "recall", "f1")


def draw_confusion(answers: np.ndarray, classes: Sequence[str]) -> bytes:
    """A PNG: in each row the images of a class, in each column those called a class; shades are shares of the row.

    ``answers`` (2, N): labels and predicted classes. Classes that occur in neither are left out.
    """
    from matplotlib.figure import Figure

    which, places = np.unique(answers, return_inverse=True)
    places, n = places.reshape(answers.shape), len(which)
    counts = np.zeros((n, n), np.int64)
    np.add.at(counts, tuple(places), 1)
    shares = counts / counts.sum(1, keepdims=True).clip(1)
    names = [name if len(name := classes[i]) < 25 else f"{name[:23]}…" for i in which]
    side = 2.2 + min(9.0, max(2.4, 0.42 * n))
    figure = Figure(figsize=(side + 0.8, side), dpi=150, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100)
    size = min(9.0, 520 / n)  # points
    if size >= 4:
        axes.set_xticks(range(n), names, rotation=90, fontsize=size, parse_math=False)
        axes.set_yticks(range(n), names, fontsize=size, parse_math=False)
    if n <= COUNTED:
        for row, column in np.argwhere(counts):
            ink = "white" if shares[row, column] > 0.6 else "black"
            axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", color=ink, fontsize=7)
    axes.set_xlabel("predicted")
    axes.set_ylabel("label")
    right = int(np.trace(counts))
    axes.set_title(f"{right:,} of {answers.shape[1]:,} images right ({100 * right / answers.shape[1]:.1f} %)", size=10)
    figure.colorbar(image, ax=axes, label="% of the label's images", shrink=0.8)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a class's name in letters that the font lacks
        figure.savefig(file, format="png", metadata={"Software": SOFTWARE})
    return file.getvalue()
