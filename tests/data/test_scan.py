"""A scan decodes each file once, says what is in it, and is kept until a file changes."""

import os

import numpy as np
import pytest
from PIL import Image

from attnlab.data import scan as scanning
from attnlab.data.scan import index_of
from attnlab.data.sets.files import as_bytes


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (40, 30), (1, 2, 3)).save(tmp_path / "a.png")
    Image.new("RGB", (40, 30), (1, 2, 3)).save(tmp_path / "same.bmp")
    Image.new("L", (40, 30), 7).save(tmp_path / "grey.png")
    Image.new("L", (30, 40), 7).save(tmp_path / "turned.png")
    (tmp_path / "no.png").write_text("no")
    return tmp_path


NAMES = as_bytes(["a.png", "same.bmp", "grey.png", "turned.png", "no.png"])


def test_what_it_finds(folder):
    found = index_of(str(folder), NAMES)
    assert found.heights.tolist() == [30, 30, 30, 40, 0]
    assert found.widths.tolist() == [40, 40, 40, 30, 0]
    assert found.grey.tolist() == [False, False, True, True, False]
    assert found.errors.tolist() == [b"", b"", b"", b"", b"no image"]
    assert found.hashes[0] == found.hashes[1]
    assert len(set(found.hashes.tolist())) == 4  # the same pixels in another shape are another picture
    assert not list(folder.glob("scan*"))
    assert len(index_of(str(folder), NAMES[:0]).errors) == 0


def test_it_is_kept_until_a_file_changes(folder, tmp_path):
    cache = tmp_path / "study" / ".cache"

    def fresh():
        scanning._known.clear()  # as another process
        return index_of(str(folder), NAMES, cache)

    first = fresh()
    (kept,) = cache.iterdir()
    assert kept.name.startswith("scan-")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scanning, "_look", lambda path: pytest.fail("decoded again"))
        assert all(np.array_equal(a, b) for a, b in zip(first, fresh(), strict=True))
    time = os.stat(folder / "a.png").st_mtime_ns
    content = (folder / "a.png").read_bytes()
    (folder / "a.png").write_bytes(b"x" * len(content))
    os.utime(folder / "a.png", ns=(time, time))
    assert fresh().errors.tolist() == [b"no image", b"", b"", b"", b"no image"]
    assert len(list(cache.iterdir())) == 2
    for path in cache.iterdir():
        path.write_bytes(b"damaged")
    assert fresh().errors.tolist() == [b"no image", b"", b"", b"", b"no image"]
    assert sum(path.stat().st_size > 100 for path in cache.iterdir()) == 1  # mended


def test_a_cache_that_cannot_be_written_is_done_without(folder):
    scanning._known.clear()
    (folder / "file").write_text("")
    assert index_of(str(folder), NAMES, folder / "file" / "below").errors[4] == b"no image"
