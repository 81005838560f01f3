"""Hydra's own way: its launchers (basic, joblib, submitit, ...) and sweepers run the points of a command."""

import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console

from attnlab import ledger
from attnlab.errors import InputError
from attnlab.ledger import lock
from attnlab.sweep.launch import single
from attnlab.training.stop import Preempted


class Job:
    """The function that Hydra calls for each job, in this process or another: it trains the job's point.

    It is a class because launchers pickle it. ``titles`` names the points of the plan in the terminal; only these are
    trained, or all if it is empty (with a sweeper that chooses points as it goes).
    """

    def __init__(self, titles: Mapping[Path, str], retry: bool) -> None:
        self.titles, self.retry = titles, retry

    def __call__(self, composed: Any) -> float:
        from hydra.core.hydra_config import HydraConfig

        from attnlab.config import designs
        from attnlab.config.hydra_insides import load_choice, search_path_of
        from attnlab.config.schema import check
        from attnlab.sweep.launch.outcomes import outcome
        from attnlab.terminal import print_anywhere

        print_anywhere()  # the launcher may have started this process
        about = HydraConfig.get()

        def chosen(group: str, choice: str) -> Any:
            return OmegaConf.to_container(load_choice(search_path_of(about), group, choice))

        try:
            designs.fill_in(composed, chosen)
            config = check(composed)
        except InputError as error:  # told by the plan, too, if it was left out (sweep.on_error)
            print(f"attnlab: left out: {error}", file=sys.stderr)
            return math.nan
        folder = ledger.folder(config)
        if self.titles and folder not in self.titles:  # sweep.zip, sweep.exclude or sweep.on_error left it out
            return math.nan
        title = self.titles.get(folder, folder.name)
        state = ledger.state(folder)
        if state != "done" and (state != "failed" or self.retry):
            try:
                ledger.prepare(folder, config, about.overrides.task)
                single.train_here(folder, title, config)
            except lock.Busy:
                return math.nan  # another job's combination is the same point
            except Preempted:
                raise KeyboardInterrupt from None
        Console().print(outcome(folder, title), highlight=False, soft_wrap=True)
        return (ledger.read_point(folder).result.get("val") or {}).get(config["trainer"]["monitor"], math.nan)


def run(argv: Sequence[str], conf: Path, titles: Mapping[Path, str], retry: bool) -> None:
    """Hydra's entry, also for --help and --cfg."""
    import hydra

    sys.argv = ["attnlab train", *argv]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here instead of being printed by Hydra
    job = Job(titles, retry)
    hydra.main(config_path=str(conf), config_name="train", version_base="1.3")(job)()
