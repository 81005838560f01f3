"""upload a study's offline W&B runs"""

import argparse
from pathlib import Path

from attnlab.errors import InputError

GROUP, PLACE, WORDS = "use", 1, "STUDY"


def run(argv: list[str]) -> int:
    """Upload a study's offline W&B runs."""
    parser = argparse.ArgumentParser(
        prog="attnlab sync",
        description="Uploads the offline runs of a study that W&B does not have yet. A second call uploads only the "
        "rest; running points are left out. Needs an account: `wandb login`, or WANDB_API_KEY.",
        epilog="example: attnlab sync outputs/demo --jobs 8",
    )
    parser.add_argument("study", metavar="STUDY", help="the study's folder, such as outputs/demo", type=Path)
    parser.add_argument("--jobs", metavar="N", help="upload N runs at a time (default: 4)", type=int, default=4)
    args = parser.parse_args(argv)
    if args.jobs < 1:
        raise InputError(f"--jobs {args.jobs}: must be at least 1")

    from attnlab.tracking.sync import upload_study

    return 1 if upload_study(args.study, args.jobs) else 0
