"""One point, in this process and terminal."""

import subprocess

from rich.console import Console

from attnlab import lock, train, worker
from attnlab import point as ledger
from attnlab.errors import InputError
from attnlab.progress import outcome
from attnlab.stop import Preempted
from attnlab.sweep.plan import Planned


def launch(point: Planned) -> None:
    """Train the point; its folder says how it went.

    Raises InputError while another process trains it, KeyboardInterrupt if it was asked to stop and has saved.
    """
    try:
        if point.state != "done":
            ledger.prepare(point.folder, point.config, point.overrides)
            if ledger.devices(point.config) > 1:
                _in_processes(point)
            else:
                train.run(point.folder, point.title, bar=True)
    except lock.Busy as busy:
        raise InputError(f"{point.folder}: trained by {busy}") from None
    except train.PointFailed:
        pass
    except Preempted:
        raise KeyboardInterrupt from None
    finally:
        Console().print(outcome(point.folder, point.title), highlight=False, soft_wrap=True)


def _in_processes(point: Planned) -> None:
    """A process a device: the first is a command of its own, which Lightning can start again for the others."""
    process = subprocess.Popen(worker.command(point.folder, point.title))
    while process.poll() is None:
        try:
            worker.wait(process)
        except KeyboardInterrupt:  # Ctrl-C has reached it too
            continue
    worker.record_end(point.folder, process.returncode)
    if process.returncode == train.PREEMPTED:
        raise Preempted("SIGINT")
