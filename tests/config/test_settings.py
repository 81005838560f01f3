"""Types that are written down, so that torch need not be imported, against the signatures that they copy."""

import typing

import lightning
import pytest

from attnlab import attach
from attnlab.config.settings import SITES, TRAINER, checked_value
from attnlab.errors import InputError

VALUES = [None, True, 0, 1, 32, -1, 0.5, 16.0, "", "first", "sum", [], [1], [1, 2], ["a"], ["all"], [0.5], {}]
OURS = {"name", "role", "max_epochs", "devices", "num_nodes", "strategy"}  # attnlab takes less


def takes(hint, value):
    """What a value becomes, or that it is refused."""
    try:
        return checked_value("key", value, hint)
    except InputError:
        return InputError


def choices(hint):
    """All values of the Literals in a type."""
    inner = typing.get_args(hint)
    return list(inner) if typing.get_origin(hint) is typing.Literal else [v for part in inner for v in choices(part)]


@pytest.mark.parametrize(
    ("written", "function"), [(TRAINER, lightning.Trainer.__init__), (SITES, attach)], ids=["trainer", "sites"]
)
def test_written_types_are_those_of_the_signature(written, function):
    hints = typing.get_type_hints(function)
    for key in sorted(written.keys() - OURS):
        for value in [*VALUES, *choices(written[key]), *choices(hints[key])]:
            assert repr(takes(written[key], value)) == repr(takes(hints[key], value)), (key, value)
