"""Points on this machine: a queue over slots, each point in a fresh process pinned to its GPUs."""

import contextlib
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from attnlab import ledger
from attnlab.errors import InputError, unwritable
from attnlab.ledger import lock
from attnlab.sweep.launch import slots as machine
from attnlab.sweep.launch.display import Display
from attnlab.sweep.plan import Planned
from attnlab.training import loop, worker

Count = Annotated[int, Field(ge=1)]
MOST = 16  # points in a pack: all are lost time if its process is killed
GRACE_S = 60  # between asking a point whose time is up to save and killing it


@dataclass
class Running:
    """A point, or a pack of them, in its process."""

    points: list[Planned]
    process: Any  # multiprocessing.Process
    slots: list[str]
    since: float = field(default_factory=time.monotonic)
    asked: float | None = None  # when it was asked to stop
    reason: str = ""  # why, if not by Ctrl-C


def launch(
    points: Sequence[Planned],
    *,
    gpus: Literal["auto"] | Annotated[int, Field(ge=0)] | list[Annotated[int, Field(ge=0)]] = "auto",
    slots_per_gpu: Count = 1,
    cpu_slots: Literal["auto"] | Count = "auto",
    timeout_min: Annotated[float, Field(gt=0)] | None = None,
    train: Callable[..., int] = worker.main,
) -> None:
    """Train the points; their folders say how it went. Raises KeyboardInterrupt after Ctrl-C, once all have saved.

    One point a slot: ``slots_per_gpu`` on each of ``gpus`` (their numbers, how many, or all that are visible);
    without a GPU, ``cpu_slots``, by default the number that finishes all points soonest. The cores are divided among
    the slots. A point of several devices takes slots on as many GPUs. The launcher waits for a point that another
    launcher trains. ``timeout_min``: minutes after which a point is asked to save and counts as failed. Out of memory
    on a shared GPU or in a pack, a point is tried once more alone. A pack takes one slot, for as many times the
    minutes; where that is not worth it, or fails, its points are queued again, each alone and in its place.
    """
    slots = machine.make(gpus, slots_per_gpu, cpu_slots, len(points))
    for wanted in sorted({ledger.devices(point.config) for point in points}):
        if slots[0] != "cpu" and wanted > len(set(slots)):
            raise InputError(f"trainer.devices={wanted}: this launcher has only GPU {', '.join(dict.fromkeys(slots))}")

    context = start_fork_server()
    broken: OSError | None = None  # the first folder that could not be written
    free, running = list(slots), list[Running]()
    queue, elsewhere, alone = deque(packs(points, len(slots))), list[Planned](), set[Path]()
    place = {point.folder: i for i, point in enumerate(points)}
    with Display(points) as display, _interrupts(display) as interrupts:
        while running or ((queue or elsewhere) and not interrupts):
            while queue and not interrupts:
                first = queue[0][0]
                taken = machine.take(free, slots, ledger.devices(first.config), first.folder in alone)
                if not taken:
                    break
                ready = list[Planned]()
                for point in queue.popleft():
                    if not _needs_training(point, alone):
                        display.finished(point)
                        continue
                    try:
                        ledger.prepare(point.folder, point.config, point.overrides, point.until)
                        ready.append(point)
                    except lock.Busy as busy:
                        elsewhere.append(point)
                        display.note(f"{point.title}  waiting: already being trained by {busy}")
                    except OSError as error:
                        broken = broken or error
                        display.note(f"{point.title}  {unwritable(error, point.folder)}")
                if not ready:
                    continue
                for slot in taken:
                    free.remove(slot)
                threads = machine.threads(slots) * len(taken)
                how = train if len(ready) == 1 else worker.main_packed
                running.append(Running(ready, _start(context, how, ready, taken, threads), taken))
                for point in ready:
                    display.started(point)
            if not queue and elsewhere:
                queue += [[point] for point in elsewhere if lock.holder(point.folder) is None]
                elsewhere = [point for point in elsewhere if [point] not in queue]
            wait([item.process.sentinel for item in running], timeout=0.5) if running else time.sleep(0.5)
            display.refresh()
            for item in list(running):
                if item.process.is_alive():
                    _ask_to_stop(item, len(interrupts), timeout_min)
                    continue
                item.process.join()
                running.remove(item)
                free += item.slots
                code = item.process.exitcode
                packed = len(item.points) > 1
                apart = packed and code not in (0, loop.PREEMPTED) and not (item.reason or interrupts)
                if apart and (left := [point for point in item.points if _needs_training(point, alone)]):
                    why = "packing is not worth it, says log.txt" if code == loop.ALONE else worker.death(code)
                    others = f" and {len(left) - 1} more" * (len(left) > 1)
                    display.note(f"{left[0].title}{others}  trained alone from here on: {why}")
                for point in item.points:
                    display.ended(point)
                    if code == worker.BUSY or (not code and _is_open(point, packed)):
                        elsewhere.append(point)
                        continue
                    again = apart and _needs_training(point, alone)
                    killed = interrupts and code == -signal.SIGKILL  # a second Ctrl-C is no failure
                    if not again and (item.reason or not killed):
                        broken = worker.record_end(point.folder, code, item.reason) or broken
                    if (packed or slots_per_gpu > 1) and point.folder not in alone and _out_of_memory(point):
                        alone.add(point.folder)
                        again = True
                        display.note(f"{point.title}  out of GPU memory: retrying alone on its GPU")
                    if not again:
                        display.finished(point)
                        continue
                    queue.append([point])
                    with contextlib.suppress(lock.Busy, OSError):  # not failed yet, should we be stopped now
                        ledger.prepare(point.folder, point.config, point.overrides, point.until)
                if apart:  # each in its place; those that need a whole GPU wait for it at the end
                    queue = deque(sorted(queue, key=lambda item: (item[0].folder in alone, place[item[0].folder])))
    if interrupts:
        raise KeyboardInterrupt
    if broken is not None:
        raise broken


def packs(points: Sequence[Planned], slots: int) -> list[list[Planned]]:
    """The points as they are trained, in the order of the first of each: alone, or those with one ``pack`` together.

    At most so many together that there is work for all slots, and at most MOST; those of a pack that was interrupted
    stay together.
    """
    most = min(MOST, math.ceil(len(points) / slots))
    alike: dict[tuple[str, int], list[Planned]] = {}
    begun = Counter((point.pack, point.packed) for point in points if point.pack)
    for point in points:
        whole = point.packed > 1 and begun[point.pack, point.packed] % point.packed == 0
        alike.setdefault((point.pack or str(point.folder), point.packed * whole), []).append(point)
    found = list[list[Planned]]()
    for (_, packed), those in alike.items():
        number = math.ceil(len(those) / (packed or most))  # of about equal size
        found += [those[len(those) * i // number : len(those) * (i + 1) // number] for i in range(number)]
    place = {point.folder: i for i, point in enumerate(points)}
    return sorted(found, key=lambda pack: place[pack[0].folder])


def _is_open(point: Planned, packed: bool) -> bool:
    """Whether a process that has ended in order has not done what was planned, as another one interfered.

    A pack leaves out a point that another process trains; another launcher may have prepared it for fewer epochs.
    """
    state = ledger.read_json(point.folder / "status.json").get("state")
    if state == "paused":
        return not ledger.is_paused(point.folder, point.until)
    return packed and state in ("pending", "running", "preempted")


def _needs_training(point: Planned, alone: set[Path]) -> bool:
    """False if the point has been finished, paused where it shall be, or has failed, since it was planned."""
    now = ledger.read_point(point.folder)
    seen = (now.status.get("attempts") or 0) == point.attempts
    ended = now.state == "done" or ledger.is_paused(point.folder, point.until)
    return not ended and (now.state != "failed" or seen or point.folder in alone)


def _out_of_memory(point: Planned) -> bool:
    status = ledger.read_json(point.folder / "status.json")
    told = ("OutOfMemoryError", "out of memory", "ALLOC_FAILED")
    error = status.get("error") or ""
    killed = error == worker.death(-signal.SIGKILL)  # by whom, and why, nobody knows
    return status.get("state") == "failed" and not killed and any(words in error for words in told)


def start_fork_server() -> Any:
    """Start the server that forks the points' processes, unless it runs; return the context of multiprocessing.

    It ignores signals that terminals and `timeout` send to all processes. Its children inherit the mask, so the
    launcher handles Ctrl-C and the end of the terminal. They accept SIGTERM, by which the launcher asks them to save.
    """
    from multiprocessing import forkserver, resource_tracker  # not on Windows

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["attnlab.sweep.launch.preload"])
    resource_tracker.ensure_running()  # it would lift the mask
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    forkserver.ensure_running()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def _start(context: Any, train: Callable[..., int], points: list[Planned], taken: list[str], threads: int) -> Any:
    env = dict(os.environ)
    if taken[0] != "cpu":
        env["CUDA_VISIBLE_DEVICES"] = ",".join(dict.fromkeys(taken))
    several = ledger.devices(points[0].config) > 1
    folders, titles = [point.folder for point in points], [point.title for point in points]
    process = context.Process(target=_child, args=(train, folders, titles, threads, env, several))
    try:
        process.start()
    except (EOFError, ConnectionError):
        raise InputError(
            "the process that starts the points was killed; run the same command again to continue"
        ) from None
    return process


def _child(
    train: Callable[..., int], folders: list[Path], titles: list[str], threads: int, env: dict[str, str], several: bool
) -> None:
    """In the fresh process: what it prints goes to the (first) point's log, and Ctrl-C is for the launcher."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    os.environ.clear()
    os.environ.update(env)
    log = os.open(folders[0] / "log.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if several:  # its ranks are started by the command that started it, so there must be one
        worker.die_with_parent(signal.SIGTERM)  # from now on, not only when it has imported all
        os.closerange(3, 1024)  # the fork server would live as long as one of these
        os.execv(sys.executable, worker.command(folders[0], titles[0], threads))
    threading.Thread(target=_stop_with_launcher, daemon=True).start()
    sys.exit(train(folders[0], titles[0], threads) if len(folders) == 1 else train(folders, titles, threads))


def _stop_with_launcher() -> None:
    """Have this process save and end when the launcher is gone, however it went (the fork server waits for us)."""
    launcher = multiprocessing.parent_process()
    assert launcher is not None
    launcher.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _ask_to_stop(item: Running, interrupts: int, timeout_min: float | None) -> None:
    """After Ctrl-C or the timeout a point is asked to save; killed at the second Ctrl-C, or long after the timeout."""
    now = time.monotonic()
    if item.asked is None:
        if timeout_min and now - item.since > 60 * timeout_min * len(item.points):
            item.reason = f"timed out after {timeout_min * len(item.points):g} min"
        if interrupts or item.reason:
            item.asked = now
            item.process.terminate()
    if interrupts > 1 or (item.reason and item.asked and now - item.asked > GRACE_S):
        item.process.kill()


@contextlib.contextmanager
def _interrupts(display: Display) -> Iterator[list[int]]:
    """A list that grows with each Ctrl-C while the body runs; a SIGTERM counts as the first."""
    seen: list[int] = []

    def note(number: int, frame: Any) -> None:
        if number == signal.SIGINT or not seen:  # `timeout` sends SIGTERM twice
            seen.append(number)
            with contextlib.suppress(RuntimeError):  # it came while another line was being written
                display.stopping(again=len(seen) > 1)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
