"""Measure, and compare with another checkout: see ``python -m tests.benchmarks --help``.

A round is a process of its own, which imports attnlab from a checkout's ``src``; with ``--against``, this checkout and
the other one take turns. The code of the benchmark is always this checkout's.
"""

import argparse
import ast
import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parents[2]
ROWS = {  # name: the function in the module of that name whose figures are one round
    "attention": "copies",
    "step": "step",
    "loop": "measure",
    "data": "measure",
    "sweep": "measure",
    "study": "measure",
}
# Large tensors stay with the process: fetching fresh pages for each would take longer than all the rest.
ENVIRONMENT = {"attention": {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "8589934592"}}
ROUND = "from tests.benchmarks.__main__ import measure_round; measure_round()"


def measure_round() -> None:
    """In the process of a round: ``sys.argv`` holds the row, the checkout, the file for the figures, the settings."""
    _, row, checkout, path, settings = sys.argv
    import attnlab

    if not Path(attnlab.__file__).resolve().is_relative_to((Path(checkout) / "src").resolve()):
        raise SystemExit(f"attnlab is imported from {attnlab.__file__}, not from {checkout}/src")
    module = importlib.import_module(f"tests.benchmarks.{row}")
    found = getattr(module, ROWS[row])(**json.loads(settings))
    Path(path).write_text(json.dumps(dict(flat(found))), encoding="utf-8")


def flat(figures: dict[str, Any], before: str = "") -> list[tuple[str, float]]:
    """Nested figures as one list, the names joined."""
    found = list[tuple[str, float]]()
    for name, value in figures.items():
        found += flat(value, f"{before}{name}, ") if isinstance(value, dict) else [(before + name, float(value))]
    return found


def one_round(row: str, checkout: Path, settings: dict[str, Any]) -> dict[str, float]:
    path = os.pathsep.join([str(checkout / "src"), str(HERE)])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figures.json"
        command = [sys.executable, "-c", ROUND, row, str(checkout), str(file), json.dumps(settings)]
        env = {**os.environ, **ENVIRONMENT.get(row, {}), "PYTHONPATH": path}
        # What the benchmark prints is not what this command prints.
        subprocess.run(command, env=env, cwd=folder, stdout=sys.stderr, check=True)
        return json.loads(file.read_text(encoding="utf-8"))


def spread(values: Sequence[float]) -> str:
    """Median, and the middle half where there is more than one value."""
    if len(values) < 2:
        return number(values[0])
    low, middle, high = map(number, statistics.quantiles(values, n=4, method="inclusive"))
    return f"{middle} [{low}, {high}]"


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def lines(head: list[str], rounds: list[list[dict[str, float]]]) -> list[str]:
    """A table: each figure of this checkout and perhaps of the other, and of the ratio of each round."""
    rows = [head]
    for name in rounds[0][0]:
        turns = [[figures[name] for figures in turn if name in figures] for turn in rounds]
        columns = list(zip(*turns, strict=True))
        if len(columns) == 2 and all(columns[1]):
            columns.append(tuple(this / other for this, other in turns))
        rows.append([name, *(spread(column) for column in columns)])
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(len(head))]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]


def about(checkout: Path) -> str:
    """The commit, with + if files have changed since."""
    git = ["git", "-C", str(checkout), "describe", "--always", "--dirty=+", "--exclude=*"]
    return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def parse(row: str) -> ast.Module:
    return ast.parse(Path(__file__).with_name(f"{row}.py").read_text(encoding="utf-8"))


def docstring(row: str) -> str:
    return ast.get_docstring(parse(row)) or ""


def taken(row: str) -> list[str]:
    """The settings of a row: the arguments of its function."""
    found = next(node for node in parse(row).body if isinstance(node, ast.FunctionDef) and node.name == ROWS[row])
    return [argument.arg for argument in found.args.args + found.args.kwonlyargs]


def parsed(argv: list[str] | None = None) -> argparse.Namespace:
    firsts = {row: docstring(row).splitlines()[0] for row in ROWS}
    rows = "\n".join(f"  {row:12}{first[0].lower()}{first[1:].rstrip('.')}" for row, first in firsts.items())
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description=f"Measure a row, and print the median of each figure and its middle half.\n\nrows:\n{rows}",
        epilog="Each row's module in tests/benchmarks says more. Settings are the numbers that its function takes.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("row", choices=ROWS, metavar="ROW")
    parser.add_argument("settings", nargs="*", metavar="KEY=NUMBER", help="such as epochs=1, points=100")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every round's figures to a file")
    parser.add_argument(
        "--against", type=Path, metavar="CHECKOUT", help="measure another checkout in turns with this one"
    )
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="how many processes of each (default: 3)")
    args = parser.parse_args(argv)
    if args.rounds < 1:
        parser.error(f"--rounds {args.rounds}: must be at least 1")
    if args.against is not None and not (args.against / "src" / "attnlab").is_dir():
        parser.error(f"--against {args.against}: no checkout of attnlab, it has no src/attnlab")
    try:
        args.settings = {key: int(number) for key, number in (word.split("=") for word in args.settings)}
    except ValueError:
        parser.error(f"{' '.join(args.settings)}: settings are KEY=NUMBER")
    if unknown := args.settings.keys() - set(taken(args.row)):
        word = f"{min(unknown)}={args.settings[min(unknown)]}"
        parser.error(f"{word}: no setting of {args.row}, which takes {', '.join(taken(args.row))}")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parsed(argv)
    checkouts = [HERE, *([args.against.resolve()] if args.against else [])]
    names = [about(checkout) for checkout in checkouts]
    rounds = list[list[dict[str, float]]]()
    for i in range(args.rounds):
        rounds.append([one_round(args.row, checkout, args.settings) for checkout in checkouts])
        print(f"round {i + 1} of {args.rounds}", file=sys.stderr, flush=True)
        if args.json:
            head = {"row": args.row, "settings": args.settings, "machine": platform.platform(), "cpus": os.cpu_count()}
            args.json.write_text(json.dumps({**head, "commits": names, "rounds": rounds}, indent=1), encoding="utf-8")
    columns = names if len(names) == 1 else [f"this ({names[0]})", f"other ({names[1]})", "this / other"]
    print("\n".join(lines([f"{args.row}, rounds: {args.rounds}", *columns], rounds)))


if __name__ == "__main__":
    main()
