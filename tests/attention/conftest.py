import pytest

from attnlab.attention import kernels


@pytest.fixture(autouse=True)
def _kernels_for_small_maps_too(monkeypatch):
    """The tests' maps are small: without this, none would meet the fast functions."""
    monkeypatch.setattr(kernels, "LEAST", 0)
