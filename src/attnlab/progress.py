"""A point's live line in the terminal."""

import contextlib
from collections.abc import Iterator
from typing import Any

from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn


class PointProgress(ProgressBar):
    """One Rich bar over all training steps of a point, with the epoch and the last validation accuracy.

    Nothing is drawn where the output is no terminal.
    """

    def __init__(self, title: str, console: Console) -> None:
        super().__init__()
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
        """Whatever happens in the body, the bar is gone afterwards."""
        try:
            yield
        finally:
            self.bar.stop()
