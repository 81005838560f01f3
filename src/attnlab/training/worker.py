"""``python -m attnlab.training.worker FOLDER``: trains one prepared point, in a process for each of its devices."""

import contextlib
import ctypes
import faulthandler
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from attnlab import ledger
from attnlab.ledger import lock
from attnlab.terminal import print_anywhere
from attnlab.training import loop
from attnlab.training.stop import Preempted

FAILED, BUSY = 1, 3


def main(folder: Path, title: str = "", threads: int | None = None, patience_s: float = 0) -> int:
    """Exit codes: 0 done or paused, 1 failed, 3 another process has it, 75 asked to stop.

    ``patience_s``: how long to wait for another process, which may have died on another machine.
    """
    faulthandler.enable()
    print_anywhere(log=True)
    die_with_parent(signal.SIGKILL if loop.rank() else signal.SIGTERM)
    end = time.monotonic() + patience_s
    try:
        if loop.rank():
            loop.follow(folder)
            return 0
        while lock.holder(folder) is not None and time.monotonic() < end:
            time.sleep(1)
        loop.run(folder, title, bar=sys.stdout.isatty(), threads=threads)
    except loop.PointFailed:
        return FAILED
    except lock.Busy:
        return BUSY
    except Preempted:
        return 0 if loop.rank() else loop.PREEMPTED  # a rank's error would have Lightning kill rank 0
    return 0


def main_packed(folders: Sequence[Path], titles: Sequence[str], threads: int | None = None) -> int:
    """Exit codes: 0 when all that this process could lock have ended, 1 where something broke, 75 asked to stop.

    4: the points that have not ended shall be trained alone, each in a process of its own.
    """
    faulthandler.enable()
    print_anywhere(log=True)
    die_with_parent(signal.SIGTERM)
    from attnlab.training.packed import Pack

    return Pack(folders, titles, threads).train()


def command(folder: Path, *title_and_threads: object) -> list[str]:
    """The command line of a worker."""
    return [sys.executable, "-m", "attnlab.training.worker", str(folder), *map(str, title_and_threads)]


def supervise(
    folder: Path, env: dict[str, str] | None = None, cwd: str | None = None, log: str = "log.txt"
) -> subprocess.Popen[bytes]:
    """Start a worker process for the point; its output goes to the point's ``log``."""
    with open(folder / log, "ab") as output:
        return subprocess.Popen(
            command(folder),
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )


def wait(process: subprocess.Popen[bytes]) -> None:
    """Wait for a worker; a signal handler may do the same meanwhile (Popen.wait would hold a lock)."""
    while process.poll() is None:
        time.sleep(0.1)


def record_end(folder: Path, exit_code: int, reason: str = "") -> OSError | None:
    """After a worker's end: record a point as failed if its status still says running or pending.

    If it was asked to stop before it could write its status, it continues next time. ``exit_code`` is negative for a
    signal, as in subprocess and multiprocessing; ``reason``: why the worker was stopped, if that counts as a failure.
    Returns the error that prevented writing (a full disk): then the point stays "running" without a process: killed.
    """
    if exit_code == BUSY:
        return None
    try:
        with contextlib.suppress(lock.Busy), lock.hold(folder):
            state = ledger.read_json(folder / "status.json").get("state")
            if state in ("running", "pending") or (reason and state == "preempted"):
                asked = not reason and exit_code in (loop.PREEMPTED, loop.ALONE, -signal.SIGTERM)
                ledger.set_status(folder, "preempted" if asked else "failed", error=reason or death(exit_code))
    except OSError as error:
        error.filename = error.filename or str(folder / "status.json")
        return error
    return None


def death(exit_code: int) -> str:
    """Words for a process's end: ``killed by SIGKILL (out of memory?)``."""
    if exit_code == loop.PREEMPTED:
        return "asked to stop"
    if exit_code >= 0:
        return f"its process ended with exit code {exit_code}"
    name = signal.Signals(-exit_code).name
    return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


def die_with_parent(number: int) -> None:
    """On Linux: send this process a signal when its parent dies for any reason."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(1, int(number))  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os.kill(os.getpid(), number)


if __name__ == "__main__":
    folder, title, threads, *_ = [*sys.argv[1:], "", ""]
    sys.exit(main(Path(folder), title, int(threads) if threads else None, patience_s=1.5 * lock.STALE_S))
