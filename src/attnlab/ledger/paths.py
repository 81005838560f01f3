"""Absolute paths in what leaves the machine: where it keeps its files is nobody's business."""

import re
from collections.abc import Mapping
from typing import Any

ABSOLUTE = r"(?:file:|[/~]|\\\\|[A-Za-z]:[\\/])"


def without_folders(value: Any) -> Any:
    """A config's value with absolute paths as their last part."""
    if isinstance(value, Mapping):
        return {key: without_folders(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(inner) for inner in value]
    return last_parts(value) if isinstance(value, str) else value


def is_absolute(text: str) -> bool:
    """Whether it is a path from a root or a home, also of Windows or of its network."""
    return bool(re.match(ABSOLUTE, text) and re.search(r"[\\/]", text))


def last_parts(text: str, number: int = 1) -> str:
    """``photos`` for ``/home/me/photos``, ``~/photos``, a path of Windows or of its network; else the text.

    ``number``: how many parts of the path are left, 2 for ``me/photos``.
    """
    if not is_absolute(text):
        return text
    parts = re.split(r"[\\/]", text.rstrip("\\/"))
    return "/".join(filter(None, parts[-number:])) or text


def word_without_folders(word: str) -> str:
    """``data.folder=photos`` for the word ``data.folder=/home/me/photos`` of a command; lists and mappings likewise."""
    key, equals, value = word.partition("=")
    if not equals:  # ``~group/name`` leaves out a group of the config
        return word if word.startswith("~") and not word.startswith("~/") else last_parts(word)
    parts = re.split(r"""([][{},'"])""", value)
    return key + equals + "".join(_one_value(part) for part in parts)


def _one_value(text: str) -> str:
    key = re.match(r"\s*((?!file:)\w{2,}:(?!//)\s*)?", text)  # of a mapping
    end = key.end() if key else 0
    return text[:end] + last_parts(text[end:])
