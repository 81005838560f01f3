"""Which images paths mean: files, folders, tables; and their classes, where these are told."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from attnlab.data.sets.files import listed, plural
from attnlab.data.sets.folder import Seen, images_of, of_a_system, real
from attnlab.data.sets.table import cells_of
from attnlab.errors import InputError, choices

TABLES = (".csv", ".tsv")
PATH_COLUMNS = ("file", "path", "image")
LABEL_COLUMNS = ("label", "class")


class Listed(NamedTuple):
    """An image to be read, and its label, an index of the classes, if one is told."""

    path: str
    label: int | None = None


def list_images(words: Iterable[str | Path], classes: Sequence[str]) -> tuple[list[Listed], list[str]]:
    """The images of files, folders and tables, in order, and notes for the user: what was left out, and strange labels.

    A folder's images are those in it and below it. Those in a subfolder that bears the name of one of ``classes`` are
    of that class. A table is a CSV with a header: the paths are in its column file, path or image, else in the first,
    relative to the table; labels, names of classes, are in its column label or class, where it has one.
    Raises InputError for what is not there, and if there is no image.
    """
    index = {name: i for i, name in enumerate(classes)}
    images, notes = list[Listed](), list[str]()
    for word in map(Path, words):
        if word.is_dir():
            images += _of_folder(word, index, notes)
        elif not word.exists():
            raise InputError(f"{word}: no such file or folder; must be an image, a folder of images or a CSV of paths")
        elif word.suffix.lower() in TABLES:
            images += _of_table(word, index, notes)
        else:
            images.append(Listed(str(word)))
    if not images:
        raise InputError("\n".join([*notes, "no images: must be images, folders of images or CSVs of their paths"]))
    return images, notes


def _of_folder(folder: Path, index: dict[str, int], notes: list[str]) -> Iterator[Listed]:
    seen, known = Seen(), {real(folder)}
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not of_a_system(entry.name))
    below = {name: list(images_of(folder / name, known, seen)) for name in names}
    beside = list(images_of(folder, known - {real(folder)}, seen))
    yield from map(Listed, beside)
    for name, paths in below.items():
        yield from (Listed(path, index.get(name)) for path in paths)
    strange = [f"{name} ({plural(len(below[name]), 'image')})" for name in names if name not in index and below[name]]
    if strange and len(strange) < sum(map(bool, below.values())):
        notes.append(f"{folder}: no class of this network, so predicted, but not counted: {', '.join(strange)}")
    elif strange:
        notes.append(
            f"{folder}: its subfolders ({listed([name for name in names if below[name]])}) are no classes of this "
            "network, so nothing is said of its accuracy"
        )
    seen.nested = 0
    if told := str(seen):
        notes.append(f"{folder}: {told}")


def _of_table(table: Path, index: dict[str, int], notes: list[str]) -> Iterator[Listed]:
    header, lines, cells = cells_of(table, str(table))
    if not header:
        raise InputError(f"{table}: is empty; must be a CSV with a header, such as path,label")
    named = [i for i, name in enumerate(header) if name.lower() in PATH_COLUMNS]
    if not named and (table.parent / header[0]).is_file():
        raise InputError(f"{table}: its first line names an image; must be a header, such as path,label")
    labels = [i for i, name in enumerate(header) if name.lower() in LABEL_COLUMNS]
    at, label_at = (named or [0])[0], labels[0] if labels else None
    if at == label_at:
        raise InputError(f"{table}: has no column of paths; must be one of {', '.join(PATH_COLUMNS)}")
    if empty := [str(line) for line, row in zip(lines, cells, strict=True) if not row[at]]:
        raise InputError(f"{table}: no path in line {listed(empty)}")
    strange = Counter[str]()
    for row in cells:
        label = None if label_at is None else row[label_at]
        if label and label not in index:
            strange[label] += 1
        yield Listed(str(table.parent / row[at]), index.get(label or ""))
    if strange:
        names = listed([f"{name} ({count})" for name, count in strange.most_common()])
        nearest = choices(next(iter(strange)), index) if len(index) <= 20 else f"it has {len(index)} classes"
        notes.append(f"{table}: labels that are no class of this network, so not counted: {names}; {nearest}")
