"""Signals that ask a point to stop: it saves at the next safe moment, and ends."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, *(() if sys.platform == "win32" else (signal.SIGUSR1, signal.SIGUSR2)))


class Preempted(BaseException):
    """The point was asked to stop; it continues from its last checkpoint when it is run again."""


class Stop:
    """One handler for the signals of terminals, launchers and SLURM.

    While ``training``, the handler notes a signal in ``asked`` for the loop; otherwise, and on a second Ctrl-C, it
    raises Preempted at once.
    """

    def __init__(self, follows: bool = False) -> None:
        self.asked: str | None = None
        self.training = False
        self.follows = follows  # a rank above 0: rank 0 decides for all

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals within the body (only in the main thread)."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in SIGNALS}
        self.listen()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def listen(self) -> None:
        """Take the signals (again: Lightning's Trainer takes SIGTERM for itself)."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if number == signal.SIGINT and signal.getsignal(number) == signal.SIG_IGN:
                    continue  # a launcher sees to Ctrl-C
                signal.signal(number, signal.SIG_IGN if self.follows else self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again = self.asked is not None and number == signal.SIGINT
        self.asked = signal.Signals(number).name
        if again or not self.training:
            raise Preempted(self.asked)
