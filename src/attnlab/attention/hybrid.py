"""New attention from registered ones: one after the other, or side by side."""

from typing import Any

from torch import Tensor, nn

from attnlab.attention.base import UNBOUNDED, Attention, Init, product_of_limits, register, require
from attnlab.attention.kernels import scaled
from attnlab.attention.order import Combine, combine
from attnlab.errors import InputError, choices
from attnlab.targets import parameters

Part = str | dict[str, Any]
COMMON = ("ratio", "groups", "init")  # settings that a hybrid gives to its parts


@register("sequence")
class InSequence(Attention):
    """Any registered attentions one after the other: ``parts=["eca", {"name": "spatial", "kernel": 3}]``.

    A part is a name, or a mapping of its ``name`` and settings; a name may be the dotted path of a class.
    ``ratio``, ``groups``, ``init`` and ``map_size`` go to all parts that take them and do not set their own.
    Raises InputError for a part or a setting that does not exist, for fewer than two parts, and for
    ``init="identity"`` with a part that cannot start as the identity.
    """

    gates_compose = True

    def __init__(
        self,
        channels: int,
        *,
        parts: list[Part],
        ratio: float | None = None,
        groups: int | None = None,
        init: Init | None = None,
        map_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        built = _build(parts, channels, {"ratio": ratio, "groups": groups, "init": init}, map_size)
        self.parts = nn.ModuleList(built)
        self.is_gate = all(getattr(part, "is_gate", False) for part in built)
        self.starts_as_identity = all(part.starts_as_identity for part in built)

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """The gate of each part that has one, for the output of the parts before it, by number and name"""
        gates = {}
        for i, part in enumerate(self.parts):
            if getattr(part, "is_gate", False):
                gates[f"{i}_{type(part).__name__}"] = gate = part.gate(x)  # type: ignore[operator]
                x = scaled(x, gate)
            else:
                x = part(x)
        return gates

    def limits(self, name: str = "gate") -> tuple[float, float]:
        if name == "gate":
            return product_of_limits(*(_limits_of(part) for part in self.parts))
        return _limits_of_part(self.parts, name)

    def gate(self, x: Tensor) -> Tensor:
        """The product of the parts' gates, where all are gates"""
        if not self.is_gate:
            raise TypeError("InSequence has no gate: one of its parts has none")
        whole = x
        for i, part in enumerate(self.parts):
            gate = part.gate(x)  # type: ignore[operator]
            x = scaled(x, gate)
            whole = gate if i == 0 else whole * gate
        return whole

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x)
        return x


@register("parallel")
class InParallel(Attention):
    """Any registered gates side by side, each applied to x: ``x * (g1(x) ⊕ g2(x))``. Parts as in InSequence.

    ``combine``: product, sum or max. Where all parts start as the identity, a sum is divided by their number.
    Also raises InputError for parts that are not gates.
    """

    def __init__(
        self,
        channels: int,
        *,
        parts: list[Part],
        combine: Combine = "product",
        ratio: float | None = None,
        groups: int | None = None,
        init: Init | None = None,
        map_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        require("combine", combine, Combine)
        built = _build(parts, channels, {"ratio": ratio, "groups": groups, "init": init}, map_size)
        for part, module in zip(parts, built, strict=True):
            if not getattr(module, "is_gate", False):
                raise InputError(
                    f"parts: {name_of(part)} is not a gate; parallel takes only gates, sequence takes any attention"
                )
        self.parts, self.combine = nn.ModuleList(built), combine
        self.starts_as_identity = all(part.starts_as_identity for part in built)
        self.scale = 1 / len(built) if self.starts_as_identity and combine == "sum" else 1.0

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """The gate of each part, by number and name"""
        return {f"{i}_{type(p).__name__}": p.gate(x) for i, p in enumerate(self.parts)}  # type: ignore[operator]

    def limits(self, name: str = "gate") -> tuple[float, float]:
        if name != "gate":
            return _limits_of_part(self.parts, name)
        limits = [_limits_of(part) for part in self.parts]
        if self.combine == "product":
            return product_of_limits(*limits)
        lows, highs = zip(*limits, strict=True)
        if self.combine == "max":
            return max(lows), max(highs)
        return self.scale * sum(lows), self.scale * sum(highs)

    def gate(self, x: Tensor) -> Tensor:
        """The gates of all parts combined"""
        combined = x
        for i, part in enumerate(self.parts):
            gate = part.gate(x)  # type: ignore[operator]
            combined = gate if i == 0 else combine(combined, gate, self.combine)
        return combined if self.scale == 1 else self.scale * combined


def _limits_of_part(parts: nn.ModuleList, name: str) -> tuple[float, float]:
    """Of a gate that ``gates`` calls ``0_ECA``: those of part 0."""
    return _limits_of(parts[int(name.partition("_")[0])])


def _limits_of(part: nn.Module) -> tuple[float, float]:
    return part.limits() if isinstance(part, Attention) else UNBOUNDED


def name_of(part: Part) -> str:
    """Raises InputError if it has none."""
    name = part if isinstance(part, str) else part.get("name") if isinstance(part, dict) else None
    if not isinstance(name, str):
        raise InputError(f"parts: {part} must be a name, or a mapping with a name, such as {{name:eca,kernel:3}}")
    return name


def require_identity(name: str, starts: bool) -> None:
    """Raise InputError for a part that cannot start as the identity, if all must."""
    if not starts:
        raise InputError(f"init=identity: {name} cannot start as the identity; it has no init")


def _build(parts: list[Part], channels: int, common: dict[str, Any], map_size: Any) -> list[Attention]:
    """Raises InputError, also for parts that cannot start as the identity if all must."""
    if not isinstance(parts, list) or len(parts) < 2:
        raise InputError(f"parts={parts}: must be a list of two or more, such as [eca,spatial]")
    built = []
    for part in parts:
        name, own = name_of(part), {} if isinstance(part, str) else {k: v for k, v in part.items() if k != "name"}
        build = register.named(name)
        takes, open_ended = parameters(build)
        for key in own:
            if key not in takes and not open_ended:
                raise InputError(f"parts: {name} has no setting {key}; {choices(key, takes.keys() - {'channels'})}")
        given = {key: value for key, value in common.items() if value is not None and (key in takes or open_ended)}
        if "map_size" in takes and map_size is not None:
            given["map_size"] = map_size
        try:
            module = build(channels, **{**given, **own})
        except (InputError, TypeError) as error:
            raise InputError(f"parts: {name}: {error}") from None
        starts = getattr(module, "starts_as_identity", False) or (given | own).get("init") == "identity"
        if common["init"] == "identity":
            require_identity(name, starts)
        module.starts_as_identity = starts
        built.append(module)
    return built
