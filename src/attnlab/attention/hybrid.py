"""New attention from registered ones: one after the other, or side by side."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from attnlab.attention.base import Attention, Init, register, require
from attnlab.attention.order import COMBINE, Combine
from attnlab.errors import InputError, choices

Part = str | dict[str, Any]


@register("sequence")
class InSequence(Attention):
    """Any registered attentions one after the other: ``parts=["eca", {"name": "spatial", "kernel": 3}]``.

    A part is a name, or a mapping of its ``name`` and settings; the dotted path of a class serves as a name too.
    ``ratio``, ``init`` and ``map_size`` go to all parts that take them and do not set their own.
    Raises InputError for a part or a setting that does not exist, and for fewer than two parts.
    """

    def __init__(
        self,
        channels: int,
        *,
        parts: Sequence[Part],
        ratio: float | None = None,
        init: Init | None = None,
        map_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        built = _build(parts, channels, {"ratio": ratio, "init": init, "map_size": map_size})
        self.parts = nn.ModuleList(built)
        self.is_gate = all(getattr(part, "is_gate", False) for part in built)

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """The gate of each part that has one, as it meets what those before it made of x, by number and name"""
        gates = {}
        for i, part in enumerate(self.parts):
            if getattr(part, "is_gate", False):
                gates[f"{i}_{type(part).__name__}"] = part.gate(x)  # type: ignore[operator]
            x = part(x)
        return gates

    def gate(self, x: Tensor) -> Tensor:
        """The product of the parts' gates, where all are gates"""
        if not self.is_gate:
            return super().gate(x)
        first, *others = self.gates(x).values()
        for other in others:
            first = first * other
        return first

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x)
        return x


@register("parallel")
class InParallel(Attention):
    """Any registered gates side by side, all of x: ``x * (g1(x) ⊕ g2(x))``. Parts and settings as in InSequence.

    ``combine``: product, sum or max. With ``init="identity"`` a sum is divided by the number of its parts.
    Raises InputError for parts that are no gates, too.
    """

    def __init__(
        self,
        channels: int,
        *,
        parts: Sequence[Part],
        combine: Combine = "product",
        ratio: float | None = None,
        init: Init | None = None,
        map_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        require("combine", combine, Combine)
        built = _build(parts, channels, {"ratio": ratio, "init": init, "map_size": map_size})
        for part, module in zip(parts, built, strict=True):
            if not getattr(module, "is_gate", False):
                raise InputError(f"parts: {_name_of(part)} is no gate, which parallel needs; sequence takes it")
        self.parts, self.combine = nn.ModuleList(built), combine
        self.scale = 1 / len(built) if init == "identity" and combine == "sum" else 1.0

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """The gate of each part, by number and name"""
        return {f"{i}_{type(p).__name__}": p.gate(x) for i, p in enumerate(self.parts)}  # type: ignore[operator]

    def gate(self, x: Tensor) -> Tensor:
        """The gates of all parts combined"""
        first, *others = self.gates(x).values()
        for other in others:
            first = COMBINE[self.combine](first, other)
        return first if self.scale == 1 else self.scale * first


def _name_of(part: Part) -> str:
    return part if isinstance(part, str) else str(part.get("name"))


def _build(parts: Sequence[Part], channels: int, common: Mapping[str, Any]) -> list[nn.Module]:
    if isinstance(parts, str) or len(parts) < 2:
        raise InputError(f"parts={parts}: must be a list of two or more, such as [eca,spatial]")
    built = []
    for part in parts:
        name, own = _name_of(part), {} if isinstance(part, str) else {k: v for k, v in part.items() if k != "name"}
        build = register.named(name)
        takes = _takes(build)
        for key in own:
            if takes is not None and key not in takes:
                raise InputError(f"parts: {name} has no setting {key}; {choices(key, takes)}")
        given = {k: v for k, v in common.items() if v is not None and (takes is None or k in takes)}
        try:
            built.append(build(channels, **{**given, **own}))
        except InputError as error:
            raise InputError(f"parts: {name}: {error}") from None
    return built


def _takes(build: Callable[..., Any]) -> set[str] | None:
    """Names of its settings; None if it takes any."""
    parameters = list(inspect.signature(build).parameters.values())[1:]
    return None if any(p.kind is p.VAR_KEYWORD for p in parameters) else {p.name for p in parameters}
