"""The plan: it composes and checks every point of a command, and reads its folder, before the first one starts."""

import contextlib
import shlex
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from attnlab import ledger
from attnlab.config import schema
from attnlab.config.compose import composing, parse
from attnlab.config.first_check import precheck
from attnlab.config.many import compose_plain
from attnlab.config.settings import plain
from attnlab.errors import InputError
from attnlab.ledger.shapes import PLAN
from attnlab.study.collect import code_of
from attnlab.sweep.grid import jobs, steering

if TYPE_CHECKING:
    from attnlab.insertion import Cost

Told = Callable[[str], None]  # what the planner is doing


@dataclass
class Planned:
    """A point, and its state when it was planned."""

    folder: Path
    config: dict[str, Any]
    combinations: list[list[str]]  # the overrides of each that is this point
    state: str
    attempts: int
    damage: str  # which of its records is damaged, and how
    code: str  # the versions that have trained it, if it is done
    variant: str = ""  # what tells it from the others, but for the seed
    title: str = ""  # what the terminal calls it
    pack: str = ""  # points that may be trained as one network have the same
    packed: int = 0  # of an interrupted point: with how many it was trained as one
    cost: "Cost | None" = None  # of an unfinished point
    until: int | None = None  # how many epochs it shall have when it is paused; None: it is trained to the end
    shows_test: bool = True  # in its last line in the terminal; not while designs are chosen

    @property
    def overrides(self) -> list[str]:
        return self.combinations[0]


@dataclass
class Plan:
    """All points of one command, in the order of first appearance."""

    points: list[Planned]
    combinations: int
    collapsed: list[str]  # which settings made no difference, a line each
    errors: list[str]  # of points that were left out (sweep.on_error=skip)
    missing: list[str] = field(default_factory=list)  # data that are not there, if the plan may do without
    notes: list[str] = field(default_factory=list)  # on the data of what is not finished
    multirun: bool = False
    retry: bool = False  # failed points are trained again
    hydra: dict[str, Any] = field(default_factory=dict)  # launcher and sweeper
    packs: list[str] = field(default_factory=list)  # which points are trained as one network, and why others are not

    @property
    def is_grid(self) -> bool:
        """Whether all points are known, as with Hydra's basic sweeper; other sweepers choose them as they go."""
        return self.hydra["sweeper"]["_target_"].endswith(".BasicSweeper")

    @property
    def todo(self) -> list[Planned]:
        """The unfinished points; failed points only if ``retry``."""
        return [p for p in self.points if p.state != "done" and (p.state != "failed" or self.retry)]


def make(
    argv: Sequence[str],
    tell: Told = lambda text: None,
    *,
    without_data: bool = False,
    warm_up: Callable[[dict[str, Any]], None] = lambda launcher: None,
) -> Plan:
    """The plan of ``attnlab train <argv>``; ``without_data``: missing data are no error, because nothing will run.

    ``warm_up`` is called with the launcher of a sweep that passes the quick checks, before the slow ones.

    Raises InputError: a line for each error, with the valid choices; with sweep.on_error=skip only if no point
    without errors is left.
    """
    args = parse(argv)
    with composing(args.config_path, args.config_dir, args.config_name) as compose_one:
        tell("reading the configs")
        config = steering(args.overrides, compose_one)
        combinations = jobs(args.overrides, args.multirun, compose_one, config)
        hydra: Any = OmegaConf.to_container(config.hydra)
        multirun = args.multirun or config.hydra.mode == RunMode.MULTIRUN
        here = not multirun or hydra["launcher"]["_target_"].rpartition(".")[2] not in ("Slurm", "Ray")
        composed = zip(combinations, compose_plain(combinations, compose_one), strict=True)
        starts = (lambda: warm_up(hydra["launcher"])) if multirun else lambda: None
        plan = check(composed, tell, here, without_data, starts)
    plan.multirun, plan.hydra = multirun, {key: hydra[key] for key in ("launcher", "sweeper")}
    settings: Any = OmegaConf.to_container(config.get("sweep") or OmegaConf.create())
    _refuse_machines(plan, hydra["launcher"] if multirun else {"_target_": ""})
    for point in plan.points:
        if multirun and isinstance(devices := point.config["trainer"].get("devices"), list):
            raise InputError(f"trainer.devices={devices}: the launcher chooses the devices; give their number")
    if equal := settings.get("equal_cost"):
        from attnlab.sweep.equal_cost import widened

        more, lines = widened(((point.config, _priced(point)) for point in plan.points), equal, tell)
        known = {point.folder for point in plan.points}
        plan.points += [
            _planned(folder, w.config, [w.overrides], w.cost)
            for w in more
            if (folder := ledger.folder(w.config)) not in known
        ]
        plan.combinations += len(plan.points) - len(known)
        plan.collapsed += lines
        _entitle(plan.points)
    plan.retry = not multirun or settings.get("retry") == "failed"
    if settings.get("pack"):
        if multirun:
            pack_seeds(plan, hydra["launcher"], tell)
        else:
            plan.packs = ["sweep.pack=seeds makes no difference: it packs the points of a sweep (-m)"]
    if plan.errors and (settings.get("on_error") != "skip" or not plan.points):
        raise InputError("\n".join(plan.errors))
    return plan


def pack_seeds(plan: Plan, launcher: dict[str, Any], tell: Told = lambda text: None) -> None:
    """Note which unfinished points may be trained as one network. Raises InputError if the launcher cannot do it."""
    if not launcher["_target_"].endswith("attnlab_launcher.Local"):
        name = launcher["_target_"].rpartition(".")[2]
        raise InputError(f"sweep.pack=seeds: only hydra/launcher=local packs points, not {name}; set sweep.pack=null")
    tell("looking which points can be trained as one network")
    from attnlab.training.packed import likeness, obstacle

    alike: dict[str, list[Planned]] = defaultdict(list)
    for point in plan.todo:
        alike[likeness(point.config)].append(point)
    several = {key: points for key, points in alike.items() if len(points) > 1}
    why = {key: obstacle(points[0].config) for key, points in several.items()}
    for key, points in several.items():
        for point in points if not why[key] else ():
            point.pack = key
    number, together = (len(each) for each in ([p for p in plan.todo if p.pack], {p.pack for p in plan.todo} - {""}))
    plan.packs = [
        f"sweep.pack=seeds: {number} of {len(plan.todo)} points in {together} pack{'s' * (together != 1)}"
        " (in more where slots would be idle)"
    ]
    for reason in dict.fromkeys(filter(None, why.values())):
        count = sum(len(points) for key, points in several.items() if why[key] == reason)
        plan.packs.append(f"{count} points are trained alone: {reason}")
    if single := len(alike) - len(several):
        plan.packs.append(f"points that have none like them: {single}")


def _planned(
    folder: Path, config: dict[str, Any], combinations: list[list[str]], cost: "Cost | None" = None
) -> Planned:
    read = ledger.read_point(folder)
    code = code_of(read.about) if read.state == "done" else ""
    attempts, packed = read.status.get("attempts") or 0, read.about.get("packed") or 0
    return Planned(folder, config, combinations, read.state, attempts, read.damage, code, packed=packed, cost=cost)


def _priced(point: Planned) -> dict[str, int]:
    if point.cost is not None:
        return {"parameters": point.cost.parameters, "macs": point.cost.macs}
    return ledger.read_json(point.folder / "result.json")["cost"]


def of_points(configs: Sequence[dict[str, Any]], overrides: Sequence[str], tell: Told = lambda text: None) -> Plan:
    """The plan of points whose configs are known; ``overrides`` set their launcher: only ``hydra...=``.

    Raises InputError for wrong overrides or configs.
    """
    return of_composed([([f"seed={config['seed']}"], config) for config in configs], _hydra(overrides), tell)


def of_composed(
    composed: Sequence[tuple[list[str], dict[str, Any]]],
    hydra: dict[str, Any],
    tell: Told = lambda text: None,
    rehearsed: bool = False,
) -> Plan:
    """The plan of points by their overrides and configs, for the launcher of ``hydra``. Raises InputError.

    ``rehearsed``: they have been built already, so they are not built once more.
    """
    here = hydra["launcher"]["_target_"].rpartition(".")[2] not in ("Slurm", "Ray")
    plan = check(composed, tell, here, rehearsed=rehearsed)
    _refuse_machines(plan, hydra["launcher"])
    if plan.errors:
        raise InputError("\n".join(plan.errors))
    plan.multirun, plan.hydra = True, {key: hydra[key] for key in ("launcher", "sweeper")}
    return plan


def _refuse_machines(plan: Plan, launcher: dict[str, Any]) -> None:
    """Raise InputError if a point wants several machines and the launcher has one for it."""
    for point in plan.points:
        if (machines := ledger.machines(point.config)) > 1 and launcher["_target_"].rpartition(".")[2] != "Slurm":
            raise InputError(
                f"trainer.num_nodes={machines}: only SLURM trains a point on several machines: "
                "attnlab train -m hydra/launcher=slurm; or set trainer.num_nodes=1, with the same result"
            )


def launcher_of(overrides: Sequence[str]) -> dict[str, Any]:
    """``hydra.launcher`` as the overrides set it. Raises InputError."""
    return _hydra(overrides)["launcher"]


def _hydra(overrides: Sequence[str]) -> dict[str, Any]:
    with composing() as compose_one:
        return OmegaConf.to_container(steering(overrides, compose_one).hydra)  # type: ignore[return-value]


@contextlib.contextmanager
def recorded(plan: Plan, argv: Sequence[str], **more: Any) -> Iterator[None]:
    """Write ``<study>/plans/<hash>.json`` before the points run: it lists the planned points, to find missing ones.

    Removes a new file if the launcher refuses (InputError) before it has made a point.
    """
    written = []
    by_study: dict[Path, list[Planned]] = defaultdict(list)
    for point in plan.points:
        by_study[point.folder.parent].append(point)
    for study, points in by_study.items():
        told = {
            "command": shlex.join(["attnlab", *argv]),
            "baseline": points[-1].config.get("baseline"),
            "points": sorted(point.folder.name for point in points),
            **more,
        }
        path = study / "plans" / f"{ledger.digest(told)[:8]}.json"
        if not path.exists():
            written.append(path)
        before, now = ledger.mended(path, PLAN), time.time()
        first = before.get("first", before.get("time", now))  # when the command was typed for the first time
        ledger.write_json(path, {"time": now, "first": first, **told})
    try:
        yield
    except InputError:
        for path in written if not any(point.folder.exists() for point in plan.points) else ():
            path.unlink(missing_ok=True)
            for folder in (path.parent, path.parents[1], path.parents[2]):
                with contextlib.suppress(OSError):  # something else is in it
                    folder.rmdir()
        raise


def check(
    composed: Iterable[tuple[list[str], DictConfig | dict[str, Any] | InputError]],
    tell: Told = lambda text: None,
    here: bool = True,
    without_data: bool = False,
    warm_up: Callable[[], None] = lambda: None,
    rehearsed: bool = False,
) -> Plan:
    """Check every combination (its overrides, and its config or its error), and build each point on the meta device.

    ``here``: the points will train on this machine. ``without_data``: their data may be missing.
    ``rehearsed``: all of them have been built before.
    """
    errors: dict[str, None] = {}  # each once, in order
    combinations: dict[Path, list[list[str]]] = defaultdict(list)
    configs: dict[Path, dict[str, Any]] = {}
    readable, number = list[tuple[list[str], dict[str, Any]]](), 0
    for overrides, config in composed:
        number += 1
        try:
            if isinstance(config, InputError):
                raise config
            raw = plain(config)
            precheck(raw)
            readable.append((overrides, raw))
        except InputError as error:
            errors[str(error)] = None
    if readable and not errors:
        warm_up()
    for i, (overrides, raw) in enumerate(readable, start=1):
        if i % 50 == 0:
            tell(f"combination {i}")
        try:
            checked = schema.check(raw)
        except InputError as error:
            errors[str(error)] = None
            continue
        folder = ledger.folder(checked)
        configs.setdefault(folder, checked)
        combinations[folder].append(overrides)
    points = [_planned(folder, config, combinations[folder]) for folder, config in configs.items()]
    missing: dict[str, None] = {} if without_data else errors
    notes: dict[str, None] = {}
    good = points if rehearsed else _rehearsed(points, errors, missing, notes, tell, here)
    _entitle(good)
    return Plan(good, number, _collapsed(points), list(errors), list(missing) if without_data else [], list(notes))


def _rehearsed(
    points: list[Planned],
    errors: dict[str, None],
    missing: dict[str, None],
    notes: dict[str, None],
    tell: Told,
    here: bool,
) -> list[Planned]:
    """The points that can be built, with their costs; what is wrong with the others goes to ``errors``.

    Data that are not there go to ``missing``; where that is ``errors``, such points cannot be built.
    """
    fresh = [point for point in points if point.state != "done"]
    if not fresh:
        return points
    from attnlab.training.rehearsal import rehearse

    wrong = set()
    for number, (point, found) in enumerate(zip(fresh, rehearse((p.config for p in fresh), here), strict=True), 1):
        if number % 10 == 0:
            tell(f"building point {number} of {len(fresh)} without memory")
        point.cost = found.cost
        notes |= dict.fromkeys(found.notes)
        if found.missing:
            missing[found.missing] = None
        if found.error:
            errors[found.error] = None
        if found.error or (found.missing and missing is errors):
            wrong.add(point.folder)
    return [point for point in points if point.folder not in wrong]


def _collapsed(points: Iterable[Planned]) -> list[str]:
    """``attention=none: attention.order makes no difference (6 combinations are 2 points)``"""
    combinations: Counter[str] = Counter()
    points_of: Counter[str] = Counter()
    for point in points:
        if len(point.combinations) > 1:
            settings = [dict(o.split("=", 1) for o in job if "=" in o) for job in point.combinations]
            keys = [key for key in settings[0] if len({s.get(key) for s in settings}) > 1]
            what = f"attention={point.config['attention']['name']}: {', '.join(keys) or 'repetition'}"
            combinations[what] += len(point.combinations)
            points_of[what] += 1
    return [
        f"{what} make{'s' * (',' not in what)} no difference "
        f"({n} combinations are {points_of[what]} point{'s' * (points_of[what] > 1)})"
        for what, n in combinations.items()
    ]


def _entitle(points: list[Planned]) -> None:
    """What the terminal calls the points of a sweep: ``[3/10] cbam order=parallel s0 2c3bb1b7``."""
    from attnlab.study.factors import labels

    if len(points) == 1:
        points[0].title = points[0].variant = points[0].folder.name
        return
    identities = [ledger.identity(point.config) for point in points]
    variants = [ledger.digest(ledger.without_seed(identity)) for identity in identities]
    texts = labels(
        {key: ledger.without_seed(identity) for key, identity in zip(variants, identities, strict=True)},
        {key: ledger.names(point.config) for key, point in zip(variants, points, strict=True)},
    )
    for i, (point, key) in enumerate(zip(points, variants, strict=True), start=1):
        hash8 = point.folder.name.rpartition("-")[2]
        point.variant = texts[key]
        fold = "" if (of := ledger.fold(point.config)) is None else f" fold {of}"
        point.title = f"[{i}/{len(points)}] {point.variant} s{point.config['seed']}{fold} {hash8}"
