"""Slots of this machine: which GPU, or how many CPU cores, a point gets."""

import os
from typing import Any


def make(gpus: Any, slots_per_gpu: int, cpu_slots: Any) -> list[str]:
    """A GPU's id (or "cpu") for each slot. The arguments are those of ``local.launch``."""
    if gpus == "auto":
        chosen = visible_gpus()
    elif isinstance(gpus, int):
        named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")  # perhaps by a scheduler that gave us only these
        chosen = named[:gpus] if len(named) >= gpus and named[0] else [str(gpu) for gpu in range(gpus)]
    else:
        chosen = [str(gpu) for gpu in gpus]
    if chosen:
        return [gpu for _ in range(slots_per_gpu) for gpu in chosen]
    return ["cpu"] * (max(1, cores() // 2) if cpu_slots == "auto" else cpu_slots)


def visible_gpus() -> list[str]:
    """The ids that CUDA_VISIBLE_DEVICES may hold; the GPUs themselves are not woken."""
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
