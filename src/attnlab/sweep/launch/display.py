"""A sweep in the terminal: a line for each point that runs, and one bar for the whole."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from attnlab.ledger import read_json
from attnlab.sweep.launch.outcomes import outcome
from attnlab.sweep.plan import Planned


class Display:
    """Shows a line for each point; without a terminal, only those of finished points."""

    def __init__(self, points: Sequence[Planned]) -> None:
        console = Console()
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[how_far]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.running: dict[Any, Planned] = {}
        self.total = self.bars.add_task(f"{len(points)} points", total=len(points), how_far=f"0/{len(points)}")

    def __enter__(self) -> "Display":
        self.bars.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.bars.stop()

    def started(self, point: Planned) -> None:
        self.running[self.bars.add_task(escape(point.title), total=None, how_far="starting")] = point

    def refresh(self) -> None:
        """Update the progress of the running points."""
        for task, point in self.running.items():
            now = read_json(point.folder / "progress.json")
            if now:
                accuracy = f"  val {100 * now['val_accuracy']:.1f} %" if now.get("val_accuracy") is not None else ""
                how_far = f"epoch {now['epoch']}/{now['epochs']}{accuracy}"
                self.bars.update(task, total=now["steps"], completed=now["step"], how_far=how_far)

    def ended(self, point: Planned) -> None:
        """The point's process has ended; it may be started again."""
        for task in [task for task, other in self.running.items() if other is point]:
            self.bars.remove_task(task)
            del self.running[task]

    def finished(self, point: Planned) -> None:
        """The point is done, has failed, or was stopped."""
        self.ended(point)
        self.bars.advance(self.total)
        done = int(self.bars.tasks[0].completed)
        self.bars.update(self.total, how_far=f"{done}/{self.bars.tasks[0].total:.0f}")
        self.bars.console.print(outcome(point.folder, point.title, point.shows_test), highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        self.bars.console.print(f"[dim]{escape(text)}[/dim]", highlight=False, soft_wrap=True)

    def stopping(self, again: bool) -> None:
        self.note("killing the points" if again else "stopping: the points save their state (Ctrl-C again kills them)")
