"""Cost of attnlab's modules beside timm's: time and kept memory, forward and backward, in turns in one process.

    python -m tests.benchmarks.attention [ROUNDS]

On the CPU with one thread, batch 16 of 256 channels, 28×28, contiguous and channels_last. A ratio below 1: attnlab's is
cheaper. Times are medians of the ratios of the rounds with the middle half of them; memory is what autograd keeps
for the backward pass.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable

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


def main(rounds: int = 30) -> None:
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
    main(*map(int, sys.argv[1:]))
