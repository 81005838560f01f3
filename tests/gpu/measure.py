"""What the parts share: notes, checks, relative errors, times."""

import statistics
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Note = Callable[[str, Any], None]  # writes a value down under a name, at once


def attempt(note: Note, name: str, measure: Callable[..., Any], *args: Any) -> None:
    """Note what ``measure`` returns, or how it failed: the next one goes on."""
    try:
        found = measure(*args)
    except Exception as error:
        traceback.print_exc()
        found = {"error": last_line(error)}
    note(name, found)


def last_line(error: BaseException) -> str:
    """The last line of its traceback."""
    return traceback.format_exception_only(error)[-1].strip().splitlines()[0][:300]


def check(value: float, tolerance: float) -> dict[str, Any]:
    """A value that must not exceed its tolerance; NaN does."""
    return {"value": value, "tolerance": tolerance, "ok": bool(value <= tolerance)}


def relative_error(found: Tensor, expected: Tensor) -> float:
    found, expected = found.detach().cpu().double(), expected.detach().cpu().double()
    return float((found - expected).norm() / expected.norm())


def in_full_float32() -> None:
    """No TF32, and the same convolution algorithms each time."""
    torch.backends.cudnn.allow_tf32 = False  # matrix products have none by default
    torch.backends.cudnn.deterministic = True


def compiled(net: nn.Module, device: str, mode: str | None = None) -> Any:
    """On a CPU only traced, since its compiler would take minutes."""
    return torch.compile(net, mode=mode, dynamic=False) if device == "cuda" else torch.compile(net, backend="eager")


def seconds(run: Callable[[], object], device: str, times: int = 1) -> float:
    """Of one of several runs in a row."""
    if device == "cpu":
        started = time.perf_counter()
        for _ in range(times):
            run()
        return (time.perf_counter() - started) / times
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(times):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000 / times


def kernel_seconds(run: Callable[[], object], device: str, times: int) -> float:
    """Seconds that the GPU's kernels take in one run, without the gaps between them; on a CPU all of it."""
    seconds(run, device, times)
    if device == "cpu":
        return seconds(run, device, times)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        seconds(run, device, times)
    kernels = [event for event in profile.key_averages() if event.device_type == torch.autograd.DeviceType.CUDA]
    if not kernels:
        raise RuntimeError("PyTorch's profiler has seen no kernel")
    return sum(event.self_device_time_total for event in kernels) / 1e6 / times


def in_turns(
    runs: dict[str, Callable[[], object]], device: str, rounds: int, times: int
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of each in each round, and the errors of those that do not run; 3 runs of each to warm up."""
    errors = dict[str, Any]()
    for name, run in runs.items():
        try:
            seconds(run, device, 3 if device == "cuda" else 1)
        except Exception as error:
            traceback.print_exc()
            errors[name] = {"error": last_line(error)}
    found: dict[str, list[float]] = {name: [] for name in runs if name not in errors}
    for _ in range(rounds):
        for name, of_it in found.items():
            of_it.append(seconds(runs[name], device, times))
    return found, errors


def spread(values: list[float], digits: int = 4) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = (round(value, digits) for value in statistics.quantiles(values, n=4, method="inclusive"))
    return {"median": middle, "low": low, "high": high}
