"""Overhead per point: attnlab's local launcher beside Hydra's basic launcher, 200 points that do nothing.

    python -m tests.benchmarks.sweep [POINTS]

In one run, in turns: Hydra's basic launcher with attnlab's configs and an empty job function; attnlab's local launcher
(one slot), whose points are processes of their own that write the ledger and train nothing. Then the plan of as many
points, new and finished, and the time from a point's start to the first line of its training.
"""

import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from attnlab import ledger
from attnlab.ledger import lock

BASIC = """
import sys, hydra
from attnlab.config.compose import CONF
sys.argv = ["basic", "-m", "hydra/launcher=basic", "seed=range({points})"]
hydra.main(config_path=str(CONF), config_name="train", version_base="1.3")(lambda config: None)()
"""
OURS = """
from attnlab.sweep import plan
from attnlab.sweep.launch import local
from tests.benchmarks.sweep import nothing
if __name__ == "__main__":
    planned = plan.make(["-m", "seed=range({points})", "study={study}", "data=digits"])
    local.launch(planned.todo, cpu_slots=1, train=nothing)
"""
PLAN = """
import time
started = time.perf_counter()
from attnlab.sweep import plan
plan.make(["-m", "seed=range({points})", "study={study}", "data=digits"])
print(time.perf_counter() - started)
"""


def nothing(folder: Path, title: str, threads: int) -> int:
    """A point that is done at once."""
    with lock.hold(folder):
        ledger.set_status(folder, "running")
        result = {"test": {"accuracy": 0.0}, "val": {"accuracy": 0.0}, "times": {"train_s": 0.0, "total_s": 0.0}}
        cost = {"parameters": 1, "macs": 1, "latency_ms": 1.0}
        ledger.write_json(folder / "result.json", {**result, "cost": cost})
        ledger.set_status(folder, "done")
    return 0


def timed(code: str) -> float:
    """Seconds of a fresh Python process."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def ready(study: Path) -> float:
    """Median seconds between the end of a point and the start of the next, on one slot."""
    times = sorted(
        (status["started"], status["ended"])
        for status in (ledger.read_json(path) for path in study.glob("*/status.json"))
    )
    return statistics.median(after[0] - before[1] for before, after in itertools.pairwise(times))


def main(points: int) -> None:
    os.environ["PYTHONPATH"] = str(Path.cwd())
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for turn in range(2):
            basic = timed(BASIC.format(points=points))
            ours = timed(OURS.format(points=points, study=f"s{turn}"))
            gap = ready(Path(folder) / "outputs" / f"s{turn}")
            print(f"{points} points, basic {basic:.1f} s, {1000 * basic / points:.0f} ms each")
            print(f"{points} points, local {ours:.1f} s, {1000 * ours / points:.0f} ms each; next ready {gap:.3f} s")
            print(f"ratio {basic / ours:.2f}")
        for study, kind in (("new", "new"), ("s0", "finished")):
            code = PLAN.format(points=points, study=study)
            said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
            print(f"planning {points} {kind} points, imports included: {float(said):.1f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 200)
