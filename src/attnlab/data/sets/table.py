"""A table (CSV) of images: a path, a label and perhaps a split in each row."""

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np

from attnlab.data.sets.files import SPLITS, FileData, Listing, as_bytes, listed
from attnlab.errors import InputError, MissingData, choices, first_line


class ImageTable(FileData):
    """The images that a CSV with a header names: its columns ``path``, ``label`` and, where it has one, ``split``.

    Paths are relative to ``folder`` (None: the table's). Labels are names or numbers; the classes are all that occur,
    in order. A split is train, val (valid, validation, dev) or test; without ``val``, it is drawn from train.
    ``group`` may be a column. If ``num_classes`` is set, the table may be missing until the data are loaded.
    """

    def __init__(
        self,
        *,
        table: str,
        folder: str | None = None,
        path_column: str = "path",
        label_column: str = "label",
        split_column: str = "split",
        num_classes: int | None = None,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.table, self.where = Path(table), f"data.table={table}"
        self.folder = self.table.parent if folder is None else Path(folder)
        self.path_column, self.label_column, self.split_column = path_column, label_column, split_column
        if num_classes is not None and num_classes < 2:
            raise InputError(f"data.num_classes={num_classes}: must be at least 2")
        if not self.table.is_file():
            if num_classes is None:
                raise self.missing()
            self.num_classes = num_classes
            return
        self.read_table()
        self.num_classes = len(self.classes)
        if num_classes not in (None, self.num_classes):
            raise InputError(f"data.num_classes={num_classes}: {self.table} has {self.num_classes} different labels")

    def missing(self) -> MissingData:
        return MissingData(f"{self.where}: must be a CSV file with the columns {self.path_column}, {self.label_column}")

    def read_table(self) -> None:
        header, lines, cells = cells_of(self.table, self.where)
        columns = {name: [row[i] for row in cells] for i, name in enumerate(header)}
        for key in ("path_column", "label_column", "split_column"):
            name = getattr(self, key)
            if name not in columns and (key, name) != ("split_column", "split"):
                raise InputError(f"data.{key}={name}: {self.table} has no such column; {choices(name, header)}")
        paths, texts = columns[self.path_column], columns[self.label_column]
        if wrong := [str(line) for line, text in zip(lines, texts, strict=True) if not text]:
            raise InputError(f"{self.where}: no label in line {listed(wrong)}")
        absent = [
            f"{path or '(none)'} (line {line})"
            for line, path in zip(lines, paths, strict=True)
            if not os.path.isfile(os.path.join(self.folder, path))
        ]
        if absent:
            raise InputError(f"{self.where}: {len(absent)} of {len(paths)} files are not there: {listed(absent)}")
        whole = all(text.isdecimal() for text in texts)
        self.classes = sorted(set(texts), key=int) if whole else sorted(set(texts))
        if len(self.classes) < 2:
            raise InputError(f"{self.where}: must have at least 2 different labels; it has {len(self.classes)}")
        index = {text: i for i, text in enumerate(self.classes)}
        split = None
        if parts := columns.get(self.split_column):
            if wrong := [f"{p!r} (line {n})" for n, p in zip(lines, parts, strict=True) if p.lower() not in SPLITS]:
                raise InputError(f"{self.where}: split must be train, val or test; not so: {listed(wrong)}")
            split = np.array([SPLITS[part.lower()] for part in parts], np.int8)
        self.listing = Listing(
            str(self.folder),
            as_bytes(paths),
            np.array([index[text] for text in texts], np.int64),
            split,
            np.array(columns[self.group]) if self.group in columns and self.group is not None else None,
        )


def cells_of(table: Path, where: str) -> tuple[list[str], list[int], list[list[str]]]:
    """The header of a CSV (or a TSV), and of each further row that is not empty its line and its cells.

    Raises InputError, which begins with ``where``, for what is no such table.
    """
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, delimiter="\t" if table.suffix.lower() == ".tsv" else ",")
            header = [name.strip() for name in next(rows, [])]
            lines, cells = [], []
            for row in rows:
                if any(cell.strip() for cell in row):
                    lines.append(rows.line_num)
                    cells.append([cell.strip() for cell in row])
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{where}: must be a CSV in UTF-8: {first_line(error)}") from None
    if wrong := [str(line) for line, row in zip(lines, cells, strict=True) if len(row) != len(header)]:
        raise InputError(f"{where}: must have {len(header)} cells in each line; not so: line {listed(wrong)}")
    return header, lines, cells
