"""The last lines of a command that ran points: failures, and the next commands."""

import shlex
import sys
from collections.abc import Sequence

from attnlab.errors import InputError, unwritable
from attnlab.sweep.plan import Plan
from attnlab.tracking import runs


def say_how_it_went(planned: Plan, command: Sequence[str]) -> int:
    """Print failures and the next commands; return the exit code. ``command``: the words after attnlab."""
    from attnlab.ledger import read_point

    if not planned.is_grid:  # its sweeper has chosen the points
        print(*(f"progress: attnlab status {point.folder.parent}" for point in planned.points), sep="\n")
        return 0
    points = {point.folder: read_point(point.folder) for point in planned.points}
    states = {folder: point.state for folder, point in points.items()}
    failed = [folder for folder, now in states.items() if now == "failed"]
    if failed:
        print(f"attnlab: {len(failed)} of {len(states)} points failed", file=sys.stderr)
    for folder in failed:
        print(f"attnlab:   {points[folder].status.get('error')}: see {folder}/log.txt", file=sys.stderr)
    if failed:
        again = shlex.join(["attnlab", *command, *(["sweep.retry=failed"] if not planned.retry else [])])
        if command[0] != "train":
            again = f"attnlab train --config-dir {shlex.quote(str(failed[0]))} --config-name config (for each)"
        print(f"to retry failed points: {again}")
    for study in dict.fromkeys(folder.parent for folder in states):
        if any(now != "done" for folder, now in states.items() if folder.parent == study):
            print(f"progress: attnlab status {study}")
        if any(now == "done" for folder, now in states.items() if folder.parent == study):
            print(f"next: attnlab report {study}")
        if any(point.config["logger"]["name"] == "wandb" for point in planned.points):
            if off := runs.switched_off():
                print(f"      nothing is logged to W&B: {off}")
            elif runs.wait(study):
                print(f"      attnlab sync {study}")
    return 1 if failed or planned.errors or "killed" in states.values() else 0


def say_what_was_not_written(error: OSError, planned: Plan, command: Sequence[str]) -> int:
    """Print what could not be written; return the exit code. Raises InputError if nothing was started."""
    folders = [point.folder for point in planned.points]
    reason = unwritable(error, folders[0].parent)
    if not any(folder.exists() for folder in folders):
        raise InputError(reason) from None
    say_how_it_went(planned, command)
    print(f"attnlab: {reason}", file=sys.stderr)
    return 1
