"""A point's last line in the terminal."""

from pathlib import Path

from rich.markup import escape

from attnlab import ledger


def outcome(point: Path, title: str, shows_test: bool = True) -> str:
    """A point's last line, as Rich markup; without its test results unless ``shows_test``."""
    read = ledger.read_point(point)
    if read.state == "done":
        val, times = (read.result.get(key) or {} for key in ("val", "times"))
        parts = []
        for metric in dict.fromkeys(
            ("accuracy", (read.about["identity"].get("trainer") or {}).get("monitor", "accuracy"))
        ):
            words = [
                f"{name} {_shown(metric, values[metric])}"
                for name, values in (("test", read.result["test"]), ("val", val))
                if metric in values and (shows_test or name != "test")
            ]
            parts += words if metric == "accuracy" else [f"{metric.replace('_', ' ')}: {'  '.join(words)}"]
        parts += [f"{times['total_s']:.0f} s"] if "total_s" in times else []
        return f"[green]✓[/green] {escape(title)}  {'  '.join(parts)}"
    if read.state == "failed":
        return f"[red]✗[/red] {escape(title)}  {escape(read.status.get('error') or '')}"
    if read.state == "paused":
        return f"[blue]‖[/blue] {escape(title)}  paused {read.paused}{_accuracy_now(point)}"
    return f"[yellow]‖[/yellow] {escape(title)}  {escape(read.damage or read.state)}"


def _accuracy_now(point: Path) -> str:
    accuracy = ledger.read_json(point / "progress.json").get("val_accuracy")
    return "" if accuracy is None else f"  val {100 * accuracy:.1f} %"


def _shown(metric: str, value: float) -> str:
    return f"{value:.3f}" if metric == "loss" else f"{100 * value:.1f} %"
