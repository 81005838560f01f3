"""Checkpoints from which a point resumes bit-identically, and the row of metrics of each epoch."""

import logging
import math
import os
import random
import shutil
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from torchmetrics import Metric

from attnlab.data.images import Batches
from attnlab.errors import first_line
from attnlab.ledger import make_folder, put, set_aside, write_rows
from attnlab.training.lightning_insides import mark_updated, mid_accumulation
from attnlab.training.stop import Preempted, Stop

log = logging.getLogger("attnlab")
NEEDED = {"state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks", "global_step", "epoch", "ranks"}


class Checkpoints(Checkpoint):
    """Saves at the end of each epoch, every ``every_n_steps`` optimizer steps if given, and when asked to stop.

    ``folder/checkpoints/step-<global step>.ckpt``: weights, optimizer, scheduler, loops, random states and the rows of
    ``metrics.csv``. The last two are kept, and those of the best epoch: the first with the highest validation metric
    ``monitor``, or with the lowest loss. Training ends when ``until`` epochs are saved: the point is ``paused``.
    """

    def __init__(
        self,
        folder: Path,
        stop: Stop,
        every_n_steps: int | None = None,
        monitor: str = "accuracy",
        clock: Callable[[], float] = time.perf_counter,
        until: int | None = None,
    ) -> None:
        self.folder, self.stop, self.every_n_steps, self.monitor = folder, stop, every_n_steps, monitor
        self.until, self.paused = until, False
        self.rows: list[dict[str, Any]] = []
        self.seconds_before = 0.0
        self.clock, self.started = clock, clock()
        self.states: dict[str, Any] | None = None
        self.saved = False

    @property
    def best(self) -> dict[str, Any]:
        """The row of the best epoch."""
        return best_row(self.rows, self.monitor)

    @property
    def seconds(self) -> float:
        """Time spent on the point, in all attempts that led here."""
        return self.seconds_before + self.clock() - self.started

    def path(self, step: int) -> Path:
        return self.folder / "checkpoints" / f"step-{step:08d}.ckpt"

    def on_test_start(self, trainer: Any, module: Any) -> None:
        self.stop.listen()

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self.stop.listen()
        if trainer.is_global_zero:
            write_rows(self.folder / "metrics.csv", self.rows)
        if self.states is not None:
            restore_states(self.states, trainer, module)
            if isinstance(trainer.train_dataloader, Batches):  # Lightning forgets it in the first epoch
                trainer.train_dataloader.load_state_dict(self.states["batches"])
        self.stop.training = True

    def on_train_end(self, trainer: Any, module: Any) -> None:
        self.stop.training = False

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if mid_accumulation(trainer) or trainer.is_last_batch:
            return  # gradients are not saved; the end of the epoch saves itself
        stopping = self._stopping(trainer)
        if stopping or (self.every_n_steps and trainer.global_step % self.every_n_steps == 0):
            self.save(trainer)
        if stopping:
            raise Preempted(self.stop.asked)

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        values = {key: float(value) for key, value in trainer.callback_metrics.items() if not key.startswith("test/")}
        row = {"epoch": trainer.current_epoch, "step": trainer.global_step, **values}
        self.rows.append(row)
        if trainer.is_global_zero:
            write_rows(self.folder / "metrics.csv", self.rows)
        for logger in trainer.loggers:
            logger.log_metrics(values | {"epoch": row["epoch"]}, step=row["step"])
        self.save(trainer)
        if trainer.current_epoch + 1 >= trainer.max_epochs:
            return
        self.paused = _any_rank(trainer, self.until is not None and len(self.rows) >= self.until)
        if self.paused:
            trainer.should_stop = True
        elif self._stopping(trainer):
            raise Preempted(self.stop.asked)

    def _stopping(self, trainer: Any) -> bool:
        return _any_rank(trainer, self.stop.asked is not None)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows, self.seconds_before = list(state["rows"]), state["seconds"]

    def on_save_checkpoint(self, trainer: Any, module: Any, checkpoint: dict[str, Any]) -> None:
        mine = save_states(trainer, module)
        if isinstance(trainer.train_dataloader, Batches):
            mine["batches"] = trainer.train_dataloader.state_dict()
        checkpoint["ranks"] = [mine]
        if trainer.world_size > 1:
            checkpoint["ranks"] = [None] * trainer.world_size
            dist.all_gather_object(checkpoint["ranks"], mine)

    def on_load_checkpoint(self, trainer: Any, module: Any, checkpoint: dict[str, Any]) -> None:
        ranks = checkpoint["ranks"]
        if len(ranks) != trainer.world_size:
            log.warning("saved by %s processes, now there are %s", len(ranks), trainer.world_size)
        self.states = ranks[trainer.global_rank if trainer.global_rank < len(ranks) else 0]

    def save(self, trainer: Any) -> None:
        """Write atomically; then delete what is no longer needed. Called by all ranks."""
        path = self.path(trainer.global_step)
        temporary = path.with_suffix(".tmp")
        trainer.save_checkpoint(temporary, weights_only=False)
        if trainer.is_global_zero:
            if not self.saved:  # what cannot be loaded must be found out now, not when it is needed
                torch.load(temporary, map_location="cpu", weights_only=True)
            self.saved = True
            sync(temporary)
            put(temporary, path)
            sync(path.parent)
            needed = {self.path(best_row(rows, self.monitor)["step"]) for rows in (self.rows, self.rows[:-1]) if rows}
            for old in saved(self.folder)[2:]:
                if old not in needed:
                    old.unlink()
        trainer.strategy.barrier()

    def keep_best_and_last(self) -> None:
        """Write ``best.ckpt`` and ``last.ckpt`` of a finished point, and its metrics.csv if that was set aside."""
        write_rows(self.folder / "metrics.csv", self.rows)
        for name, step in (("best", self.best["step"]), ("last", self.rows[-1]["step"])):
            path = self.folder / "checkpoints" / f"{name}.ckpt"
            shutil.copyfile(self.path(step), path.with_suffix(".tmp"))
            sync(path.with_suffix(".tmp"))
            put(path.with_suffix(".tmp"), path)
        sync(path.parent)

    def delete_steps(self) -> None:
        """Delete the checkpoints that only an unfinished point needs."""
        for path in (self.folder / "checkpoints").glob("step-*"):
            if path.suffix != ".damaged":
                path.unlink()


def _any_rank(trainer: Any, wants: bool) -> bool:
    """Whether any rank wants to stop: all ranks must leave together."""
    return trainer.strategy.reduce_boolean_decision(wants, all=False)


class InPlace(TorchCheckpointIO):
    """Writes directly to the given path; Lightning's own writes to $TMPDIR first, which may be small or in memory."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        make_folder(Path(path).parent)
        torch.save(checkpoint, path)


def best_row(rows: list[dict[str, Any]], monitor: str = "accuracy") -> dict[str, Any]:
    """The first row with the highest validation metric, or the lowest loss; NaN is worse than any number."""

    def goodness(row: dict[str, Any]) -> float:
        value = row[f"val/{monitor}"]
        return -math.inf if math.isnan(value) else -value if monitor == "loss" else value

    return max(rows, key=goodness)


def saved(folder: Path) -> list[Path]:
    """The checkpoints, the newest first."""
    return sorted((folder / "checkpoints").glob("step-*.ckpt"), reverse=True)


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint; damaged ones are set aside, with a warning.

    Raises OSError where a file cannot be read now: it may be whole.
    """
    if not saved(folder):
        _bring_back(folder)
    return next(_whole(saved(folder)), None)


def finished_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of the epochs that the point can go on after: those of its newest whole checkpoint."""
    path = latest(folder)
    if path is None:
        return []
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)  # reads no weights
    return list(content["callbacks"][Checkpoints.__qualname__]["rows"])


def _whole(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if damage := _damage(path):
            set_aside(path, f"{path.name} is damaged ({damage}), going on without it")
        else:
            yield path


def _bring_back(folder: Path) -> None:
    """What a finished point has kept, as it was before: its training need not be repeated if a record was damaged."""
    kept = [path for name in ("best", "last") if (path := folder / "checkpoints" / f"{name}.ckpt").exists()]
    if len(list(_whole(kept))) < 2:
        return
    for path in kept:
        step = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"]
        temporary = path.with_name(f"step-{step:08d}.tmp")
        shutil.copyfile(path, temporary)
        os.replace(temporary, temporary.with_suffix(".ckpt"))


def _damage(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            if wrong := archive.testzip():
                return wrong
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)  # reads no weights
    except IsADirectoryError:
        return "a folder"
    except OSError:
        raise
    except Exception as error:  # whatever zipfile, zlib and pickle make of any bytes
        return f"{type(error).__name__}: {first_line(error)}"
    return "" if isinstance(content, dict) and content.keys() >= NEEDED else "it is not a checkpoint of a point"


def save_states(trainer: Any, module: Any) -> dict[str, Any]:
    """This rank's random states, and the metrics of the epoch so far; plain values and tensors."""
    return {
        **random_states(trainer.strategy.root_device),
        "metrics": {key: dict(metric.metric_state) for key, metric in _metrics(module)},
    }


def random_states(device: torch.device) -> dict[str, Any]:
    """This process's random states, those of the device included; plain values and tensors."""
    name, keys, *position = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (name, np.asarray(keys).tolist(), *position),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def set_random_states(states: dict[str, Any], device: torch.device) -> None:
    """What ``random_states`` returned."""
    version, keys, gauss = states["python"]
    random.setstate((version, tuple(keys), gauss))
    np.random.set_state(tuple(states["numpy"]))
    torch.set_rng_state(states["torch"].cpu())
    if states["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)


def restore_states(states: dict[str, Any], trainer: Any, module: Any) -> None:
    """What ``save_states`` saved."""
    device = trainer.strategy.root_device
    set_random_states(states, device)
    for key, metric in _metrics(module):
        for name, value in states["metrics"][key].items():
            setattr(metric, name, value.to(device))
        mark_updated(metric)


def _metrics(module: Any) -> list[tuple[str, Metric]]:
    """Metrics that are accumulated over an epoch of training."""
    return [(key, child) for key, child in module.named_children() if isinstance(child, Metric)]


def sync(path: Path) -> None:
    """Have the file system write a file or folder out."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
