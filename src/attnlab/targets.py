"""What a dotted path names, and which settings it takes."""

import importlib
import inspect
import typing
from typing import Any

from attnlab.errors import InputError, first_line


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


def parameters(target: Any) -> tuple[dict[str, inspect.Parameter], bool]:
    """Keyword parameters of a class or function by name, and whether it takes any others.

    A class that passes ``**kwargs`` on takes the parameters of the next class in its line too.
    """
    if not inspect.isclass(target):
        return _keywords(target)
    found: dict[str, inspect.Parameter] = {}
    for cls in target.__mro__:
        if "__init__" in vars(cls):
            more, open_ended = _keywords(vars(cls)["__init__"])
            found = more | found
            if not open_ended:
                return found, False
    return found, True


def _keywords(function: Any) -> tuple[dict[str, inspect.Parameter], bool]:
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except Exception:  # annotations that only a type checker can read: names are still checked
        hints = {}
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY) and name != "self":
            found[name] = parameter.replace(annotation=hints.get(name, Any))
    kinds = [p.kind for p in inspect.signature(function).parameters.values()]
    return found, inspect.Parameter.VAR_KEYWORD in kinds
