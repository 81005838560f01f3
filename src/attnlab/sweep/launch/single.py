"""One point, in this process and terminal."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from attnlab import ledger
from attnlab.errors import InputError
from attnlab.ledger import lock
from attnlab.sweep.launch.outcomes import outcome
from attnlab.sweep.plan import Planned
from attnlab.tracking import runs
from attnlab.training import loop, worker
from attnlab.training.stop import Preempted


def launch(point: Planned) -> None:
    """Train the point; its folder says how it went. The run of a W&B agent hears of a finished point what it brought.

    Raises InputError while another process trains it (a W&B agent waits, as its sweep may give a point twice),
    KeyboardInterrupt if it was asked to stop and has saved.
    """
    agent = point.config["logger"]["name"] == "wandb" and runs.agents()
    try:
        while agent and lock.holder(point.folder) is not None:
            time.sleep(1)
        if agent and ledger.is_done(point.folder):
            from attnlab.training.loggers import report_again

            report_again(point.config, point.folder)
        elif point.state != "done" and not ledger.is_paused(point.folder, point.until):
            ledger.prepare(point.folder, point.config, point.overrides, point.until)
            train_here(point.folder, point.title, point.config)
    except lock.Busy as busy:
        raise InputError(f"{point.folder}: already being trained by {busy}") from None
    except Preempted:
        raise KeyboardInterrupt from None
    finally:
        Console().print(outcome(point.folder, point.title), highlight=False, soft_wrap=True)


def train_here(folder: Path, title: str, config: Mapping[str, Any]) -> None:
    """Train a prepared point in this process, or with several devices in one for each.

    Its folder says if it failed. Raises lock.Busy, and Preempted if it was asked to stop.
    """
    if ledger.devices(config) == 1:
        with contextlib.suppress(loop.PointFailed):
            loop.run(folder, title, bar=sys.stdout.isatty())
        return
    # The first is a command of its own, which Lightning can start again for the others.
    process = subprocess.Popen(worker.command(folder, title))
    while process.poll() is None:
        try:
            worker.wait(process)
        except KeyboardInterrupt:  # Ctrl-C has reached it too
            continue
    worker.record_end(folder, process.returncode)
    if process.returncode == loop.PREEMPTED:
        raise Preempted("SIGINT")
