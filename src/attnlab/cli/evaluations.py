"""attnlab evaluate: finished points on other images, and the seeds of a variant together; kept in their folders."""

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from attnlab import ledger
from attnlab.cli.other_data import Config, OtherData
from attnlab.errors import InputError
from attnlab.ledger import evaluations as kept
from attnlab.study.collect import Point, Variant, read_study
from attnlab.study.metrics import METRICS
from attnlab.study.replicates import Replicate
from attnlab.study.statistics import estimate
from attnlab.terminal import plain_console, with_progress
from attnlab.trained import Ensemble, Trained, load
from attnlab.trained.evaluating import measure
from attnlab.trained.loading import require_alike

Record = Mapping[str, Any]
T = TypeVar("T")


def is_point(path: Path) -> bool:
    return any((path / name).exists() for name in ("point.json", "status.json"))


def evaluate_points(path: Path, other: OtherData) -> int:
    """Evaluate a point, or all finished points of a study; print a table. Returns how many could not be."""
    variants = _variants(path)
    points = [point for variant in variants for point in variant.points.values()]
    configs = {point.folder: other.config(point.folder) for point in points}
    points.sort(key=lambda point: repr(configs[point.folder]["data"]))  # each data set is loaded once
    alone = len(points) == 1
    made = _all(points, lambda point: evaluation_of(point, configs[point.folder], other, alone), "evaluating points")
    _print_points(path, variants, {point.folder: record for point, record in made}, other.name)
    where = path if is_point(path) else path / "*"
    print(f"written: {where}/{kept.FOLDER}/{other.name}.json")
    if not is_point(path):
        print(f"next: attnlab report {path}")
    return len(points) - len(made)


def _all(items: Sequence[T], make: Callable[[T], tuple[Record, bool]], what: str) -> list[tuple[T, Record]]:
    """Each item with what is made of it, but for those that cannot be: they are told.

    Raises InputError if none can be.
    """
    made, errors, there = list[tuple[T, Record]](), list[InputError](), 0
    for item in with_progress(items, len(items), what):
        try:
            record, was_there = make(item)
            made.append((item, record))
            there += was_there
        except InputError as error:
            errors.append(error)
    if not made:
        raise errors[0]
    print(*(f"attnlab: {error}\n" for error in errors), sep="", end="", file=sys.stderr)
    if there:
        print(f"{there} of {len(made)} {'was' if there == 1 else 'were'} there already: not computed again")
    return made


def evaluation_of(point: Point, config: Config, other: OtherData, progress: bool = False) -> tuple[Record, bool]:
    """The record of a point's evaluation, and whether it was there already. Raises InputError if it cannot be made."""
    path = point.folder / kept.FOLDER / f"{other.name}.json"
    record = ledger.mended(path, kept.EVALUATION)
    now = kept.mark(point.result)
    if other.made(record, path, config) and record["tested"] == now:
        return record, True
    trained = other.as_evaluated(load(point.folder, device=other.device), config)
    source = other.source(config, trained.preprocess)
    about = {**other.about(config), "point": point.about.get("hash"), "tested": now}
    made = {**about, **measure([(trained, source)], progress=progress)}
    ledger.write_json(path, made)
    return made, False


def _variants(path: Path) -> list[Variant]:
    """Of a study all its variants; of a point its own with the point alone. Raises InputError if none is finished."""
    if is_point(path):
        variant, which = _found(path)
        return [dataclasses.replace(variant, points={which: variant.points[which]})]
    ledger.refuse_published(path)
    study = read_study(path)
    if study.unfinished:
        print(f"left out: {len(study.unfinished)} unfinished; attnlab status {path} tells more", file=sys.stderr)
    return study.variants


def _found(folder: Path) -> tuple[Variant, Replicate]:
    """The variant of a finished point, and which of it the point is."""
    for variant in read_study(folder.resolve().parent).variants:
        for which, point in variant.points.items():
            if point.folder.name == folder.resolve().name:
                return variant, which
    read = ledger.read_point(folder)
    raise InputError(f"{folder}: {read.damage or f'not finished ({read.state})'}; attnlab status {folder.parent}")


def evaluate_ensembles(path: Path, other: OtherData) -> int:
    """Evaluate all seeds of each variant together; print a table. Returns how many could not be."""
    folder = path.resolve().parent if is_point(path) else path
    ledger.refuse_published(folder)
    variants = [_found(path)[0]] if is_point(path) else read_study(folder).variants
    several = [v for v in variants if any(len(points) > 1 for points in by_fold(v).values())]
    if not several:
        raise InputError(f"{path}: no variant has two finished seeds, so there is no ensemble")
    for variant in variants:
        if all(len(points) == 1 for points in by_fold(variant).values()):
            print(f"left out: {variant.label}: one seed is no ensemble", file=sys.stderr)
    made = _all(several, lambda variant: ensemble_of(variant, folder, other), "evaluating ensembles")
    _print_ensembles(folder, made, other)
    print(f"written: {folder}/{kept.FOLDER}/\nnext: attnlab report {folder}")
    return len(several) - len(made)


def by_fold(variant: Variant) -> dict[int | None, list[Point]]:
    """The points of each fold, all of them without cross-validation, by seed."""
    found: dict[int | None, list[Point]] = {}
    for point in sorted(variant.points.values(), key=lambda point: point.seed):
        found.setdefault(point.fold, []).append(point)
    return found


def ensemble_of(variant: Variant, folder: Path, other: OtherData) -> tuple[Record, bool]:
    """The record of the ensemble of a variant's seeds, and whether it was there already.

    In cross-validation there is one in each fold with several seeds, and they are measured together.
    """
    groups = [points for points in by_fold(variant).values() if len(points) > 1]
    points = [point for group in groups for point in group]
    configs = {point.folder: other.config(point.folder) for point in points}
    own = not other.overrides
    identity = ledger.digest(variant.settings)[:8]
    path = folder / kept.FOLDER / f"{identity}{'' if own else f' on {other.name}'}.json"
    record = ledger.mended(path, kept.ENSEMBLE)
    members = {point.folder.name: kept.mark(point.result) for point in points}
    first = configs[points[0].folder]
    if other.made(record, path, first) and record["points"] == members:
        return record, True
    nets = [_together(group, other, configs) for group in groups]
    pairs = [
        (net, other.source(configs[group[0].folder], net.preprocess)) for net, group in zip(nets, groups, strict=True)
    ]
    measured = {split: measure(pairs, split) for split in (("val", "test") if own else ("test",))}
    made = {
        **other.about(first),
        "variant": identity,
        "label": variant.label,
        "seeds": min(map(len, groups)),
        "points": members,
        **{split: each["metrics"] for split, each in measured.items()},
        "images": {split: each["images"] for split, each in measured.items()},
        "per_class": measured["test"]["per_class"],
    }
    ledger.write_json(path, made)
    return made, False


def _together(points: Sequence[Point], other: OtherData, configs: Mapping[Path, Config]) -> Trained:
    members = [other.as_evaluated(load(point.folder, device=other.device), configs[point.folder]) for point in points]
    require_alike(members)
    net = Ensemble([member.net for member in members])
    return dataclasses.replace(members[0], net=net, folders=[point.folder for point in points])


def _print_points(path: Path, variants: Sequence[Variant], made: Mapping[Path, Record], name: str) -> None:
    """A row a variant, the best first."""
    images = " or ".join(f"{n:,}" for n in sorted({record["images"] for record in made.values()}))
    heads = ("own test %", "accuracy %", "F1 %", "balanced %", "loss", "calibration error %")
    table = _table(f"{path}: on {name}, {images} images", ["variant", "seeds", *heads])
    rows = list[tuple[float, list[str | Text]]]()
    for variant in variants:
        points = [point for point in variant.points.values() if point.folder in made]
        if points:
            found = {key: [made[point.folder]["metrics"][key] for point in points] for key in METRICS}
            own = _mean([point.result["test"]["accuracy"] for point in points], "accuracy", variant.overlap)
            cells = (_mean(values, key, variant.overlap) for key, values in found.items())
            rows.append((fmean(found["accuracy"]), [Text(variant.label), str(len(points)), own, *cells]))
    for _, row in sorted(rows, key=lambda row: -row[0]):
        table.add_row(*row)
    plain_console().print(table)


def _print_ensembles(folder: Path, made: Sequence[tuple[Variant, Record]], other: OtherData) -> None:
    splits = ("test",) if other.overrides else ("val", "test")
    where = f", on {other.name}" if other.overrides else ""
    heads = ("one seed, own test %", *(f"ensemble, {split} %" for split in splits))
    table = _table(f"{folder}: ensembles of seeds{where}", ["variant", "seeds", *heads])
    for variant, record in sorted(made, key=lambda row: -row[1]["test"]["accuracy"]):
        members = [point for point in variant.points.values() if point.folder.name in record["points"]]
        one = _mean([point.result["test"]["accuracy"] for point in members], "accuracy", variant.overlap)
        together = (METRICS["accuracy"].text(record[split]["accuracy"]) for split in splits)
        table.add_row(Text(variant.label), str(record["seeds"]), one, *together)
    plain_console().print(table)


def _table(title: str, heads: Sequence[str]) -> Table:
    table = Table(title=Text(title), title_justify="left", box=SIMPLE_HEAD)
    for head in heads:
        table.add_column(head, justify="left" if head == "variant" else "right", overflow="fold")
    return table


def _mean(values: Sequence[float], metric: str, overlap: float) -> str:
    found = estimate(values, overlap=overlap)
    return METRICS[metric].text(found.mean, found.half_width if metric == "accuracy" else None)
