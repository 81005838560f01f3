"""Points as a SLURM job array, through submitit; each is requeued and continues after preemption or its time limit."""

import contextlib
import io
import os
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field
from rich.console import Console

from attnlab import ledger
from attnlab.errors import InputError, first_line
from attnlab.ledger import lock
from attnlab.training import loop, meeting, worker

if TYPE_CHECKING:
    from attnlab.sweep.plan import Planned
else:
    Planned = Any  # jobs import this module, and need neither PyTorch nor Hydra

Count = Annotated[int, Field(ge=1)]
SIGNAL_BEFORE_S = 120  # SLURM's word before the time limit; it may come a minute earlier
PATIENCE_S = 300
RESTARTS = 1000  # after its time limit; preemption counts for nothing
# How a point's process ends that SLURM asked to stop; by the signal itself if it was not yet listening.
ASKED_TO_STOP = (loop.PREEMPTED, -signal.SIGTERM, -signal.SIGUSR2)


def launch(
    points: Sequence[Planned],
    *,
    gpus: Literal["auto"] | Annotated[int, Field(ge=0)] = "auto",
    cpus: Count = 4,
    mem_gb: Annotated[float, Field(gt=0)] | None = None,
    time_min: Annotated[int, Field(ge=5)] = 240,
    partition: str | None = None,
    constraint: str | None = None,
    parallelism: Count = 64,
    setup: list[str] | None = None,
    options: dict[str, Any] | None = None,
    wait: bool = False,
) -> None:
    """Submit the points, those with equal needs as one array; their folders say how it went.

    A point gets ``gpus`` ("auto": one for each of its devices, none with trainer.accelerator=cpu), and ``cpus`` and
    ``mem_gb`` for each of its devices, on each of its nodes, for ``time_min`` minutes at a time. On one node it is one
    task, which starts a process a device; on several, each device is a task. ``parallelism``: points of an
    array at a time. ``setup``: shell lines before the point starts; ``options``: further options of sbatch. ``wait``:
    return when all points have ended. Raises InputError where SLURM refuses, KeyboardInterrupt after Ctrl-C while
    waiting, or if points were cancelled meanwhile.
    """
    queued = queue()
    console = Console()
    arrays: dict[tuple[int, int, int], list[Planned]] = {}
    for point in points:
        job = ledger.read_json(point.folder / "job.json").get("slurm")
        if job in queued:
            console.print(f"{point.title}  already in the queue: SLURM {job}", highlight=False, soft_wrap=True)
            continue
        if ledger.is_paused(point.folder, point.until):
            continue
        try:
            ledger.prepare(point.folder, point.config, point.overrides, point.until)
        except lock.Busy as busy:
            console.print(f"{point.title}  left to {busy}", highlight=False, soft_wrap=True)
            continue
        nodes, devices = ledger.machines(point.config), ledger.devices(point.config)
        wanted = 0 if point.config["trainer"].get("accelerator") == "cpu" else devices
        arrays.setdefault((nodes, devices, wanted if gpus == "auto" else gpus), []).append(point)
    size = _array_size() if arrays else 1
    for (nodes, devices, number), alike in arrays.items():
        tasks = 1 if nodes == 1 else devices
        resources: dict[str, Any] = {
            "nodes": nodes,
            "tasks_per_node": tasks,
            "cpus_per_task": cpus * devices // tasks,
            "timeout_min": time_min,
            "slurm_signal_delay_s": SIGNAL_BEFORE_S,
            "slurm_partition": partition,
            "slurm_constraint": constraint,
            "slurm_setup": setup or None,
            "slurm_array_parallelism": parallelism,
            "slurm_additional_parameters": {"requeue": True} | (options or {}),
            # srun takes one CPU since SLURM 22.05, unless told; a task may end long before the first.
            "slurm_srun_args": [f"--cpus-per-task={cpus * devices // tasks}", "--wait=0"],
        }
        resources |= {"mem_gb": mem_gb * devices} if mem_gb else {}
        resources |= {"gpus_per_node": number} if number else {}
        for start in range(0, len(alike), size):
            several = alike[start : start + size]
            jobs = _submit(several, {key: value for key, value in resources.items() if value is not None})
            for point, job in zip(several, jobs, strict=True):
                ledger.write_json(point.folder / "job.json", {"slurm": job})
            what = f"{len(jobs)} points, array" if len(jobs) > 1 else f"{several[0].title}, job"
            said = f"submitted to SLURM: {what} {jobs[0].partition('_')[0]}"
            console.print(said, highlight=False, markup=False, soft_wrap=True)
    if wait:
        _wait(points)


def _submit(points: Sequence[Planned], resources: dict[str, Any]) -> list[str]:
    """The jobs' ids, one a point."""
    import submitit

    study = points[0].folder.parent
    try:
        executor = submitit.AutoExecutor(study / "slurm", cluster="slurm", slurm_max_num_timeout=RESTARTS)
        executor.update_parameters(name=f"attnlab-{study.name}", **resources)
        with contextlib.redirect_stderr(io.StringIO()):  # submitit prints what it raises
            jobs = executor.map_array(Task(os.getcwd()), [str(point.folder.absolute()) for point in points])
    except (RuntimeError, ValueError, TypeError, submitit.core.utils.FailedJobError) as error:
        raise InputError(f"hydra/launcher=slurm: {first_line(error)}") from None
    return [job.job_id for job in jobs]


class Task:
    """The function that submitit runs in a job: it starts the point's process, which saves on SLURM's signals.

    SLURM signals every process of a job. The point's process takes SIGTERM (requeue, preemption, cancel) and SIGUSR2
    (time limit) for itself; submitit's takes SIGUSR2, calls ``checkpoint`` and requeues the job.
    """

    def __init__(self, cwd: str) -> None:
        self.cwd = cwd
        self.process: subprocess.Popen[bytes] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"cwd": self.cwd, "process": None}

    def __call__(self, folder: str) -> str:
        rank, ranks = _rank()
        # As many threads as the job has CPUs, even where SLURM does not bind it to them.
        threads = ranks * int(os.environ.get("SLURM_CPUS_PER_TASK", "1"))
        env = {"OMP_NUM_THREADS": str(threads), **os.environ, **(_meeting(rank, ranks) if ranks > 1 else {})}
        self.process = worker.supervise(Path(folder), env=env, cwd=self.cwd, log=meeting.log_name(rank))
        worker.wait(self.process)
        if rank:
            return f"rank {rank}: exit code {self.process.returncode}"  # rank 0 sees to the rest
        if self.process.returncode in ASKED_TO_STOP:
            end = time.monotonic() + PATIENCE_S
            while _is_running():  # until submitit or SLURM ends it: by itself, it would count as finished
                time.sleep(2)
                if time.monotonic() > end:  # it was neither of them that asked
                    subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=False)
                    end += PATIENCE_S
        else:
            worker.record_end(Path(folder), self.process.returncode)
        return ledger.state(Path(folder))

    def checkpoint(self, folder: str) -> Any:
        """Called by submitit's handler once the point has saved: returns what to run after the requeue."""
        import submitit

        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # else SLURM's next signal can kill the requeueing command
        if self.process is not None:
            self.process.send_signal(signal.SIGUSR2)  # in case it has not got SLURM's
            worker.wait(self.process)
        return submitit.helpers.DelayedSubmission(self, folder)


def _rank() -> tuple[int, int]:
    """Which of how many ranks of the point this task trains: (0, 1) on one node, where the rest is not SLURM's."""
    node, local, tasks, nodes = (
        int(os.environ.get(f"SLURM_{name}", default))
        for name, default in (("NODEID", 0), ("LOCALID", 0), ("NTASKS", 1), ("JOB_NUM_NODES", 1))
    )
    return node * (tasks // nodes) + local, tasks  # as Lightning numbers them, however SLURM distributes tasks


def _meeting(rank: int, ranks: int) -> dict[str, str]:
    """Variables for the process of one rank of several: which it is, and where they meet."""
    nodes = _ask("scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]).split()
    about = _ask("scontrol", "show", "node", nodes[0], "--oneliner")
    found = re.search(r"\bNodeAddr=(\S+)", about)  # by which SLURM itself finds the node
    address, job = found[1] if found else nodes[0], os.environ["SLURM_JOB_ID"]
    return {
        "LOCAL_RANK": os.environ["SLURM_LOCALID"],
        "NODE_RANK": os.environ["SLURM_NODEID"],
        "MASTER_ADDR": address,
        **meeting.environment(
            rank,
            ranks,
            address,
            port=15000 + int(job) % 15000,  # below those that the system hands out
            token=f"{job}.{os.environ.get('SLURM_RESTART_COUNT', 0)}",
        ),
    }


def _is_running() -> bool:
    """Whether SLURM lets this job run still: not if it is being requeued or cancelled."""
    command = ["squeue", "--noheader", "--format=%T", "--jobs", os.environ["SLURM_JOB_ID"]]
    asked = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    return asked.returncode != 0 or asked.stdout.strip() == "RUNNING"


def queue() -> set[str]:
    """Ids of this user's waiting and running jobs, those of array tasks as 12_3. Raises InputError without SLURM."""
    return set(_ask("squeue", "--me", "--noheader", "--array", "--format=%i").split())


def _cancelled(job: str | None) -> bool:
    """Whether somebody has cancelled this job, as far as SLURM still knows of it."""
    if job is None:
        return False
    with contextlib.suppress(InputError):
        return "CANCELLED" in _ask("squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job}")
    return False


def _array_size() -> int:
    """How many points an array may have."""
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", _ask("scontrol", "show", "config"))
    return max(1, int(found[1])) if found else 1000


def _ask(*command: str) -> str:
    """What a command of SLURM prints. Raises InputError without SLURM."""
    try:
        asked = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", check=True, timeout=120
        )
        return asked.stdout
    except FileNotFoundError:
        raise InputError(f"hydra/launcher=slurm: SLURM is not installed here (no {command[0]})") from None
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        said = getattr(error, "stderr", None) or str(error)
        raise InputError(f"hydra/launcher=slurm: {command[0]}: {said.strip().splitlines()[0]}") from None


def _wait(points: Sequence[Planned]) -> None:
    """Until every point has ended; what left the queue without a word has failed."""
    from attnlab.sweep.launch.display import Display  # it needs Lightning

    left, started, gone = list(points), set(), dict[Path, float]()
    with Display(points) as display:
        while left:
            try:
                queued = queue()
            except InputError as error:  # SLURM is busy or being restarted; the points run on
                display.note(str(error))
                time.sleep(30)
                continue
            for point in list(left):
                state = ledger.state(point.folder)
                if state == "running" and point.folder not in started:
                    started.add(point.folder)
                    display.started(point)
                job = ledger.read_json(point.folder / "job.json").get("slurm")
                if job in queued or lock.holder(point.folder) is not None:
                    continue
                if state not in ("done", "failed", "preempted", "paused") and not _cancelled(job):
                    if time.monotonic() - gone.setdefault(point.folder, time.monotonic()) < lock.STALE_S:
                        continue  # a file server can be late to tell
                    worker.record_end(point.folder, 1, f"SLURM job {job} ended without a result")
                left.remove(point)
                display.finished(point)
            for _ in range(10):
                display.refresh()
                time.sleep(0.5)
    if any(ledger.state(point.folder) in ("preempted", "pending") for point in points):
        raise KeyboardInterrupt
