"""A drawing of where attention sits in a network, as lines of text."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from attnlab.insertion.sites import Site

# The order in which an image meets the places of a block.
FLOW = ("pre", "unit", "depthwise", "branch", "shortcut", "block", "stage")


def draw(sites: Sequence[Site], marks: Mapping[Site, str]) -> list[str]:
    """One line per block, from the input to the last stage; equal blocks of a stage share a line.

    ``○`` is a place for attention, unless ``marks`` has another sign for it; ``(+)`` is where a block's branches meet.
    """
    rows = _rows_of_drawing(sites, marks)
    for row in rows:
        if "branch" in row.cells:
            row.cells["shortcut"] = f"(+ {row.cells['shortcut']})" if "shortcut" in row.cells else "(+)"
    aligned = [row.cells for row in rows if row.blocks]
    wide = {role: max(len(cells.get(role, "")) for cells in aligned) for role in FLOW} if aligned else {}
    lines = []
    for row in rows:
        cells = {role: row.cells.get(role, "") for role in FLOW if wide[role]} if row.blocks else row.cells
        steps = [
            (text and f"{text} ").ljust((wide[role] if row.blocks else len(text)) + 1, "─")
            for role, text in cells.items()
        ]
        lines.append((row.title, row.size, row.blocks, "─ ".join(steps).rstrip(" ─")))
    left = [max(len(line[i]) for line in lines) for i in range(3)]
    return ["  ".join([*(text.ljust(n) for text, n in zip(line, left, strict=False)), line[3]]) for line in lines]


@dataclass(frozen=True)
class _Row:
    title: str  # stem, stage 1, ...
    size: str  # H×W×C at the end of the stage
    blocks: str
    cells: dict[str, str]  # role -> what is drawn for it


def _rows_of_drawing(sites: Sequence[Site], marks: Mapping[Site, str]) -> list[_Row]:
    rows: list[_Row] = []
    for stage, of_stage in itertools.groupby(sorted(sites, key=lambda s: s.stage), key=lambda s: s.stage):
        drawn_of: dict[int | None, dict[str, str]] = {}
        for site in of_stage:
            of_block = drawn_of.setdefault(site.block, {})
            of_block[site.role] = of_block.get(site.role, "") + marks.get(site, "○")
        cells = {block: {role: f"{m} {role}" for role, m in of_block.items()} for block, of_block in drawn_of.items()}
        end = cells.pop(None, {})
        title, size = f"stage {stage}" if stage else "stem", f"{site.height}×{site.width}×{site.channels}"
        for drawn, equal in itertools.groupby(cells, key=cells.__getitem__):
            numbers = list(equal)
            many = f"blocks {numbers[0]}–{numbers[-1]} (× {len(numbers)})"
            rows.append(_Row(title, size, many if len(numbers) > 1 else f"block {numbers[0]}", dict(drawn)))
            title = size = ""
        if cells and not rows[-1].cells.keys() & end.keys():
            rows[-1].cells.update(end)
        elif end:
            rows.append(_Row(title, size, "", end))
    return rows
