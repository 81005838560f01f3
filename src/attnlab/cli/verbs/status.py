"""show which points are done, running or failed"""

import argparse
from pathlib import Path

GROUP, PLACE, WORDS = "train", 3, "STUDY"


def run(argv: list[str]) -> int:
    """Print how far a study is."""
    parser = argparse.ArgumentParser(
        prog="attnlab status",
        description="Shows how many points of a study are done, how far the others are, and why points failed.",
    )
    parser.add_argument("study", metavar="STUDY", help="the study's folder, such as outputs/demo", type=Path)
    parser.add_argument("-f", "--follow", action="store_true", help="repeat until no point is running or waiting")
    args = parser.parse_args(argv)

    from attnlab.sweep.status import show

    show(args.study, args.follow)
    return 0
