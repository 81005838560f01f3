"""The documentation is true: links, anchors, commands that exist and compose; CONTRIBUTING, run."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

import attnlab
from attnlab.cli import dispatch
from attnlab.cli.verbs.completion import COMPOSES
from attnlab.config import schema
from attnlab.config.compose import composing, parse
from attnlab.config.many import compose_all
from attnlab.errors import InputError
from attnlab.sweep.grid import jobs
from tests import docs
from tests.conftest import REPOSITORY

PAGES = docs.pages()
OWN_CLASSES = re.compile(r"my_\w+|--config-dir|ATTNLAB_IMAGENET")
WITH_A_VALUE = ("--input", "--batch", "--device", "--sheet")  # of attnlab sites, cost and data

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))


def without_blocks(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    found: list[str] = []
    for heading in re.findall(r"^#+ +(.+)$", without_blocks(page), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        found.append(slug if slug not in found else f"{slug}-{found.count(slug)}")
    return set(found)


def commands(page: Path) -> list[list[str]]:
    """The words of each attnlab command in a page's blocks of sh, and in its inline code."""
    lines = re.findall(r"`(attnlab [a-z][^`]*)`", without_blocks(page).replace("\\|", "|").replace("\n", " "))
    for block in docs.blocks(page):
        if block.language == "sh":
            lines += block.text.replace("\\\n", " ").splitlines()
    found = []
    for line in lines:
        words = [*shlex.split(line.replace("`", " "), comments=True), ";"]
        while "attnlab" in words:
            words = words[words.index("attnlab") + 1 :]
            end = next(i for i, word in enumerate(words) if word in (";", "&&", "||", "|", ">", ">>"))
            found.append(words[:end])
    return found


def test_the_pages_are_all_here():
    names = {str(page.relative_to(REPOSITORY)) for page in PAGES}
    rooms = ("attention", "insertion", "explain", "trained", "sweep", "study", "tracking")
    pages = {f"src/attnlab/{room}/README.md" for room in rooms}
    assert pages | {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "conf/README.md", "tests/README.md"} <= names


def test_the_first_page_is_short():
    assert len((REPOSITORY / "README.md").read_text().splitlines()) <= 150


def test_the_first_page_lists_every_verb():
    rows = re.findall(r"^\| `attnlab (\w+)", (REPOSITORY / "README.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(dispatch.names())


@every_page
def test_lines_are_not_long(page):
    for number, line in enumerate(without_blocks(page).splitlines(), 1):
        assert len(line) <= 140 or line.startswith("|"), number


@every_page
def test_links_and_anchors(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", without_blocks(page)):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = unquote(target).partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        assert there.is_relative_to(REPOSITORY), target
        assert not anchor or anchor in anchors(there), target


@every_page
def test_blocks_of_code_are_run_or_say_why_not(page):
    for block in docs.blocks(page):
        if block.language in ("sh", "python"):
            assert ("run" in block.words) + (block.target is not None) + bool(block.reason) == 1, block.where
        else:
            assert block.language in ("text", "yaml", "bibtex"), block.where


@every_page
def test_commands_exist_and_compose(page):
    if docs.IN_A_COPY in page.read_text():
        return  # it adds some, and is run below
    verbs, found = dispatch.names(), set()
    with composing() as compose_one:
        for words in commands(page):
            verb, *rest = words
            if verb.startswith("-") or verb == "<verb>":
                continue
            assert verb in verbs, words
            if verb not in COMPOSES or "[key=value" in rest or OWN_CLASSES.search(" ".join(rest)):
                continue
            rest = [word for i, word in enumerate(rest) if word not in WITH_A_VALUE and rest[i - 1] not in WITH_A_VALUE]
            args = parse([word for word in rest if not word.startswith("--")])
            if any(word.startswith("attention.rato=") for word in args.overrides):  # a page shows what is refused
                continue
            several = jobs(args.overrides, args.multirun, compose_one)
            found |= {tuple(several[0]), tuple(several[-1])}
        for config in compose_all(sorted(found), compose_one):
            assert not isinstance(config, InputError), config
            schema.check(config)


@pytest.mark.slow  # `make docs` runs it, too
def test_contributing_runs():
    docs.run(REPOSITORY / "CONTRIBUTING.md")


def test_a_failure_names_its_line(tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    page.write_text(
        "# A\n\n```yaml file=a/b.yaml\nc: 1\n```\n\n```sh run\ncat a/b.yaml\n```\n\n```sh run\nfalse | true\n```\n"
    )
    monkeypatch.setattr(docs, "REPOSITORY", tmp_path)
    assert docs.main([str(page)]) == 1
    assert "page.md:7 ..." in capsys.readouterr().out.splitlines()[0]


def test_names_and_licence_agree():
    import yaml

    cited = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    project = (REPOSITORY / "pyproject.toml").read_text()
    assert cited["version"] == attnlab.__version__
    assert f'license = "{cited["license"]}"' in project
    assert cited["authors"][0]["name"] in (REPOSITORY / "LICENSE").read_text()
    assert f"## {cited['version']}\n" in (REPOSITORY / "CHANGELOG.md").read_text()


def test_docs_is_a_script():
    done = subprocess.run([sys.executable, "-m", "tests.docs", "outputs/README.md"], cwd=REPOSITORY, check=False)
    assert done.returncode == 0
