"""Shared by the tests: golden tensors, real data where it is there, and the real command line."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # the tests run side by side; PyTorch reads it once

import numpy as np
import pytest
import torch

REPOSITORY = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden"
SHARED = REPOSITORY.parent / "shared"
COMMAND = [sys.executable, "-m", "attnlab.cli"]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background: what the tests start could not
    signal.signal(signal.SIGINT, signal.default_int_handler)  # be interrupted


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def golden() -> Callable[[str, str], dict[str, np.ndarray]]:
    """golden(file, prefix) -> the arrays below that prefix."""

    def load(file: str, prefix: str) -> dict[str, np.ndarray]:
        arrays = np.load(GOLDEN / file)
        return {key.removeprefix(prefix): arrays[key] for key in arrays.files if key.startswith(prefix)}

    return load


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets, where this machine has one."""
    folder = Path(os.environ.get("ATTNLAB_TEST_DATA", SHARED / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data sets in {folder} (ATTNLAB_TEST_DATA names another folder)")
    return folder


def attnlab(
    *args: str, cwd: Path, env: dict[str, str] | None = None, timeout: int = 300
) -> subprocess.CompletedProcess[str]:
    """Run the real command line."""
    return subprocess.run(
        [*COMMAND, *args],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100", **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        check=False,
    )
