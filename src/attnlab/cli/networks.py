"""attnlab sites and attnlab cost: where attention can go in a backbone, and what it costs there."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import nn

from attnlab import ledger
from attnlab.config import designs, schema
from attnlab.config.build import build_data, build_network, placed_sites, signs_of
from attnlab.data import ImageData
from attnlab.errors import InputError, first_line
from attnlab.insertion import Cost, Latency, Site, cost, count_by_site, draw, time_together, trace
from attnlab.study.designs import in_words
from attnlab.terminal import plain_console
from attnlab.training.optimisation import build_optimisation


class _Setup(NamedTuple):
    raw: dict[str, Any]  # as composed
    checked: dict[str, Any]  # in normal form
    data: ImageData
    heading: str  # backbone and input


def print_sites(config: Any, input_size: str | None = None) -> None:
    """Print the sites of ``config``'s backbone, drawn and as a table; mark those that its design selects."""
    raw, checked, data, heading = _set_up(config, input_size)
    # Without attention, sites= still says what to mark.
    placements = ledger.placements(checked) or [{"attention": {"name": "none"}, "sites": raw["sites"]}]
    sites, chosen = placed_sites(checked, data, [placement["sites"] for placement in placements])
    signs = signs_of(placements)
    marks = {site: sign for sign, of_one in zip(signs, chosen, strict=True) for site in of_one}
    costs: dict[tuple[str, str], tuple[int, int]] = {}
    if checked["sites"] is not None and all(chosen):
        attended = _network(checked, data)
        costs = count_by_site(attended, trace(attended, data.shape))

    console = plain_console()
    console.print(heading, highlight=False)
    simple = designs.written(raw) is None
    named = f"sites={raw['sites']['name']}"
    if not any(placement["sites"]["role"] == "module" for placement in placements):
        console.print()
        for line in draw(sites, marks):
            text = Text(f"  {line}")
            text.highlight_regex(f"[{''.join(signs)}]+", "bold green")
            console.print(text, soft_wrap=True)
        told = [checked["attention"]["name"] if costs else named] if simple else map(in_words, placements)
        legend = [f"{sign} {words}" for sign, words in zip(signs, told, strict=True)]
        rest = "○ another place   (+) branches and shortcut meet; H×W×C ends the stage\n"
        console.print("", *([f"{legend[0]}   {rest}"] if simple else [*legend, rest]), sep="\n  ", highlight=False)
    console.print(_table_of_sites(sites, marks, costs))
    selects = f"{named} selects" if simple else "the design selects"
    console.print(f"{signs[0]} the {len(marks)} that {selects}. Each stage's blocks count from 1.", highlight=False)
    for sign, placement, of_one in zip(signs, placements, chosen, strict=True) if costs else ():
        parameters, macs = (sum(n) for n in zip(*(costs[site.name, site.side] for site in of_one), strict=True))
        which = f"{'' if simple else f'{sign} '}{placement['attention']['name']}"
        more = " More: attnlab cost" if placement is placements[-1] else ""
        console.print(f"{which}: {parameters:,} parameters, {macs:,} MACs in all.{more}", highlight=False)


def _table_of_sites(
    sites: Sequence[Site], marks: Mapping[Site, str], costs: Mapping[tuple[str, str], tuple[int, int]]
) -> Table:
    table = Table("", "role", "stage", "block", "C", "H × W", "module")
    for title in ("params", "MACs") if costs else ():
        table.add_column(title)
    for column in [*table.columns[2:6], *table.columns[7:]]:
        column.justify = "right"
    for site in sites:
        block = "" if site.block is None else str(site.block)
        path = site.name + (" (input)" if site.side == "input" else "")
        size = f"{site.height} × {site.width}"
        cells = [marks.get(site, ""), site.role, str(site.stage), block, str(site.channels), size, path]
        if costs:
            cells += [f"{number:,}" for number in costs.get((site.name, site.side), ())]
        table.add_row(*cells, style="bold" if site in marks else None)
    return table


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
    bare = designs.without_attention(checked)
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
        about = {key: checked[key] for key in ("backbone", "attention", "sites", "placements") if key in checked}
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
