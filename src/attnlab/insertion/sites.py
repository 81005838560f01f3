"""Sites: the places of a network where attention can go, found by running it once without computing anything."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

from torch import nn

from attnlab.backbones import Place, Side, places_of, structural_places
from attnlab.backbones.recording import Run
from attnlab.errors import InputError, choices
from attnlab.insertion.attended import without_attention
from attnlab.insertion.tracing import trace, unwrapped

Pick = Literal["all", "first", "last"] | Sequence[int]


@dataclass(frozen=True)
class Site:
    """A named place in a backbone: the output (or input) of one module."""

    name: str  # dotted module path
    role: str  # branch, pre, block, shortcut, unit, depthwise, stage, stem; or module
    stage: int  # from 1; 0 before the first stage
    block: int | None  # from 1 within the stage
    channels: int
    height: int
    width: int
    side: Side = "output"


def find_sites(
    net: nn.Module,
    input_size: Sequence[int] | None = None,
    *,
    every_module: bool = False,
    example: object = None,
    forward: Callable[[nn.Module], object] | None = None,
    within: str = "",
) -> list[Site]:
    """The sites of ``net`` for inputs of ``input_size`` (C, H, W), by default (its input channels, 224, 224).

    They are those of the bare network, even if attention is attached. The network runs once on the meta device, in eval
    mode, which computes, changes and allocates nothing. If its family names no places, its structure gives them
    (``backbones.structural_places``). ``every_module`` lists the output of every module instead, with role ``module``.
    A module that is called more than once in a forward pass, or whose result is not ``(N, C, H, W)``, is not a site.

    Of a network that does not take one image tensor, give instead of ``input_size`` an ``example``, the tuple of
    arguments of its forward (a tensor is one argument), or ``forward``, a function ``net -> anything`` that runs it
    once: that pass is a real one, in eval mode, and changes nothing. Small images will do: it keeps all maps.
    ``within="backbone.body"`` finds the sites of that submodule alone, ``input_size`` being that of its input.

    >>> find_sites(fasterrcnn, example=([torch.rand(3, 64, 96)],))

    Raises InputError if the network does not run on that.
    """
    net = unwrapped(net)
    with without_attention(net):
        run = trace(net, input_size, example=example, forward=forward, within=within, structure=True)
        return sites_of(net, run, every_module, within)


def sites_of(net: nn.Module, run: Run, every_module: bool = False, within: str = "") -> list[Site]:
    """``find_sites``, from what ``trace`` has noted of the bare network, its structure too."""
    if within:
        sites = sites_of(net.get_submodule(within), run, every_module)
        return [replace(site, name=f"{within}.{site.name}") for site in sites]
    if every_module:
        places = [Place("module", path) for path in run if path]
    else:
        places = places_of(net) or structural_places(net, run.larger or run)
    sites = []
    for place in places:
        block, _, name = place.module.rpartition(".")
        absent = getattr(net.get_submodule(block), name, None) is None  # an identity shortcut: the block's input
        of_module = run.get(block if absent else place.module, [])
        shape = getattr(of_module[0], "input" if absent else place.side) if len(of_module) == 1 else None
        if shape is not None and len(shape) == 4 and (every_module or _is_map(run, block if absent else place.module)):
            _, channels, height, width = shape
            sites.append(Site(place.module, place.role, place.stage, place.block, channels, height, width, place.side))
    return sites


def select_sites(
    sites: Sequence[Site],
    role: str = "branch",
    *,
    stages: Literal["all"] | Sequence[int] = "all",
    blocks: Pick = "all",
    names: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] = (),
) -> list[Site]:
    """The sites of one role, narrowed by stages, by blocks of each stage, and by globs of names.

    ``blocks``: all, first, last (of each stage) or a list of numbers from 1.
    Raises InputError if nothing matches; the message lists what exists.
    """
    for name, pick, words in (("stages", stages, ("all",)), ("blocks", blocks, ("all", "first", "last"))):
        if pick not in words and (isinstance(pick, str) or not isinstance(pick, Sequence)):
            raise InputError(f"sites.{name}={pick}: must be {', '.join(words)} or a list of numbers")
    if role == "module" and names is None:
        raise InputError("sites.names: must be set for sites=module, such as sites.names=[layer*.bn2]")
    of_role = [site for site in sites if site.role == role]
    if not sites:
        raise InputError(
            "sites: none found in this network (it may work on tokens or on (N, H, W, C)); "
            "choose modules by name: sites=module sites.names=[globs]"
        )
    if not of_role:
        roles = list(dict.fromkeys(site.role for site in sites))
        raise InputError(f"sites.role={role}: this network has no such site; {choices(role, roles)}")
    last: dict[int, int] = defaultdict(int)
    for site in of_role:
        last[site.stage] = max(last[site.stage], site.block or 0)

    def wanted(site: Site) -> bool:
        if stages != "all" and site.stage not in stages:
            return False
        if blocks == "first" and site.block != 1:
            return False
        if blocks == "last" and site.block != last[site.stage]:
            return False
        if not isinstance(blocks, str) and site.block not in blocks:
            return False
        if names is not None and not _matches(site.name, names):
            return False
        return not _matches(site.name, exclude)

    selected = [site for site in of_role if wanted(site)]
    if not selected:
        asked: dict[str, Any] = {"stages": stages, "blocks": blocks, "names": names, "exclude": exclude}
        text = " ".join(
            f"sites.{key}={_text(value)}" for key, value in asked.items() if value not in ("all", None, (), [])
        )
        raise InputError(f"{text}: no {role} site matches; there are {_listing(of_role)}")
    return selected


def _is_map(run: Run, path: str) -> bool:
    """Whether a module works on (N, C, H, W): the second number stays the same where the image is larger."""
    if run.larger is None or path not in run.larger:  # in the image's proportions
        batch, _, height, width = run.image or (1, 1, 1, 1)
        maps = [shape for call in run[path] for shape in call[:2] if shape is not None and len(shape) == 4]
        return all(
            shape[0] == batch and abs(shape[2] * width - shape[3] * height) <= max(height, width) for shape in maps
        )
    for small, large in zip(run[path], run.larger[path], strict=True):
        for a, b in zip(small[:2], large[:2], strict=True):
            if a is not None and b is not None and len(a) == 4 and (a[:2] != b[:2] or a[0] != 1):
                return False
    return True


def _matches(name: str, globs: str | Iterable[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in ([globs] if isinstance(globs, str) else globs))


def _text(value: str | Iterable[object]) -> str:
    return value if isinstance(value, str) else "[" + ",".join(map(str, value)) + "]"


def _listing(sites: Sequence[Site]) -> str:
    """``layer1.0.bn2 (stage 1, block 1), ...``, shortened to twelve."""
    shown = []
    for site in sites[:12]:
        where = [f"stage {site.stage}"] * bool(site.stage) + [f"block {site.block}"] * bool(site.block)
        shown.append(site.name + (f" ({', '.join(where)})" if where else ""))
    return ", ".join(shown) + (f" and {len(sites) - 12} more" if len(sites) > 12 else "")
