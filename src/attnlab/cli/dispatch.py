"""From a command line to its verb, and from what the verb raises to an exit code."""

import importlib
import pkgutil
import sys
from collections.abc import Sequence
from types import ModuleType

from attnlab.cli import verbs
from attnlab.errors import FULL, InputError, choices, unwritable
from attnlab.terminal import all_printed, print_anywhere, printable

# What people come for, in the order of the help.
GROUPS = {
    "train": "train",
    "look": "look at a network",
    "judge": "judge a study",
    "use": "use it elsewhere",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit code: 0 success, 1 a point failed, 2 bad input (nothing was started), 130 interrupted."""
    print_anywhere()
    code = _code_of(argv)
    return code if all_printed() else code or 1


def _code_of(argv: Sequence[str] | None) -> int:
    verb, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    try:
        if verb in ("-h", "--help"):
            print(usage())
            return 0
        if "--version" in (verb, *rest):
            from attnlab import __version__

            print(__version__)
            return 0
        if verb not in names():
            raise InputError(f"attnlab {verb}: no such command; {choices(verb, names())}")
        return load(verb).run(rest)
    except InputError as error:
        for line in str(error).splitlines():
            print(f"attnlab: {printable(line)}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in FULL:
            raise
        print(f"attnlab: {unwritable(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("attnlab: interrupted; run the same command again to continue", file=sys.stderr)
        return 130


def names() -> list[str]:
    """All verbs."""
    return [found.name for found in pkgutil.iter_modules(verbs.__path__)]


def load(verb: str) -> ModuleType:
    """The verb's module: its docstring is its line in the help, with its ``GROUP`` and ``WORDS``."""
    return importlib.import_module(f"{verbs.__name__}.{verb}")


def usage() -> str:
    """The help: all verbs by group, one per line."""
    lines = ["attnlab: which attention module, where in a CNN, with which ratio and order, and is it worth its cost?"]
    modules = {name: load(name) for name in names()}
    for group, title in GROUPS.items():
        lines += ["", f"{title}:"]
        mine = {name: module for name, module in modules.items() if group == module.GROUP}
        for name in sorted(mine, key=lambda name: mine[name].PLACE):
            lines.append(f"  {f'attnlab {name} {mine[name].WORDS}':42}{mine[name].__doc__}")
    return "\n".join([*lines, "", "attnlab <verb> --help shows more"])
