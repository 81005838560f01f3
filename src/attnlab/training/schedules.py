"""Learning rates over a run, as torch's schedulers; each is called with the optimizer and the number of steps."""

import math

import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, OneCycleLR, SequentialLR, StepLR

from attnlab.errors import InputError


def cosine(optimizer: torch.optim.Optimizer, total_steps: int, *, warmup: float = 0.0) -> LRScheduler:
    """Cosine decay to 0 over the run, after a linear rise over the share ``warmup`` of its steps."""
    if not 0 <= warmup < 1:
        raise InputError(f"scheduler.warmup={warmup}: must be at least 0 and below 1")
    rise = round(warmup * total_steps)
    decay = CosineAnnealingLR(optimizer, T_max=max(1, total_steps - rise))
    if not rise:
        return decay
    return SequentialLR(optimizer, [LinearLR(optimizer, 1 / (rise + 1), total_iters=rise), decay], [rise])


def one_cycle(optimizer: torch.optim.Optimizer, total_steps: int, *, warmup: float = 0.3) -> LRScheduler:
    """One cycle (arXiv 1708.07120): up to the optimizer's learning rate over the share ``warmup``, then down to 0."""
    if not 0 < warmup < 1:
        raise InputError(f"scheduler.warmup={warmup}: must be between 0 and 1")
    return OneCycleLR(
        optimizer, max_lr=[group["lr"] for group in optimizer.param_groups], total_steps=total_steps, pct_start=warmup
    )


def steps(optimizer: torch.optim.Optimizer, total_steps: int, *, parts: int = 3, factor: float = 0.1) -> LRScheduler:
    """A constant rate in each of ``parts`` equal parts of the run, ``factor`` times that of the part before."""
    if parts < 1:
        raise InputError(f"scheduler.parts={parts}: must be at least 1")
    return StepLR(optimizer, step_size=math.ceil(total_steps / parts), gamma=factor)
