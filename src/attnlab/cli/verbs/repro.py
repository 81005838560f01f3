"""does a point repeat to the bit?"""

import argparse
from pathlib import Path

GROUP, PLACE, WORDS = "train", 4, "STUDY POINT"


def run(argv: list[str]) -> int:
    """Train a point again and compare."""
    parser = argparse.ArgumentParser(
        prog="attnlab repro",
        description="Trains a finished point again, with as many threads, and says whether the result is the same to "
        "the bit, and if not, what differs and what the reasons may be. Exit code 0: the same, 1: not.",
        epilog="example: attnlab repro outputs/demo 2c3bb1b7",
    )
    parser.add_argument("study", metavar="STUDY", help="the study's folder, such as outputs/demo", type=Path)
    parser.add_argument(
        "point", metavar="POINT", help="the point's folder in it, or a unique part of its name"
    )
    args = parser.parse_args(argv)

    from attnlab.sweep import repro

    first = repro.find(args.study, args.point)
    print(f"training {first} again{repro.time_it_took(first)}")
    second = repro.again(first)
    differences = repro.differences(first, second)
    for file in repro.not_compared(first, second):
        print(f"not compared: {file}")
    if not differences:
        print(f"the same to the bit: {repro.what(first)}")
        repro.forget(second)
        return 0
    print("not the same:", *differences, sep="\n  ")
    print("possible reasons:", *(repro.reasons(first, second) or ["nothing on record differs"]), sep="\n  ")
    print(f"both are kept: {first}, {second}")
    return 1
