"""``trainer.compile``: torch.compile for the steps of a training; all else runs as it is written.

So validation, test, gates and latency are those of the network that ``attnlab.load`` loads. Training batches have one
size, and one graph serves all epochs.
"""

import contextlib
import functools
import logging
import os
import shutil
import signal
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from attnlab.errors import InputError
from attnlab.insertion import places_with_attention
from attnlab.training.stop import SIGNALS

What = Literal["none", "attention", "network"]
LOGGERS = ("torch", "torch._dynamo", "torch._inductor", "torch._functorch")
RENAMED = (AttributeError, ImportError, KeyError)  # what PyTorch counts is private; only the log depends on it
RECOMPILATIONS = 8  # of one function before it runs as written, which PyTorch logs; its own default

log = logging.getLogger("attnlab")


class Compiled:
    """The network, or each attention module in it, compiled inside ``running``.

    Modules of equal class and shapes share their compiled code. The log says how long it took, and what runs
    uncompiled. What this process has compiled before is forgotten: PyTorch loads it from the disk.
    """

    def __init__(self, net: nn.Module, what: What) -> None:
        self.what = what
        self.modules: list[nn.Module] = []
        if what == "none":
            return
        torch._dynamo.reset()  # else a second network of these shapes takes the first one's code, and counts no graph
        options: Any = {
            "cpp.threads": torch.get_num_threads(),  # else older PyTorch takes from its cache what is for other numbers
            "fallback_random": True,  # dropout draws what it draws uncompiled
        }
        places = places_with_attention(net).values()
        self.modules = [net] if what == "network" else list(dict.fromkeys(place.attended_by for place in places))
        self.call = torch.compile(nn.Module._call_impl, dynamic=False, options=options)
        _prepare(RECOMPILATIONS + 2 * len(self.modules))  # they share a function; ``freeze`` changes it
        self.before: dict[str, float] = {}
        with contextlib.suppress(*RENAMED):
            self.before = _so_far()
        self.broken: set[str] = set()
        self.told: float = -1  # how many graphs there were when the log was told last

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Inside, calls of the modules are compiled."""
        if not self.modules:
            yield
            return
        for module in self.modules:
            module._compiled_call_impl = functools.partial(self.call, module)
        try:
            with _signals_held():
                yield
        finally:
            for module in self.modules:
                module._compiled_call_impl = None
        with contextlib.suppress(*RENAMED):
            if torch._dynamo.utils.counters["stats"]["unique_graphs"] != self.told:
                self._tell()

    def _tell(self) -> None:
        """Of what has been compiled since the last time."""
        now = _so_far()
        new = {key: value - self.before.get(key, 0) for key, value in now.items()}
        self.before, self.told = now, now["graphs"]
        if torch.distributed.is_initialized() and torch.distributed.get_rank() > 0:
            return
        graphs, missed, found, seconds = (new.pop(key) for key in ("graphs", "missed", "found", "seconds"))
        for reason in {reason for reason, times in new.items() if times} - self.broken:
            log.warning("trainer.compile=%s: runs in parts: %s", self.what, reason.strip().splitlines()[0])
            self.broken.add(reason)
        if not graphs:
            log.warning("trainer.compile=%s: nothing could be compiled; training goes on uncompiled", self.what)
            return
        how = "loaded from the cache on disk" if found and not missed else "compiled"
        graphs_of_it = f"{graphs} graph{'s' * (graphs > 1)}"
        log.info("trainer.compile=%s: %s of a training step %s in %.1f s", self.what, graphs_of_it, how, seconds)


def require_compiler(what: What, device: str) -> None:
    """Raise InputError, one line, if this machine lacks what torch.compile needs for a type of device."""
    if what != "none" and (lacking := _lacking(device)):
        raise InputError(f"trainer.compile={what}: needs {lacking}, or set trainer.compile=none")


def _lacking(device: str) -> str:
    """Programs for a CPU are C++; those for a GPU are Triton's, which a C compiler links."""
    on_gpu = device in ("cuda", "xpu")
    if on_gpu and not _has_triton():
        return "Triton, and a GPU that it supports (NVIDIA's from compute capability 7.0); pip install triton"
    named = os.environ.get("CC" if on_gpu else "CXX")
    usual = ["gcc", "clang"] if on_gpu else [{"win32": "cl", "darwin": "clang++"}.get(sys.platform, "g++")]
    compilers = [named] if named else usual
    if not any(map(shutil.which, compilers)) and not (on_gpu and sys.platform == "win32"):  # Triton brings one there
        how = "Visual Studio's, and run in its command prompt" if sys.platform == "win32" else "apt install g++"
        return f"a {'C' if on_gpu else 'C++'} compiler ({' or '.join(compilers)}); install one ({how})"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "Python's headers (Python.h); install them (apt install python3-dev)"
    return ""


def _has_triton() -> bool:
    with contextlib.suppress(ImportError):  # it is private
        from torch.utils._triton import has_triton

        return has_triton()
    return True


def _prepare(recompilations: int) -> None:
    """Have PyTorch compile by no more processes than the point has threads, and log to the point's log."""
    import torch._inductor.config as inductor

    if "TORCHINDUCTOR_COMPILE_THREADS" not in os.environ:
        inductor.compile_threads = torch.get_num_threads()
    if not torch.cuda.is_available():
        os.environ.setdefault("TORCH_WARM_POOL", "0")  # these processes would compile for GPUs alone
    torch._dynamo.config.recompile_limit = recompilations
    torch._functorch.config.force_non_lazy_backward_lowering = True  # all in the forward pass, where signals wait
    for name in () if "TORCH_LOGS" in os.environ else LOGGERS:  # else they log where they are asked to
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # that there is no GPU is no news


def _so_far() -> dict[str, float]:
    """What this process has compiled: counts, seconds, and how often a graph broke, by the reason."""
    from torch._dynamo.utils import calculate_time_spent, counters  # a second, when a point is planned

    return {
        "graphs": counters["stats"]["unique_graphs"],
        "missed": counters["inductor"]["fxgraph_cache_miss"],
        "found": counters["inductor"]["fxgraph_cache_hit"],
        "seconds": calculate_time_spent()["total_wall_time"],
        **counters["graph_break"],
    }


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Signals wait until the body ends: Ctrl-C reaches the C++ compiler, too, and would end it and so the point."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
