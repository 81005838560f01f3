"""One process at a time per point, on one machine or on several that share a file system. Imports no torch.

The lock of a folder is a sequence of files, ``lock/1.json``, ``lock/2.json``, ...: the last one says who holds it or
held it last. A process takes the lock by creating the next file, which only one process can do. So a process that
decided late that the last owner is dead does no harm: it finds its number taken, or a later one there. A file's
modification time is its owner's heartbeat, and 1970 once the owner has released the lock.
"""

import contextlib
import json
import os
import platform
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from attnlab.ledger.records import make_folder
from attnlab.ledger.shapes import OWNER, wrong

HEARTBEAT_S = 10.0
STALE_S = 60.0
RELEASED = 1e9  # seconds since 1970; not 0, as FAT knows no time before 1980


@dataclass(frozen=True)
class Owner:
    """A process that holds, or held, a lock."""

    host: str
    machine: str  # with host: where a process number means the same process
    process: int
    started: int | None  # in clock ticks since boot, where /proc tells
    job: str | None  # SLURM's, and how often SLURM has restarted it
    restart: int
    token: str  # no two owners are equal

    @classmethod
    def this_process(cls) -> "Owner":
        array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
        process = _look_up(os.getpid())
        return cls(
            host=platform.node(),
            machine=_machine(),
            process=os.getpid(),
            started=process[2] if process else None,
            job=f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID"),
            restart=int(os.environ.get("SLURM_RESTART_COUNT", 0)),
            token=uuid.uuid4().hex,
        )

    def __str__(self) -> str:
        return f"{self.host}:{self.process}" + (f" (SLURM {self.job})" if self.job else "")


# What a full disk leaves, a process killed while it was writing where there are no hard links, or an editor.
UNREADABLE = Owner("unknown", "", 0, None, None, 0, "")


class Busy(Exception):
    """Another process holds the lock: ``host:pid (SLURM 12_3), last heard of 4 s ago``."""

    def __init__(self, owner: Owner, age: float) -> None:
        super().__init__(owner, age)
        self.owner, self.age = owner, age

    def __str__(self) -> str:
        return f"{self.owner}, last heard of {max(self.age, 0):.0f} s ago"


def _terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def hold(folder: Path, lost: Callable[[], None] = _terminate) -> Iterator[None]:
    """Hold the lock of a folder within the body; a missing folder is created.

    ``lost`` is called, once and from another thread, if the lock is gone: this machine slept or was cut off for so
    long that another one took over, or the folder was removed. ``lost`` must end the body.

    Raises Busy where another process holds it, OSError where the lock can neither be read nor written.
    """
    owner = Owner.this_process()
    path = _acquire(folder.absolute() / "lock", owner)
    end = threading.Event()

    def renew() -> None:
        while not end.wait(HEARTBEAT_S):
            try:
                ours = _renew(path, owner)
            except FileNotFoundError:
                ours = False
            except OSError:  # the file server is away: it is asked again
                continue
            if not ours:
                if not end.is_set():
                    lost()
                return

    heartbeat = threading.Thread(target=renew, daemon=True, name=f"heartbeat of {path}")
    try:
        heartbeat.start()
        yield
    finally:
        if os.getpid() == owner.process:  # else this is a fork of the owner
            end.set()
            if heartbeat.is_alive():
                heartbeat.join()
            with contextlib.suppress(OSError):  # then it ends with this process
                if _read(path)[0] == owner:
                    os.utime(path, (0, 0))  # needs no space on a full disk


def forget(folder: Path) -> None:
    """Remove the files of earlier holders; for the one who holds the lock."""
    locks = folder / "lock"
    last = _last(locks)
    for path in locks.glob("*.json"):
        if path.stem.isdecimal() and int(path.stem) < last:
            with contextlib.suppress(OSError):
                path.unlink()


def holder(folder: Path) -> Owner | None:
    """Who holds the lock now, or None if it is free or its owner is dead. Raises OSError if it cannot be read."""
    locks = folder / "lock"
    try:
        if not (last := _last(locks)):
            return None
        try:
            now = _now(locks)
        except OSError:  # we may only read
            now = time.time()
        held = _held(locks / f"{last}.json", now)
        return held[0] if held else None
    except (FileNotFoundError, NotADirectoryError):
        return None


def _acquire(locks: Path, owner: Owner) -> Path:
    make_folder(locks.parent)
    make_folder(locks)
    while True:
        now = _now(locks)
        last = _last(locks)
        try:
            held = _held(locks / f"{last}.json", now) if last else None
        except FileNotFoundError:  # its successor has removed it
            continue
        if held:
            raise Busy(*held)
        path = locks / f"{last + 1}.json"
        # A first heartbeat at once: between the two this process may have slept until it was taken for dead.
        if _create(path, owner) and _renew(path, owner):
            return path


def _create(path: Path, owner: Owner) -> bool:
    """Create the file, with its contents; False where another process was faster."""
    temporary = path.with_name(f".{owner.token}")
    try:
        _write(temporary, owner)
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            with contextlib.suppress(FileExistsError):
                _write(path, owner)
    finally:
        temporary.unlink(missing_ok=True)
    # NFS can report failure for a success (its answer got lost, and the repeated request finds the file), and
    # FreeBSD's success for a failure: only the contents tell.
    return _read(path)[0] == owner


def _write(path: Path, owner: Owner) -> None:
    with path.open("x", encoding="utf-8") as file:
        json.dump(asdict(owner), file)
        file.flush()
        os.fsync(file.fileno())


def _renew(path: Path, owner: Owner) -> bool:
    """A heartbeat; False where the lock is no longer the owner's."""
    os.utime(path)
    with contextlib.suppress(OSError):  # a full disk
        _now(path.parent)  # for its side effect: after a change of its own, NFS asks the server again for what is there
    return _last(path.parent) == int(path.stem) and _read(path)[0] == owner


def _read(path: Path) -> tuple[Owner, float]:
    """The owner and his last heartbeat."""
    if path.is_dir():
        return UNREADABLE, path.stat().st_mtime
    with path.open(encoding="utf-8") as file:
        heartbeat = os.fstat(file.fileno()).st_mtime  # of an open file: NFS may answer Path.stat() from its cache
        try:
            told = json.load(file)
            return UNREADABLE if wrong(told, OWNER) else Owner(**told), heartbeat
        except (ValueError, TypeError, RecursionError):
            return UNREADABLE, heartbeat


def _last(locks: Path) -> int:
    numbers = (name.removesuffix(".json") for name in os.listdir(locks) if name.endswith(".json"))
    return max((int(number) for number in numbers if number.isdecimal()), default=0)


def _now(locks: Path) -> float:
    """By the clock that sets the heartbeats, which is the file server's."""
    probe = locks / f".{uuid.uuid4().hex}"
    with probe.open("xb") as file:
        now = os.fstat(file.fileno()).st_mtime
    probe.unlink()
    return now


def _held(path: Path, now: float) -> tuple[Owner, float] | None:
    """The owner and the age of his last heartbeat; None if he has released the lock or is dead."""
    owner, heartbeat = _read(path)
    age = now - heartbeat
    return (owner, age) if heartbeat > RELEASED and _is_alive(owner, age) else None


def _is_alive(owner: Owner, age: float) -> bool:
    here = Owner.this_process()
    if (owner.host, owner.machine) == (here.host, here.machine):
        return _is_running(owner.process, owner.started)  # even if it is stopped
    if owner.job and owner.job == here.job and owner.restart < here.restart:
        return False  # SLURM starts a job again when the old run is gone
    return age < STALE_S


def _is_running(number: int, started: int | None) -> bool:
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    process = _look_up(number)
    if process is None:
        return True
    state, threads, start = process
    # A killed process is a zombie while threads of it still hold the GPU.
    return not (state == "Z" and threads == 1) and started in (None, start)


def _look_up(number: int) -> tuple[str, int, int] | None:
    """The state of a process, how many threads it has, and when it started, where /proc tells."""
    try:
        fields = Path(f"/proc/{number}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return fields[0].decode(), int(fields[17]), int(fields[19])


def _machine() -> str:
    """This boot of this machine, and the namespace of its process numbers."""
    if sys.platform == "win32":
        return uuid.uuid4().hex  # os.kill(..., 0) does not ask there, it kills: only heartbeats tell
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{uuid.getnode():x}"
