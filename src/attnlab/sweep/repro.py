"""Does a point repeat? Train it again and compare the results."""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from attnlab import ledger
from attnlab.errors import InputError, choices
from attnlab.ledger import lock
from attnlab.study.collect import Point
from attnlab.training import worker


def find(study: Path, name: str) -> Path:
    """The folder of the finished point whose folder's name contains ``name``, such as its hash.

    Raises InputError if there is none, or several.
    """
    points = [folder.name for folder in ledger.points(study)]
    name = Path(name).name  # a path to the folder does as well
    found = [point for point in points if point == name] or [point for point in points if name in point]
    if not found:
        raise InputError(f"{study}: no point {name}; {choices(name, points)}")
    if len(found) > 1:
        raise InputError(
            f"{study}: {len(found)} points match {name}: {', '.join(found[:4])}, ...; give more of its name"
        )
    read = ledger.read_point(study / found[0])
    if read.damage:
        raise InputError(f"{read.folder}/{read.damage}; the command that made the study trains the point again")
    if read.state != "done":
        raise InputError(f"{read.folder}: is {read.state}; only a finished point can be repeated")
    return read.folder


def again(first: Path) -> Path:
    """Train the point anew in a process of its own; returns its folder, ``<study>/repro/<point>``.

    Raises InputError if it does not finish, KeyboardInterrupt after Ctrl-C.
    """
    second = first.parent / "repro" / first.name
    ledger.make_folder(second.parent)
    if (holder := lock.holder(second)) is not None:
        raise InputError(f"{second}: already being trained by {holder}")
    if second.is_dir():
        shutil.rmtree(second)
    config = {**ledger.read_config(first), "logger": {"name": "csv"}, "study": "repro", "output_dir": str(first.parent)}
    config.pop("explain", None)
    config["trainer"] = {**config["trainer"], "num_nodes": 1}  # this machine
    ledger.prepare(second, config)
    threads = ledger.read_json(first / "point.json").get("threads")
    process = subprocess.Popen(worker.command(second, f"{first.name}, again", threads or ""))
    try:
        worker.wait(process)
    finally:
        process.terminate()
        process.wait()
    worker.record_end(second, process.returncode)
    read = ledger.read_point(second)
    if read.state != "done":
        why = read.damage or read.status.get("error") or read.state
        raise InputError(f"{second}: {why}: see its log.txt")
    return second


def differences(first: Path, second: Path) -> list[str]:
    """The differences of the results, a line each; empty if they are the same to the last bit."""
    return list(_differences(_read(first), _read(second)))


def not_compared(first: Path, second: Path) -> list[str]:
    """Files that cannot be compared because they are damaged, with the damage."""
    files = [folder / name for folder in (first, second) for name in ("test.npy", "metrics.csv")]
    return [f"{file.parent}/{wrong}" for file in files if (wrong := ledger.damage(file))]


def reasons(first: Path, second: Path) -> list[str]:
    """Possible reasons: versions, threads and devices that differ."""
    one, other = (
        {**_made_with(point), **dict(point.about.get("libraries") or {})} for point in map(_read, (first, second))
    )
    return [
        f"{key}: {one.get(key)}, now {other.get(key)}" for key in {**one, **other} if one.get(key) != other.get(key)
    ]


def _read(folder: Path) -> Point:
    read = ledger.read_point(folder)
    return Point(folder, read.about["identity"]["seed"], read.result, read.about, read.status)


def _made_with(point: Point) -> dict[str, Any]:
    code = point.about.get("code") or [{}]
    keys = ("python", "threads")
    return {
        "attnlab's code": code[-1].get("source"),
        **{key: point.about.get(key) for key in keys},
        **{key: point.result.get(key) for key in ("device", "devices")},
        "trained as one network with others": max(0, (point.about.get("packed") or 1) - 1),
        "data": [f"{seen['files']} files, {seen['contents']}" for seen in (point.about.get("data") or [])[-1:]],
        "host": point.status.get("host"),
    }


def _differences(first: Point, second: Point) -> Iterator[str]:
    for name, value in first.result["test"].items():
        now = second.result["test"].get(name)
        if repr(now) != repr(value):  # NaN is like itself
            yield f"test {name}: {value}, now {'missing' if now is None else now}"
    answers, now_answers = first.answers(), second.answers()
    if answers is not None and now_answers is not None and answers.shape[1] != now_answers.shape[1]:
        yield f"test images: {answers.shape[1]}, now {now_answers.shape[1]}: the data have changed"
    elif answers is not None and now_answers is not None and (answers[:2] != now_answers[:2]).any():
        yield f"predictions: {int((answers[1] != now_answers[1]).sum())} of {answers.shape[1]} test images differ"
    yield from _first_difference(first.curve(), second.curve())


def _first_difference(one: Mapping[str, list[float]], other: Mapping[str, list[float]]) -> Iterator[str]:
    """The first epoch in which a column of metrics.csv differs."""
    epochs = max(map(len, [*one.values(), *other.values()]), default=0)
    for epoch in range(epochs):
        for key in one:
            was, now = (curves.get(key, [])[epoch : epoch + 1] for curves in (one, other))
            if repr(was) != repr(now):
                yield f"metrics.csv: from epoch {epoch + 1} on; {key} was {was}, now {now}"
                return


def time_it_took(folder: Path) -> str:
    """``; the first time took 0.3 min``; empty for a point that does not say."""
    seconds = (ledger.read_json(folder / "result.json").get("times") or {}).get("total_s")
    return "" if seconds is None else f"; the first time took {seconds / 60:.1f} min"


def what(folder: Path) -> str:
    """``5 epochs of metrics.csv, 900 predictions, test accuracy 94.4 %``"""
    point = _read(folder)
    answers = point.answers()
    predictions = "" if answers is None else f", {answers.shape[1]:,} predictions"
    accuracy = 100 * point.result["test"]["accuracy"]
    return f"{len(point.curve().get('epoch', []))} epochs of metrics.csv{predictions}, test accuracy {accuracy:.1f} %"


def forget(second: Path) -> None:
    """Delete a repetition with the same results."""
    shutil.rmtree(second)
    with contextlib.suppress(OSError):  # others are there
        second.parent.rmdir()
