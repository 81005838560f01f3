"""The documentation, run: each README's blocks, in order, in a scratch folder of its own. ``make docs``

    python -m tests.docs [FILE.md ...]

A block of sh or python is run if its first line says so (```sh run), and written to a file if it names one
(```python file=mine.py). A block that is neither says why in a comment on the line before it:
``<!-- not run: needs an account -->``. After ``<!-- in a copy of the checkout -->`` the scratch folder holds src and
conf, and the blocks run that copy. The first failure ends the run, with file and line.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).parents[1]
IN_A_COPY = "<!-- in a copy of the checkout -->"
FENCE = re.compile(r"^```(.*)$")
REASON = re.compile(r"^<!-- not run: (.+) -->$")


class Block(NamedTuple):
    """A fenced block of a Markdown file."""

    file: Path
    line: int  # of its fence
    language: str
    words: list[str]  # after the language
    text: str
    reason: str  # why it is not run

    @property
    def where(self) -> str:
        return f"{self.file.relative_to(REPOSITORY)}:{self.line}"

    @property
    def target(self) -> str | None:
        """The file that it is written to."""
        return next((word.removeprefix("file=") for word in self.words if word.startswith("file=")), None)


def pages() -> list[Path]:
    """All Markdown files of the checkout."""
    folders = (".", "conf", "outputs")
    found = [page for folder in folders for page in (REPOSITORY / folder).glob("*.md")]
    return [*found, *sorted(page for folder in ("src", "tests") for page in (REPOSITORY / folder).rglob("*.md"))]


def blocks(page: Path) -> Iterator[Block]:
    """Its fenced blocks, in order."""
    lines, at = page.read_text(encoding="utf-8").splitlines(), 0
    while at < len(lines):
        if opening := FENCE.match(lines[at]):
            end = next((i for i in range(at + 1, len(lines)) if lines[i] == "```"), None)
            if end is None:
                raise ValueError(f"{page}:{at + 1}: this block does not end")
            language, *words = opening[1].split() or [""]
            reason = REASON.match(lines[at - 1]) if at else None
            text = "\n".join(lines[at + 1 : end]) + "\n"
            yield Block(page, at + 1, language, words, text, reason[1] if reason else "")
            at = end
        at += 1


def run(page: Path) -> None:
    """Run the blocks of a page. Raises CalledProcessError for the first that fails, after its output."""
    with tempfile.TemporaryDirectory(prefix="attnlab-docs-") as scratch:
        here = Path(scratch) / "here"
        here.mkdir()
        source = REPOSITORY / "src"
        if IN_A_COPY in page.read_text(encoding="utf-8"):
            for folder in ("src", "conf"):
                shutil.copytree(REPOSITORY / folder, here / folder, ignore=shutil.ignore_patterns("__pycache__"))
            source = here / "src"
        environment = _environment(Path(scratch) / "bin", source)
        for block in blocks(page):
            if block.target:
                (here / block.target).parent.mkdir(parents=True, exist_ok=True)
                (here / block.target).write_text(block.text, encoding="utf-8")
            elif "run" in block.words:
                _run(block, here, environment)


def _environment(binaries: Path, source: Path) -> dict[str, str]:
    """With attnlab on the PATH, from this source, wherever a block points PYTHONPATH."""
    binaries.mkdir()
    for name in ("attnlab", "python"):
        installed = Path(sys.executable).parent / name
        words = f"PYTHONPATH='{source}'${{PYTHONPATH:+:$PYTHONPATH}} exec '{installed}' \"$@\""
        (binaries / name).write_text(f"#!/bin/sh\n{words}\n")
        (binaries / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{binaries}:{os.environ['PATH']}", "COLUMNS": "120"}
    environment.pop("PYTHONPATH", None)
    return environment


def _run(block: Block, here: Path, environment: dict[str, str]) -> None:
    shell = ["bash", "-euo", "pipefail", "-c", block.text]
    command = ["python", "-c", block.text] if block.language == "python" else shell
    print(f"{block.where} ...", end=" ", flush=True)
    started = time.monotonic()
    program = shutil.which(command[0], path=environment["PATH"]) or command[0]
    done = subprocess.run(
        [program, *command[1:]],
        cwd=here,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print(f"{time.monotonic() - started:.0f} s", flush=True)
    if done.returncode:
        print(block.text, done.stdout, f"{block.where}: exit code {done.returncode}", sep="\n", flush=True)
        raise subprocess.CalledProcessError(done.returncode, command[0])


def main(names: list[str]) -> int:
    """The exit code: 1 after the first failure."""
    try:
        for page in [Path(name).resolve() for name in names] or pages():
            run(page)
    except subprocess.CalledProcessError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
