"""What attached attention does while the network runs: its gates, and the features before and after."""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from attnlab.attention.base import Attention
from attnlab.errors import InputError
from attnlab.insertion.attended import Attended, names_of, places_with_attention
from attnlab.insertion.tracing import untouched


@dataclass
class Seen:
    """At one site, in the last forward pass; detached from gradients.

    ``feature`` f and ``attended``, its merge with A(f): (N, C, H, W). ``gates``: by the attention's own names
    (``gate``; ``channel`` and ``spatial`` of CBAM), each broadcasts against f; empty if the attention has none.
    """

    feature: Tensor
    attended: Tensor
    gates: dict[str, Tensor] = field(default_factory=dict)


@contextlib.contextmanager
def record(net: nn.Module) -> Iterator[dict[str, Seen]]:
    """Inside, each forward pass of ``net`` writes down, by site, what the attached attention gets, gates and gives.

    >>> with attnlab.record(net) as seen:
    ...     net(images)
    >>> seen["layer1.0.bn2"].gates["spatial"]  # (N, 1, H, W)

    Sites are named as ``attach`` returns them; where a name would not do (attention at a module's input and at its
    output, an ensemble of networks) the path of the place has its name. If a site runs several times, the last time
    counts.
    Outputs, gradients, batch statistics and random states are as without: gates are computed once more beside the
    forward pass. A compiled network runs uncompiled inside, which a warning says.
    Raises InputError for a network without attached attention.
    """
    places = places_with_attention(net)
    if not places:
        raise InputError(
            f"{type(net).__name__} has no attached attention to record"
            + ("; record before you script or export it" if isinstance(net, torch.jit.ScriptModule) else "")
        )
    seen: dict[str, Seen] = {}
    with contextlib.ExitStack() as stack:
        if _is_compiled(net):
            warnings.warn("record: the compiled network runs uncompiled while it is recorded", stacklevel=3)
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        for path, name in names_of(places).items():
            stack.callback(places[path].attended_by.register_forward_hook(_see(places[path], name, seen)).remove)
        yield seen


def _see(place: Attended, name: str, seen: dict[str, Seen]) -> Callable[..., None]:
    @torch.no_grad()
    def see(attention: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        f, attended = args[0].detach(), output.detach()
        if place.mix is not None:
            attended = place.mix(torch.cat([f, attended], 1))
        elif place.adds:
            attended = f + attended
        seen[name] = Seen(f, attended, gates_of(attention, f))

    return see


@torch.no_grad()
def gates_of(attention: nn.Module, f: Tensor) -> dict[str, Tensor]:
    """The gates that the attention applies to the feature ``f`` (N, C, H, W), by name; {} if it has none.

    Its batch statistics and the random states stay as they are.
    """
    if not _has_gates(attention):
        return {}
    with untouched(attention):
        return dict(attention.gates(f))  # type: ignore[operator]


def _has_gates(attention: nn.Module) -> bool:
    """Whether it defines ``gates``, or ``gate``, of which the base makes them."""
    defined = getattr(attention, "gates", None)
    if getattr(defined, "__func__", defined) is not Attention.gates:
        return defined is not None  # None: of the user's own modules
    return getattr(attention.gate, "__func__", attention.gate) is not Attention.gate


def _is_compiled(net: nn.Module) -> bool:
    return any(hasattr(m, "_orig_mod") or m._compiled_call_impl is not None for m in net.modules())
