"""Publish a study: its report, figures, results and answers in a folder that may be shared; see ``published``."""

import io
import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from attnlab import ledger
from attnlab.errors import InputError
from attnlab.ledger import Records, evaluations
from attnlab.ledger.paths import is_absolute, last_parts, without_folders, word_without_folders
from attnlab.study import factors, published
from attnlab.study.analysis import Told
from attnlab.study.collect import Study, code_of, read_study
from attnlab.study.figures import draw_all
from attnlab.study.metrics import METRICS
from attnlab.study.prose import damaged, options
from attnlab.study.published import ANSWERS, EVALUATIONS, POINT, RESULT, STUDY, facts, same_accuracy
from attnlab.study.report import headline, markdown
from attnlab.study.search import tell
from attnlab.study.trials import refuse_search

if TYPE_CHECKING:
    import numpy as np

# What is kept of a point's records: no host, no commands, no W&B.
OF_POINT = ("names", "code", "data", "python", "libraries", "kernels", "threads", "packed")
OF_RESULT = (
    *("test", "val", "per_class", "best_epoch", "epochs", "cost", "classes", "device", "devices", "times"),
    "explain",
)
Short = Mapping[str, str]  # absolute path -> what is published of it


def publish(folder: str | Path, place: str | Path, metric: str = "accuracy") -> Told:
    """Write report.md, figures/, results.csv and answers.npz of a study into a folder; returns what the report tells.

    ``metric``: as of ``write_report``; results.csv and answers.npz are the same for all. Raises InputError if the study
    is a search, published already, damaged, or has no finished points, and if the place holds anything else than an
    earlier publication of the study.
    """
    home, into = Path(folder), Path(place)
    refuse_search(home, "report --publish")
    ledger.refuse_published(home)
    study = read_study(home, metric)  # raises what there is to say before anything is written
    suffix = study.metric.suffix
    name = home.resolve().name
    _require_own(into, name)
    before = _contents(into)
    _write_results(home, into, name, study.added)
    told, study = tell(into, None, metric)
    told["headline"] = headline(told)
    at_home = _with_folders(study, home)
    with Console(stderr=True).status("Drawing") as status:
        place_of_figures = into / f"figures{suffix}"
        drawn = draw_all(told, at_home, lambda text: status.update(f"Drawing {text}"), place_of_figures, ("svg",))
    text = markdown(told, [f"figures{suffix}/{figure['name']}.svg" for figure in drawn])
    ledger.write_text(into / f"report{suffix}.md", text + "\n")
    warnings = [*told["warnings"], *(text for text in damaged(at_home) if text not in told["warnings"])]
    if before and before != _contents(into):
        warnings += _old_reports(home, into, suffix)
    for text in warnings:
        print(f"warning: {text}")
    points = sum(len(variant.points) for variant in study.variants)
    print(
        f"published: {into}/report{suffix}.md, figures{suffix}/, {ledger.RESULTS}, {ANSWERS}: {points} points in "
        f"{_size(into) / 1000:,.0f} kB, without weights\n"
        f"next: {shlex.join(['attnlab', 'report', str(into), *options(metric=study.metric)])}"
    )
    return told


def _require_own(into: Path, name: str) -> None:
    """Raise InputError for a folder that holds anything that publishing the study of this name does not write."""
    if into.exists() and not into.is_dir():
        raise InputError(f"--publish {into}: is a file, must be a folder")
    if not into.is_dir():
        return
    if points := [path for path in into.iterdir() if (path / "point.json").exists() or (path / "status.json").exists()]:
        raise InputError(f"--publish {into}: holds points, such as {points[0].name}; choose an empty folder")
    suffixes = [metric.suffix for metric in METRICS.values()]
    files = [into / name for name in (ledger.RESULTS, ANSWERS, *(f"report{suffix}.md" for suffix in suffixes))]
    own = {path for path in files if path.is_file() and (path.name != ledger.RESULTS or published.is_ours(path))}
    for figures in (into / f"figures{suffix}" for suffix in suffixes):
        if figures.is_dir():
            own |= {figures, *figures.glob("*.svg")}
    if others := sorted({*into.iterdir(), *into.glob("figures*/*")} - own):
        what = others[0].relative_to(into)
        raise InputError(f"--publish {into}: holds {what}, which is none of its files; choose an empty folder")
    if (into / ledger.RESULTS).exists() and (other := published.name_of(into)) not in (name, ""):
        raise InputError(f"--publish {into}: holds the published study {other}; choose another folder")


def _write_results(home: Path, into: Path, name: str, added: int) -> None:
    """Write results.csv and answers.npz; ``added``: see ``collect.Study``.

    Raises InputError for what cannot be published whole.
    """
    reads = [ledger.read_point(path) for path in ledger.points(home)]
    plans, damaged_plans = ledger.plans(home)
    done = [read for read in reads if read.result]
    _require_whole(reads, damaged_plans)
    kept = {read.folder: _evaluations(read) for read in done}
    baselines = [plan["baseline"] for plan in plans if plan.get("baseline") and not plan.get("more")]
    short = _short([*(read.about["identity"] for read in done), *baselines])
    identities = {read.folder: _shortened(read.about["identity"], short) for read in done}
    if len({*map(ledger.digest, identities.values())}) < len(done):
        raise InputError(f"{home}: paths in its points' settings differ only in how they are written; train with one")
    digests = {_variant(read.about["identity"]): _variant(identities[read.folder]) for read in done}
    told = {
        "name": name,
        "points": len(done),
        "baseline": _shortened(baselines[-1], short) if baselines else None,
        "rounds": [plan["points"] for plan in plans if plan.get("more")],
        "added": added,
        "unfinished": _unfinished(reads, plans),
        "ensembles": _ensembles(home, done, digests),
    }
    shown = [_public(read, identities[read.folder]) for read in done]
    arrays, labels = _arrays(done)
    rows = [
        {
            **columns,
            "labels": labels[read.folder.name],
            POINT: _json(read.about),
            RESULT: _json(read.result),
            EVALUATIONS: _json(kept[read.folder]) if kept[read.folder] else "",
            STUDY: "" if i else _json(told),
        }
        for i, (read, columns) in enumerate(zip(shown, _to_read(shown), strict=True))
    ]
    ledger.write_rows(into / ledger.RESULTS, rows)
    ledger.write_bytes(into / ANSWERS, _compressed(arrays))


def _require_whole(reads: Iterable[Records], damaged_plans: Iterable[str]) -> None:
    """Raise InputError for damaged files, which nobody could mend in what is published, and for copied folders."""
    wrong = [*(f"{read.folder}/{read.damage}" for read in reads if read.damage), *damaged_plans]
    wrong += [f"{read.folder}/{damage}" for read in reads if (damage := ledger.damage(read.folder / "test.npy"))]
    if wrong:
        raise InputError(f"{wrong[0]}: a damaged study is not published; train the point again, or delete the file")
    by_identity = dict[str, Path]()
    for read in reads:
        if read.result:
            first = by_identity.setdefault(ledger.digest(read.about["identity"]), read.folder)
            if first != read.folder:
                raise InputError(f"{read.folder}: is the same point as {first.name}; delete the copy, then publish")


def _public(read: Records, identity: Mapping[str, Any]) -> Records:
    """A point's records as they are published."""
    about = {"hash": ledger.digest(identity), "identity": identity}
    about |= {key: read.about[key] for key in OF_POINT if read.about.get(key) is not None}
    result = {key: read.result[key] for key in OF_RESULT if read.result.get(key) is not None}
    if "explain" in result:
        result["explain"] = without_folders(result["explain"])
    return replace(read, about=ledger.Record(about), result=ledger.Record(result))


def _to_read(reads: list[Records]) -> Iterator[dict[str, Any]]:
    """The first columns of each point's row."""
    keys = [_variant(read.about["identity"]) for read in reads]
    settings = {key: ledger.without_seed(read.about["identity"]) for key, read in zip(keys, reads, strict=True)}
    names = {key: read.about["names"] for key, read in zip(keys, reads, strict=True)}
    labels, levels = factors.labels(settings, names), factors.levels(settings, names)
    taken = {name for read in reads for name in facts(read)} | {"point", "variant", "device", "code", "labels"}
    called = {name: factors.short(name) for found in levels.values() for name in found}
    called = {name: short if short not in taken else name for name, short in called.items()}
    for key, read in zip(keys, reads, strict=True):
        yield {
            "point": read.folder.name,
            "variant": labels[key],
            **{column: levels[key].get(name) for name, column in called.items()},
            **facts(read),
            "device": read.result.get("device"),
            "code": code_of(read.about),
        }


def _variant(identity: Mapping[str, Any]) -> str:
    return ledger.digest(ledger.without_seed(identity))[:8]


def _unfinished(reads: Iterable[Records], plans: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Name -> state, of the points that have no result."""
    planned = dict.fromkeys((name for plan in plans for name in plan["points"]), "not started")
    states = planned | {read.folder.name: "" if read.result else read.state for read in reads}
    return {name: state for name, state in sorted(states.items()) if state}


def _evaluations(read: Records) -> dict[str, Any]:
    """Those of a point on other data, but for old ones."""
    found = evaluations.of_point(read.folder)
    _require_undamaged(read.folder, found)
    mark = evaluations.mark(read.result)
    return {name: _anywhere(record) for name, record in found.items() if record["tested"] == mark}


def _ensembles(home: Path, done: Iterable[Records], digests: Mapping[str, str]) -> dict[str, Any]:
    """Those of the study's variants, but for old ones; ``digests``: what variants are called when published."""
    found = evaluations.of_study(home)
    _require_undamaged(home, found)
    marks = {read.folder.name: evaluations.mark(read.result) for read in done}
    kept = {}
    for name, record in found.items():
        variant, on, data = name.partition(" on ")
        if variant in digests and record["points"].items() <= marks.items():
            kept[f"{digests[variant]}{on}{data}"] = _anywhere(record)
    return kept


def _require_undamaged(folder: Path, found: Mapping[str, ledger.Record]) -> None:
    for record in found.values():
        if record.damage:
            raise InputError(f"{folder}/{evaluations.FOLDER}/{record.damage}; attnlab evaluate makes it again")


def _anywhere(record: Mapping[str, Any]) -> dict[str, Any]:
    """An evaluation without the machine's folders."""
    overrides = [word_without_folders(word) for word in record.get("overrides") or ()]
    return {**record, "of": without_folders(record["of"]), **({"overrides": overrides} if overrides else {})}


def _short(values: Iterable[Any]) -> dict[str, str]:
    """Absolute path -> its last part; as many as tell it from the others."""
    found = sorted({text for value in values for text in _texts(value) if is_absolute(text)})
    longest = max((text.count("/") + text.count("\\") for text in found), default=0)
    short = {}
    for text in found:
        numbers = range(1, longest + 2)
        alone = (n for n in numbers if [last_parts(other, n) for other in found].count(last_parts(text, n)) == 1)
        short[text] = last_parts(text, next(alone, 1))
    return short


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


def _shortened(value: Any, short: Short) -> Any:
    if isinstance(value, Mapping):
        return {key: _shortened(inner, short) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_shortened(inner, short) for inner in value]
    return short.get(value, value) if isinstance(value, str) else value


def _arrays(done: Iterable[Records]) -> tuple[dict[str, "np.ndarray"], dict[str, str]]:
    """For answers.npz; and by the point's name what its labels are called there."""
    labels: dict[tuple[str, bytes], tuple[str, np.ndarray]] = {}
    answers: dict[str, np.ndarray] = {}
    which: dict[str, str] = {}
    for read in done:
        found, _ = ledger.read_array(read.folder / "test.npy")
        if found is None:
            which[read.folder.name] = ""
            continue
        if not same_accuracy(float((found[0] == found[1]).mean()), read.result):
            raise InputError(f"{read.folder}/test.npy: is of other results than result.json; train the point again")
        known = _narrow(found[0] if len(found) == 2 else found[[0, 2]])  # with the groups of images
        named = (f"labels_{len(labels) + 1}", known)
        which[read.folder.name], _ = labels.setdefault((known.dtype.str, known.tobytes()), named)
        answers[read.folder.name] = _narrow(found[1])
    return {**dict(labels.values()), **answers}, which


def _narrow(classes: "np.ndarray") -> "np.ndarray":
    """In as few bytes as its numbers need."""
    import numpy as np

    low, high = int(classes.min()), int(classes.max())
    return classes.astype(np.promote_types(np.min_scalar_type(low), np.min_scalar_type(high)))


def _compressed(arrays: Mapping[str, "np.ndarray"]) -> bytes:
    import numpy as np

    file = io.BytesIO()
    np.savez_compressed(file, **dict[str, Any](arrays))
    return file.getvalue()


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _with_folders(study: Study, home: Path) -> Study:
    """With the points where they are, whose files have curves and gates."""
    variants = [
        replace(v, points={w: replace(p, folder=home / p.folder.name) for w, p in v.points.items()})
        for v in study.variants
    ]
    return replace(study, variants=variants)


def _contents(into: Path) -> list[bytes]:
    return [(into / name).read_bytes() for name in (ledger.RESULTS, ANSWERS) if (into / name).is_file()]


def _old_reports(home: Path, into: Path, suffix: str) -> list[str]:
    """A warning for each report that tells of earlier results."""
    return [
        f"{into}/report{metric.suffix}.md: is of earlier results; "
        f"attnlab report {home} --publish {into} --metric {name} writes it again"
        for name, metric in METRICS.items()
        if metric.suffix != suffix and (into / f"report{metric.suffix}.md").is_file()
    ]


def _size(into: Path) -> int:
    return sum(path.stat().st_size for path in into.rglob("*") if path.is_file())
