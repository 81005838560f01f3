"""how a study stands"""

import argparse
from pathlib import Path

GROUP, PLACE, WORDS = "train", 3, "STUDY"


def run(argv: list[str]) -> int:
    """How a study stands."""
    parser = argparse.ArgumentParser(
        prog="attnlab status",
        description="How a study stands: how many points are done, how far the others are, why the failed ones failed.",
    )
    parser.add_argument("study", metavar="STUDY", help="the study's folder, such as outputs/demo", type=Path)
    parser.add_argument("-f", "--follow", action="store_true", help="go on until no point is running or waiting")
    args = parser.parse_args(argv)

    from attnlab.sweep.status import show

    show(args.study, args.follow)
    return 0
