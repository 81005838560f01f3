"""A placement: an attention with its settings, at a selection of sites."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from attnlab.attention import register
from attnlab.errors import InputError
from attnlab.insertion.attended import Merge
from attnlab.insertion.sites import Pick, Site, select_sites


@dataclass(frozen=True, init=False)
class Placement:
    """One of the attentions that ``attach`` puts into a network together; the arguments are those of ``attach``.

    >>> attach(net, [Placement("se", at="branch", stages=[1, 2], ratio=8), Placement("cbam", at="stem")])

    Raises InputError for an unknown attention or merge.
    """

    attention: str | Callable[..., nn.Module]
    at: str
    stages: Literal["all"] | Sequence[int]
    blocks: Pick
    names: str | Sequence[str] | None
    exclude: str | Sequence[str]
    merge: Merge
    settings: dict[str, Any]  # of the attention

    def __init__(
        self,
        attention: str | Callable[..., nn.Module],
        *,
        at: str = "branch",
        stages: Literal["all"] | Sequence[int] = "all",
        blocks: Pick = "all",
        names: str | Sequence[str] | None = None,
        exclude: str | Sequence[str] = (),
        merge: Merge = "scale",
        **settings: Any,
    ) -> None:
        if merge not in Merge.__args__:  # type: ignore[attr-defined]
            raise InputError(f"merge={merge}: must be one of {', '.join(Merge.__args__)}")  # type: ignore[attr-defined]
        if merge == "add" and settings.get("init") == "identity":
            raise InputError("merge=add with init=identity: f + A(f) would start at 2 f; use merge=scale or concat")
        if isinstance(attention, nn.Module):
            name = type(attention).__name__
            raise InputError(f"attention: an existing {name} can serve only one site; give its class")
        build = register.named(attention) if isinstance(attention, str) else attention
        if not callable(build):
            raise InputError(
                f"attention={build!r}: must be a registered name, a class or a function that makes a module"
            )
        vars(self).update(attention=attention, at=at, stages=stages, blocks=blocks, names=names)
        vars(self).update(exclude=exclude, merge=merge, settings=settings)

    @property
    def build(self) -> Callable[..., nn.Module]:
        """What makes the module."""
        return register.named(self.attention) if isinstance(self.attention, str) else self.attention

    @property
    def name(self) -> str:
        """The attention's registered name, or what else it is called, for messages."""
        registered = (name for name, build in register.items() if build is self.build)
        return next(registered, getattr(self.build, "__name__", "attention"))

    def select(self, sites: Sequence[Site]) -> list[Site]:
        """Those of ``sites`` that it is for. Raises InputError as ``select_sites``."""
        return select_sites(
            sites, self.at, stages=self.stages, blocks=self.blocks, names=self.names, exclude=self.exclude
        )
