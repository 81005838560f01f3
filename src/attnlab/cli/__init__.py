"""The command line: ``attnlab <verb> ...``.

A verb is a file of ``verbs/``; the rest serves several of them. The top floor: it may import every room, and does so
only when a verb needs it, so that help and errors are quick.
"""

from attnlab.cli.dispatch import main

__all__ = ["main"]
