"""Points as Ray tasks, on this machine or on a cluster with a shared file system."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from attnlab import ledger
from attnlab.errors import InputError, first_line
from attnlab.ledger import lock
from attnlab.training import worker

if TYPE_CHECKING:
    from attnlab.sweep.plan import Planned
else:
    Planned = Any  # tasks import this module, and need neither PyTorch nor Hydra

Amount = Annotated[float, Field(ge=0)]
PASSED_ON = ("ATTNLAB_", "WANDB_", "PYTHONPATH", "OMP_NUM_THREADS")  # to nodes that this process did not start


def launch(
    points: Sequence[Planned],
    *,
    address: str | None = None,
    gpus: Literal["auto"] | Amount = "auto",
    cpus: Amount = 1,
    num_gpus: Annotated[int, Field(ge=0)] | None = None,
) -> None:
    """Train the points; their folders say how it went. Raises KeyboardInterrupt after Ctrl-C, once all have saved.

    ``address`` of a running cluster, "auto" or the environment's RAY_ADDRESS; else a Ray of its own with ``num_gpus``
    GPUs. A point takes ``gpus`` (a fraction lets points share one; "auto": 1 where Ray has any) and ``cpus`` for each
    of its devices. If a point's node dies, Ray starts it again elsewhere, and it continues. Raises InputError if there
    is no such Ray, or if it is too small.
    """
    import ray

    from attnlab.sweep.launch.display import Display  # it needs Lightning

    address = address or os.environ.get("RAY_ADDRESS")
    own: dict[str, Any] = {} if address else {"num_gpus": num_gpus}
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False, include_dashboard=False, **own)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise InputError(f"hydra/launcher=ray: {first_line(error)}") from None
    passed_on = {key: value for key, value in os.environ.items() if key.startswith(PASSED_ON)}
    tasks: dict[Any, Planned] = {}
    started: set[Path] = set()
    stopped = False
    try:
        here = ray.cluster_resources()
        if gpus == "auto":
            gpus = 1 if here.get("GPU") else 0
        most = max(ledger.devices(point.config) for point in points)
        if not address and (cpus * most > here.get("CPU", 0) or gpus * most > here.get("GPU", 0)):
            wanted = f"{cpus * most:g} CPUs and {gpus * most:g} GPUs"
            raise InputError(
                f"hydra/launcher=ray: a point needs {wanted}, Ray has {here.get('CPU', 0):g} and {here.get('GPU', 0):g}"
            )
        remote = ray.remote(max_calls=1, max_retries=3)(_train)  # a process for each point
        with Display(points) as display:
            for point in points:
                if ledger.is_paused(point.folder, point.until):
                    display.finished(point)
                    continue
                try:
                    ledger.prepare(point.folder, point.config, point.overrides, point.until)
                except lock.Busy as busy:
                    display.note(f"{point.title}  left to {busy}")
                    continue
                devices = ledger.devices(point.config)
                one = remote.options(num_cpus=cpus * devices, num_gpus=gpus * devices, name=point.title)
                tasks[one.remote(str(point.folder.absolute()), os.getcwd(), passed_on)] = point
            while tasks:
                try:
                    ended, _ = ray.wait(list(tasks), timeout=0.5)
                    for point in tasks.values():
                        state = ledger.read_json(point.folder / "status.json").get("state")
                        if point.folder not in started and state == "running":
                            started.add(point.folder)
                            display.started(point)
                    display.refresh()
                    for task in ended:
                        point = tasks.pop(task)
                        try:
                            ray.get(task)
                        except ray.exceptions.RayError as error:
                            if not stopped:
                                worker.record_end(point.folder, 1, f"Ray: {type(error).__name__}")
                        display.finished(point)
                except KeyboardInterrupt:
                    display.stopping(again=stopped)
                    for task in tasks:
                        ray.cancel(task, force=stopped)
                    stopped = True
    finally:
        ray.shutdown()
    if stopped:
        raise KeyboardInterrupt


def _train(folder: str, cwd: str, env: dict[str, str]) -> None:
    """In a process of Ray's, which has chosen the GPUs: the point's own process, and what becomes of it."""
    process = worker.supervise(Path(folder), env={**os.environ, **env}, cwd=cwd)
    try:
        worker.wait(process)
    except KeyboardInterrupt:  # Ray's way to cancel
        process.terminate()
        worker.wait(process)
    worker.record_end(Path(folder), process.returncode)
