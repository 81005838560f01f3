"""Is all attention that was attached still there, and does it run?"""

from collections.abc import Callable, Iterable, Sequence

from torch import nn

from attnlab.errors import InputError
from attnlab.insertion.attended import MEMORY, places_with_attention
from attnlab.insertion.tracing import part_of, trace, unwrapped


def check(
    net: nn.Module,
    input_size: Sequence[int] | None = None,
    *,
    example: object = None,
    forward: Callable[[nn.Module], object] | None = None,
    within: str = "",
) -> None:
    """Raise InputError, naming the sites, if attention that ``attach`` put into ``net`` is gone.

    The network, and each copy and pickle of it, keeps a record of what was attached. A tool that builds a new network
    from its parts (``torch.fx``, ``torch.jit``, ``torch.export``, ``IntermediateLayerGetter``, ``nn.Sequential(*net)``)
    returns one without this record. With ``input_size`` (C, H, W), ``check`` also runs the network once without memory,
    in eval mode, and names attention that a rewritten forward pass never calls. It does not run the training mode.
    ``example``, ``forward`` and ``within`` run other networks, or parts: see ``find_sites``.
    """
    net = unwrapped(net)
    gone = set[tuple[str, str]]()
    for module in net.modules():  # also a network in the network remembers, by its own paths
        if remembered := vars(module).get(MEMORY):
            gone |= remembered - {(place.site, place.side) for place in places_with_attention(module).values()}
    if gone:
        raise InputError(
            f"attention is gone from {_listed(gone)}: a module that held it was replaced since it was attached; "
            "attach after such changes, or detach first"
        )
    asked = within or any(given is not None for given in (input_size, example, forward))
    places = places_with_attention(part_of(net, within))
    if asked and places:
        calls = trace(net, input_size, example=example, forward=forward, within=within)
        passed = {(place.site, place.side) for path, place in places.items() if not calls.get(f"{path}.attended_by")}
        if passed:
            raise InputError(f"attention does not run at {_listed(passed)}: the forward pass never calls it")


def _listed(sites: Iterable[tuple[str, str]]) -> str:
    names = [f"{site} ({side})" for site, side in sorted(sites)]
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more sites" if len(names) > 6 else "")
