"""The journal of a search: which designs were chosen, by which launcher, and how they went.

``<study>/search/journal.log`` is Optuna's journal file, which ``optuna.load_study`` and its dashboard read. It is only
written under the lock of its folder. What a launcher has decided is one append, so a launcher that is killed has
decided a batch or has not; from it the batch's trials follow, one append each, whoever writes them.
"""

import contextlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import StudyDirection
from optuna.trial import TrialState

from attnlab.errors import InputError
from attnlab.ledger import lock, make_folder

Tell = Callable[[str], None]
POLL_S = 0.5
PATIENCE_S = 5.0  # without a word
ABOUT = "attnlab"  # attribute of the study: what is searched
BATCH = "batch of launcher "  # attribute of the study, with the launcher's number
PASSED_OVER = "passed over before trial "  # attribute of the study, with the trial's number


@dataclass(frozen=True)
class Chosen:
    """A trial as it was chosen."""

    number: int
    params: Mapping[str, Any]
    overrides: Sequence[str]
    folder: str  # of its point, in the study
    hash: str
    cost: Mapping[str, int] = field(default_factory=dict)
    system: Mapping[str, Any] = field(default_factory=dict)  # what the sampler must find again


@dataclass(frozen=True)
class Step:
    """The training of a trial up to the end of an epoch; without ``until``, to the end."""

    trial: int
    until: int | None = None


@dataclass(frozen=True)
class Batch:
    """What a launcher has decided to do at once."""

    steps: Sequence[Step]
    chosen: Sequence[Chosen]


class _Held(JournalFileOpenLock):
    """Instead of Optuna's own lock, which a killed process would leave for 30 s: ours is held already."""

    def __init__(self) -> None:
        pass

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


@contextlib.contextmanager
def alone(folder: Path, tell: Tell) -> Iterator[None]:
    """Hold the lock of the search's folder; wait, with a line, while another launcher chooses."""
    with contextlib.ExitStack() as stack:
        since, said = time.monotonic(), False
        while True:
            try:
                stack.enter_context(lock.hold(folder))
                break
            except lock.Busy as busy:
                if not said and time.monotonic() - since >= PATIENCE_S:
                    tell(f"waiting: another launcher is choosing: {busy}")
                    said = True
                time.sleep(POLL_S)
        lock.forget(folder)  # each choice takes the lock, so there would be thousands
        yield


@contextlib.contextmanager
def as_launcher(folder: Path) -> Iterator[int]:
    """Be one of the search's launchers, the first that no living process is: its batch is now this process's."""
    with contextlib.ExitStack() as stack:
        number = 1
        while True:
            try:
                stack.enter_context(lock.hold(_place(folder, number)))
                break
            except lock.Busy:
                number += 1
        lock.forget(_place(folder, number))
        yield number


def is_alive(folder: Path, launcher: int) -> bool:
    """Whether a process is this launcher now."""
    return lock.holder(_place(folder, launcher)) is not None


def _place(folder: Path, launcher: int) -> Path:
    return folder / "launchers" / str(launcher)


def opened(folder: Path, maximize: Sequence[bool]) -> optuna.Study:
    """The search's study in Optuna, made if there is none. Needs the lock. Raises InputError for a damaged journal."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    make_folder(folder)
    path = folder.absolute() / "journal.log"
    _cut_unfinished_line(path)
    try:
        storage = JournalStorage(JournalFileBackend(str(path), lock_obj=_Held()))
        name = folder.absolute().parent.name
        if name in optuna.get_all_study_names(storage):
            return optuna.load_study(study_name=name, storage=storage)
        directions = [StudyDirection.MAXIMIZE if up else StudyDirection.MINIMIZE for up in maximize]
        return optuna.create_study(study_name=name, storage=storage, directions=directions)
    except (ValueError, KeyError, AssertionError) as error:
        raise InputError(f"{path}: is damaged ({error}); delete {folder} to search anew: points stay") from None


def begun(study: optuna.Study) -> bool:
    """Whether anything has been decided."""
    return bool(batches(study) or study.get_trials(deepcopy=False))


def anew(folder: Path, maximize: Sequence[bool]) -> optuna.Study:
    """The search's study in Optuna without what was there. Needs the lock."""
    (folder / "journal.log").unlink(missing_ok=True)
    return opened(folder, maximize)


def _cut_unfinished_line(path: Path) -> None:
    """A process that was killed while it wrote has decided nothing."""
    with contextlib.suppress(FileNotFoundError), path.open("rb+") as file:
        content = file.read()
        if content and not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)
            file.flush()
            os.fsync(file.fileno())


def about(study: optuna.Study) -> Mapping[str, Any] | None:
    """What is searched, as the first launcher has written it; None before."""
    return study.user_attrs.get(ABOUT)


def begin(study: optuna.Study, what: Mapping[str, Any]) -> None:
    """Note what is searched."""
    study.set_user_attr(ABOUT, dict(what))


def trials(study: optuna.Study) -> list[Chosen]:
    """All trials, by number."""
    return [
        Chosen(trial.number, trial.params, **trial.user_attrs, system=trial.system_attrs)
        for trial in study.get_trials(deepcopy=False)
    ]


def batches(study: optuna.Study) -> dict[int, Batch]:
    """The last batch of each launcher."""
    found = {}
    for key, value in study.user_attrs.items():
        if key.startswith(BATCH):
            steps, chosen = [Step(**step) for step in value["steps"]], [Chosen(**each) for each in value["chosen"]]
            found[int(key.removeprefix(BATCH))] = Batch(steps, chosen)
    return found


def passed_over(study: optuna.Study) -> Counter[str]:
    """How many designs were chosen and not trained, by the reason."""
    return Counter(_passed_over(study).values())


def _passed_over(study: optuna.Study) -> dict[str, str]:
    """The reason by the design's hash."""
    noted = (value for key, value in study.user_attrs.items() if key.startswith(PASSED_OVER))
    return {design: why for each in noted for design, why in each.items()}


def pass_over(study: optuna.Study, number: int, refused: Mapping[str, str]) -> None:
    """Note designs that were chosen for trial ``number`` and not trained, with the reason, each design once."""
    known, key = _passed_over(study), f"{PASSED_OVER}{number}"
    if new := {design: why for design, why in refused.items() if design not in known}:
        study.set_user_attr(key, {**study.user_attrs.get(key, {}), **new})


def decide(study: optuna.Study, launcher: int, batch: Batch) -> None:
    """Note a batch. Its trials are written by ``add_chosen``."""
    study.set_user_attr(f"{BATCH}{launcher}", json.loads(json.dumps(asdict(batch))))


def add_chosen(study: optuna.Study, distributions: Mapping[str, BaseDistribution]) -> None:
    """Write the trials of all batches that are not written yet: a killed launcher's, too."""
    known = len(study.get_trials(deepcopy=False))
    chosen = {each.number: each for batch in batches(study).values() for each in batch.chosen}
    while known in chosen:
        each = chosen[known]
        about = {key: getattr(each, key) for key in ("overrides", "folder", "hash", "cost")}
        trial = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=dict(each.params),
            distributions={key: distributions[key] for key in each.params},
            user_attrs=about,
            system_attrs=dict(each.system),
        )
        study.add_trial(trial)
        known += 1


def tell_rung(study: optuna.Study, number: int, epoch: int, value: float) -> None:
    """Note the monitored value of a trial at a rung, once. Such a trial goes on as RUNNING: it may be promoted."""
    trial = study.get_trials(deepcopy=False)[number]
    if not trial.state.is_finished() and epoch not in trial.intermediate_values:
        study._storage.set_trial_intermediate_value(trial._trial_id, epoch, value)


def tell_end(study: optuna.Study, number: int, values: Sequence[float] | None) -> None:
    """Note the objectives of a trial that is done, or None of one that has failed, once."""
    trial = study.get_trials(deepcopy=False)[number]
    if not trial.state.is_finished():
        state = TrialState.FAIL if values is None else TrialState.COMPLETE
        study._storage.set_trial_state_values(trial._trial_id, state, values)
