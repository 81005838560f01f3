"""A published study: what its points have measured, without weights, so that anybody can check what is said of it.

``results.csv`` has a row a finished point: first columns to read, then records as JSON, which reports are made of.
``answers.npz`` has the predicted classes of the test images by the name of the point, and the labels by the name that
the column ``labels`` says: points with equal labels share them; a second row has the groups of images (data.group).
``publishing`` writes both.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from math import isclose, isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnlab import ledger
from attnlab.errors import InputError, first_line
from attnlab.ledger import Record, Records
from attnlab.ledger.shapes import ENSEMBLE, EVALUATION, MAPPING, SHAPES, TEXT, WHOLE, Shape, wrong, wrong_record

if TYPE_CHECKING:
    import numpy as np

ANSWERS = "answers.npz"
POINT, RESULT, EVALUATIONS, STUDY = "point.json", "result.json", "evaluations", "study"  # columns of JSON
# Of the study, in its first row: how many rows there are, the baseline that its commands named, the points of each
# round of `attnlab more`, how many variants got more seeds otherwise, states of unfinished points, and the ensembles.
OF_STUDY: Shape = {
    "name": TEXT,
    "points": WHOLE,
    "baseline?": MAPPING,
    "rounds": [[TEXT]],
    "added?": WHOLE,
    "unfinished": {"*": TEXT},
    "ensembles": {"*": ENSEMBLE},
}
SHAPE_OF: dict[str, Shape] = {
    POINT: SHAPES["point.json"],
    RESULT: SHAPES["result.json"],
    EVALUATIONS: {"*": EVALUATION},
    STUDY: OF_STUDY,
}
ADVICE = "publish the study again, or fetch the file again"


@dataclass(frozen=True)
class Kept:
    """What is published of a point besides its records."""

    answers: "np.ndarray | None"  # (2, N): labels and predicted classes of the test images, (3, N) with groups
    evaluations: Mapping[str, Record]


@dataclass(frozen=True)
class Published:
    name: str  # of the study
    points: list[Records]
    kept: Mapping[str, Kept]  # by the name of the point's folder
    unfinished: Mapping[str, str]  # name of a point -> state
    plans: list[Mapping[str, Any]]  # what of the study's plans decides reports
    ensembles: Mapping[str, Record] = field(default_factory=dict)
    added: int = 0  # see ``collect.Study``


def facts(records: Records) -> dict[str, Any]:
    """The columns to read that a point's records alone decide; times as said, costs of one image."""
    identity, result = records.about["identity"], records.result
    times, best, fold = result.get("times") or {}, result.get("best_epoch"), ledger.fold(identity)
    return {
        "seed": identity["seed"],
        **({} if fold is None else {"fold": fold}),
        **{f"test_{name}": value for name, value in result["test"].items()},
        "val_accuracy": (result.get("val") or {}).get("accuracy"),
        **{name: result["cost"][name] for name in ("parameters", "macs", "latency_ms")},
        "epochs": result.get("epochs"),
        "best_epoch": None if best is None else best + 1,  # the first is 1
        "minutes": times["total_s"] / 60 if "total_s" in times else None,
    }


def read_published(folder: Path) -> Published:
    """What a folder with results.csv and answers.npz holds.

    Raises InputError that names the row or the file for what is damaged or was changed.
    """
    path = folder / ledger.RESULTS
    rows = _parsed(path, _table)
    points, evaluations, labels, told = list[Records](), dict[str, dict[str, Record]](), dict[str, str](), []
    for number, row in enumerate(rows, start=2):  # as a spreadsheet counts them
        name = row["point"]
        where = f"{path}: row {number} ({name})"
        found = {column: _record(row[column], column, where) for column in SHAPE_OF if row[column]}
        if missing := [column for column in (POINT, RESULT) if column not in found]:
            raise InputError(f"{where}: {missing[0]} is empty; {ADVICE}")
        if name in labels:
            raise InputError(f"{where}: another row has the same point; {ADVICE}")
        points.append(Records(folder / name, found[POINT], Record(state="done"), found[RESULT], "done", ""))
        for column, value in facts(points[-1]).items():
            if column in row and not _says(row[column], value):
                raise InputError(
                    f"{where}: {column} is {row[column] or 'empty'}, but its records say {value}; {ADVICE}"
                )
        evaluations[name] = {key: Record(value) for key, value in found.get(EVALUATIONS, {}).items()}
        labels[name] = row["labels"]
        told += [found[STUDY]] if STUDY in found else []
    if len(told) != 1 or told[0]["points"] != len(points):
        why = f"{len(points)} rows, must be {told[0]['points']}" if told else "no row tells of the study"
        raise InputError(f"{path}: {'several rows tell of the study' if len(told) > 1 else why}; {ADVICE}")
    answers = _answers(folder / ANSWERS, points, labels)
    study = told[0]
    return Published(
        name=study["name"],
        points=points,
        kept={name: Kept(answers.get(name), evaluations[name]) for name in labels},
        unfinished=study["unfinished"],
        plans=[
            {"baseline": study.get("baseline"), "points": []},
            *({"more": True, "points": names} for names in study["rounds"]),
        ],
        ensembles={name: Record(value) for name, value in study["ensembles"].items()},
        added=study.get("added", 0),
    )


def name_of(folder: Path) -> str:
    """Of the study that a folder with results.csv holds; empty if its files are damaged."""
    with suppress(InputError):
        return read_published(folder).name
    return ""


def is_ours(path: Path) -> bool:
    """Whether a results.csv has the columns of a published study; those of other programs lack them."""
    with path.open("rb") as file:
        return f",{POINT},{RESULT}," in file.readline().decode(errors="replace")


def _parsed(path: Path, parse: Callable[[bytes], Any]) -> Any:
    try:
        return parse(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; {ADVICE}") from None
    except InputError as error:
        raise InputError(f"{path}: {error}; {ADVICE}") from None
    except Exception as error:  # whatever a parser makes of any bytes
        raise InputError(f"{path}: is truncated or overwritten: {first_line(error)}; {ADVICE}") from None


def _table(content: bytes) -> list[dict[str, str]]:
    csv.field_size_limit(max(csv.field_size_limit(), 1 << 28))  # of a thousand classes a record is large
    text = content.decode("utf-8-sig", "surrogateescape")  # spreadsheets put a mark in front
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    if missing := [name for name in ("point", "labels", *SHAPE_OF) if name not in (reader.fieldnames or ())]:
        raise InputError(f"no column {missing[0]}, so it is no published study")
    rows = []
    for number, row in enumerate(reader, start=2):
        if None in row or None in row.values():
            raise InputError(f"row {number} ({row['point']}): it has too {'many' if None in row else 'few'} cells")
        rows.append(row)
    if not rows:
        raise InputError("it has no rows")
    return rows


def _record(text: str, column: str, where: str) -> Record:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InputError(f"{where}: {column} is no JSON: {first_line(error)}; {ADVICE}") from None
    if why := wrong_record(column, value) if column == POINT else wrong(value, SHAPE_OF[column]):
        raise InputError(f"{where}: {column}: {why.removeprefix('.').strip()}; {ADVICE}")
    return Record(value)


def _says(text: str, value: Any) -> bool:
    """Whether a cell says this, also after a spreadsheet has written it again."""
    if value is None:
        return text == ""
    if not isinstance(value, int | float):
        return text == str(value)
    try:
        number = float(text)
    except ValueError:
        return False
    return isclose(number, value, rel_tol=1e-9) or str(number) == str(float(value))  # NaN is NaN


def _answers(path: Path, points: list[Records], labels: Mapping[str, str]) -> dict[str, "np.ndarray"]:
    """``(2, N)`` by the name of the point: labels and predicted classes of the test images."""
    if not any(labels.values()):
        return {}
    import numpy as np

    arrays = _parsed(path, _arrays)
    if unknown := arrays.keys() - labels.keys() - {*labels.values()}:
        raise InputError(f"{path}: {min(unknown)} is in no row of {ledger.RESULTS}; {ADVICE}")
    found = {}
    for point in points:
        if not (known := labels[point.folder.name]):
            continue
        if why := next(_wrong_answers(arrays, point, known), ""):
            raise InputError(f"{path}: {why}; {ADVICE}")
        label, *groups = np.atleast_2d(arrays[known])
        found[point.folder.name] = np.stack([label, arrays[point.folder.name], *groups])
    return found


def _arrays(content: bytes) -> dict[str, "np.ndarray"]:
    import numpy as np

    with np.load(io.BytesIO(content)) as archive:
        return dict(archive)


def _wrong_answers(arrays: Mapping[str, "np.ndarray"], point: Records, labels: str) -> Iterator[str]:
    """What is wrong with the answers of a point, if anything."""
    name = point.folder.name
    for key in (labels, name):
        if key not in arrays:
            yield f"{key} is missing"
            return
        array = arrays[key]
        if array.dtype.kind not in "iu" or (array.ndim != 1 and (key == name or array.ndim != 2 or len(array) != 2)):
            yield f"{key} is no row of whole numbers"
            return
    label, predicted = arrays[labels], arrays[name]
    label = label if label.ndim == 1 else label[0]
    if len(label) != len(predicted):
        yield f"{name} has {len(predicted):,} answers, but {len(label):,} labels"
        return
    if not same_accuracy(right := float((label == predicted).mean()), point.result):
        told = point.result["test"]["accuracy"]
        yield f"the accuracy of {name} is {right:.6f} by its answers, but {told:.6f} in its row"


def same_accuracy(right: float, result: Mapping[str, Any]) -> bool:
    """Whether the share of right answers is the accuracy of a record, which is rounded to 32 bits; NaN is not told."""
    accuracy = result["test"]["accuracy"]
    return not isfinite(accuracy) or abs(right - accuracy) < 1e-6
