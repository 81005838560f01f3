"""attnlab sites: a backbone's places, as a table."""

from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from attnlab import schema
from attnlab.build import build_data, build_network
from attnlab.errors import InputError
from attnlab.sites import find_sites, select_sites


def print_sites(config: Any, input_size: str | None = None) -> None:
    """Print the sites of ``config``'s backbone; a mark shows those that its ``sites`` selects."""
    raw = schema.plain(config)
    checked = schema.check(raw)
    data = build_data(checked)
    shape, source = data.shape, f"data={checked['data']['name']}; another size: --input 3x224x224"
    if input_size is not None:
        shape, source = _size(input_size), "--input"
        data.shape = shape
    with torch.device("meta"):
        net, _ = build_network({**checked, "sites": None}, data)
    role, names = raw["sites"]["role"], raw["sites"]["names"]
    sites = find_sites(net, shape, every_module=role == "module")
    where = {key: value for key, value in raw["sites"].items() if key not in ("name", "role", "merge")}
    unnamed = role == "module" and names is None  # all are shown, none is chosen yet
    chosen = [] if unnamed else select_sites(sites, role, **where)

    backbone = checked["backbone"]["name"]
    table = Table("", "role", "stage", "block", "channels", "H × W", "module")
    for column in table.columns[2:6]:
        column.justify = "right"
    for site in sites:
        mark = "●" if site in chosen else ""
        block = "" if site.block is None else str(site.block)
        path = site.name + (" (its input)" if site.side == "input" else "")
        size = f"{site.height} × {site.width}"
        style = "bold" if mark else None
        table.add_row(mark, site.role, str(site.stage), block, str(site.channels), size, path, style=style)
    console = Console()
    console.print(f"{backbone}, input {'×'.join(map(str, shape))} ({source})", highlight=False)
    console.print(table)
    console.print(
        f"● the {len(chosen)} that sites={raw['sites']['name']} selects. Each stage's blocks count from 1.",
        highlight=False,
    )


def _size(text: str) -> tuple[int, int, int]:
    try:
        channels, height, width = (int(n) for n in text.lower().replace("×", "x").split("x"))
    except ValueError:
        raise InputError(f"--input {text}: must be CxHxW, such as 3x224x224") from None
    return channels, height, width
