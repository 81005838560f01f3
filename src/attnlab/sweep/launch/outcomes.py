"""A point's last line in the terminal."""

from pathlib import Path

from rich.markup import escape

from attnlab import ledger


def outcome(point: Path, title: str) -> str:
    """A point's line, as Rich markup, when there is nothing more to do for it."""
    state = ledger.state(point)
    if state == "done":
        result = ledger.read_json(point / "result.json")
        accuracy = f"test {100 * result['test']['accuracy']:.1f} %  val {100 * result['val']['accuracy']:.1f} %"
        return f"[green]✓[/green] {escape(title)}  {accuracy}  {result['times']['total_s']:.0f} s"
    if state == "failed":
        return f"[red]✗[/red] {escape(title)}  {escape(ledger.read_json(point / 'status.json')['error'])}"
    return f"[yellow]‖[/yellow] {escape(title)}  {state}"
