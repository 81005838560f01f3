"""Milliseconds of a training step on the CPU: forward, loss, backward, AdamW.

    python -m tests.benchmarks.step [ROUNDS]

Mini-Xception (64×1×40×40) and ResNet-20 (64×3×32×32), float32, one thread: the bare network, contiguous and
channels_last, and as a point is trained, metrics included. Medians of CPU time, which other processes change less than
wall time; each case in a fresh process, because what ran before changes what malloc returns to the system. It also runs
with the ``src`` of an older checkout on PYTHONPATH.
"""

import contextlib
import functools
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

import attnlab
from attnlab.training.classifier import Classifier
from attnlab.training.onednn_bug import avoid_onednn_bug
from attnlab.training.optimisation import Optimisation

BATCH, CLASSES, WARM_UP = 64, 10, 5
SHAPES = {"mini_xception": (1, 40, 40), "resnet20": (3, 32, 32)}


def step(rounds: int = 20) -> dict[str, float]:
    """Case -> milliseconds."""
    cases = [(name, case) for name in SHAPES for case in ("contiguous", "channels_last", "as trained")]
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        taken = pool.starmap(measure, [(*case, rounds) for case in cases], chunksize=1)
    return {f"{name}, {case}": ms for (name, case), ms in zip(cases, taken, strict=True)}


def measure(name: str, case: str, rounds: int) -> float:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    layout = torch.contiguous_format if case == "contiguous" else torch.channels_last
    run = trained_step(name) if case == "as trained" else bare_step(name, layout)
    times = []
    for _ in range(WARM_UP + rounds):
        started = time.process_time()
        run()
        times.append(1000 * (time.process_time() - started))
    return statistics.median(times[WARM_UP:])


def batch(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(BATCH, *SHAPES[name]), torch.randint(CLASSES, (BATCH,))


def bare_step(name: str, layout: torch.memory_format) -> Callable[[], None]:
    x, y = batch(name)
    net = attnlab.create(name, num_classes=CLASSES, in_channels=x.shape[1]).to(memory_format=layout)
    avoid_onednn_bug(net)
    optimizer = torch.optim.AdamW(net.parameters())

    def run() -> None:
        optimizer.zero_grad()
        F.cross_entropy(net(x.to(memory_format=layout)), y).backward()
        optimizer.step()

    return run


def trained_step(name: str) -> Callable[[], None]:
    with contextlib.suppress(ImportError):  # of an older checkout
        from attnlab.training.memory import keep_freed_memory

        keep_freed_memory()
    x, y = batch(name)
    net = attnlab.create(name, num_classes=CLASSES, in_channels=x.shape[1])
    optimisation = Optimisation(net, optimizer=functools.partial(torch.optim.AdamW, lr=1e-3))
    classifier, optimizer = Classifier(optimisation, CLASSES), optimisation.optimizer()

    def run() -> None:
        optimizer.zero_grad()
        classifier.training_step((x, y), 0).backward()
        optimizer.step()

    return run


def main(rounds: int = 20) -> None:
    for case, ms in step(rounds).items():
        print(f"{case:32}{ms:8.1f} ms")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
