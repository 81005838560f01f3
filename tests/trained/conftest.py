"""A small study and its export, made by the first worker of pytest that needs them, and read by all."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from tests.conftest import attnlab


def made_once(name: str, make: Callable[[Path], None]) -> Path:
    """The folder of this name that ``make`` has filled, in the temporary folder of this run of pytest."""
    folder = Path(tempfile.gettempdir(), name)
    made = folder.with_suffix(".made")
    with FileLock(folder.with_suffix(".lock")):
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            made.touch()
    return folder


def train(folder: Path) -> None:
    folder.mkdir()
    run = attnlab(
        *("train", "-m", "attention=none,cbam", "attention.ratio=8", "sites=branch", "seed=0,1", "study=small"),
        *("data.copies=1", "trainer.max_epochs=2", "+trainer.limit_train_batches=8"),
        cwd=folder,
    )
    assert run.returncode == 0, run.stderr


@pytest.fixture(scope="session")
def study() -> Path:
    """Two seeds of the bare mini-Xception and of CBAM, on cluttered digits. To be read only."""
    return made_once("trained", train) / "outputs" / "small"


@pytest.fixture(scope="session")
def point(study: Path) -> Path:
    return next(study.glob("*cbam*-s0-*"))


@pytest.fixture(scope="session")
def exported(study: Path) -> Path:
    """The point, in a copy of the study, in every format by the command line. To be read only."""

    def export(folder: Path) -> None:
        shutil.copytree(study, folder / "small")
        (point,) = folder.glob("small/*cbam*-s0-*")
        run = attnlab(
            "export", str(point), "--to", "onnx,torch", "--to", "safetensors", "--quantize", "int8", cwd=point
        )
        assert run.returncode == 0, run.stderr
        (point.parent / "printed.txt").write_text(run.stdout, encoding="utf-8")

    return next(made_once("exported", export).glob("small/*/export"))
