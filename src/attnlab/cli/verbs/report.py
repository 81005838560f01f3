"""print and write a study's results: tables, page, figures"""

import argparse
import gc
import sys
from pathlib import Path

from attnlab.cli.arguments import add_baseline, add_metric, levels
from attnlab.errors import InputError

GROUP, PLACE, WORDS = "judge", 1, "STUDY"


def _publish(args: argparse.Namespace) -> int:
    for option in ("format", "per_class", "baseline"):
        if getattr(args, option):
            name = option.replace("_", "-")
            raise InputError(
                f"--publish --{name}: cannot be combined; all is published, with the study's own baseline, as report.md"
            )
    from attnlab.study.publishing import publish

    publish(args.study, args.publish, args.metric)
    return 0


def run(argv: list[str]) -> int:
    """Print tables; write report.html, .md, .csv, .json, .tex and figures/ beside the points."""
    parser = argparse.ArgumentParser(
        prog="attnlab report",
        description="Reports a study from its points' folders: what is better, by how much, how sure, at what "
        "cost. Writes report.html (a self-contained page), report.md, .csv, .json, .tex and figures/ into the folder; "
        "with --format, --baseline or --per-class it only prints. Of a search it tells what fresh seeds confirmed "
        "apart from what was only searched. Of a published study, a folder with results.csv, it only prints.",
        epilog="example: attnlab report outputs/demo --format latex > table.tex",
    )
    parser.add_argument("study", metavar="STUDY", help="the study's folder, such as outputs/demo")
    parser.add_argument(
        "--format", choices=["md", "csv", "json", "latex", "html"], help="print the report in this format only"
    )
    parser.add_argument(
        "--per-class", action="store_true", help="print the recall of each class instead (in md with --format md)"
    )
    parser.add_argument(
        "--publish",
        metavar="DIR",
        help="write into DIR, such as outputs/studies/demo, what anybody needs to check the study without weights: "
        "report.md, figures/ (SVG), results.csv (a row a point) and answers.npz (answers to the test images)",
    )
    add_baseline(parser)
    add_metric(parser)
    args = parser.parse_args(argv)
    if args.publish is not None:
        return _publish(args)
    if args.per_class and args.format not in (None, "md"):
        raise InputError(f"--per-class --format {args.format}: must be md; result.json of each point has the numbers")

    from attnlab.study.report import print_per_class, write_report

    if args.per_class:
        print_per_class(args.study, args.format, args.metric)
        return 0
    gc.disable()  # the figures' many objects live until the end: to look for garbage takes a tenth of the time
    try:
        told = write_report(args.study, args.format, levels(args.baseline), args.metric)
    finally:
        gc.enable()
    if told["wandb"] and told["written"] and args.metric == "accuracy":
        from attnlab.tracking import runs

        if off := runs.switched_off():
            print(f"nothing is logged to W&B: {off}", file=sys.stderr)
            return 0
        from attnlab.tracking.mirror import log_study

        study = Path(args.study)
        figures = sorted(path for path in (study / "figures").glob("*") if path.is_file())
        log_study(study, told, [study / "report.html", *figures])
        how = f"; attnlab sync {args.study} uploads it" if runs.wait(study) else ""
        print(f'W&B: the run "{told["study"]} report"{how}', file=sys.stderr)
    return 0
