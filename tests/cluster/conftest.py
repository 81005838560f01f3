"""A real SLURM of two nodes on this machine. It lives in a temporary folder, on free ports; nothing in /etc changes."""

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

FINAL = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "OUT_OF_MEMORY"}
# cred_expire is also how long a requeued job waits before it starts again: 120 s by default, 5 s at least.
# config_overrides: a node may have more CPUs than the machine. MinJobAge: finished jobs stay listed.
# JobRequeue=0 and the small MaxArraySize: as on a cluster that is hard to please.
CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
MessageTimeout=30
MinJobAge=3600
ReturnToService=2
JobRequeue=0
MaxArraySize=4
KillWait=30
OverTimeLimit=0
NodeName=one NodeHostname={host} NodeAddr=127.0.0.1 Port={one} CPUs={cpus}
NodeName=two NodeHostname={host} NodeAddr=127.0.0.1 Port={two} CPUs={cpus}
PartitionName=main Nodes=one,two Default=YES MaxTime=INFINITE
"""


class Slurm:
    """env is what a process needs in its environment to use this SLURM; its jobs inherit it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {"SLURM_CONF": str(folder / "slurm.conf")}
        self.daemons: list[subprocess.Popen[bytes]] = []

    def run(self, *command: str | Path) -> str:
        """What a command of SLURM prints."""
        done = subprocess.run(command, env={**os.environ, **self.env}, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout.strip()

    def queue(self) -> dict[str, str]:
        """The state of every job, finished ones too; the tasks of an array are 12_0, 12_1."""
        lines = self.run("squeue", "--noheader", "--array", "--states=all", "--format=%i %T").splitlines()
        return dict(line.split() for line in lines)

    def wait(self, job_ids: Iterable[str | int], timeout: float = 120) -> dict[str, str]:
        """The final states of these jobs; the id of an array means all its tasks."""
        ids = {str(job_id) for job_id in job_ids}
        states: dict[str, str] = {}

        def finished() -> bool:
            states.update({job: state for job, state in self.queue().items() if {job, job.split("_")[0]} & ids})
            return bool(states) and set(states.values()) <= FINAL

        self.until(finished, lambda: f"jobs {sorted(ids)} are not finished: {states}", timeout)
        return states

    def until(self, condition: Callable[[], bool], problem: Callable[[], str], timeout: float = 60) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"{problem()} (after {timeout} s)\n{self.logs()}"
            time.sleep(0.2)

    def logs(self) -> str:
        """The last lines of each daemon."""
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join("\n".join([f"{log.name}:", *log.read_text().splitlines()[-20:]]) for log in logs)

    def start(self) -> None:
        (self.folder / "state").mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o600)
        ports = dict(zip(("controller", "one", "two"), free_ports(3), strict=True))
        host, cpus = socket.gethostname().split(".")[0], max(4, os.cpu_count() or 1)
        (self.folder / "slurm.conf").write_text(CONFIG.format(folder=self.folder, host=host, cpus=cpus, **ports))
        files = [f"--{file}-file={self.folder}/munge.{file}" for file in ("key", "seed", "pid")]
        # --force: munged wants a socket that every user can reach, but the folder is root's own.
        self.daemon("munged", "--foreground", "--force", f"--socket={self.folder}/munge.socket", *files)
        self.until((self.folder / "munge.socket").exists, lambda: "munged does not start")
        self.daemon("slurmctld", "-D")
        for node in ("one", "two"):
            self.daemon("slurmd", "-D", "-N", node)
        self.until(self.idle, lambda: "the nodes do not become idle")

    def daemon(self, *command: str) -> None:
        with (self.folder / f"{command[0]}.log").open("a") as log:
            env = {**os.environ, **self.env}
            self.daemons.append(subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log))

    def idle(self) -> bool:
        ended = [daemon.args for daemon in self.daemons if daemon.poll() is not None]
        assert not ended, f"{ended} ended\n{self.logs()}"
        with suppress(AssertionError):
            return self.run("sinfo", "--noheader", "--format=%D %T") == "2 idle"
        return False

    def stop(self) -> None:
        for daemon in reversed(self.daemons):
            daemon.kill()
            daemon.wait()
        kill(os.getpid())


def free_ports(count: int = 2) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def processes() -> Iterator[tuple[int, int]]:
    """(session, process) of every daemon and job of a SLURM that a test session started: SLURM_CONF names the session.

    Jobs are no children of ours, and outlive slurmd.
    """
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            environ = Path("/proc", name, "environ").read_bytes()
            if int(name) != os.getpid() and (found := re.search(rb"SLURM_CONF=[^\0]*/slurm-of-(\d+)/", environ)):
                yield int(found[1]), int(name)


def kill(session: int) -> None:
    deadline = time.monotonic() + 10
    while found := [process for owner, process in processes() if owner == session]:
        assert time.monotonic() < deadline, f"processes {found} of SLURM do not end"
        for process in found:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.1)


def installed() -> None:
    """Install SLURM where it is missing and can be installed; skip where it cannot."""
    if os.geteuid() != 0:
        pytest.skip("a SLURM of our own needs root")
    if all(map(shutil.which, ("sbatch", "slurmctld", "slurmd", "munged"))):
        return
    if not shutil.which("apt-get"):
        pytest.skip("SLURM and munge are not installed, and there is no apt-get to install them")
    for arguments in (["update"], ["install", "-y", "--no-install-recommends", "slurm-wlm", "munge"]):
        done = subprocess.run(
            ["apt-get", *arguments],
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode != 0:
            pytest.skip(f"SLURM is not installed, and apt-get {arguments[0]} failed:\n{done.stdout[-3000:]}")


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """A SLURM that runs while the tests run; they put slurm.env into the environment of what they start."""
    installed()
    if subprocess.run(["sinfo"], capture_output=True, timeout=120).returncode == 0:
        pytest.skip("a SLURM runs here already; these tests start their own")
    for session in {session for session, _ in processes()}:
        if not Path("/proc", str(session)).exists():  # a session that was killed
            kill(session)
    slurm = Slurm(tmp_path_factory.mktemp(f"slurm-of-{os.getpid()}", numbered=False))
    try:
        slurm.start()
        yield slurm
    finally:
        slurm.stop()
