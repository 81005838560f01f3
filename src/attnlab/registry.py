"""A dictionary of named builders, filled by decorators."""

from collections.abc import Callable
from typing import Any, TypeVar

from attnlab.errors import InputError, choices

Builder = TypeVar("Builder", bound=Callable[..., Any])


class Registry(dict[str, Callable[..., Any]]):
    """``registry("cbam")`` is a decorator that adds; ``registry.named("cbam")`` finds."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def __call__(self, name: str) -> Callable[[Builder], Builder]:
        def add(builder: Builder) -> Builder:
            if name in self:
                raise ValueError(f"{self.kind} {name!r} is registered already")
            self[name] = builder
            return builder

        return add

    def named(self, name: str) -> Callable[..., Any]:
        """The builder of that name. Raises InputError listing the nearest and all valid names."""
        if name not in self:
            raise InputError(f"{self.kind}={name}: unknown; {choices(name, self)}")
        return self[name]
