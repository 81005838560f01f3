"""Points whose images are decoded in each epoch: the same to the bit with any number of workers, killed or not."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attnlab import ledger
from attnlab.sweep import plan
from tests.training.test_checkpoints import NETWORK, assert_equal, end, newest, start, wait_for

ARGV = [
    *("backbone._target_=dropping.Net", "~backbone.bn_momentum", "~backbone.width", "trainer.max_epochs=3"),
    *("data=image_folder", "data.folder=photos", "data.size=16", "data.batch_size=8", "data.memory=never"),
    *("augment=imagenet", "augment.policy=trivial", "augment.mixup=0.2", "augment.random_erasing=0.3"),
]


@pytest.fixture(scope="module", autouse=True)
def _world(tmp_path_factory):
    """A folder with the network and 80 images of many sizes, for this process and those that it starts."""
    cwd = tmp_path_factory.mktemp("streamed")
    (cwd / "dropping.py").write_text(NETWORK)
    random = np.random.default_rng(0)
    for number in range(80):
        path = cwd / "photos" / ("light", "dark")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (*random.integers(17, 40, 2), 3)) // (1 + number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    patch = pytest.MonkeyPatch()
    patch.chdir(cwd)
    patch.syspath_prepend(cwd)
    patch.setenv("ATTNLAB_ALLOW", "dropping")
    yield
    patch.undo()


def prepared(study, *more):
    (point,) = plan.make([*ARGV, f"study={study}", *more]).points
    ledger.prepare(point.folder, point.config)
    return point.folder


@pytest.fixture(scope="module")
def undisturbed():
    folder = prepared("whole", "data.workers=0")
    assert end(start(folder)) == 0
    assert "training waited for them" in (folder / "log.txt").read_text()
    return folder


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_any_number_of_workers(undisturbed, workers):
    folder = prepared(f"by{workers}", f"data.workers={workers}")
    assert folder.name == undisturbed.name  # the same point
    assert end(start(folder)) == 0
    assert_equal(folder, undisturbed)


@pytest.mark.parametrize("asked", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_stopped_in_the_middle_of_epochs_it_ends_to_the_bit(undisturbed, asked):
    folder = prepared(f"stopped{asked}", "data.workers=2", "checkpoint.every_n_steps=2")
    for step in (2, 10):
        process = start(folder)
        wait_for(lambda step=step: newest(folder) >= step, process)
        workers = children(process.pid)
        os.kill(process.pid, asked)
        assert end(process) != 0
        deadline = time.monotonic() + 20
        while any(Path(f"/proc/{pid}").exists() for pid in workers):
            assert time.monotonic() < deadline, "workers are left"
            time.sleep(0.05)
    assert end(start(folder)) == 0
    assert_equal(folder, undisturbed)


def children(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text("utf-8").split()
