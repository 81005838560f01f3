"""Find the object at a dotted path, and the settings that it takes."""

import functools
import importlib
import inspect
import os
import sys
import typing
from typing import Any

from attnlab.errors import InputError, first_line

PACKAGES = ("attnlab", "torch", "torchvision", "timm", "lightning")


def allowed_packages() -> tuple[str, ...]:
    """Packages whose classes a config may name: attnlab's and those of the user's ATTNLAB_ALLOW=a,b."""
    return (*PACKAGES, *filter(None, os.environ.get("ATTNLAB_ALLOW", "").split(",")))


def require_allowed(key: str, target: str) -> tuple[str, ...]:
    """The allowed packages; InputError if ``target``, which the setting ``key`` names, is of none of them."""
    allowed, package = allowed_packages(), target.partition(".")[0]
    if package not in allowed:
        raise InputError(
            f"{key}={target}: package {package!r} is not allowed; allowed: {', '.join(allowed)} "
            f"(to trust your own: ATTNLAB_ALLOW={package})"
        )
    return allowed


def find(path: str) -> Any:
    """The object at a dotted path, or None. Raises InputError for a module whose import fails."""
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError as error:
            if not path.startswith(error.name or path):
                raise InputError(f"{path}: importing it failed: {error}") from None
            continue
        except Exception as error:  # of the module itself
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise InputError(f"{path}: importing it failed: {reason}") from error
        for part in parts[end:]:
            found = getattr(found, part, None)
        return found
    return None


def home(target: Any, path: str) -> str:
    """The package of an object found at a path; an object made there, such as a partial, belongs to that package."""
    module = path.rpartition(".")[0]
    if isinstance(target, functools.partial):
        return module if module in sys.modules else home(target.func, path)
    return getattr(target, "__module__", None) or ""


def parameters(target: Any) -> tuple[dict[str, inspect.Parameter], bool]:
    """Keyword parameters of a class or other callable, by name, and whether it takes any others.

    A class that passes ``**kwargs`` on also takes the parameters of the next class in its MRO.
    """
    behind = inspect.unwrap(target, stop=lambda f: "__wrapped__" not in getattr(f, "__dict__", {}))
    if inspect.isclass(behind):  # a class behind a decorator
        target = behind
    if not inspect.isclass(target):
        return _keywords(inspect.signature(target), target)
    found: dict[str, inspect.Parameter] = {}
    for cls in target.__mro__:
        init = vars(cls).get("__init__")
        if cls is object and not found:  # it may have a __new__ alone
            return _keywords(inspect.signature(target), target.__new__)
        if init:
            signature = inspect.signature(init)
            first = next(iter(signature.parameters.values()), None)
            if first is not None and first.kind in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD):  # self
                signature = signature.replace(parameters=[*signature.parameters.values()][1:])
            more, open_ended = _keywords(signature, init)
            found = more | found
            if not open_ended:
                return found, False
    return found, True


def _keywords(signature: inspect.Signature, annotated: Any) -> tuple[dict[str, inspect.Parameter], bool]:
    while isinstance(annotated, functools.partial):
        annotated = annotated.func
    if inspect.isclass(annotated):
        annotated = annotated.__init__
    elif not inspect.isroutine(annotated):
        annotated = type(annotated).__call__
    try:
        hints = typing.get_type_hints(annotated, include_extras=True)
    except Exception:  # annotations that only a type checker can read: names are still checked
        hints = {}
    given = signature.parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    found = {p.name: p.replace(annotation=hints.get(p.name, Any)) for p in given if p.kind in kinds}
    return found, any(p.kind is p.VAR_KEYWORD for p in given)
