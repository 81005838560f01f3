"""Commands of attnlab in processes that have imported everything already: forks of a server that has done nothing else.

A fresh process imports PyTorch, Lightning, Hydra and more for some seconds; here all workers of pytest pay that once.
A command runs as ``python -m attnlab.cli`` does, in a session, a folder and an environment of its own. The fork server
of a sweep is a fork, too. What is about the start itself wants a fresh process.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import json
import multiprocessing.util
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from multiprocessing.util import spawnv_passfds
from pathlib import Path
from typing import Any

HEAVY = (
    *("lightning.pytorch", "matplotlib.pyplot", "scipy.stats", "wandb", "hydra", "rich.console"),
    *("sklearn.datasets", "sklearn.model_selection"),  # for each point on the digits
    "wandb.sdk.launch",  # for each of W&B's runs; behind an exec, pydantic looks for its sources for 4 s
    *("attnlab.cli.networks", "attnlab.study", "attnlab.sweep.launch.preload", "attnlab.sweep.table"),
)


class Process:
    """The part of subprocess.Popen that the tests use."""

    def __init__(self, status: int) -> None:
        self._status = status  # a pipe: its process id, and in the end its exit code
        self.returncode: int | None = None
        self.pid = int(self._line())

    def _line(self) -> str:
        line = ""
        while not line.endswith("\n"):
            line += os.read(self._status, 1).decode() or "-9\n"  # without a server, nothing
        return line

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("attnlab", timeout or 0)
            self.returncode = int(self._line())
            os.close(self._status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start(argv: Sequence[str], cwd: Path, env: Mapping[str, str], stdout: int, stderr: int) -> Process:
    """``attnlab <argv>``, in a session of its own, with nothing to read."""
    request = json.dumps({"argv": list(argv), "cwd": str(cwd), "env": dict(env)})
    ours, theirs = os.pipe()
    socket.send_fds(server(), [request.encode()], [stdout, stderr, theirs])
    os.close(theirs)
    return Process(ours)


@functools.cache
def server() -> socket.socket:
    """The one in the folder $ATTNLAB_WARM, which the workers of pytest share; it ends with the last of them."""
    folder = Path(os.environ.get("ATTNLAB_WARM") or tempfile.mkdtemp(prefix="attnlab-"))
    ours, deadline = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET), time.monotonic() + 60
    while True:
        try:
            ours.connect(str(folder / "socket"))
            return ours
        except (FileNotFoundError, ConnectionRefusedError):
            if time.monotonic() > deadline:
                raise
            _start_server(folder)


def _start_server(folder: Path) -> None:
    """Unless another process has."""
    folder.mkdir(mode=0o700, exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        try:
            listening.bind(str(folder / "socket"))
        except OSError:  # it will listen at once
            time.sleep(0.01)
            return
        listening.listen()
        with (folder / "errors").open("ab") as errors:  # whoever waits for the end of ours must not wait for its end
            subprocess.Popen(
                [sys.executable, __file__, str(listening.fileno())],
                pass_fds=[listening.fileno()],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )


def _serve(listening: socket.socket) -> dict[str, Any]:
    """Returns a request, in a process that is for it."""
    clients = [listening.accept()[0]]
    while clients:
        ready = select.select([listening, *clients], [], [])[0]
        if listening in ready:
            clients.append(listening.accept()[0])
        for client in clients.copy():
            if client not in ready:
                continue
            message, fds, *_ = socket.recv_fds(client, 1 << 20, 3)
            if not message:
                clients.remove(client)
                client.close()
            elif os.fork() == 0:
                for each in (listening, *clients):
                    each.close()
                return _in_a_process(json.loads(message), *fds)
            for fd in fds:
                os.close(fd)
        while _reap():  # who watched the commands before
            pass
    folder = Path(listening.getsockname()).parent
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


def _reap() -> bool:
    with contextlib.suppress(ChildProcessError):
        return os.waitpid(-1, os.WNOHANG)[0] > 0
    return False


def _in_a_process(request: dict[str, Any], *fds: int) -> dict[str, Any]:
    """This one waits for it."""
    *outputs, status = fds
    if command := os.fork():
        for fd in outputs:
            os.close(fd)
        os.write(status, f"{command}\n".encode())
        code = os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])
        with contextlib.suppress(BrokenPipeError):
            os.write(status, f"{code}\n".encode())
        os._exit(0)
    os.close(status)
    os.setsid()
    for number, fd in enumerate(outputs, 1):
        os.dup2(fd, number)
        os.close(fd)
    return request


def _spawn(path: bytes, arguments: Sequence[str], passed: Sequence[int]) -> int:
    """In place of multiprocessing's own: its fork server need not import everything again."""
    code = arguments[-1]
    if "forkserver" not in code:
        return spawnv_passfds(path, arguments, passed)
    if pid := os.fork():
        return pid
    first = 3
    for fd in sorted(passed):
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))
    try:
        exec(code, {"__name__": "__main__"})
    finally:
        os._exit(0)


def _import_everything() -> None:
    gc.disable()  # nothing of this is garbage
    for name in HEAVY:
        importlib.import_module(name)
    import torch
    from wandb.sdk.data_types._private import MEDIA_TMP

    torch.set_num_threads(1)
    MEDIA_TMP._finalizer.detach()  # type: ignore[attr-defined]  # else the first fork to end removes it for all
    assert len(os.listdir("/proc/self/task")) == 1  # or a fork would lack the others
    gc.freeze()  # else each fork would look at all of it, and so copy it
    gc.enable()


def _run(request: dict[str, Any], own_path: list[str]) -> None:
    from wandb.sdk.data_types._private import MEDIA_TMP

    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.argv[1:] = request["argv"]
    sys.path[:] = [request["cwd"], *_python_path(), *own_path]
    MEDIA_TMP.name = tempfile.mkdtemp("wandb-media")  # W&B's, which the end of the command removes
    multiprocessing.util.spawnv_passfds = _spawn
    runpy.run_module("attnlab.cli", run_name="__main__", alter_sys=True)


def _python_path() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def _leave() -> None:
    """Without taking apart, one by one, the thousands of objects that were imported."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


if __name__ == "__main__":
    exit_code = 1  # of an error
    atexit.register(_leave)  # first, so that it comes last
    source = str(Path(__file__).parents[1] / "src")  # of the checkout, whether PYTHONPATH or the installation names it
    own_path = [path for path in sys.path[1:] if path not in _python_path() or path == source]
    _import_everything()
    try:
        _run(_serve(socket.socket(fileno=int(sys.argv[1]))), own_path)
    except SystemExit as end:
        exit_code = end.code
