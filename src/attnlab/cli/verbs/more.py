"""train more seeds for undecided comparisons"""

import argparse
from pathlib import Path

from attnlab.cli.arguments import add_baseline, add_metric, levels
from attnlab.errors import InputError

GROUP, PLACE, WORDS = "judge", 2, "STUDY"


def run(argv: list[str]) -> int:
    """Run the seeds that undecided comparisons need."""
    parser = argparse.ArgumentParser(
        prog="attnlab more",
        description="Trains the seeds that a study's undecided comparisons need to be decided with 80 % power, if "
        "their differences are what they look like now. Decided comparisons get no seeds; the cheapest come first.",
        epilog="example: attnlab more outputs/demo --budget 12 hydra.launcher.cpu_slots=1",
    )
    parser.add_argument("study", metavar="STUDY", help="the study's folder, such as outputs/demo", type=Path)
    parser.add_argument("--budget", metavar="N", type=int, default=20, help="run at most N points (default: 20)")
    parser.add_argument("--dry-run", action="store_true", help="print what would run, and stop")
    add_baseline(parser)
    add_metric(parser)
    parser.add_argument("overrides", nargs="*", metavar="hydra...=value", help="the launcher and its settings")
    args = parser.parse_intermixed_args(argv)
    if args.budget < 1:
        raise InputError(f"--budget {args.budget}: must be at least 1")

    from attnlab.cli.summary import say_how_it_went, say_what_was_not_written
    from attnlab.sweep import more

    planned = more.plan_round(args.study, args.budget, levels(args.baseline), args.overrides, args.metric)
    if planned is None or args.dry_run:
        return 0
    try:
        more.run(planned, ["more", *argv])
    except OSError as error:
        return say_what_was_not_written(error, planned, ["more", *argv])
    return say_how_it_went(planned, ["more", *argv])
