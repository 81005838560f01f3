"""overhead of a point: attnlab's local launcher beside Hydra's basic launcher, 200 points that do nothing

In turns: Hydra's basic launcher with attnlab's configs and an empty job function; attnlab's local launcher (one slot),
whose points are processes of their own that write the ledger and train nothing. Then the plan of as many points, new
and finished, and the time from a point's end to the start of the next one.
"""

import itertools
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
LOCAL = """
from attnlab.sweep import plan
from attnlab.sweep.launch import local
from tests.benchmarks.sweep import nothing
if __name__ == "__main__":
    planned = plan.make(["-m", "seed=range({points})", "study=finished", "data=digits"])
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


def run(code: str, folder: str) -> str:
    """What a fresh Python process prints."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=folder).stdout


def timed(code: str, folder: str) -> float:
    """Seconds of a fresh Python process."""
    started = time.perf_counter()
    run(code, folder)
    return time.perf_counter() - started


def ready(study: Path) -> float:
    """Median seconds between the end of a point and the start of the next, on one slot."""
    times = sorted(
        (status["started"], status["ended"])
        for status in (ledger.read_json(path) for path in study.glob("*/status.json"))
    )
    return statistics.median(after[0] - before[1] for before, after in itertools.pairwise(times))


def measure(points: int = 200) -> dict[str, float]:
    found = dict[str, float]()
    with tempfile.TemporaryDirectory() as folder:
        basic = timed(BASIC.format(points=points), folder)
        local = timed(LOCAL.format(points=points), folder)
        found["basic launcher, ms a point"] = 1000 * basic / points
        found["local launcher, ms a point"] = 1000 * local / points
        found["basic over local"] = basic / local
        found["a point's end to the next one's start, ms"] = 1000 * ready(Path(folder) / "outputs" / "finished")
        for study in ("new", "finished"):
            seconds = run(PLAN.format(points=points, study=study), folder)
            found[f"plan of {study} points, imports included, s"] = float(seconds)
    return found
