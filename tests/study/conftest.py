"""A small study."""

import pytest

from attnlab.study import publishing, report
from tests.study.points import write_point
from tests.study.searched import write_search


@pytest.fixture
def study(tmp_path):
    """Three seeds of bare, se and cbam, one of another cbam, one failed and one that its process has left."""
    root = tmp_path / "demo"
    for seed, bare, se, cbam in [(0, 0.80, 0.83, 0.81), (1, 0.82, 0.84, 0.85), (2, 0.78, 0.82, 0.80)]:
        write_point(root, "none", seed, bare, latency=1.0 + seed)
        write_point(root, "se", seed, se, ratio=16.0)
        write_point(root, "cbam", seed, cbam, ratio=16.0, order="channel_first")
    write_point(root, "cbam", 0, 0.90, ratio=16.0, order="parallel", combine="sum")
    write_point(root, "se", 3, None, ratio=16.0, state="failed")
    write_point(root, "se", 4, None, ratio=16.0, state="running")
    return root


@pytest.fixture
def undrawn(monkeypatch):
    """Reports without figures, which take seconds."""
    monkeypatch.setattr(report, "draw_all", lambda *_: [])
    monkeypatch.setattr(publishing, "draw_all", lambda *_: [])


@pytest.fixture(scope="session")
def whole_search(tmp_path_factory):
    """A search of 24 designs, of which one failed, with its random search and the confirmation of both: not to change.

    To write it takes seconds, to copy it none.
    """
    return write_search(tmp_path_factory.mktemp("search"), failed=(5,))
