"""Files of a folder: written atomically, read in full. A damaged file is named and kept; it stops no command.

A full disk, a copy in progress or an editor can leave files that are empty, truncated or of another kind. Each reader
returns what it can read and a description of the damage that begins with the file's name: ``result.json is empty``.
"""

import contextlib
import csv
import errno
import io
import itertools
import json
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from attnlab.errors import first_line
from attnlab.ledger.shapes import Shape, wrong_record

if TYPE_CHECKING:
    import numpy

T = TypeVar("T")
log = logging.getLogger("attnlab")
TEXTS = ("site", "gate")
# libyaml's, where PyYAML has it, is several times as fast.
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Record(dict[str, Any]):
    """What a file says, by key; empty if there is none, or if it is damaged: then ``damage`` says how."""

    damage: str = ""

    @classmethod
    def damaged(cls, damage: str) -> "Record":
        record = cls()
        record.damage = damage
        return record


def read_json(path: Path, shape: Shape | None = None) -> Record:
    """The record; ``shape``: what it must hold, if its name does not say so."""
    return _record(path, shape, json.loads)


def read_yaml(path: Path) -> Record:
    """The record; its name says what it must hold."""
    return _record(path, None, lambda text: yaml.load(text, Loader=LOADER))


def _record(path: Path, shape: Shape | None, parse: Callable[[str], Any]) -> Record:
    value, damage = _read(path, lambda content: parse(content.decode()))
    if damage:
        return Record.damaged(damage)
    if value is _NOTHING:
        return Record()
    why = wrong_record(path.name, value, shape)
    return Record.damaged(f"{path.name}: {why}") if why else Record(value)


def read_rows(path: Path) -> tuple[dict[str, list[Any]], str]:
    """The columns of metrics.csv or gates.csv, {} if it is not there or damaged; and the damage.

    They are numbers, but for those in TEXTS.
    """
    columns, damage = _read(path, _columns)
    return (columns if isinstance(columns, dict) else {}), damage


def _columns(content: bytes) -> dict[str, list[Any]]:
    text = content.decode()
    rows = csv.DictReader(io.StringIO(text))
    if text.strip() and (not text.endswith("\n") or "epoch" not in (rows.fieldnames or ())):
        raise ValueError("it is truncated, or another file")
    columns: dict[str, list[Any]] = defaultdict(list)
    for row in rows:
        if None in row or None in row.values():
            raise ValueError("its rows differ in length")
        for key, value in row.items():
            columns[key].append(value if key in TEXTS else float(value or "nan"))
    return dict(columns)


def read_array(path: Path) -> tuple["numpy.ndarray | None", str]:
    """test.npy, ``(2, N)``: labels and predicted classes, or ``(3, N)`` with groups; and the damage.

    None if it is not there or damaged.
    """
    array, damage = _read(path, _answers)
    return (None if array is _NOTHING else array), damage


def _answers(content: bytes) -> Any:
    import numpy

    array = numpy.load(io.BytesIO(content))
    if not (isinstance(array, numpy.ndarray) and array.ndim == 2 and array.dtype.kind in "iu"):
        raise ValueError("it holds no rows of whole numbers")
    if len(array) not in (2, 3) or not array.size:
        raise ValueError(f"its shape is {array.shape}, must be (2, images), or with groups (3, images)")
    return array


def read_picture(path: Path) -> tuple[bytes, str]:
    """A PNG file; empty if it is not there or damaged; and the damage."""
    content, damage = _read(path, _png)
    return (b"" if content is _NOTHING else content), damage


def _png(content: bytes) -> bytes:
    if not (content.startswith(b"\x89PNG\r\n") and content.endswith(b"IEND\xaeB`\x82")):
        raise ValueError("it is not a complete PNG")
    return content


_NOTHING: Any = object()  # there is no such file, or nothing can be read of it


def _read(path: Path, parse: Callable[[bytes], T]) -> tuple[T, str]:
    """What the file holds, and what is wrong with it in words."""
    try:
        try:
            content = path.read_bytes()
        except OSError as error:
            if error.errno != errno.ESTALE:  # replaced on another machine between opening and reading
                raise
            content = path.read_bytes()
    except FileNotFoundError:
        return _NOTHING, ""
    except IsADirectoryError:
        return _NOTHING, f"{path.name} is a folder, must be a file"
    except OSError as error:
        return _NOTHING, f"{path.name} cannot be read: {error.strerror}"
    if not content:
        return _NOTHING, f"{path.name} is empty"
    try:
        return parse(content), ""
    except Exception as error:  # whatever a parser makes of any bytes
        return _NOTHING, f"{path.name} is truncated or overwritten: {first_line(error)}"


def damage(path: Path) -> str:
    """What is wrong with a file or folder of a point, by its name; empty if it is whole, or not there."""
    if path.suffix == ".json":
        return read_json(path).damage
    if path.suffix == ".yaml":
        return read_yaml(path).damage
    if path.suffix == ".csv":
        return read_rows(path)[1]
    if path.suffix == ".npy":
        return read_array(path)[1]
    if path.suffix:
        return f"{path.name} is a folder, must be a file" if path.is_dir() else ""
    return f"{path.name} is a file, must be a folder" if path.is_file() else ""


def mended(path: Path, shape: Shape | None = None) -> Record:
    """A record that is about to be written again; a damaged one is set aside first."""
    record = read_json(path, shape)
    if record.damage and (record := read_json(path, shape)).damage:  # another process may have mended it
        with contextlib.suppress(FileNotFoundError):
            set_aside(path, record.damage)
    return record


def set_aside(path: Path, damage: str) -> None:
    """Rename a damaged file to ``<name>.damaged``, with a warning: nothing is lost, and its name is free.

    Raises OSError for a file that cannot be read now: it may be whole.
    """
    if path.is_file():
        path.read_bytes()
    others = (
        path.with_name(f"{path.name}{n}.damaged") for n in itertools.chain([""], map(".{}".format, itertools.count(2)))
    )
    kept = next(other for other in others if not os.path.lexists(other))
    path.rename(kept)
    log.warning("%s/%s: kept as %s", path.parent, damage, kept.name)


def make_folder(path: Path) -> None:
    """Make a folder and those above it; a file in its place is set aside."""
    if path.is_file():
        set_aside(path, f"{path.name} is a file, must be a folder")
    path.mkdir(parents=True, exist_ok=True)


def put(temporary: Path, path: Path) -> None:
    """Put a file that is written into its place; a folder that stands there is set aside."""
    if path.is_dir():
        set_aside(path, f"{path.name} is a folder, must be a file")
    os.replace(temporary, path)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """A CSV with the union of the rows' keys as columns."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def write_array(path: Path, array: "numpy.ndarray") -> None:
    """An array as an .npy file."""
    import numpy

    file = io.BytesIO()
    numpy.save(file, array)
    write_bytes(path, file.getvalue())


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8", "surrogateescape"))  # names of files, as a locale without UTF-8 has them


def write_bytes(path: Path, content: bytes) -> None:
    """Write atomically: a reader sees the old file or the new one, whatever happens to the writer."""
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        put(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise type(error)(error.errno, error.strerror, str(path)) from None  # that of a full disk names no file
