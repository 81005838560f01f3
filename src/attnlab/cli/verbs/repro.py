"""train a point again and check that it repeats to the bit"""

import argparse
from pathlib import Path

GROUP, PLACE, WORDS = "train", 4, "STUDY POINT"


def run(argv: list[str]) -> int:
    """Train a point again and compare."""
    parser = argparse.ArgumentParser(
        prog="attnlab repro",
        description="Trains a finished point again with the same number of threads, and says whether the result is the "
        "same to the bit; if not, it names what differs and possible reasons. Exit code 0: the same, 1: different.",
        epilog="example: attnlab repro outputs/demo 2c3bb1b7",
    )
    parser.add_argument("study", metavar="STUDY", help="the study's folder, such as outputs/demo", type=Path)
    parser.add_argument("point", metavar="POINT", help="the point's folder in it, or a unique part of its name")
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
    print("different:", *differences, sep="\n  ")
    print("possible reasons:", *(repro.reasons(first, second) or ["the records show no difference"]), sep="\n  ")
    print(f"both are kept: {first}, {second}")
    return 1
