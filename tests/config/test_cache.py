"""Normal forms in the cache: the same answers without importing torch, and never an old one."""

import json
import os
import subprocess
import sys

import pytest

from attnlab.config import cache, schema
from attnlab.sweep.plan import composing

CHECK = """
import json, sys
from attnlab.config import schema
from attnlab.sweep.plan import composing
with composing() as compose_one:
    print(json.dumps(schema.check(compose_one(sys.argv[1:]))))
print("torch" in sys.modules)
"""


@pytest.fixture
def caching(tmp_path, monkeypatch):
    def forget():
        cache._known.cache_clear()
        schema._normal_form.cache_clear()

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("ATTNLAB_ALLOW", raising=False)
    forget()
    yield forget, tmp_path / "attnlab"
    forget()


def check(*overrides):
    with composing() as compose_one:
        return schema.check(compose_one(overrides))


def test_a_second_process_answers_the_same_without_torch(caching):
    words = ["attention=cbam", "attention.ratio=8", "backbone=resnet18", "optimizer=sgd", "seed=3"]
    expected = check(*words)
    done = subprocess.run(
        [sys.executable, "-c", CHECK, *words], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    found, torch = done.stdout.splitlines()
    assert json.loads(found) == expected
    assert torch == "False"


def test_damaged_and_unwritable_caches_are_nothing(caching, tmp_path):
    forget, folder = caching
    expected = check("attention=se")
    file = next(folder.iterdir())
    whole = file.read_bytes()
    file.write_bytes(whole[:-30] + b'\xff\n[1]\n12\n[["k"], "b"]\n[1, 2, 3]\n{')
    for _ in range(2):
        forget()
        assert check("attention=se") == expected
    forget()
    assert len(cache._known()) == whole.count(b"\n[")  # what was lost is there again, behind the damage
    file.unlink()
    folder.rmdir()
    folder.touch()
    forget()
    assert check("attention=se") == expected


def test_what_other_code_found_is_not_used(caching, monkeypatch):
    forget, folder = caching
    check("attention=se")
    file = next(folder.iterdir())
    lines = [
        [key, form.replace('"init": "uniform', '"init": "old')]
        for key, form in map(json.loads, filter(str.strip, file.open()))
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setattr(cache, "_basis", lambda: "other")
    forget()
    assert "old" not in json.dumps(check("attention=se"))
    os.utime(file, (0, 0))
    (folder / "normal_forms-other.jsonl").unlink()
    forget()
    check("attention=se")
    assert [path.name for path in folder.iterdir()] == ["normal_forms-other.jsonl"]  # the old one is gone


def test_the_users_own_code_is_looked_at_each_time(caching, tmp_path, monkeypatch):
    _, folder = caching
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mynet.py").write_text(
        "from torch import nn\n\nclass Net(nn.Module):\n    def __init__(self, wide=1): ...\n"
    )
    monkeypatch.setenv("ATTNLAB_ALLOW", "mynet")
    assert check("backbone=custom", "backbone.target=mynet.Net")["backbone"]["wide"] == 1
    assert not folder.exists() or "mynet" not in "".join(path.read_text() for path in folder.iterdir())
