"""Cost of attention on the CPU: beside a copy of the map, and attnlab's modules beside timm's.

    python -m tests.benchmarks.attention [copies] [--rounds N] [--threads N] [--json FILE]
    python -m tests.benchmarks.attention timm [--rounds N]

``copies``: forward and backward pass of SE, ECA and CBAM as multiples of those of ``x * 1``, eager and compiled, timm's
modules beside them; 8 maps of 256 channels, 56×56, and of 1024 channels, 14×14, float32, channels_last.

``timm``: one thread, batch 16 of 256 channels, 28×28, contiguous and channels_last. A ratio below 1: attnlab's is
cheaper. Memory is what autograd keeps for the backward pass.

All modules take turns in one process; times are medians of the ratios of the rounds.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import timm.layers as theirs
import torch
from timm.layers.cbam import CbamModule
from timm.layers.coord_attn import CoordAttn
from timm.layers.non_local_attn import NonLocalAttn
from torch import Tensor, nn

from attnlab.attention import create

C, SIZE, BATCH = 256, 28, 16
PAIRS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "se": (lambda: create("se", C), lambda: theirs.SEModule(C, rd_ratio=1 / 16)),
    "ese": (lambda: create("ese", C), lambda: theirs.EffectiveSEModule(C)),
    "eca": (lambda: create("eca", C), lambda: theirs.EcaModule(C)),
    "cbam": (lambda: create("cbam", C, bias=False), lambda: CbamModule(C, rd_ratio=1 / 16)),
    "coordinate": (lambda: create("coordinate", C, ratio=16), lambda: CoordAttn(C, rd_channels=16, bias=True)),
    "gc add": (
        lambda: create("gc", C, ratio=8),
        lambda: theirs.GlobalContext(C, fuse_add=True, fuse_scale=False),
    ),
    "gc mul": (lambda: create("gc", C, ratio=8, fusion="mul"), lambda: theirs.GlobalContext(C)),
    "gather_excite": (lambda: create("gather_excite", C), lambda: theirs.GatherExcite(C, use_mlp=False)),
    "gather_excite 4": (
        lambda: create("gather_excite", C, extent=4),
        lambda: theirs.GatherExcite(C, extent=4, use_mlp=False),
    ),
    "sk": (
        lambda: create("sk", C, groups=32),
        lambda: theirs.SelectiveKernel(C, groups=32, split_input=False, rd_channels=32),
    ),
    "non_local": (lambda: create("non_local", C, ratio=8), lambda: NonLocalAttn(C, use_scale=False)),
}


def passes(module: nn.Module, x: Tensor, backward: bool) -> float:
    started = time.perf_counter()
    if backward:
        module(x).sum().backward()
        module.zero_grad()
        x.grad = None
    else:
        with torch.no_grad():
            module(x)
    return time.perf_counter() - started


def kept(module: nn.Module, x: Tensor) -> int:
    storages = {}

    def keep(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        module(x)
    for tensor in (*module.parameters(), *module.buffers()):
        storages.pop(tensor.untyped_storage().data_ptr(), None)
    return sum(storage.nbytes() for storage in storages.values())


class Copy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 1


def copies(rounds: int = 20, threads: int = 1) -> dict[str, dict[str, float]]:
    """By shape: milliseconds of a copy, and times of each module as multiples of it."""
    torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter  # the former: without waiting for a busy processor
    return {f"8×{c}×{size}²": multiples(c, size, rounds, clock) for c, size in ((256, 56), (1024, 14))}


def multiples(channels: int, size: int, rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    torch.manual_seed(0)
    modules: dict[str, nn.Module] = {
        "copy": Copy(),
        **{name: create(name, channels) for name in ("se", "eca", "cbam")},
        "timm's se": theirs.SEModule(channels, rd_ratio=1 / 16),
        "timm's cbam": CbamModule(channels, rd_ratio=1 / 16),
    }
    for module in modules.values():
        module.to(memory_format=torch.channels_last)
    for name in ("se", "eca", "cbam", "timm's se", "timm's cbam"):
        modules[f"{name}, compiled"] = torch.compile(modules[name])  # type: ignore[assignment]
    shape = (8, channels, size, size)
    x = torch.randn(shape).to(memory_format=torch.channels_last).requires_grad_()
    gradient = torch.randn_like(x)
    times: dict[str, list[float]] = {name: [] for name in modules}
    for i in range(rounds + 3):
        for name, module in modules.items():
            started = clock()
            module(x).backward(gradient)
            if i >= 3:
                times[name].append(clock() - started)
            module.zero_grad()
            x.grad = None
    copy = times.pop("copy")
    medians = {
        name: statistics.median(time / its for time, its in zip(of_module, copy, strict=True))
        for name, of_module in times.items()
    }
    return {"copy, ms": 1e3 * statistics.median(copy), **medians}


def beside_timm(rounds: int = 30) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"attnlab / timm, {BATCH}×{C}×{SIZE}×{SIZE}, {rounds} rounds")
    print(f"{'':30}{'forward':>20}{'and backward':>20}{'memory':>9}")
    for name, builds in PAIRS.items():
        for layout in (torch.contiguous_format, torch.channels_last):
            mine, its = (build().to(memory_format=layout) for build in builds)
            x = torch.randn(BATCH, C, SIZE, SIZE).to(memory_format=layout).requires_grad_()
            cells = []
            for backward in (False, True):
                ratios = []
                for i in range(rounds + 3):
                    first, second = (mine, its) if i % 2 else (its, mine)
                    times = {id(module): passes(module, x, backward) for module in (first, second)}
                    ratios.append(times[id(mine)] / times[id(its)])
                low, middle, high = statistics.quantiles(ratios[3:], n=4)
                cells.append(f"{middle:.2f} [{low:.2f}, {high:.2f}]")
            memory = kept(mine, x) / kept(its, x)
            title = f"{name}{', channels_last' * (layout is torch.channels_last)}"
            print(f"{title:30}{cells[0]:>20}{cells[1]:>20}{memory:>9.2f}", flush=True)


if __name__ == "__main__":
    # Large tensors stay with the process: fetching fresh pages for each would take longer than all the rest.
    tunables = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "8589934592"}
    if not os.environ.keys() >= tunables.keys():
        os.execve(sys.executable, [sys.executable, "-m", __spec__.name, *sys.argv[1:]], {**os.environ, **tunables})
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.attention")
    parser.add_argument("what", nargs="?", choices=["copies", "timm"], default="copies")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1, help="of copies")
    parser.add_argument("--json", type=Path, help="write the figures of copies to this file")
    args = parser.parse_args()
    if args.what == "timm":
        beside_timm(args.rounds)
    else:
        found = copies(args.rounds, args.threads)
        for shape, figures in found.items():
            print(f"{shape}, channels_last, {args.threads} threads, {args.rounds} rounds")
            print(*(f"{name:24}{figure:8.2f}" for name, figure in figures.items()), sep="\n")
        if args.json:
            args.json.write_text(json.dumps(found, ensure_ascii=False, indent=1), encoding="utf-8")
