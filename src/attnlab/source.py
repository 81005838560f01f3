"""A hash of attnlab's own code."""

import functools
import hashlib
from pathlib import Path


@functools.cache
def own_source() -> str:
    """Hash of attnlab's own files, hexadecimal."""
    found = hashlib.sha256()
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        found.update(file.read_bytes())
    return found.hexdigest()
