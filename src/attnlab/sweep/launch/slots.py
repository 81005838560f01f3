"""Slots of this machine: which GPU, or how many CPU cores, a point gets."""

import contextlib
import math
import os
from typing import Any

SERIAL = 0.3  # share of a training step that more threads do not speed up; 0.46 measured for mini-Xception
POINT_BYTES = 1.5e9  # of memory that a point's process may take, roughly


def make(gpus: Any, slots_per_gpu: int, cpu_slots: Any, points: int) -> list[str]:
    """A GPU's id (or "cpu") for each slot, to train ``points``; the others are arguments of ``local.launch``."""
    if gpus == "auto":
        chosen = visible_gpus()
    elif isinstance(gpus, int):
        named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")  # perhaps by a scheduler that gave us only these
        chosen = named[:gpus] if len(named) >= gpus and named[0] else [str(gpu) for gpu in range(gpus)]
    else:
        chosen = [str(gpu) for gpu in gpus]
    if chosen:
        return [gpu for _ in range(slots_per_gpu) for gpu in chosen]
    return ["cpu"] * (best_cpu_slots(points) if cpu_slots == "auto" else cpu_slots)


def best_cpu_slots(points: int) -> int:
    """How many points at once finish soonest: by Amdahl's law, more points help more than more threads of one.

    At most as many as fit into free memory.
    """
    most = max(1, min(cores(), points, int(_free_memory() / POINT_BYTES)))

    def time(slots: int) -> float:
        return math.ceil(points / slots) * (SERIAL + (1 - SERIAL) / (cores() // slots))

    return min(range(most, 0, -1), key=time)


def _free_memory() -> float:
    """Bytes, where the system tells."""
    with contextlib.suppress(OSError, ValueError), open("/proc/meminfo", encoding="utf-8") as file:
        return next(float(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:"))
    return math.inf


def visible_gpus() -> list[str]:
    """The ids that CUDA_VISIBLE_DEVICES may hold; this does not initialise the GPUs."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return named.split(",")[:count] if named else [str(i) for i in range(count)]


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads(slots: list[str]) -> int:
    """CPU threads for a slot: a fair part of the cores, or what OMP_NUM_THREADS says."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    return int(told) if told.isdigit() and int(told) else max(1, cores() // len(slots))


def take(free: list[str], slots: list[str], devices: int, alone: bool = False) -> list[str]:
    """Free slots for a point on ``devices`` GPUs, the emptiest first (``alone``: all of theirs); [] if there are none.

    On CPUs as many slots as devices, at most all.
    """
    if slots[0] == "cpu":
        wanted = len(slots) if alone else min(devices, len(slots))
        return free[:wanted] if len(free) >= wanted else []
    room = sorted(set(free), key=lambda gpu: (-free.count(gpu), slots.index(gpu)))
    if alone:
        room = [gpu for gpu in room if free.count(gpu) == slots.count(gpu)]
    chosen = sorted(room[:devices], key=slots.index) if len(room) >= devices else []
    return [gpu for gpu in chosen for _ in range(slots.count(gpu) if alone else 1)]
