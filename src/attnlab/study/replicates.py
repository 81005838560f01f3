"""Replicates of a variant: its seeds or, in cross-validation, its pairs of seed and fold."""

from collections.abc import Iterable, Mapping
from typing import Any

from attnlab import ledger

Replicate = int | tuple[int, int]  # seed; in cross-validation seed and fold


def replicate(identity: Mapping[str, Any]) -> Replicate:
    """Which replicate a point is."""
    fold = ledger.fold(identity)
    return identity["seed"] if fold is None else (identity["seed"], fold)


def seed_of(found: Replicate) -> int:
    return found if isinstance(found, int) else found[0]


def of_seed(seed: int, folds: int | None) -> list[Replicate]:
    """All replicates with this seed."""
    return [seed] if folds is None else [(seed, fold) for fold in range(folds)]


def in_order(several: Iterable[Replicate]) -> list[Replicate]:
    return sorted(several, key=lambda found: (found, -1) if isinstance(found, int) else found)


def written(found: Replicate) -> int | str:
    """As a key of report.json: the seed, or ``seed 0 fold 1``."""
    return found if isinstance(found, int) else f"seed {found[0]} fold {found[1]}"


def overlap(identity: Mapping[str, Any]) -> float:
    """Test images for each training image, which tells how much of their training images folds share; 0 without.

    What is no test image trains, but for the share ``data.val`` of it.
    """
    folds = ledger.folds(identity)
    return 0.0 if folds is None else 1 / ((folds - 1) * (1 - identity["data"].get("val", 0.0)))


def over(told: Mapping[str, Any]) -> str:
    """What means and intervals of a study are over."""
    return "folds and seeds" if "replicates" in told else "seeds"


def by(told: Mapping[str, Any]) -> str:
    """What comparisons are paired by."""
    return "fold and seed" if "replicates" in told else "seed"


def count(several: Iterable[int]) -> str:
    """``2``, ``2 to 5``"""
    numbers = sorted(several)
    return f"{numbers[0]}" if numbers[0] == numbers[-1] else f"{numbers[0]} to {numbers[-1]}"
