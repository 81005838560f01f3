"""A dictionary of named builders, filled by decorators."""

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
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
        """The builder of that name, or at that dotted path, whose module is imported.

        A name that is not there may be one that an installed package adds: in its entry points of the group
        ``attnlab.attention`` (or another kind) it names the module that registers it. Raises InputError, which
        lists the nearest and all valid names, and for a module that cannot be imported.
        """
        if "." in name:
            return self._at(name)
        if name not in self:
            for entry in entry_points(group=f"attnlab.{self.kind}"):
                try:
                    entry.load()
                except Exception as error:
                    raise InputError(f"{self.kind}={name}: {entry.value} cannot be imported: {error}") from error
        if name not in self:
            raise InputError(f"{self.kind}={name}: unknown; {choices(name, self)}")
        return self[name]

    def _at(self, path: str) -> Callable[..., Any]:
        module, _, name = path.rpartition(".")
        try:
            found = getattr(import_module(module), name, None)
        except ImportError as error:
            raise InputError(f"{self.kind}={path}: {error} (PYTHONPATH=. looks here)") from None
        if not callable(found):
            raise InputError(f"{self.kind}={path}: there is no {name} in {module}")
        return found
