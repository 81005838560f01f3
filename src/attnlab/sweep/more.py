"""Seed racing: more seeds for the undecided comparisons of a study, none for decided ones."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attnlab import ledger
from attnlab.config import schema
from attnlab.errors import InputError
from attnlab.study.collect import Study, Variant, read_study
from attnlab.study.prose import damaged
from attnlab.study.replicates import Replicate, seed_of
from attnlab.study.seeds import Need, needs, within
from attnlab.study.trials import refuse_search
from attnlab.sweep import plan, table
from attnlab.sweep.launch import launchers
from attnlab.sweep.plan import Plan


def plan_round(
    folder: Path, budget: int, baseline: Mapping[str, str], overrides: Sequence[str], metric: str = "accuracy"
) -> Plan | None:
    """Print what the study's undecided comparisons need, and plan the part that fits into ``budget`` points.

    ``metric``: of the test images, by which comparisons are decided. None if there is nothing to run. Raises InputError
    for a wrong study, baseline or launcher.
    """
    for word in overrides:
        if not word.startswith(("hydra/launcher=", "hydra.launcher.")):
            raise InputError(
                f"{word}: cannot be changed: more reuses the study's configs; only hydra/launcher and "
                "hydra.launcher.* can be set"
            )
    launcher = plan.launcher_of(overrides)
    if not launchers.ours(launcher):
        raise InputError(f"{' '.join(overrides)}: must be one of attnlab's launchers: local, slurm, ray")
    refuse_search(folder, "more")
    ledger.refuse_published(folder)
    study = read_study(folder, metric)
    for text in damaged(study):
        print(f"warning: {text}")
    wanted = dict(baseline or study.baseline)
    needed, too_small = needs(study, wanted)
    known = _known(needed)
    needed = [need for need in needed if {id(need.variant), id(need.base)} <= known.keys()]
    configs: list[dict[str, Any]] = []
    if too_small:
        print("differences too small to decide by seeds:", *(f"  {words}" for words in too_small), sep="\n")
    fitting, beyond = within(needed, budget)
    for need, points in fitting:
        print(f"{_words(need)}, {len(points)} point{'s' * (len(points) != 1)} to run")
        configs += [_config(study, variant, known[id(variant)], which) for variant, which in points]
    if beyond:
        beyond.sort(key=lambda need: len(need.points))
        words = (f"  {_words(need)}, {len(need.points)} points" for need in beyond)
        print(f"beyond --budget {budget}:", *words, sep="\n")
    if beyond and not fitting:
        print(f"nothing to run within the budget: the cheapest comparison needs --budget {len(beyond[0].points)}")
    planned = plan.of_points(configs, overrides) if configs else None
    if planned is not None:
        print(*table.summary(planned), sep="\n")
    elif not needed:
        print("nothing to run: every comparison is decided over seeds" + (", or too small" if too_small else ""))
    return planned


def _words(need: Need) -> str:
    seeds, folds = len(need.seeds), need.variant.folds
    what, each = ("pair", "") if folds is None else ("seed", f" in all {folds} folds")
    return f"{need.variant.label} against {need.base.label}: {seeds} more {what}{'s' * (seeds > 1)}{each}"


def run(planned: Plan, argv: Sequence[str]) -> None:
    """Launch the round, and record that the study was looked at before."""
    launchers.prepared(planned.hydra["launcher"])
    with plan.recorded(planned, argv, more=True):
        launchers.launch(planned, planned.hydra["launcher"])


def _known(needed: Sequence[Need]) -> dict[int, dict[str, Any]]:
    """The config of each variant, by id; one without a whole file is left out with a word."""
    known = {}
    for variant in {id(v): v for need in needed for v in (need.variant, need.base)}.values():
        try:
            known[id(variant)] = ledger.read_config(*(point.folder for point in variant.points.values()))
        except InputError as error:
            print(f"left out: {variant.label}: {error}")
    return known


def _config(study: Study, variant: Variant, known: Mapping[str, Any], which: Replicate) -> dict[str, Any]:
    """The variant's config as another replicate. Raises InputError if it would no longer be the same variant."""
    place = {"output_dir": str(study.folder.parent), "study": study.folder.name}
    fold = {} if isinstance(which, int) else {"fold": which[1]}
    config = schema.check({**known, **place, "data": {**known["data"], **fold}, "seed": seed_of(which)})
    if ledger.without_seed(ledger.identity(config)) != variant.settings:
        folder = next(iter(variant.points.values())).folder
        raise InputError(f"{folder}: made by another version of attnlab with other settings; train it again")
    return config
