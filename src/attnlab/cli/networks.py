"""attnlab sites and attnlab cost: where attention can go in a backbone, and what it costs there."""

import itertools
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import nn

from attnlab.config import schema
from attnlab.config.build import build_data, build_network
from attnlab.data import ImageData
from attnlab.errors import InputError, first_line
from attnlab.insertion import Cost, Latency, Site, cost, count_by_site, find_sites, select_sites, time_together, trace
from attnlab.terminal import plain_console
from attnlab.training.optimisation import build_optimisation

# The order in which an image meets the places of a block.
FLOW = ("pre", "unit", "depthwise", "branch", "shortcut", "block", "stage")


class _Setup(NamedTuple):
    raw: dict[str, Any]  # as composed
    checked: dict[str, Any]  # in normal form
    data: ImageData
    heading: str  # backbone and input


def print_sites(config: Any, input_size: str | None = None) -> None:
    """Print the sites of ``config``'s backbone, drawn and as a table; mark those that its ``sites`` selects."""
    raw, checked, data, heading = _set_up(config, input_size)
    net = _network({**checked, "sites": None}, data)
    role, names = raw["sites"]["role"], raw["sites"]["names"]
    sites = find_sites(net, data.shape, every_module=role == "module")
    where = {key: value for key, value in raw["sites"].items() if key not in ("name", "role", "merge")}
    unnamed = role == "module" and names is None  # all are shown, none is chosen yet
    chosen = [] if unnamed else select_sites(sites, role, **where)
    costs: dict[tuple[str, str], tuple[int, int]] = {}
    if checked["sites"] is not None and not unnamed:
        attended = _network(checked, data)
        costs = count_by_site(attended, trace(attended, data.shape))

    table = Table("", "role", "stage", "block", "C", "H × W", "module")
    for title in ("params", "MACs") if costs else ():
        table.add_column(title)
    for column in [*table.columns[2:6], *table.columns[7:]]:
        column.justify = "right"
    for site in sites:
        mark = "●" if site in chosen else ""
        block = "" if site.block is None else str(site.block)
        path = site.name + (" (input)" if site.side == "input" else "")
        size = f"{site.height} × {site.width}"
        style = "bold" if mark else None
        cells = [mark, site.role, str(site.stage), block, str(site.channels), size, path]
        if costs:
            cells += [f"{number:,}" for number in costs.get((site.name, site.side), ())]
        table.add_row(*cells, style=style)
    console = plain_console()
    console.print(heading, highlight=False)
    if role != "module":
        console.print()
        for line in draw(sites, chosen):
            text = Text(f"  {line}")
            text.highlight_regex("●+", "bold green")
            console.print(text, soft_wrap=True)
        what = checked["attention"]["name"] if costs else f"sites={raw['sites']['name']}"
        console.print(
            f"\n  ● {what}   ○ another place   (+) branches and shortcut meet; H×W×C ends the stage\n", highlight=False
        )
    console.print(table)
    console.print(
        f"● the {len(chosen)} that sites={raw['sites']['name']} selects. Each stage's blocks count from 1.",
        highlight=False,
    )
    if costs:
        parameters, macs = (sum(numbers) for numbers in zip(*costs.values(), strict=True))
        console.print(
            f"{checked['attention']['name']}: {parameters:,} parameters, {macs:,} MACs in all. More: attnlab cost",
            highlight=False,
        )


def draw(sites: Sequence[Site], chosen: Sequence[Site]) -> list[str]:
    """One line per block, from the input to the last stage; equal blocks of a stage share a line.

    ``○`` is a place for attention and ``●`` one of ``chosen``; ``(+)`` is where a block's branches meet.
    """
    rows = _rows_of_drawing(sites, chosen)
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


def _rows_of_drawing(sites: Sequence[Site], chosen: Sequence[Site]) -> list[_Row]:
    rows: list[_Row] = []
    for stage, of_stage in itertools.groupby(sorted(sites, key=lambda s: s.stage), key=lambda s: s.stage):
        marks: dict[int | None, dict[str, str]] = {}
        for site in of_stage:
            of_block = marks.setdefault(site.block, {})
            of_block[site.role] = of_block.get(site.role, "") + ("●" if site in chosen else "○")
        cells = {block: {role: f"{m} {role}" for role, m in of_block.items()} for block, of_block in marks.items()}
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


def _cost(config: dict[str, Any], data: ImageData) -> Cost:
    net = _network(config, data)
    trainable = build_optimisation(config, net, data).trainable()  # less what backbone.freeze freezes
    return replace(cost(net, data.shape), trainable=trainable)


def print_cost(
    config: Any,
    input_size: str | None = None,
    batches: Sequence[int] = (),
    *,
    compiled: bool = False,
    device: str = "cpu",
    as_json: bool = False,
) -> None:
    """Print what ``config``'s attention adds to its backbone; ``batches``: also time passes of these batch sizes."""
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: PyTorch sees no CUDA device here; use cpu")
    _, checked, data, heading = _set_up(config, input_size)
    bare = {**checked, "sites": None}
    configs = {checked["backbone"]["name"]: bare}
    if checked["sites"] is not None:
        configs[f"+ {checked['attention']['name']} at {checked['sites']['name']}"] = checked
    costs = [_cost(each, data) for each in configs.values()]
    with Console(stderr=True).status("Timing forward passes"):
        times = _times(configs.values(), data, batches, compiled, device)
    how = f"{'compiled' if compiled else 'eager'} on {device}"
    if as_json:
        found: dict[str, dict[str, Any]] = {}
        for i, (name, counted) in enumerate(zip(("bare", "attended"), costs, strict=False)):
            found[name] = {**counted.numbers(), "latency": [asdict(timed[i]) for timed in times]}
        about = {"backbone": checked["backbone"], "attention": checked["attention"], "sites": checked["sites"]}
        print(json.dumps({**about, "input_size": list(data.shape), **found}, indent=2))
        return

    table = Table("", *configs, *(["difference"] if len(configs) > 1 else []))
    for column in table.columns[1:]:
        column.justify = "right"
    for title, values, form in _rows(costs):
        table.add_row(title, *(_text(value, form) for value in values), *_difference(values, form))
    for timed in times:
        title = f"latency, {timed[0].batch} image{'s' * (timed[0].batch > 1)}, ms"
        cells = [str(latency).replace(" ms", "") for latency in timed]
        table.add_row(title, *cells, *_difference([latency.median_ms for latency in timed], ",.2f"))
    console = plain_console()
    console.print(f"{heading}, {data.num_classes} classes", highlight=False)
    console.print(table)
    console.print(
        "MACs, element-wise operations, memory traffic (read and written in the forward pass) and activations\n"
        "(kept for the backward pass) are of 1 image."
    )
    if batches:
        threads = f", threads: {torch.get_num_threads()}" if device == "cpu" else ""
        console.print(f"Latency: a forward pass, {how}{threads}; median [25th, 75th percentile].", highlight=False)


def _rows(costs: Sequence[Cost]) -> list[tuple[str, list[float], str]]:
    """Title with its unit, a value for each network, and how to write it."""
    return [
        ("parameters", [c.parameters for c in costs], ",d"),
        ("trainable parameters", [c.trainable for c in costs], ",d"),
        ("attention parameters", [c.attention_parameters for c in costs], ",d"),
        ("MACs", [c.macs for c in costs], ",d"),
        ("attention element-wise ops", [c.attention_elementwise or 0 for c in costs], ",d"),
        ("attention traffic, MiB", [_mebibytes(c.attention_traffic_bytes or 0) for c in costs], ",.2f"),
        ("activation memory, MiB", [_mebibytes(c.activation_bytes) for c in costs], ",.2f"),
    ]


def _mebibytes(count: int | None) -> float:
    return math.nan if count is None else count / 2**20


def _text(value: float, form: str) -> str:
    return "does not train" if math.isnan(value) else format(value, form)


def _difference(values: Sequence[float], form: str) -> list[str]:
    """``+1,024 (+2.1 %)``, for two values."""
    if len(values) < 2:
        return []
    before, after = values
    if math.isnan(after - before):
        return [""]
    share = f" ({100 * (after - before) / before:+.1f} %)" if before else ""
    return [format(after - before, f"+{form}") + share]


def _network(config: dict[str, Any], data: ImageData) -> nn.Module:
    """On the meta device; one that looks at values is built with memory."""
    try:
        with torch.device("meta"):
            return build_network(config, data)[0]
    except InputError:
        return build_network(config, data)[0]


def _times(
    configs: Iterable[dict[str, Any]], data: ImageData, batches: Sequence[int], compiled: bool, device: str
) -> list[list[Latency]]:
    """For each batch, the latency of each network."""
    times: list[list[Latency]] = []
    nets: list[nn.Module] = [build_network(config, data)[0].to(device) for config in configs] if batches else []
    for batch in batches:
        try:
            times.append(time_together(nets, data.shape, batch=batch, compiled=compiled))
        except Exception as error:  # no compiler, no memory
            how = "--compile" if compiled else f"--batch {batch}"
            raise InputError(f"{how}: {type(error).__name__}: {first_line(error)}") from None
    return times


def _set_up(config: Any, input_size: str | None) -> _Setup:
    raw = schema.plain(config)
    checked = schema.check(raw)
    data = build_data(checked)
    source = f"data={checked['data']['name']}; another size: --input 3x224x224"
    if input_size is not None:
        data.shape, source = _size(input_size), "--input"
    return _Setup(
        raw, checked, data, f"{checked['backbone']['name']}, input {'×'.join(map(str, data.shape))} ({source})"
    )


def _size(text: str) -> tuple[int, int, int]:
    try:
        channels, height, width = (int(n) for n in text.lower().replace("×", "x").split("x"))
    except ValueError:
        raise InputError(f"--input {text}: must be CxHxW, such as 3x224x224") from None
    return channels, height, width
