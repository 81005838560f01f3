"""The last lines of a command that ran points: what failed, what to type next."""

import sys

from attnlab.sweep.plan import Plan


def say_how_it_went(planned: Plan) -> int:
    from attnlab.ledger import read_point

    if not planned.is_grid:  # its sweeper has chosen the points
        print(*(f"how it stands: attnlab status {point.folder.parent}" for point in planned.points), sep="\n")
        return 0
    points = {point.folder: read_point(point.folder) for point in planned.points}
    states = {folder: point.state for folder, point in points.items()}
    failed = [folder for folder, now in states.items() if now == "failed"]
    if failed:
        print(f"attnlab: {len(failed)} of {len(states)} points failed", file=sys.stderr)
    for folder in failed:
        print(f"attnlab:   {points[folder].status.get('error')}: see {folder}/log.txt", file=sys.stderr)
    for study in dict.fromkeys(folder.parent for folder in states):
        if any(now != "done" for folder, now in states.items() if folder.parent == study):
            print(f"how it stands: attnlab status {study}")
        if any(now == "done" for folder, now in states.items() if folder.parent == study):
            print(f"next: attnlab report {study}")
        if any(point.config["logger"]["name"] == "wandb" for point in planned.points):
            print(f"      attnlab sync {study}")
    return 1 if failed or planned.errors or "killed" in states.values() else 0
