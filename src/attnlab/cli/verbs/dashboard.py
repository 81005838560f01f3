"""create the study's W&B workspace and report"""

import argparse
import sys
from pathlib import Path

GROUP, PLACE, WORDS = "use", 2, "STUDY"


def run(argv: list[str]) -> int:
    """Create a study's W&B workspace and report."""
    parser = argparse.ArgumentParser(
        prog="attnlab dashboard",
        description="Creates the W&B workspace and the W&B report of a study from its factors; a second call updates "
        "both. Upload its runs first: attnlab sync. Needs an account, and pip install 'attnlab[dashboard]'.",
        epilog="example: attnlab dashboard outputs/demo --dry-run",
    )
    parser.add_argument("study", metavar="STUDY", help="the study's folder, such as outputs/demo", type=Path)
    parser.add_argument(
        "--dry-run", action="store_true", help="write both into the study's dashboard.json; no account, no network"
    )
    args = parser.parse_args(argv)

    from attnlab.study.search import tell
    from attnlab.tracking import dashboard

    told, _ = tell(args.study)
    for text in told["warnings"]:
        if text.startswith("damaged: "):
            print(f"attnlab: {text}", file=sys.stderr)
    if args.dry_run:
        print(dashboard.write(args.study, told))
    else:
        print(*dashboard.save(args.study, told), sep="\n")
    return 0
