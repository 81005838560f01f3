"""show which points a train command would run, and their cost"""

import sys

GROUP, PLACE, WORDS = "train", 2, "[-m] [key=value ...]"


def run(argv: list[str]) -> int:
    """Show what `attnlab train` with the same words would do."""
    from rich.console import Console

    from attnlab.sweep import plan, table
    from attnlab.sweep.launch import launchers, slots

    if {"-h", "--help"} & set(argv):
        print(
            "attnlab plan [-m] [key=value ...]\n\n"
            "Shows what attnlab train with the same words would do: its points, how many are done, their parameters,\n"
            "MACs and expected time. Every point is composed, checked and built without memory; nothing is written.\n"
            "The end names missing data: plan knows the costs without them, but train would not start.\n\n"
            "Options, choices and settings are those of attnlab train --help."
        )
        return 0
    with Console().status("Checking every point") as status:
        told = lambda text: status.update(f"Checking every point: {text}")  # noqa: E731
        planned = plan.make(argv, told, without_data=True)
    for error in planned.errors:
        print(f"attnlab: left out: {error}", file=sys.stderr)
    at_once = 1
    launcher = planned.hydra["launcher"]
    if planned.todo and launchers.ours(launcher):
        settings = launchers.prepared(launcher).keywords
        if launcher["_target_"].endswith("Local") and planned.multirun:
            wanted = {key: settings[key] for key in ("gpus", "slots_per_gpu", "cpu_slots")}
            at_once = len(slots.make(**wanted, points=len(planned.todo)))
    table.show(planned, at_once)
    for line in planned.missing:
        print(f"attnlab: data are missing, so attnlab train would not start: {line}", file=sys.stderr)
    return 1 if planned.errors or planned.missing else 0
