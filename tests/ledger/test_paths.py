"""Where a machine keeps its files is left out of what is published."""

import pytest

from attnlab.ledger.paths import is_absolute, last_parts, without_folders, word_without_folders


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("data.folder=/home/me/photos", "data.folder=photos"),
        ("data.folder=~/my/photos/", "data.folder=photos"),
        (r"data.folder=C:\me\photos", "data.folder=photos"),
        ("data.folder=/home/jane doe/photos", "data.folder=photos"),
        ("data.folder='/home/jane doe/my photos'", "data.folder='my photos'"),
        (r"data.folder=\\srv\share\me", "data.folder=me"),
        ("data.folders=[/home/me/a,/home/me/b]", "data.folders=[a,b]"),
        ("data={folder:/home/me/a,size:40}", "data={folder:a,size:40}"),
        ("data.url=https://x/a/b", "data.url=https://x/a/b"),
        ("data.url=file:///home/me/b", "data.url=b"),
        ("~hydra/launcher", "~hydra/launcher"),
        ("data.folder=photos/faces", "data.folder=photos/faces"),
        ("attention.ratio=8", "attention.ratio=8"),
        ("data.folder=../c", "data.folder=../c"),
    ],
)
def test_where_a_machine_keeps_its_files_is_left_out(text, found):
    assert word_without_folders(text) == found


def test_a_configs_paths_are_left_out_at_any_depth():
    config = {"a": ["/home/me/x", {"b": r"C:\me\y"}], "n": 3, "u": "https://x/a", "p": "/home/jane doe/z", "s": "a/b"}
    found = {"a": ["x", {"b": "y"}], "n": 3, "u": "https://x/a", "p": "z", "s": "a/b"}
    assert without_folders(config) == found


@pytest.mark.parametrize(
    ("text", "number", "found"),
    [
        ("/home/me/photos", 1, "photos"),
        ("/home/me/photos/", 2, "me/photos"),
        (r"C:\me\photos", 2, "me/photos"),
        ("/photos", 2, "photos"),
        ("a/b", 1, "a/b"),
    ],
)
def test_a_path_keeps_its_last_parts(text, number, found):
    assert last_parts(text, number) == found
    assert is_absolute(text) == (text != found)
