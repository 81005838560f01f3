"""A point's last line in the terminal."""

from pathlib import Path

from rich.markup import escape

from attnlab import ledger


def outcome(point: Path, title: str) -> str:
    """A point's last line, as Rich markup."""
    read = ledger.read_point(point)
    if read.state == "done":
        parts = [f"test {100 * read.result['test']['accuracy']:.1f} %"]
        val, times = (read.result.get(key) or {} for key in ("val", "times"))
        parts += [f"val {100 * val['accuracy']:.1f} %"] if "accuracy" in val else []
        parts += [f"{times['total_s']:.0f} s"] if "total_s" in times else []
        return f"[green]✓[/green] {escape(title)}  {'  '.join(parts)}"
    if read.state == "failed":
        return f"[red]✗[/red] {escape(title)}  {escape(read.status.get('error') or '')}"
    return f"[yellow]‖[/yellow] {escape(title)}  {escape(read.damage or read.state)}"
