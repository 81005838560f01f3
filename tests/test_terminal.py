"""What is printed: on terminals of any encoding, into pipes that close, onto a full disk, in any locale."""

import ast
import codecs
import os
import subprocess

import pytest

from attnlab.terminal import stand_in
from tests.conftest import COMMAND, REPOSITORY
from tests.study.points import write_point


def encoded(text, encoding="ascii"):
    codecs.register_error("attnlab.stand_in", stand_in)
    return text.encode(encoding, "attnlab.stand_in")


def test_every_character_that_we_print_has_a_stand_in():
    for path in (REPOSITORY / "src" / "attnlab").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
                for character in node.value:
                    assert character in "?💡" or encoded(character) != b"?", f"{path}:{node.lineno}: {character}"


def test_stand_ins():
    assert encoded("✓ 3 × 4 ± 2 ≤ 5 … ─│┼ é ² Übung ⠋ 漢") == b"+ 3 x 4 +/- 2 <= 5 ... -|+ e 2 Ubung * ?"
    assert encoded("✓ ± ≤ é", "cp1252") == b"+ \xb1 <= \xe9"
    assert encoded("/tmp/\udcc3\udca9") == "/tmp/é".encode()  # a file's name, as a locale without UTF-8 has it


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    root = tmp_path_factory.mktemp("outputs") / "étude"
    for seed in range(2):
        write_point(root, "se", seed, 0.8)
        write_point(root, "größer", seed, 0.9)
    return root


def run(study, *words, stdout=subprocess.PIPE, **env):
    return subprocess.run(
        [*COMMAND, *words],
        cwd=study.parent,
        env={**os.environ, **env},
        stdout=stdout,
        stderr=subprocess.PIPE,
        timeout=120,
        check=False,
    )


def test_a_report_on_a_terminal_and_in_a_locale_without_utf_8(study):
    old = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    done = run(study, "report", "étude", "--format", "md", **old)
    assert done.returncode == 0, done.stderr
    assert "# étude".encode() in done.stdout  # a file's name: as it is
    assert b"| groBer | 90.0 +/- 0.0 |".replace(b"B", b"ss") in done.stdout
    assert not done.stderr

    done = run(study, "status", "étude", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"etude: 4 points: 4 done\n", b"")


def test_a_reader_that_has_gone_is_no_error(study):
    read, written = os.pipe()
    os.close(read)
    done = run(study, "status", "étude", stdout=written)
    os.close(written)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_what_cannot_be_printed_is_said(study):
    with open("/dev/full", "wb") as full:
        done = run(study, "--help", stdout=full)
    assert done.returncode == 1
    assert done.stderr == b"attnlab: the output could not be written: No space left on device\n"


def test_nothing_is_printed_where_there_is_nothing_to_print_to(study):
    command = " ".join([*COMMAND, "--help", ">&-"])
    assert subprocess.run(command, shell=True, cwd=study.parent, capture_output=True, check=False).stderr == b""
