"""Hydra's own way: its launchers (basic, joblib, submitit, ...) and sweepers run the points of a command."""

import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from attnlab import lock, train
from attnlab import point as ledger


class Job:
    """What Hydra calls for each job, in this process or another: it trains the job's point.

    A class, as launchers pickle it. ``titles`` are what the terminal calls the points.
    """

    def __init__(self, titles: Mapping[Path, str], retry: bool) -> None:
        self.titles, self.retry = titles, retry

    def __call__(self, composed: Any) -> float:
        from hydra.core.hydra_config import HydraConfig

        from attnlab.progress import outcome
        from attnlab.schema import check

        config = check(composed)
        folder = ledger.folder(config)
        title = self.titles.get(folder, folder.name)
        state = ledger.state(folder)
        if state != "done" and (state != "failed" or self.retry):
            try:
                ledger.prepare(folder, config, HydraConfig.get().overrides.task)
                train.run(folder, title, bar=sys.stdout.isatty())
            except lock.Busy:
                return math.nan  # another job's combination is the same point
            except train.PointFailed:
                pass
        Console().print(outcome(folder, title), highlight=False, soft_wrap=True)
        result = ledger.read_json(folder / "result.json")
        return result["val"]["accuracy"] if result else math.nan


def run(argv: Sequence[str], conf: Path, titles: Mapping[Path, str], retry: bool) -> None:
    """Hydra's entry, also for --help and --cfg."""
    import hydra

    sys.argv = ["attnlab train", *argv]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here instead of being printed by Hydra
    job = Job(titles, retry)
    hydra.main(config_path=str(conf), config_name="train", version_base="1.3")(job)()
