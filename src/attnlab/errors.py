"""The one exception for bad input: its text is one line for the user."""

import contextlib
import errno
import logging
from collections.abc import Iterable, Iterator
from difflib import get_close_matches


class InputError(ValueError):
    """Bad input. The message says what was wrong, where, and what would be right."""


class MissingData(InputError):
    """The data are missing, but their shape is known, so the rest of the experiment can be checked."""


def choices(wrong: str, valid: Iterable[str]) -> str:
    """Text that lists the valid names, the nearest to ``wrong`` first: ``nearest: cbam; valid: cbam, se``."""
    names = sorted(valid)
    nearest = get_close_matches(wrong, names, n=1, cutoff=0.6)
    return "".join(f"nearest: {n}; " for n in nearest) + "valid: " + (", ".join(names) or "(none)")


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, or its type where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


FULL = (errno.ENOSPC, errno.EDQUOT)


def unwritable(error: OSError, where: object = "a file") -> str:
    """A message: which file (``where``, unless the error says) could not be written, why, and what to do."""
    full = "free some space there, then run the same command again to continue"
    advice = full if error.errno in FULL else "set output_dir to a folder that can be written"
    return f"{error.filename or where}: could not be written: {error.strerror or error}; {advice}"


@contextlib.contextmanager
def surviving(what: str) -> Iterator[None]:
    """Log an error in the body instead of failing the point (for plots and loggers)."""
    try:
        yield
    except Exception as error:
        logging.getLogger("attnlab").warning("%s: %s: %s", what, type(error).__name__, error)
