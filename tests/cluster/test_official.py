"""Launchers of other plugins: their points keep attnlab's ledger."""

import pytest

from attnlab import ledger
from tests.conftest import attnlab

SMALL = ["backbone=lenet5", "sites=unit", "data=digits", "trainer.max_epochs=1", "data.batch_size=300"]


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_other_launchers(tmp_path, launcher):
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher")
    command = ["train", "-m", f"hydra/launcher={launcher}", "attention=none,se", "attention.ratio=4,8", *SMALL]
    done = attnlab(*command, cwd=tmp_path, fresh=True)
    assert done.returncode == 0, done.stderr
    folders = sorted(path.parent for path in tmp_path.glob("outputs/default/*/status.json"))
    assert [ledger.read_json(folder / "status.json")["attempts"] for folder in folders] == [1] * 3
    assert attnlab(*command, cwd=tmp_path).returncode == 0
