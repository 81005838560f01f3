"""Progress bars; and printing that cannot fail: on any terminal, in any encoding, with or without a reader of the pipe.

Printing is not the work. `| head` ends git and grep (SIGPIPE, exit code 141), because their output is all they do. An
attnlab command continues without a reader, and its exit code reports the work.
"""

import codecs
import io
import os
import select
import sys
import time
import unicodedata
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")
TURNS = ["LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"]  # what turns the direction of writing
PATIENCE = 2.0  # seconds without a progress bar
ORDINARY = """
✓ + ✗ x ‖ = ● * ○ o · * … ... – - — -- − - → -> ← <- “ " ” " ‘ ' ’ ' × x ± +/- ≤ <= ≥ >= ≈ ~ ≠ != √ sqrt Σ sum
◆ # ■ @ ▲ ^ ★ $ ✚ + ▼ v ◼ = ◇ o
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


def printable(text: str) -> str:
    """The text with ? for what would steer a terminal: control characters, and those that turn the direction."""
    steers = (unicodedata.category(c) in ("Cc", "Zl", "Zp") or unicodedata.bidirectional(c) in TURNS for c in text)
    return "".join("?" if steering else c for c, steering in zip(text, steers, strict=True))


def plain_console() -> "Console":
    """Rich's, 100 columns wide where there is no terminal."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 100  # a file or pipe has no width
    return console


def with_progress(done: Iterable[T], total: int, what: str) -> Iterator[T]:
    """The same items; on a terminal a bar shows how many of ``total`` are there, once they take some seconds."""
    from rich.console import Console
    from rich.progress import Progress

    if sys.stderr is None or not sys.stderr.isatty():
        yield from done
        return
    # A command may show a spinner of Rich's; two displays would fight for one line, so there are lines above it.
    below_another = hasattr(sys.stderr, "rich_proxied_file")
    bar = Progress(console=Console(stderr=True), transient=True)
    task = bar.add_task(what, total=total)
    told, wait = time.monotonic(), PATIENCE
    try:
        for number, item in enumerate(done, start=1):
            yield item
            bar.update(task, completed=number)
            if time.monotonic() - told > wait:
                told, wait = time.monotonic(), 2 * wait
                if below_another:
                    print(f"{what}: {number:,} of {total:,}", file=sys.stderr)
                else:
                    bar.start()
    finally:
        bar.stop()
