"""ASHA (arXiv 1810.05934): which trial goes on to which rung, from what the trials have reached."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from attnlab.sweep.search.choosing import Trial


@dataclass(frozen=True)
class Step:
    """Train trial ``number``, or a new one if it is None, until epoch ``until``, a rung."""

    number: int | None
    until: int


def next_step(rungs: Sequence[int], trials: Sequence[Trial], total: int, maximize: bool) -> Step | None:
    """What is due: a promotion, the furthest first; else a new trial while there are fewer than ``total``; else None.

    Of n trials at rung r, no more than n * r / following go on to the following one, the best first (equal ones by
    their number). The paper promotes whatever is among the best at that moment, so early luck is paid on top: the
    later designs are better than the earlier ones, the nearer it comes to training all of them to the end.

    None while trials run: ask again when one has reached its rung. When all are settled, the best one of a rung goes on
    even if there are too few for a share, so that some design is trained to the end. Failed trials do not count.
    """
    settled = len(trials) >= total and not any(t.state == "running" for t in trials)
    for rung, following in reversed(list(itertools.pairwise(rungs))):
        reached = [t for t in trials if rung in t.rungs and t.state != "failed"]
        waiting = [t for t in reached if t.state == "paused" and max(t.rungs) == rung]
        able = [t for t in waiting if not math.isnan(t.rungs[rung])]
        places = max(len(reached) * rung // following, int(settled))
        if able and len(reached) - len(waiting) < places:
            best = min(able, key=lambda t: (-t.rungs[rung] if maximize else t.rungs[rung], t.number))
            return Step(best.number, following)
    return Step(None, rungs[0]) if len(trials) < total else None


def last_step(rungs: Sequence[int], trials: Sequence[Trial], maximize: bool) -> Step | None:
    """What is due when no time is left: the best of those that got furthest is trained to the end, if none was."""
    if any(t.state in ("done", "running") for t in trials):
        return None
    able = [t for t in trials if t.state == "paused" and t.rungs and not math.isnan(t.rungs[max(t.rungs)])]
    if not able:
        return None
    furthest = max(max(t.rungs) for t in able)
    there = [t for t in able if furthest in t.rungs]
    best = min(there, key=lambda t: (-t.rungs[furthest] if maximize else t.rungs[furthest], t.number))
    return Step(best.number, rungs[-1])


def epochs(trials: Sequence[Trial]) -> int:
    """The epochs trained in all, up to the last rung that each trial has reached."""
    return sum(max(t.rungs, default=0) for t in trials)
