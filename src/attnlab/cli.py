"""attnlab <verb> ..."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from attnlab.errors import InputError

if TYPE_CHECKING:
    from attnlab.sweep.plan import Plan

USAGE = """attnlab: which attention module, where in a CNN, with which ratio and order, and is it worth its cost?

  attnlab train [-m] [key=value ...]     train a point, or with -m a sweep        attnlab train --help
  attnlab plan [-m] [key=value ...]      what that would do, and cost             attnlab plan --help
  attnlab status FOLDER                  how a study stands                       attnlab status --help
  attnlab sites [key=value ...]          where attention can go in a backbone     attnlab sites --help
  attnlab cost [key=value ...]           what attention adds to a backbone        attnlab cost --help
  attnlab report FOLDER                  what a study says: tables, page, figures attnlab report --help
  attnlab more FOLDER                    run the seeds that would decide it       attnlab more --help
  attnlab repro FOLDER POINT             does a point repeat to the bit?          attnlab repro --help
  attnlab sync FOLDER                    upload a study's offline W&B runs        attnlab sync --help
  attnlab dashboard FOLDER               its W&B workspace and report             attnlab dashboard --help
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 all well, 1 a point failed, 2 bad input (nothing was started), 130 interrupted."""
    verb, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    verbs: dict[str, Callable[[list[str]], int]] = {
        "train": train,
        "plan": plan,
        "status": status,
        "sites": sites,
        "cost": cost,
        "report": report,
        "more": more,
        "repro": repro,
        "sync": sync,
        "dashboard": dashboard,
    }
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
    """Check every point, launch what is not finished, say how it went."""
    from rich.console import Console

    from attnlab.sweep import compose, grid, launchers, official, plan, single, table

    looks = {"-h", "--help", "--hydra-help", "--version", "-c", "--cfg", "-i", "--info"}
    if looks & {word.partition("=")[0] for word in argv}:
        grid.look_over(argv)
        official.run(compose.for_hydra(argv), compose.CONF, {}, retry=False)
        return 0
    with Console().status("Checking every point before the first one starts") as status:
        planned = plan.make(argv, lambda text: status.update(f"Checking every point: {text}"))
    for error in planned.errors:
        print(f"attnlab: left out: {error}", file=sys.stderr)
    if planned.is_grid:
        print(*table.summary(planned), sep="\n")
    try:
        launcher = planned.hydra["launcher"]
        if not planned.multirun:
            single.launch(planned.points[0])
        elif planned.is_grid and launchers.ours(launcher):
            launchers.prepared(launcher)
            with plan.recorded(planned, ["train", *argv]):
                launchers.launch(planned, launcher)
        else:
            titles = {point.folder: point.title for point in planned.points} if planned.is_grid else {}
            official.run(compose.for_hydra(argv), compose.CONF, titles, planned.retry)
    except BrokenPipeError:
        raise
    except OSError as error:  # a point's own troubles are in its folder: this one could not be made
        raise InputError(f"output_dir: {error}") from None
    return _say_how_it_went(planned)


def _say_how_it_went(planned: "Plan") -> int:
    from attnlab.point import read_json, state

    if not planned.is_grid:  # its sweeper has chosen the points
        print(*(f"how it stands: attnlab status {point.folder.parent}" for point in planned.points), sep="\n")
        return 0
    states = {point.folder: state(point.folder) for point in planned.points}
    failed = [folder for folder, now in states.items() if now == "failed"]
    if failed:
        print(f"attnlab: {len(failed)} of {len(states)} points failed", file=sys.stderr)
    for folder in failed:
        print(f"attnlab:   {read_json(folder / 'status.json')['error']}: see {folder}/log.txt", file=sys.stderr)
    for study in dict.fromkeys(folder.parent for folder in states):
        if any(now != "done" for folder, now in states.items() if folder.parent == study):
            print(f"how it stands: attnlab status {study}")
        if any(now == "done" for folder, now in states.items() if folder.parent == study):
            print(f"next: attnlab report {study}")
        if any(point.config["logger"]["name"] == "wandb" for point in planned.points):
            print(f"      attnlab sync {study}")
    return 1 if failed or planned.errors or "killed" in states.values() else 0


def plan(argv: list[str]) -> int:
    """What `attnlab train` with the same words would do."""
    from rich.console import Console

    from attnlab.sweep import launchers, plan, slots, table

    if {"-h", "--help"} & set(argv):
        print(
            "attnlab plan [-m] [key=value ...]\n\n"
            "What attnlab train with the same words would do: its points, how many are done, their parameters,\n"
            "MACs and expected time. Every point is composed, checked and built without memory; nothing is written.\n"
            "Data that are not there are named at the end: the costs are known without, but train would not start."
        )
        return 0
    with Console().status("Checking every point") as status:
        told = lambda text: status.update(f"Checking every point: {text}")  # noqa: E731
        planned = plan.make(argv, told, without_data=True)
    for error in planned.errors:
        print(f"attnlab: left out: {error}", file=sys.stderr)
    at_once = 1
    launcher = planned.hydra["launcher"]
    if launchers.ours(launcher):
        settings = launchers.prepared(launcher).keywords
        if launcher["_target_"].endswith("Local") and planned.multirun:
            at_once = len(slots.make(settings["gpus"], settings["slots_per_gpu"], settings["cpu_slots"]))
    table.show(planned, at_once)
    for line in planned.missing:
        print(f"attnlab: the data are not there, and attnlab train would not start: {line}", file=sys.stderr)
    return 1 if planned.errors or planned.missing else 0


def status(argv: list[str]) -> int:
    """How a study stands."""
    parser = argparse.ArgumentParser(
        prog="attnlab status",
        description="How a study stands: how many points are done, how far the others are, why the failed ones failed.",
    )
    parser.add_argument("study", help="the study's folder, such as outputs/demo", type=Path)
    parser.add_argument("-f", "--follow", action="store_true", help="go on until no point is running or waiting")
    args = parser.parse_args(argv)

    from attnlab.sweep.status import show

    show(args.study, args.follow)
    return 0


def _parser_of_a_network(verb: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """For the verbs that build the network of a config and look at it. Its errors are InputErrors."""
    parser = argparse.ArgumentParser(prog=f"attnlab {verb}", description=description, epilog=epilog)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as for attnlab train")
    parser.add_argument("--input", metavar="CxHxW", help="size of the input (default: that of data=...)")
    parser.add_argument("--config-dir", metavar="DIR", help="also look for configs in DIR")

    def refuse(message: str) -> NoReturn:
        raise InputError(f"{message}; see attnlab {verb} --help")

    parser.error = refuse  # type: ignore[method-assign]
    return parser


def sites(argv: list[str]) -> int:
    """A drawing and the table of sites, those that the config selects marked."""
    parser = _parser_of_a_network(
        "sites",
        description="Where attention can go in a backbone: the sites that sites=... selects are marked, and with "
        "attention=... each says what it costs there.",
        epilog="example: attnlab sites backbone=resnet50 attention=cbam sites.blocks=last --input 3x224x224",
    )
    args = parser.parse_intermixed_args(argv)

    from attnlab.overview import print_sites
    from attnlab.sweep.compose import composing

    with composing(config_dir=args.config_dir) as compose_one:
        print_sites(compose_one(args.overrides), args.input)
    return 0


def cost(argv: list[str]) -> int:
    """The bare backbone beside the network with attention."""
    parser = _parser_of_a_network(
        "cost",
        description="What attention adds to a backbone: parameters, multiply-accumulates (MACs), its element-wise "
        "operations, activation memory in training, and with --latency the time of a forward pass.",
        epilog="example: attnlab cost backbone=resnet50 attention=cbam sites=branch --input 3x224x224 --latency",
    )
    parser.add_argument("--latency", action="store_true", help="also time forward passes of 1 image and of a batch")
    parser.add_argument("--batch", metavar="N", type=int, help="with --latency: images in the batch (default: 32)")
    parser.add_argument("--compile", action="store_true", help="with --latency: by torch.compile, not eager")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="with --latency: where (default: cpu)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_intermixed_args(argv)
    for option in ("batch", "compile", "device"):
        if getattr(args, option) and not args.latency:
            raise InputError(f"--{option}: goes with --latency")
    if args.batch is not None and args.batch < 1:
        raise InputError(f"--batch {args.batch}: must be at least 1")

    from attnlab.overview import print_cost
    from attnlab.sweep.compose import composing

    with composing(config_dir=args.config_dir) as compose_one:
        config = compose_one(args.overrides)
    batches = sorted({1, args.batch or 32}) if args.latency else []
    print_cost(config, args.input, batches, compiled=args.compile, device=args.device or "cpu", as_json=args.json)
    return 0


def report(argv: list[str]) -> int:
    """Tables in the terminal; report.html, .md, .csv, .json, .tex and figures/ beside the points."""
    parser = argparse.ArgumentParser(
        prog="attnlab report",
        description="What a study says, from its points' folders alone: what is better, by how much, how sure, at what "
        "cost. Writes report.html (a page of its own), report.md, .csv, .json, .tex and figures/ into the folder, but "
        "with --format or --baseline, which only print.",
        epilog="example: attnlab report outputs/demo --format latex > table.tex",
    )
    parser.add_argument("study", help="the study's folder, such as outputs/demo")
    parser.add_argument("--format", choices=["md", "csv", "json", "latex", "html"], help="print that, to be piped")
    _add_baseline(parser)
    args = parser.parse_args(argv)

    from attnlab.study import write_report

    told = write_report(args.study, args.format, _levels(args.baseline))
    if told["wandb"] and told["written"]:
        from attnlab.tracking.mirror import mirror

        study = Path(args.study)
        mirror(study, told, [study / "report.html", *sorted((study / "figures").iterdir())])
        print(f'W&B: the run "{told["study"]} report"; attnlab sync {args.study} uploads it', file=sys.stderr)
    return 0


def _add_baseline(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--baseline",
        action="append",
        metavar="KEY=VALUE",
        default=[],
        help="compare with what has this and is otherwise equal, such as attention=se; may be given several times "
        "(default: what the sweep's baseline says, or the bare backbone)",
    )


def _levels(words: list[str]) -> dict[str, str]:
    settings = [setting for word in words for setting in re.split(r",(?=[\w.]+=)", word)]
    for setting in settings:
        if "=" not in setting:
            raise InputError(f"--baseline {setting}: must be KEY=VALUE, such as attention=se")
    return dict(setting.split("=", 1) for setting in settings)


def more(argv: list[str]) -> int:
    """Run the seeds that undecided comparisons need."""
    parser = argparse.ArgumentParser(
        prog="attnlab more",
        description="Runs the seeds that the undecided comparisons of a study need to be decided with 80 % power, if "
        "their differences are what they look like now; what is decided gets none. The cheapest to decide come first.",
        epilog="example: attnlab more outputs/demo --budget 12 hydra.launcher.cpu_slots=1",
    )
    parser.add_argument("study", help="the study's folder, such as outputs/demo", type=Path)
    parser.add_argument("--budget", metavar="N", type=int, default=20, help="at most so many points (default: 20)")
    parser.add_argument("--dry-run", action="store_true", help="say what would run, and stop")
    _add_baseline(parser)
    parser.add_argument("overrides", nargs="*", metavar="hydra...=value", help="the launcher and its settings")
    args = parser.parse_intermixed_args(argv)
    if args.budget < 1:
        raise InputError(f"--budget {args.budget}: must be at least 1")

    from attnlab.sweep import race

    planned = race.plan_round(args.study, args.budget, _levels(args.baseline), args.overrides)
    if planned is None or args.dry_run:
        return 0
    try:
        race.run(planned, ["more", *argv])
    except OSError as error:
        raise InputError(f"{args.study}: {error}") from None
    return _say_how_it_went(planned)


def repro(argv: list[str]) -> int:
    """Train a point again and compare."""
    parser = argparse.ArgumentParser(
        prog="attnlab repro",
        description="Trains a finished point again, with as many threads, and says whether the result is the same to "
        "the bit, and if not, what differs and why that may be. Exit code 0: the same, 1: not.",
        epilog="example: attnlab repro outputs/demo 2c3bb1b7",
    )
    parser.add_argument("study", help="the study's folder, such as outputs/demo", type=Path)
    parser.add_argument("point", help="the point's folder in it, or a part of its name that no other has")
    args = parser.parse_args(argv)

    from attnlab import repro

    first = repro.find(args.study, args.point)
    print(f"training {first} again; the first time took {repro.minutes(first):.1f} min")
    second = repro.again(first)
    differences = repro.differences(first, second)
    if not differences:
        print(f"the same to the bit: {repro.what(first)}")
        repro.forget(second)
        return 0
    print("not the same:", *differences, sep="\n  ")
    print("what may be why:", *(repro.reasons(first, second) or ["nothing that was written down differs"]), sep="\n  ")
    print(f"both are there: {first}, {second}")
    return 1


def sync(argv: list[str]) -> int:
    """Upload a study's offline W&B runs."""
    parser = argparse.ArgumentParser(
        prog="attnlab sync",
        description="Uploads what a study's offline W&B runs hold and W&B has not got yet. A second call uploads the "
        "rest; points that are still running are left out. Needs an account: `wandb login`, or WANDB_API_KEY.",
        epilog="example: attnlab sync outputs/demo --jobs 8",
    )
    parser.add_argument("study", help="the study's folder, such as outputs/demo", type=Path)
    parser.add_argument("--jobs", metavar="N", help="runs at a time (default: 4)", type=int, default=4)
    args = parser.parse_args(argv)
    if args.jobs < 1:
        raise InputError(f"--jobs {args.jobs}: must be at least 1")

    from attnlab.tracking.sync import sync

    return 1 if sync(args.study, args.jobs) else 0


def dashboard(argv: list[str]) -> int:
    """A study's W&B workspace and report."""
    parser = argparse.ArgumentParser(
        prog="attnlab dashboard",
        description="Makes the W&B workspace and the W&B report of a study, from its factors; a second call renews "
        "both. Its runs must be there: attnlab sync. Needs an account, and pip install 'attnlab[dashboard]'.",
        epilog="example: attnlab dashboard outputs/demo --dry-run",
    )
    parser.add_argument("study", help="the study's folder, such as outputs/demo", type=Path)
    parser.add_argument(
        "--dry-run", action="store_true", help="write both into the study's dashboard.json; no account, no network"
    )
    args = parser.parse_args(argv)

    from attnlab.study import read_analysis
    from attnlab.tracking import dashboard

    if args.dry_run:
        print(dashboard.write(args.study, read_analysis(args.study)))
    else:
        print(*dashboard.save(args.study, read_analysis(args.study)), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
