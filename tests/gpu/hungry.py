"""A user's own network whose first process asks for twice the memory of the device."""

import contextlib
import os
import time
from pathlib import Path

import torch
from torch import Tensor, nn


class Hungry(nn.Module):
    """Each process that trains it writes down when, in the folder $HUNGRY_RECORDS."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * in_channels, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        if self.training and not x.is_meta:
            records = Path(os.environ["HUNGRY_RECORDS"])
            with open(records / str(os.getpid()), "a", encoding="utf-8") as file:
                file.write(f"{time.monotonic()}\n")
            with contextlib.suppress(FileExistsError):
                (records / "first").touch(exist_ok=False)
                ask_for_too_much(x.device)
            time.sleep(0.2)
        return self.layers(x)


def ask_for_too_much(device: torch.device) -> None:
    if device.type == "cpu":
        raise torch.OutOfMemoryError("CUDA out of memory, or so it says")
    torch.empty(2 * torch.cuda.get_device_properties(device).total_memory, dtype=torch.uint8, device=device)
