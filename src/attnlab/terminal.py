"""Printing that cannot fail: on any terminal, whatever its encoding, and after the reader of a pipe has gone.

Printing is not the work. `| head` ends git and grep (SIGPIPE, exit code 141), because their output is all they do. An
attnlab command continues without a reader, and its exit code reports the work.
"""

import codecs
import io
import os
import select
import sys
import unicodedata
from typing import Any, TextIO

ORDINARY = """
✓ + ✗ x ‖ = ● * ○ o · * … ... – - — -- − - → -> ← <- “ " ” " ‘ ' ’ ' × x ± +/- ≤ <= ≥ >= ≈ ~ ≠ != √ sqrt Σ sum
α alpha β beta γ gamma θ theta λ lambda φ phi ß ss æ ae Æ AE ø o Ø O ł l Ł L
"""
STAND_INS = dict(zip(ORDINARY.split()[::2], ORDINARY.split()[1::2], strict=True))


def print_anywhere(log: bool = False) -> None:
    """Make all later printing of this process safe; ``log``: write UTF-8 to anything but a terminal."""
    codecs.register_error("attnlab.stand_in", stand_in)
    sys.stdout, sys.stderr = _robust(sys.stdout, log), _robust(sys.stderr, log)


def all_printed() -> bool:
    """Whether all output was written, or its reader had gone."""
    if sys.stdout is not None:
        sys.stdout.flush()
    return not _lost


def stand_in(error: UnicodeError) -> tuple[str | bytes, int]:
    """For codecs.register_error: the replacement for a character that the encoding lacks."""
    assert isinstance(error, UnicodeEncodeError)
    character, end = error.object[error.start], error.start + 1
    if "\udc80" <= character <= "\udcff":  # a byte of a file's name that is no text in this locale
        return bytes([ord(character) - 0xDC00]), end
    if "─" <= character <= "╿":  # lines of tables
        return "|" if character in "│┃║" else "-" if character in "─━═╌╍╴╶╸╺╼╾" else "+", end
    if "⠀" <= character <= "⣿":  # Rich's spinner
        return "*", end
    parts = unicodedata.normalize("NFKD", character)  # of é: e and an accent; of ⁻: −
    return "".join(c if c.isascii() else STAND_INS.get(c, "") for c in parts) or "?", end


_lost: list[OSError] = []


class _Output(io.FileIO):
    """A file descriptor; what it cannot take is dropped, and for another reason than a reader that has gone, said."""

    def write(self, data: Any) -> int:
        try:
            written = super().write(data)
            if written is None:  # a descriptor that does not block is full
                select.select([], [self.fileno()], [])
            return written or 0
        except OSError as error:
            number = self.fileno()
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)
            if number == 1 and not isinstance(error, BrokenPipeError):
                _lost.append(error)
                print(f"attnlab: the output could not be written: {error.strerror}", file=sys.stderr)
            return memoryview(data).nbytes


def _robust(stream: TextIO, log: bool) -> TextIO:
    if stream not in (sys.__stdout__, sys.__stderr__) or not isinstance(stream, io.TextIOWrapper):  # a test's, or none
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Output(stream.fileno(), "w", closefd=False)),
        encoding="utf-8" if log and not stream.isatty() else stream.encoding,
        errors="attnlab.stand_in",
        line_buffering=stream.line_buffering or stream.write_through,
    )
