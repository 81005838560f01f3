"""Hydra's own launchers and sweepers: they run attnlab's points, and attnlab's launchers serve them."""

import subprocess
import sys

from attnlab import ledger
from tests.conftest import attnlab

SMALL = ["backbone=lenet5", "sites=unit", "data=digits", "trainer.max_epochs=1", "data.batch_size=300"]


def folders(cwd):
    return sorted(path.parent for path in cwd.glob("outputs/default/*/status.json"))


def test_hydras_basic_launcher(tmp_path):
    command = ["train", "-m", "hydra/launcher=basic", "attention=none,se", "attention.ratio=4,8", *SMALL]
    done = attnlab(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [ledger.read_json(folder / "status.json")["attempts"] for folder in folders(tmp_path)] == [
        1
    ] * 3  # none is one point
    assert "✓ [3/3] se ratio=8" in done.stdout


OPTIMIZING = """
import sys, hydra
from attnlab.config.compose import CONF
sys.argv = ["x", "-m", "hydra.sweeper._target_=searching.Search", *sys.argv[1:]]
hydra.main(config_path=str(CONF), config_name="train", version_base="1.3")(lambda config: None)()
"""
# A sweeper that chooses its next points by what the last ones returned, as Optuna's does.
SEARCHING = """
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
class Search(BasicSweeper):
    def sweep(self, arguments):
        first = self.launcher.launch([[*arguments, "seed=0"], [*arguments, "seed=1"]], initial_job_idx=0)
        values = [job.return_value for job in first]
        print("first", values, [job.status.name for job in first])
        best = max(range(2), key=values.__getitem__)
        second = self.launcher.launch([[*arguments, f"seed={best}", "optimizer.lr=0.01"]], initial_job_idx=2)
        print("second", second[0].return_value, second[0].working_dir)
"""


def test_attnlabs_launcher_serves_a_sweeper_that_chooses_as_it_goes(tmp_path):
    plugin = tmp_path / "hydra_plugins" / "searching"
    plugin.mkdir(parents=True)
    (plugin / "__init__.py").write_text(SEARCHING)
    code = OPTIMIZING.replace("searching.Search", "hydra_plugins.searching.Search")
    done = subprocess.run(
        [sys.executable, "-c", code, *SMALL],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1", "HYDRA_FULL_ERROR": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = {f: ledger.read_json(f / "result.json")["val"]["accuracy"] for f in folders(tmp_path)}
    assert len(results) == 3
    first, second = (line for line in done.stdout.splitlines() if line.startswith(("first", "second")))
    assert "['COMPLETED', 'COMPLETED']" in first
    assert str(results[tmp_path / second.split()[-1]]) in second
