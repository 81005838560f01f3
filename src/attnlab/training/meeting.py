"""Ranks of one point on several machines, which a scheduler starts all at once.

On one machine rank 0 starts the others, when it has the point's lock and knows where to begin, and they die with it.
On several a connection from each of the others to rank 0 does the same: they wait there for rank 0's word, and either
end learns when the other process is gone. Imports no torch.

The scheduler's job sets what ``environment`` returns; without it, a point is trained on one machine.
"""

import contextlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator

from attnlab.training.stop import Preempted

log = logging.getLogger("attnlab")
PORTS = 8  # tried one after the other: another program may listen at some
COME_S = 600.0  # how long ranks wait for one another
GRACE_S = 30.0  # between a rank's death and the end of rank 0, which may end by itself and know the reason
WELCOME = b"welcome\n"


def environment(rank: int, ranks: int, address: str, port: int, token: str) -> dict[str, str]:
    """For the process of a rank: rank 0 is on the machine of that address, and all ranks know the token."""
    return {"ATTNLAB_RANK": str(rank), "ATTNLAB_MEETING": json.dumps([ranks, address, port, token])}


class Others:
    """Rank 0's connections to the other ranks, which come when they come."""

    def __init__(self, ranks: int, port: int, token: str, lost: Callable[[str], None]) -> None:
        self.missing, self.token, self.lost = set(range(1, ranks)), token, lost
        self.came: dict[int, socket.socket] = {}
        self.complete, self.over = threading.Event(), threading.Event()
        self.listener = _listener(port)
        threading.Thread(target=self._welcome, daemon=True).start()

    def start(self, word: dict[str, str]) -> None:
        """Have all of them begin, with these variables in their environment."""
        if not self.complete.wait(COME_S):
            raise RuntimeError(f"ranks {sorted(self.missing)} did not come within {COME_S / 60:.0f} minutes")
        for rank, connection in self.came.items():
            connection.sendall(json.dumps(word).encode() + b"\n")
            threading.Thread(target=self._watch, args=(rank, connection), daemon=True).start()

    def leave(self, wait: bool) -> None:
        """Let all of them go; ``wait`` for those that did not come yet, who would wait for us."""
        if wait:
            self.complete.wait(COME_S)
        self.over.set()
        for connection in (self.listener, *self.came.values()):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _welcome(self) -> None:
        while self.missing:
            try:
                connection, _ = self.listener.accept()
            except OSError:  # rank 0 has left
                return
            with contextlib.suppress(OSError, ValueError, TypeError):  # of strangers
                connection.settimeout(5)
                token, rank = json.loads(_line(connection))
                if token == self.token and rank in self.missing:
                    connection.sendall(WELCOME)
                    connection.settimeout(None)
                    self.came[rank] = connection
                    self.missing.remove(rank)
                    continue
            connection.close()
        self.complete.set()

    def _watch(self, rank: int, connection: socket.socket) -> None:
        """Until the rank says that it has ended well, or is gone."""
        with contextlib.suppress(OSError):
            if connection.recv(1):
                return
        if self.over.is_set():
            return
        why = f"rank {rank} has died: see {log_name(rank)}"
        log.error(why)
        if not self.over.wait(GRACE_S):
            self.lost(why)


@contextlib.contextmanager
def opened(lost: Callable[[str], None]) -> Iterator[Others | None]:
    """Rank 0's side; None on one machine. ``lost`` is called from another thread when a rank has died."""
    if "ATTNLAB_MEETING" not in os.environ:
        yield None
        return
    ranks, _, port, token = json.loads(os.environ["ATTNLAB_MEETING"])
    others, wait = Others(ranks, port, token, lost), True
    try:
        yield others
    except Preempted:  # the scheduler ends all, and soon
        wait = False
        raise
    finally:
        others.leave(wait)


@contextlib.contextmanager
def joined() -> Iterator[dict[str, str] | None]:
    """Another rank's side: what rank 0 says, when it does, or None if it leaves before; {} on one machine.

    This process ends if rank 0's does.
    """
    if "ATTNLAB_MEETING" not in os.environ:
        yield {}
        return
    _, address, port, token = json.loads(os.environ["ATTNLAB_MEETING"])
    connection = _connected(address, port, json.dumps([token, int(os.environ["ATTNLAB_RANK"])]).encode() + b"\n")
    word = _line(connection)
    ended = threading.Event()
    if word:
        threading.Thread(target=_end_with_first, args=(connection, ended), daemon=True).start()
    with contextlib.suppress(Preempted):  # rank 0 records it
        yield json.loads(word) if word else None
    ended.set()
    with contextlib.suppress(OSError):
        connection.sendall(b".")


def log_name(rank: int) -> str:
    """The log of a rank: on a shared file system, machines that append to one file lose lines."""
    return f"log-{rank}.txt" if rank else "log.txt"


def _listener(port: int) -> socket.socket:
    for candidate in range(port, port + PORTS):
        with contextlib.suppress(OSError):
            return socket.create_server(("", candidate))
    raise RuntimeError(f"ports {port} to {port + PORTS - 1} are all in use")


def _connected(address: str, port: int, hello: bytes) -> socket.socket:
    end = time.monotonic() + COME_S
    while time.monotonic() < end:
        for candidate in range(port, port + PORTS):
            with contextlib.suppress(OSError):
                connection = socket.create_connection((address, candidate), timeout=5)
                connection.sendall(hello)
                if _line(connection) == WELCOME:
                    connection.settimeout(None)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                    return connection
                connection.close()
        time.sleep(1)
    raise RuntimeError(f"rank 0 cannot be reached at {address}, ports {port} to {port + PORTS - 1}")


def _line(connection: socket.socket) -> bytes:
    """One line; b"" at the end."""
    line = b""
    with contextlib.suppress(ConnectionError):
        while not line.endswith(b"\n"):
            if not (byte := connection.recv(1)):
                return b""
            line += byte
    return line


def _end_with_first(connection: socket.socket, ended: threading.Event) -> None:
    with contextlib.suppress(OSError):
        connection.recv(1)
    if not ended.is_set():
        os._exit(1)
