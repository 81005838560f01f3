"""The parts of the script, each in a process of its own with a limit of its time."""

import json
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnlab import ledger
from tests.gpu import correct, fused, points, speed
from tests.gpu.measure import last_line
from tests.gpu.zoo import fashion


@dataclass(frozen=True)
class Part:
    name: str
    function: Callable[..., None]
    args: tuple[Any, ...] = ()
    on_cpu: bool = True
    spare: bool = False  # left out where less than a minute is left


# The most valuable first. The parts of a line run at once, each in a process of its own; those that take times, alone.
LINES: list[tuple[int, list[Part]]] = [  # with how many seconds each line may take
    (
        130,
        [
            Part("modules", correct.modules),
            Part("networks", correct.networks),
            Part("kernels", fused.right),
            Part("resume", points.resume),
            Part("shared", points.shared),
            Part("memory", points.memory),
            *(
                Part(f"compiled {name}", correct.network_compiled, (name,), on_cpu=name == "mini_xception")
                for name in correct.NETWORKS
            ),
            *(
                Part(f"ahead resnet50 {variant}", speed.ahead, (speed.resnet50, variant, "compiled"), variant == "bare")
                for variant in speed.COMPILED
            ),
            Part("ahead kernels over a copy", fused.ahead, on_cpu=False),
            *(
                Part(f"ahead {name} {mode}", speed.ahead, (speed.small_step, name, mode), on_cpu=False)
                for name in speed.SMALL
                for mode in ("compiled", "cuda_graphs")
            ),
        ],
    ),
    (45, [Part("blocks", speed.blocks)]),
    (50, [Part("throughput eager", speed.throughput, ("eager",))]),
    (85, [Part("throughput compiled", speed.throughput, ("compiled",))]),
    (60, [Part("kernels over a copy", fused.fast)]),
    (30, [Part("cost", points.cost)]),
    (50, [Part("small", speed.small)]),
    (40, [Part("packed", speed.packed)]),
    (90, [Part("slots", points.slots)]),
    (40, [Part("epoch resnet18", points.epoch, ("resnet18",), on_cpu=False)]),
    (40, [Part("epoch mini_xception", points.epoch, ("mini_xception",))]),
    (110, [Part("packed points", points.packed)]),
    (600, [Part("zoo_fashion", fashion, spare=True)]),  # as long as there is time
]


def work(part: Part, device: str, path: Path, started: float) -> None:
    """In the part's own process: what it finds goes to ``path``, and is there even if it is killed."""
    os.setpgrp()
    found: dict[str, Any] = {}

    def note(name: str, value: Any) -> None:
        found[name] = value
        ledger.write_json(path, found)
        say(started, f"{part.name}: {name} {json.dumps(value)[:150]}")

    since = time.monotonic()
    try:
        part.function(device, note, *part.args)
    except BaseException as error:
        traceback.print_exc()
        note("error", last_line(error))
    note("seconds", round(time.monotonic() - since, 1))


def run_line(
    parts: list[Part], limit_s: float, device: str, folder: Path, started: float
) -> Iterator[tuple[str, dict[str, Any]]]:
    """What each part has found, once it has ended or its time is up."""
    if limit_s < 10:
        yield from ((part.name, {"error": "no time left"}) for part in parts)
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.gpu.preload"])
    end = time.monotonic() + limit_s
    running = []
    for i, part in enumerate(parts):
        path = folder / f"{i}.json"
        path.unlink(missing_ok=True)
        process = context.Process(target=work, args=(part, device, path, started))
        process.start()
        running.append((part, path, process))
    try:
        for part, path, process in running:
            process.join(max(0, end - time.monotonic()))
            late = process.is_alive()
            kill_group(process)
            process.join()
            found = ledger.read_json(path)
            if late:
                found["error"] = f"not done in {limit_s:.0f} s"
            elif process.exitcode:
                found.setdefault("error", f"its process ended with exit code {process.exitcode}")
            if late or process.exitcode:
                say(started, f"{part.name}: {found['error']}")
            yield part.name, found
    finally:  # Ctrl-C does not reach them
        for _, _, process in running:
            if process.is_alive():
                kill_group(process)


def kill_group(process: Any) -> None:
    """The part, if it is still there, and all that it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()


def say(started: float, text: str) -> None:
    print(f"[{time.monotonic() - started:4.0f} s] {text}", flush=True)
