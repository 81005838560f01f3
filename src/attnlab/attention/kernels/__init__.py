"""What attention does to a whole map: its pools, and its product with a gate.

The map is what costs; pools and gates are small. Each function here has its plain formula, the reference. Where
gradients are wanted and ``few_passes`` finds nothing that forbids it, the same numbers come in fewer passes over the
map: on the CPU image by image, so that the next pass finds the image in the cache (``by_image``).

``ATTNLAB_KERNELS`` (read at import): ``eager`` leaves the plain formulas alone; ``triton`` takes Triton's kernels
(``on_gpu``) for maps on a GPU, also when compiling.
"""

import logging
import os
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from attnlab.attention.kernels.by_image import PLAIN, MaxAndMean, MeanAndMax, Scaled, for_formula
from attnlab.errors import InputError

LEAST = 2**17  # elements of a map; below, starting a function takes longer than it saves
wanted = os.environ.get("ATTNLAB_KERNELS", "")
if wanted not in ("", "eager", "triton"):
    raise InputError(f"ATTNLAB_KERNELS={wanted}: must be eager or triton, or not set")
# No promise of PyTorch's, but nothing else says what looks on.
PRIVATE = (
    (torch._C, ("DispatchKey", "_are_functorch_transforms_active", "_dispatch_keys", "_len_torch_dispatch_stack")),
    (forward_ad, ("_current_level",)),
)
missing = [name for module, names in PRIVATE for name in names if not hasattr(module, name)]
off = wanted == "eager" or bool(missing)
fused: Any = None  # on_gpu, where it is wanted
if missing:
    message = f"attention keeps its plain formulas: PyTorch {torch.__version__} has no {', '.join(missing)}"
    logging.getLogger("attnlab").warning(message)
elif wanted == "triton":
    try:
        from attnlab.attention.kernels import on_gpu as fused
    except ImportError as error:
        raise InputError(f"ATTNLAB_KERNELS=triton: Triton cannot be imported ({error})") from None


def few_passes(x: Tensor, gate: Tensor | None = None) -> bool:
    """Whether the fast functions are valid for this map (and gate), and worth it.

    Not for compilers and tracers, which see through the formula and not through the function, nor for other devices
    and dtypes, subclasses, forward mode and functorch.
    """
    if off or torch.compiler.is_compiling() or torch.jit.is_tracing() or type(x) not in PLAIN:
        return False
    return (  # what is cheap to ask, first
        x.numel() >= LEAST
        and x.requires_grad
        and torch.is_grad_enabled()
        and x.dim() == 4
        and (gate is None or _is_factor(gate, x))
        and not for_formula(x)
        and (gate is None or not for_formula(gate))
        and forward_ad._current_level < 0
    )


def _is_factor(gate: Tensor, x: Tensor) -> bool:
    """Whether the gate has some axes of the map, and 1 for the others; all images are its own."""
    return (
        type(gate) in PLAIN
        and gate.requires_grad
        and gate.dtype == x.dtype
        and gate.dim() == 4
        and len(gate) == len(x)
        and gate.shape != x.shape
        and all(g in (1, size) for g, size in zip(gate.shape[1:], x.shape[1:], strict=True))
    )


def by_triton(x: Tensor, gate: Tensor | None = None) -> bool:
    """Whether Triton's kernels are wanted and valid for this map (and its gate)."""
    if fused is None or torch.jit.is_tracing() or type(x) not in PLAIN:
        return False
    if (gate is not None and type(gate) not in PLAIN) or not fused.takes(x, gate):
        return False
    if torch.compiler.is_compiling():
        return not torch.compiler.is_exporting()
    here = not x.is_cuda or x.get_device() == torch.cuda.current_device()  # where Triton starts a kernel
    seen = torch._C._len_torch_dispatch_stack() > 0 or torch._C._are_functorch_transforms_active()
    return here and not seen and forward_ad._current_level < 0


def mean(x: Tensor) -> Tensor:
    """Over H·W: (N, C, H, W) -> (N, C)"""
    if not torch.jit.is_scripting():  # noqa: SIM102 (what scripting must not compile)
        if few_passes(x):
            return x.sum((2, 3)) / (x.shape[2] * x.shape[3])  # mean's gradient is a full map, sum's an expanded number
    return x.mean((2, 3))


def mean_and_max(x: Tensor) -> tuple[Tensor, Tensor]:
    """Over H·W: (N, C, H, W) -> (N, C), (N, C). Ties of the maximum share its gradient."""
    if not torch.jit.is_scripting():  # noqa: SIM102
        if few_passes(x):
            return MeanAndMax.apply(x)
    return x.mean((2, 3)), x.amax((2, 3))


def max_and_mean(x: Tensor) -> tuple[Tensor, Tensor]:
    """Over C: (N, C, H, W) -> (N, 1, H, W), (N, 1, H, W). Ties of the maximum share its gradient."""
    if not torch.jit.is_scripting():  # noqa: SIM102
        if few_passes(x):
            return MaxAndMean.apply(x)
    return x.amax(1, keepdim=True), x.mean(1, keepdim=True)


def scaled(x: Tensor, gate: Tensor) -> Tensor:
    """``x * gate``: (N, C, H, W) and (N, C, 1, 1), (N, 1, H, W) or what else broadcasts against it"""
    if not torch.jit.is_scripting():
        if few_passes(x, gate):
            return Scaled.apply(x, gate)
        if not torch.compiler.is_compiling() and by_triton(x, gate):  # the compiler needs no kernel for a product
            return fused.scaled(x, gate)
    return x * gate
