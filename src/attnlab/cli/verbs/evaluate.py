"""measure trained networks on other data, or all seeds together"""

import argparse
from pathlib import Path
from typing import NoReturn

from attnlab.errors import InputError

GROUP, PLACE, WORDS = "judge", 3, "POINT|STUDY [data=...]"


def run(argv: list[str]) -> int:
    """Evaluate points or ensembles; return 1 if some could not be."""
    parser = argparse.ArgumentParser(
        prog="attnlab evaluate",
        description="Measures a finished point, or all finished points of a study, on the test images of other data "
        "(data=..., whose classes have the same names) or of other settings of their own (data.clutter=16): loss, "
        "accuracy, F1, balanced accuracy, calibration error. Images become tensors as in the network's training. Keeps "
        "the numbers in the points' evaluations/, where attnlab report finds them; what is there already is not "
        "computed again. With --seeds all, the mean of the probabilities of a variant's seeds instead. Uses the GPU "
        "if there is one. Exit code: 0, 1 if some points could not be evaluated, 2 for bad input.",
        epilog="examples: attnlab evaluate outputs/demo data.clutter=12; attnlab evaluate outputs/demo --seeds all",
    )
    parser.add_argument("path", metavar="POINT|STUDY", type=Path, help="a folder, such as outputs/demo")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of the data, as for attnlab train")
    parser.add_argument("--seeds", choices=["all"], help="evaluate the ensemble of each variant's seeds")
    parser.add_argument("--name", help="what the evaluation is called (default: its settings)")
    parser.add_argument("--config-dir", metavar="DIR", help="also look for configs in DIR")

    def refuse(message: str) -> NoReturn:
        raise InputError(f"{message}; see attnlab evaluate --help")

    parser.error = refuse  # type: ignore[method-assign]
    args = parser.parse_intermixed_args(argv)
    if not args.path.is_dir():
        raise InputError(f"{args.path}: no such folder; must be a point's or a study's, such as outputs/demo")

    if args.seeds and args.name and not args.overrides:
        raise InputError("--name: has no effect on ensembles on their own data")

    from attnlab.cli.evaluations import evaluate_ensembles, evaluate_points
    from attnlab.cli.other_data import OtherData

    other = OtherData(args.overrides, args.name, args.config_dir)
    work = evaluate_ensembles if args.seeds else evaluate_points
    return 1 if work(args.path, other) else 0
