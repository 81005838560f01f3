"""The loop of a search: decide a batch of steps, train it, read the ledger, and again.

A batch has as many steps as the launcher trains at once, each a new design or one that goes on to its next rung. The
next batch is decided when all of it has ended. Slots may wait a little so; but what is decided depends on the results
of whole batches alone, never on which point was a second faster, so a search by one launcher repeats, and a killed one
ends as if nothing had happened. Values come from the points' folders alone: to lose the terminal loses nothing.
"""

import dataclasses
import itertools
import json
import math
import re
import shlex
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attnlab import ledger
from attnlab.errors import InputError, first_line
from attnlab.ledger import lock
from attnlab.sweep import plan
from attnlab.sweep.launch import launchers
from attnlab.sweep.search import choosing, journal, rungs, space
from attnlab.sweep.search.asking import Missing, Search, as_random, prepared, violated
from attnlab.sweep.search.journal import Chosen, Step, Tell
from attnlab.sweep.search.reading import Seen, all_failed, best, history, read_trial, seen, since_better
from attnlab.sweep.search.telling import draw_best, introduced, note, progress, tell_journal, told_space, write_trials

EXTENDABLE = ("trials", "hours", "patience", "confirm", "best", "compare")  # may differ when a search goes on
KNOWN, UNBUILDABLE = "known already", "cannot be built"  # why a design is passed over


@dataclass(frozen=True)
class Outcome:
    """How a search ended."""

    search: Search
    trials: Sequence[Seen]
    random: Sequence[Seen] | None = None  # of compare=random
    confirmed: Sequence[str] = ()  # the verdict on the best, in lines
    failed: bool = False  # all of the first designs, or points of the confirmation

    def best(self, number: int) -> list[Seen]:
        return best(self.search, self.trials, number)


def search(argv: Sequence[str], tell: Tell = print) -> Outcome:
    """Search, compare with random search and confirm, as ``attnlab search <argv>`` asks; go on where it was stopped.

    ``tell`` gets a line at a time. Raises InputError before anything starts, KeyboardInterrupt after Ctrl-C once all
    points have saved.
    """
    with prepared(argv) as wanted:
        for line in introduced(wanted):
            tell(line)
        found, rival = run(wanted, tell), None
        if all_failed(found):
            return Outcome(wanted, found, failed=True)
        if wanted.settings["compare"]:
            at_random, spent = as_random(wanted), sum(trial.epochs for trial in found)
            own = {"trials": len(found), "hours": None}  # what the search has spent, whatever ended it
            at_random = dataclasses.replace(
                at_random, settings={**at_random.settings, **own}, most_epochs=spent, retry=wanted.retry
            )
            tell(f"the same for random search, {len(found)} designs and {spent} epochs, in {at_random.study}")
            rival = run(at_random, tell)
            note(wanted, {"random": {"study": at_random.study.name}})
        if not wanted.settings["confirm"]:
            return Outcome(wanted, found, rival)
        from attnlab.sweep.search.confirming import confirm

        lines, good = confirm(wanted, found, rival or [], tell)
        return Outcome(wanted, found, rival, lines, not good)


def run(wanted: Search, tell: Tell) -> list[Seen]:
    """Search until the budget is spent; the trials. Raises KeyboardInterrupt after Ctrl-C."""
    end = time.monotonic() + 3600 * wanted.settings["hours"] if wanted.settings["hours"] else math.inf
    exhausted: list[str] = []  # why no new design is to be found
    said, last, retry = {""}, list[Any](), wanted.retry

    def say(line: str) -> None:
        if line not in said:
            tell(line)
        said.add(line)

    with journal.as_launcher(wanted.folder) as launcher:
        while True:
            with journal.alone(wanted.folder, tell):
                study = _opened(wanted)
                journal.add_chosen(study, choosing.distributions(wanted.dimensions))
                if retry:
                    _forgive(wanted, study)
                retry = False
                hopeless = all_failed(seen(wanted, study))
                late = time.monotonic() > end
                steps = [] if hopeless else _decided(wanted, study, launcher, late, exhausted)
                found = seen(wanted, study)
                tell_journal(wanted, study, found)
                write_trials(wanted, study, found, final=not steps)
            say(progress(wanted, found, end, exhausted))
            if hopeless:
                errors = dict.fromkeys(trial.error for trial in found if trial.state == "failed")
                tell(
                    f"stopped: all of the first {len(found)} designs failed: {'; '.join(errors)}; "
                    "to train them again: the same command with sweep.retry=failed"
                )
                return found
            if steps:
                now = [(s, t.ledger, t.epochs, t.attempts) for s in steps for t in [found[s.trial]]]
                last = [*last, now] if last[-1:] == [now] else [now]
                if len(last) > 1:  # they were left to others, or nothing trains them
                    _refuse_idle(wanted, last, steps, found)
                    time.sleep(journal.POLL_S)
                try:
                    _launch(wanted, steps, found)
                except KeyboardInterrupt:
                    with journal.alone(wanted.folder, tell):
                        write_trials(wanted, study, seen(wanted, study), final=False)
                    tell(f"stopped, all is saved; to go on: {shlex.join(['attnlab', 'search', *wanted.argv])}")
                    raise
            elif not _wait_for_others(wanted, found, study, say):
                draw_best(wanted, found)
                return found


def begun(wanted: Search) -> bool:
    """Whether the study has trials of this search. Raises InputError, a line, for another; begins nothing."""
    if not (wanted.folder / "journal.log").exists():
        return False
    with journal.alone(wanted.folder, lambda line: None):
        return bool(journal.begun(_opened(wanted, begin=False)))


def _opened(wanted: Search, begin: bool = True) -> Any:
    """The journal, which must be of the same space and settings. Raises InputError, a line, for another."""
    study = journal.opened(wanted.folder, wanted.maximize)
    asked: dict[str, Any] = {
        "settings": {key: value for key, value in wanted.settings.items() if key not in EXTENDABLE},
        "space": told_space(wanted.dimensions),
        "fixed": sorted(word for word in wanted.fixed if not re.match(r"(study|output_dir)\b", word)),
        "probes": _probed(wanted),
    }
    asked = json.loads(json.dumps(asked))
    there = journal.about(study)
    if not journal.begun(study):
        if begin and there != asked:  # its number of objectives may differ, too
            study = journal.anew(wanted.folder, wanted.maximize)
            journal.begin(study, asked)
        return study
    if there is None:
        raise InputError(f"{wanted.folder}/journal.log: is damaged; delete {wanted.folder} to search anew: points stay")
    if any(there.get(part) != asked[part] for part in ("space", "settings", "probes")):
        differs = [
            f"{key}={_shown(there[part].get(key))} there, {_shown(asked[part].get(key))} here"
            for part in ("settings", "space")
            for key in dict.fromkeys([*there[part], *asked[part]])
            if there[part].get(key) != asked[part].get(key)
        ]
        words = [f"{word} only there" for word in there["fixed"] if word not in asked["fixed"]]
        words += [f"{word} only here" for word in asked["fixed"] if word not in there["fixed"]]
        what = "; ".join([*differs, *words]) or "a config file or attnlab's version has changed since"
        raise InputError(f"{wanted.folder}: searches something else: {what}; choose another study=")
    return study


def _probed(wanted: Search) -> str:
    """A digest of some designs, each value of each dimension in one: others if the fixed settings are others."""
    ends = {d.key: d.values or ((int(d.low), int(d.high)) if d.whole else (d.low, d.high)) for d in wanted.dimensions}
    first, last = ({key: values[place] for key, values in ends.items()} for place in (0, -1))
    probes = [last, *({**first, key: value} for key, values in ends.items() for value in values)]
    designs = [wanted.identity(space.overrides(wanted.dimensions, probe)) for probe in probes]
    return ledger.digest({"designs": designs})


def _shown(value: Any) -> str:
    return json.dumps(value).replace('"', "") if value is not None else "nothing"


def _decided(wanted: Search, study: Any, launcher: int, late: bool, exhausted: list[str]) -> list[Step]:
    """The steps of this launcher's next batch, noted in the journal; none if there is nothing to begin now."""
    found, batches = seen(wanted, study), journal.batches(study)
    mine = batches.get(launcher, journal.Batch([], []))
    left = _left(wanted, found, batches, launcher)
    if left:
        if left != list(mine.steps):
            journal.decide(study, launcher, dataclasses.replace(mine, steps=left))
        for number, batch in batches.items():
            if number != launcher and set(batch.steps) & set(left):
                journal.decide(study, number, dataclasses.replace(batch, steps=[]))
        return left
    steps: list[Step] = []
    chosen: list[Chosen] = []
    spent = sum(trial.epochs for trial in found)
    while len(steps) < wanted.at_once:
        out = late or (wanted.most_epochs is not None and spent >= wanted.most_epochs)
        step = _next(wanted, found, out, exhausted)
        if step is None:
            break
        if step.number is not None:
            number = step.number
            spent -= found[number].epochs
            found = [dataclasses.replace(t, state="running") if t.number == number else t for t in found]
        else:
            new = _chosen(wanted, study, found, exhausted)
            if new is None:
                break
            number = new.number
            chosen.append(new)
            found = [*found, Seen(new, "running", "new")]
        steps.append(_step(wanted, number, step.until))
        spent += step.until
    if steps:
        journal.decide(study, launcher, journal.Batch(steps, chosen))
        journal.add_chosen(study, choosing.distributions(wanted.dimensions))
    return steps


def _left(wanted: Search, found: Sequence[Seen], batches: Mapping[int, journal.Batch], launcher: int) -> list[Step]:
    """What was decided and is not over: of this launcher's last batch, of launchers that are gone, and of nobody."""
    mine, gone, theirs = list[Step](), list[Step](), set[int]()
    for number, batch in sorted(batches.items()):
        steps = [step for step in batch.steps if not found[step.trial].is_over(step)]
        if number == launcher:
            mine += steps
        elif journal.is_alive(wanted.folder, number):
            theirs |= {step.trial for step in steps}
        else:
            gone += steps
    steps = list({step.trial: step for step in (*gone, *mine)}.values())
    taken = theirs | {step.trial for step in steps}
    first = min(wanted.rungs, default=0)
    lost = [  # its folder was deleted, say
        _step(wanted, trial.number, next((rung for rung in wanted.rungs if rung >= trial.epochs), 0))
        for trial in found
        if trial.number not in taken
        and (trial.state == "running" or (trial.state == "paused" and trial.epochs < first))
    ]
    return sorted([*(step for step in steps if step.trial not in theirs), *lost], key=lambda step: step.trial)


def _step(wanted: Search, number: int, until: int) -> Step:
    return Step(number, until if until in wanted.rungs[:-1] else None)


def _next(wanted: Search, found: Sequence[Seen], out: bool, exhausted: list[str]) -> rungs.Step | None:
    """A promotion, or a new trial (number None), or nothing. ``out`` of time or epochs: only the best is finished."""
    settings = wanted.settings
    epochs = wanted.rungs or [int(wanted.base["trainer"]["max_epochs"])]
    if out:
        return rungs.last_step(epochs, history(wanted, found), wanted.monitor != "loss")
    patient = settings["patience"] is None or since_better(wanted, found) < settings["patience"]
    total = settings["trials"] if patient and not exhausted else len(found)
    return rungs.next_step(epochs, history(wanted, found), total, wanted.monitor != "loss")


def _chosen(wanted: Search, study: Any, found: Sequence[Seen], exhausted: list[str]) -> Chosen | None:
    """The next design that fits and is new; None, with the reason in ``exhausted``, if there is none."""
    known, number = {trial.chosen.hash for trial in found}, len(found)
    refused: dict[str, str] = {}  # design -> why
    for choice in _offered(wanted, found):
        words = wanted.words(choice.params)
        # By its words where it cannot be composed.
        design = wanted.identity(space.overrides(wanted.dimensions, choice.params)) or ledger.digest({"words": words})
        if design in refused:
            continue
        if design in known:
            refused[design] = KNOWN
            continue
        try:
            config = wanted.config(words)
            cost = wanted.cost(config)
            if broken := violated(wanted, config, cost):
                refused[design] = broken
                continue
            wanted.rehearse(config)
        except Missing:
            raise
        except InputError as error:
            refused[design] = f"{UNBUILDABLE}: {first_line(error)}"
            continue
        journal.pass_over(study, number, refused)
        folder = ledger.folder(config).name
        return Chosen(number, choice.params, words, folder, design, cost, choice.system)
    reasons = Counter(refused.values())
    why = ", ".join(
        f"{n} {reason if reason == KNOWN or reason.startswith(UNBUILDABLE) else f'not {reason}'}"
        for reason, n in reasons.most_common(5)
    )
    if not found:
        raise InputError(f"none of {len(refused)} designs fits: {why}")
    journal.pass_over(study, number, refused)
    exhausted.append(f"no new design was found ({why or 'all are known'})")
    return None


def _offered(wanted: Search, found: Sequence[Seen]) -> Iterator[choosing.Choice]:
    """The choices for the next trial, as long as they are refused."""
    past, grid = history(wanted, found), wanted.settings["sampler"] == "grid"
    for retry in itertools.count():
        choice = choosing.choose(
            wanted.dimensions,
            past,
            len(found),
            sampler=wanted.settings["sampler"],
            seed=wanted.settings["sampler_seed"],
            maximize=wanted.maximize,
            matters=wanted.matters,
            retry=0 if grid else retry,
        )
        if choice is None:
            return
        yield choice
        if grid:  # it goes on after the last one of its past
            past = [*past, choosing.Trial(len(found), choice.params, "failed", system=choice.system)]


def _launch(wanted: Search, steps: Sequence[Step], found: Sequence[Seen]) -> None:
    """Train a batch; the points' folders say how it went. Raises InputError if a point can no longer be made."""
    chosen = [found[step.trial].chosen for step in steps]
    composed = [(list(each.overrides), wanted.config(each.overrides)) for each in chosen]
    for each, (_, config) in zip(chosen, composed, strict=True):
        if ledger.folder(config).name != each.folder:
            why = "a config file or attnlab has changed"
            raise InputError(f"{wanted.folder}: trial {each.number} would be another design now: {why}")
        wanted.rehearse(config)  # if another process has chosen it
    planned = plan.of_composed(composed, dict(wanted.hydra), rehearsed=True)
    by_folder = {point.folder.name: point for point in planned.points}
    trials = wanted.settings["trials"]
    for step, each in zip(steps, chosen, strict=True):
        point = by_folder[each.folder]
        point.until, point.shows_test = step.until, False
        epoch = f" to epoch {step.until}" if step.until else ""
        point.title = f"[{each.number + 1}/{trials}] {wanted.said(each.params)}{epoch} {each.hash[:8]}"
    launchers.launch(planned, wanted.hydra["launcher"])


def _forgive(wanted: Search, study: Any) -> None:
    """Have the failed points trained again (sweep.retry=failed)."""
    for trial in seen(wanted, study):
        point = wanted.study / trial.chosen.folder
        if trial.ledger == "failed" and lock.holder(point) is None:
            ledger.set_status(point, "pending", error=None)


def _refuse_idle(wanted: Search, last: Sequence[Any], steps: Sequence[Step], found: Sequence[Seen]) -> None:
    """Raise InputError if steps came back unchanged twice although nobody else trains them."""
    for step in steps if len(last) > 2 else ():
        point = wanted.study / found[step.trial].chosen.folder
        if lock.holder(point) is None:
            raise InputError(
                f"{point}: was launched twice and is still {ledger.state(point)} after {found[step.trial].epochs} "
                "epochs; see its log.txt, or delete the folder to have it trained anew"
            )


def _wait_for_others(wanted: Search, found: Sequence[Seen], study: Any, tell: Tell) -> bool:
    """Wait until a trial of another launcher has ended or its launcher is gone; False if there is none."""
    others = {
        number: [step for step in batch.steps if not found[step.trial].is_over(step)]
        for number, batch in journal.batches(study).items()
    }
    others = {number: steps for number, steps in others.items() if steps}
    if not others:
        return False
    count = sum(map(len, others.values()))
    tell(f"waiting for {count} design{'s' * (count > 1)} that other launchers train")
    while all(journal.is_alive(wanted.folder, number) for number in others):
        for step in (step for steps in others.values() for step in steps):
            if read_trial(wanted, found[step.trial].chosen).is_over(step):
                return True
        time.sleep(journal.POLL_S)
    return True
