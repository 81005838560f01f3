"""A point's progress: its live line in the terminal, and progress.json for other processes."""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback, ProgressBar
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from attnlab.ledger import put


class PointProgress(ProgressBar):
    """One Rich bar over all training steps of a point, with the epoch and the last validation accuracy.

    Draws nothing unless the output is a terminal.
    """

    def __init__(self, title: str) -> None:
        super().__init__()
        console = Console()
        self.accuracy = ""
        self.bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task(title, total=None)
        self.title = title

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self.bar.update(self.task, total=trainer.estimated_stepping_batches)
        self.bar.start()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        self.bar.update(self.task, completed=trainer.global_step, description=f"{self.title}  {epoch}{self.accuracy}")

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        accuracy = trainer.callback_metrics.get("val/accuracy")
        if accuracy is not None:
            self.accuracy = f"  val {100 * float(accuracy):.1f} %"

    @contextlib.contextmanager
    def bar_stopped(self) -> Iterator[None]:
        """Remove the bar after the body, even if the body raises."""
        try:
            yield
        finally:
            self.bar.stop()


class ProgressFile(Callback):
    """``progress.json``: epoch, step, total steps and last validation accuracy.

    Written at most every ``every_s`` seconds, and after each epoch.
    """

    def __init__(self, folder: Path, every_s: float = 1.0) -> None:
        self.path, self.every_s, self.written = folder / "progress.json", every_s, 0.0

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self._write(trainer)

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if time.monotonic() - self.written > self.every_s:
            self._write(trainer)

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        self._write(trainer)

    def _write(self, trainer: Any) -> None:
        if not trainer.is_global_zero:
            return
        self.written = time.monotonic()
        accuracy = trainer.callback_metrics.get("val/accuracy")
        value = {
            "epoch": trainer.current_epoch + 1,
            "epochs": trainer.max_epochs,
            "step": trainer.global_step,
            "steps": int(trainer.estimated_stepping_batches),
            "val_accuracy": None if accuracy is None else float(accuracy),
        }
        temporary = self.path.with_name(".progress.json")
        temporary.write_text(json.dumps(value), encoding="utf-8")
        put(temporary, self.path)  # no fsync: it serves only while the point runs
