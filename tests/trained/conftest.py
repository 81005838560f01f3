"""A small study, trained once."""

from pathlib import Path

import pytest

from tests.conftest import attnlab


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of the bare mini-Xception and of CBAM, on cluttered digits."""
    work = tmp_path_factory.mktemp("trained")
    run = attnlab(
        *("train", "-m", "attention=none,cbam", "attention.ratio=8", "sites=branch", "seed=0,1", "study=small"),
        *("data.copies=1", "trainer.max_epochs=2", "+trainer.limit_train_batches=8"),
        cwd=work,
    )
    assert run.returncode == 0, run.stderr
    return work / "outputs" / "small"


@pytest.fixture(scope="session")
def point(study: Path) -> Path:
    return next(study.glob("*cbam*-s0-*"))


@pytest.fixture(scope="session")
def exported(point: Path) -> Path:
    """The point in every format, by the command line; its output is beside, in printed.txt."""
    run = attnlab("export", str(point), "--to", "onnx,torch", "--to", "safetensors", "--quantize", "int8", cwd=point)
    assert run.returncode == 0, run.stderr
    (point.parent / "printed.txt").write_text(run.stdout, encoding="utf-8")
    return point / "export"
