"""Options shared by several verbs."""

import argparse
import re
from pathlib import Path
from typing import NoReturn

from attnlab import ledger
from attnlab.errors import InputError


def parser_of_a_network(verb: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """A parser for verbs that build the network of a config and look at it. Raises InputError for wrong words."""
    parser = parser_of_a_config(verb, description, epilog)
    parser.add_argument("--input", metavar="CxHxW", help="size of the input (default: that of data=...)")
    return parser


def parser_of_a_config(verb: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """A parser for verbs that take settings as train does. Raises InputError for wrong words."""
    parser = argparse.ArgumentParser(prog=f"attnlab {verb}", description=description, epilog=epilog)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as for attnlab train")
    parser.add_argument("--config-dir", metavar="DIR", help="also look for configs in DIR")

    def refuse(message: str) -> NoReturn:
        raise InputError(f"{message}; see attnlab {verb} --help")

    parser.error = refuse  # type: ignore[method-assign]
    return parser


def require_trained(word: str, best: bool = False) -> None:
    """Raise InputError unless the folder is a finished point's or an export, or with ``--best`` a study's.

    It looks at names and states alone, so that the answer need not wait for torch.
    """
    folder = Path(word)
    if not folder.is_dir():
        raise InputError(f"{word}: no such folder; a point's folder lies in its study's, such as outputs/demo")
    if (folder / "point.json").exists() or (folder / "status.json").exists():
        if best:
            raise InputError(f"--best: {word} is one point; give its study's folder, {folder.parent}")
        if not (read := ledger.read_point(folder)).result:
            why = read.damage or f"not finished ({read.state}); attnlab status {folder.parent} tells more"
            raise InputError(f"{word}: {why}")
    elif (folder / "config.json").exists():
        if best:
            raise InputError(f"--best: {word} is an export, not a study")
    elif not any(folder.glob("*/point.json")):
        ledger.refuse_published(folder)
        raise InputError(f"{word}: neither a point's folder nor a study's")
    elif not best:
        raise InputError(f"{word}: not a point's folder; of a study, --best takes the best point")


def add_baseline(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--baseline",
        action="append",
        metavar="KEY=VALUE",
        default=[],
        help="use as baseline the variant with this setting that is otherwise equal, such as attention=se; may be "
        "given several times (default: the sweep's baseline, or the bare backbone)",
    )


def add_metric(parser: argparse.ArgumentParser) -> None:
    from attnlab.study.metrics import METRICS

    parser.add_argument(
        "--metric", choices=[*METRICS], default="accuracy", help="judge by this test metric (default: accuracy)"
    )


def levels(words: list[str]) -> dict[str, str]:
    settings = [setting for word in words for setting in re.split(r",(?=[\w.]+=)", word)]
    for setting in settings:
        if "=" not in setting:
            raise InputError(f"--baseline {setting}: must be KEY=VALUE, such as attention=se")
    return dict(setting.split("=", 1) for setting in settings)
