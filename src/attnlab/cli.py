"""attnlab <verb> ..."""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attnlab.errors import InputError

USAGE = """attnlab: which attention module, where in a CNN, with which ratio and order, and is it worth its cost?

  attnlab train [-m] [key=value ...]     train a point, or with -m a sweep        attnlab train --help
  attnlab sites [key=value ...]          where attention can go in a backbone     attnlab sites --help
  attnlab report FOLDER                  leaderboard and picture of a study       attnlab report --help
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 all well, 1 a point failed, 2 bad input (nothing was started), 130 interrupted."""
    verb, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    verbs: dict[str, Callable[[list[str]], int]] = {"train": train, "sites": sites, "report": report}
    try:
        if verb in ("-h", "--help"):
            print(USAGE, end="")
            return 0
        if verb == "--version":
            from attnlab import __version__

            print(__version__)
            return 0
        if verb not in verbs:
            from attnlab.errors import choices

            raise InputError(f"attnlab {verb}: no such command; {choices(verb, verbs)}")
        return verbs[verb](rest)
    except InputError as error:
        for line in str(error).splitlines():
            print(f"attnlab: {line}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("attnlab: interrupted; the same command goes on with what is not finished", file=sys.stderr)
        return 130


def train(argv: list[str]) -> int:
    """Check every point, then let Hydra run them."""
    from attnlab import train
    from attnlab.sweep import plan

    looks = {"-h", "--help", "--hydra-help", "--version", "-c", "--cfg", "-i", "--info"}
    if looks & {word.partition("=")[0] for word in argv}:
        plan.look_over(argv)
        train.main(plan.for_hydra(argv), plan.CONF, {})
        return 0
    with train.console.status("Checking every point before the first one starts"):
        planned = plan.make(argv)
    points = len(planned.points)
    if planned.combinations > points:
        print(
            f"{planned.combinations} combinations are {points} point{'s' * (points > 1)}: "
            "the others differ only in settings without effect"
        )
    try:
        failed = train.main(plan.for_hydra(argv), plan.CONF, titles(planned.points))
    except BrokenPipeError:
        raise
    except OSError as error:  # a point's own troubles are in its folder: this one could not be made
        raise InputError(f"output_dir: {error}") from None
    if failed:
        print(f"attnlab: {len(failed)} of {points} points failed", file=sys.stderr)
    for folder in failed:
        print(f"attnlab:   see {folder}/log.txt", file=sys.stderr)
    studies = dict.fromkeys(folder.parent for folder in planned.points)
    print(*(f"next: attnlab report {study}" for study in studies), sep="\n")
    if any(config["logger"]["name"] == "wandb" for config in planned.points.values()):
        print(*(f"      wandb sync {study}/*/wandb/offline-run-*" for study in studies), sep="\n")
    return 1 if failed else 0


def titles(points: Mapping[Path, Mapping[str, Any]]) -> dict[Path, str]:
    """A sweep's points as its terminal lines call them: ``[3/10] cbam order=parallel s0 2c3bb1b7``."""
    from attnlab.point import choice_names, digest, identity, without_seed
    from attnlab.study.collect import labels

    if len(points) < 2:
        return {}
    identities = {folder: identity(config) for folder, config in points.items()}
    variants = {folder: digest(without_seed(identities[folder])) for folder in points}
    texts = labels(
        {variants[folder]: without_seed(identities[folder]) for folder in points},
        {variants[folder]: choice_names(config) for folder, config in points.items()},
    )
    return {
        folder: f"[{i}/{len(points)}] {texts[variants[folder]]} s{config['seed']} {digest(identities[folder])[:8]}"
        for i, (folder, config) in enumerate(points.items(), start=1)
    }


def sites(argv: list[str]) -> int:
    """The table of sites, those that the config selects marked."""
    parser = argparse.ArgumentParser(
        prog="attnlab sites",
        description="Where attention can go in a backbone: the sites that sites=... selects are marked.",
        epilog="example: attnlab sites backbone=resnet50 sites=branch sites.blocks=last --input 3x224x224",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as for attnlab train")
    parser.add_argument("--input", metavar="CxHxW", help="size of the input (default: that of data=...)")
    parser.add_argument("--config-dir", metavar="DIR", help="also look for configs in DIR")
    args = parser.parse_intermixed_args(argv)

    from attnlab.overview import print_sites
    from attnlab.sweep.plan import composing

    with composing(config_dir=args.config_dir) as compose_one:
        print_sites(compose_one(args.overrides), args.input)
    return 0


def report(argv: list[str]) -> int:
    """Leaderboard in the terminal; report.md, report.csv and report.png beside the points."""
    parser = argparse.ArgumentParser(
        prog="attnlab report",
        description="The leaderboard of a study, from its points' folders alone; writes report.md, .csv, .png.",
    )
    parser.add_argument("study", help="the study's folder, such as outputs/demo")
    args = parser.parse_args(argv)

    from attnlab.study import write_report

    write_report(args.study)
    return 0


if __name__ == "__main__":
    sys.exit(main())
