"""Shared by the tests: golden tensors, real data where it is there, and the real command line."""

import gc
import itertools
import multiprocessing.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # the tests run side by side; PyTorch reads it once

import numpy as np
import pytest
import torch

from tests import warm

gc.disable()  # while the tests are imported: nothing of that is garbage

REPOSITORY = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden"
SHARED = REPOSITORY.parent / "shared"
COMMAND = [sys.executable, "-m", "attnlab.cli"]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background: what the tests start could not
    signal.signal(signal.SIGINT, signal.default_int_handler)  # be interrupted


def pytest_configure(config: pytest.Config) -> None:
    """What the tests start (W&B, PyTorch's compiler, multiprocessing) leaves its temporary files in one folder."""
    if hasattr(config, "workerinput"):  # of pytest-xdist: the process that started it has made the folder
        return
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())  # pytest's own stay where they are
    folder = tempfile.mkdtemp(prefix="attnlab-")
    os.environ["TMPDIR"], tempfile.tempdir = folder, None
    os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "0")  # to try out which vectors there are takes it 7 s
    os.environ["ATTNLAB_WARM"] = f"{folder}/warm"
    # At the very end: multiprocessing removes its own folder, in this one, at -100.
    multiprocessing.util.Finalize(None, shutil.rmtree, [folder, True], exitpriority=-200)


# The longest first, and before them those that wait for processes.
LONG = ("test_script", "test_local", "test_checkpoints", "test_sync", "test_loop", "test_distributed", "test_every")
LONG += ("test_conf", "test_export", "test_transformations", "test_structure", "test_plan", "test_page", "test_package")
LONG += ("test_docs", "test_evaluate", "test_hydras_own", "test_report", "test_more", "test_repro", "test_cams")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long starts first, so that no worker of pytest waits in the end for another."""
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))
    gc.freeze()  # a million objects that were imported, through which each collection would go
    gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()


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


def crossed(*axes: Iterable[Any]) -> list[Any]:
    """Every combination, as pytest's parameters; `make test` runs some, among which each value is at least once."""
    lists = [list(axis) for axis in axes]
    some = {
        tuple(values[(i + skew * (i // len(values))) % len(values)] for skew, values in enumerate(lists))
        for i in range(max(map(len, lists)))
    }
    return [pytest.param(*each, marks=() if each in some else pytest.mark.slow) for each in itertools.product(*lists)]


def attnlab(
    *args: str, cwd: Path, env: dict[str, str] | None = None, timeout: int = 300, fresh: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run the real command line; ``fresh``: in a process that imports all itself, for what is about its start."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100", **(env or {})}
    if fresh:
        return subprocess.run(
            [*COMMAND, *args],
            cwd=cwd,
            env=env,
            capture_output=True,
            encoding="utf-8",
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    pipes = [os.pipe() for _ in range(2)]
    process = warm.start(args, cwd, env, *(written for _, written in pipes))
    for _, written in pipes:
        os.close(written)
    with ThreadPoolExecutor(2) as pool:
        texts = [pool.submit(Path(f"/dev/fd/{read}").read_text, "utf-8") for read, _ in pipes]
        if wait(texts, timeout).not_done:  # subprocess.run waits for all who may write, too
            os.killpg(process.pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired(["attnlab", *args], timeout)
    for read, _ in pipes:
        os.close(read)
    return subprocess.CompletedProcess(["attnlab", *args], process.wait(timeout), *(text.result() for text in texts))
