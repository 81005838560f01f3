"""What was measured, as Markdown tables: ``python -m tests.gpu.table [FILE.json ...]`` (default: all of results/)."""

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

VARIANTS = {"bare": "bare", "se": "+ SE", "eca": "+ ECA", "cbam": "+ CBAM"}
VARIANTS |= {f"{name} kernels": f"{VARIANTS[name]}, kernels" for name in ("se", "eca", "cbam")}
MODES = {"eager": "eager", "compiled": "compiled", "cuda_graphs": "CUDA graphs"}


def lines(measured: dict[str, Any]) -> Iterator[str]:
    """The tables of one card; of what was not measured, none."""
    parts = measured["parts"]
    yield f"## {measured['card']}, PyTorch {measured['torch']}, {measured['date']}"

    rows = []
    for variant, title in VARIANTS.items():
        cells = []
        for mode in ("eager", "compiled"):
            rates = parts.get(f"throughput {mode}", {})
            rate, bare = (rates.get(name, {}).get("images_per_s", {}).get("median") for name in (variant, "bare"))
            cells.append(f"{rate:,.0f}" if rate else "")
            cells.append(f"{rate / bare:.2f}" if rate and bare else "")
        rows.append([title, *cells])
    yield from table(["training ResNet-50", "eager, images/s", "of bare", "compiled, images/s", "of bare"], rows)

    rows = []
    for setting, found in parts.get("blocks", {}).items():
        if isinstance(found, dict) and "ratio" in found:
            ratios = (found["ratio"].get(name, {}) for name in ("se", "eca", "cbam"))
            rows.append([setting, *(f"{each['median']:.2f}" if "median" in each else "" for each in ratios)])
    yield from table(["forward + backward over a copy's", "SE", "ECA", "CBAM"], rows)

    settings = ("eager", "eager kernels", "compiled", "compiled kernels")
    rows, of_floor = [], []
    for each, found in parts.get("kernels over a copy", {}).items():
        if isinstance(found, dict) and "ratio" in found:
            rows.append([each, *medians(found["ratio"], settings)])
            of_floor.append([each, *medians(found.get("forward over its floor", {}), settings)])
    yield from table(["forward + backward over a copy's", *settings], rows)
    yield from table(["forward over 3 reads and 1 write", *settings], of_floor)
    passes = parts.get("kernels over a copy", {}).get("passes", {})
    rows = [[name, *medians({"": found}, [""])] for name, found in passes.items() if isinstance(found, dict)]
    yield from table(["a pass over the map", "over a copy's time"], rows)

    rows = []
    for network, found in parts.get("small", {}).items():
        if isinstance(found, dict) and "images_per_s" in found:
            rates = (found["images_per_s"].get(mode, {}).get("median") for mode in MODES)
            rows.append([f"{network}, batch {found['batch']}", *(f"{rate:,.0f}" if rate else "" for rate in rates)])
    yield from table(["training, images/s", *MODES.values()], rows)

    rows = []
    for setting, found in parts.get("packed", {}).items():
        if isinstance(found, dict) and "ratio" in found:
            rates = (f"{found['images_per_s'][mode]['median']:,.0f}" for mode in ("packed", "alone"))
            rows.append([setting, *rates, f"{found['ratio']['median']:.1f}"])
    yield from table(["seeds as one network, steps only", "images/s", "one after another", "ratio"], rows)

    counts = {n: found for n, found in parts.get("slots", {}).items() if isinstance(found, dict)}
    rows = [[n, f"{found['points_per_hour']:,}", str(found["seconds_each"])] for n, found in counts.items()]
    yield from table(["points at once", "points an hour", "seconds each"], rows)

    rows = []
    for name, found in parts.items():
        if name.startswith("epoch ") and "waiting" in found:
            used = "" if found["utilisation"] is None else f"{found['utilisation']:.0%}"
            cells = [f"{found['epoch_s']:.2f}", f"{found['images_per_s']:,}", f"{found['waiting']:.0%}", used]
            rows.append([name.removeprefix("epoch "), *cells])
    yield from table(["an epoch, end to end", "seconds", "images/s", "GPU waits", "utilisation"], rows)

    if report := [line for line in parts.get("zoo_fashion", {}).get("report", []) if line.startswith("|")]:
        yield from ("", *report)


def medians(found: dict[str, Any], settings: Iterable[str]) -> list[str]:
    return [f"{found[name]['median']:.2f}" if "median" in found.get(name, {}) else "" for name in settings]


def table(header: list[str], rows: list[list[str]]) -> Iterator[str]:
    rows = [row for row in rows if any(row[1:])]
    if rows:
        yield ""
        for row in (header, ["---", *["---:"] * (len(header) - 1)], *rows):
            yield f"| {' | '.join(row)} |"


def main(paths: list[str]) -> None:
    for path in map(Path, paths) if paths else sorted((Path(__file__).parent / "results").glob("*.json")):
        print("\n".join(lines(json.loads(path.read_text()))), end="\n\n")


if __name__ == "__main__":
    main(sys.argv[1:])
