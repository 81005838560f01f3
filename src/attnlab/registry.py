"""A dictionary of named builders, filled by decorators."""

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, TypeVar

from attnlab.errors import InputError, choices, first_line
from attnlab.targets import find

Builder = TypeVar("Builder", bound=Callable[..., Any])


class Registry(dict[str, Callable[..., Any]]):
    """``registry("cbam")`` is a decorator that adds; ``registry.named("cbam")`` finds.

    ``open_to_others``: a name may also be the dotted path of a class, or the name of an entry point in the group
    ``attnlab.<kind>`` of an installed package, whose module registers it.
    """

    def __init__(self, kind: str, open_to_others: bool = False) -> None:
        super().__init__()
        self.kind, self.open_to_others = kind, open_to_others

    def __call__(self, name: str) -> Callable[[Builder], Builder]:
        def add(builder: Builder) -> Builder:
            if name in self:
                raise ValueError(f"{self.kind} {name!r} is registered already")
            self[name] = builder
            return builder

        return add

    def named(self, name: str) -> Callable[..., Any]:
        """The builder of that name. Raises InputError listing the nearest and all valid names."""
        if name in self:
            return self[name]
        if self.open_to_others and "." in name:
            found = find(name)
            if not callable(found):
                raise InputError(f"{self.kind}={name}: not found (PYTHONPATH=. looks here)")
            return found
        others = entry_points(group=f"attnlab.{self.kind}") if self.open_to_others else ()
        for entry in others:
            if entry.name == name:
                try:
                    entry.load()
                except Exception as error:
                    reason = f"{type(error).__name__}: {first_line(error)}"
                    raise InputError(f"{self.kind}={name}: importing {entry.value} failed: {reason}") from error
        if name not in self:
            raise InputError(f"{self.kind}={name}: unknown; {choices(name, {*self, *(e.name for e in others)})}")
        return self[name]
