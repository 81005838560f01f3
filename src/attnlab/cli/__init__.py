"""The command line: ``attnlab <verb> ...``.

A verb is a file of ``verbs/``; the other files serve several verbs. This is the top floor: it may import every room,
but does so only when a verb needs it, so help and errors are quick.
"""

from attnlab.cli.dispatch import main

__all__ = ["main"]
