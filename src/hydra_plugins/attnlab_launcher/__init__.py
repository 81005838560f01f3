"""The Hydra plugins for attnlab's launchers: hydra/launcher=local, slurm, ray."""

import logging
import math
from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

log = logging.getLogger("attnlab")


class _Attnlab(Launcher):
    """Plans the jobs that a sweeper hands over, launches their points, and returns their validation accuracies."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        # Imported here: Hydra loads all plugins whenever it starts.
        from attnlab import ledger
        from attnlab.config.compose import design_overrides, fill_in
        from attnlab.config.hydra_insides import load_choice
        from attnlab.errors import InputError
        from attnlab.sweep import plan
        from attnlab.sweep.launch import launchers

        def load(overrides: Sequence[str]) -> DictConfig:
            return self.context.config_loader.load_sweep_config(self.config, design_overrides(overrides))

        def chosen(group: str, choice: str) -> Any:
            return OmegaConf.to_container(load_choice(self.context.config_loader.get_search_path(), group, choice))

        def compose(overrides: Sequence[str]) -> DictConfig:
            config = load(overrides)
            fill_in(config, overrides, chosen)
            with open_dict(config):
                del config.hydra
            return config

        jobs = [list(overrides) for overrides in job_overrides]
        planned = plan.check(((job, compose(job)) for job in jobs), here=isinstance(self, Local))
        planned.retry = self.config.sweep.retry == "failed"
        target = f"{type(self).__module__}.{type(self).__name__}"
        if self.config.sweep.pack:
            plan.pack_seeds(planned, {"_target_": target})
            for line in planned.packs:
                log.info(line)
        if planned.errors:
            raise InputError("\n".join(planned.errors))
        wait = {"wait": True} if isinstance(self, Slurm) else {}  # the sweeper needs what it returns
        launchers.launch(planned, {"_target_": target, **self.settings, **wait})
        by_job = {tuple(job): point for point in planned.points for job in point.combinations}
        returns = []
        for job in jobs:
            point = by_job[tuple(job)]
            result = ledger.read_point(point.folder).result  # empty unless it is done: the ledger says why
            returned = JobReturn(job, OmegaConf.create(point.config), working_dir=str(point.folder))
            returned.status = JobStatus.COMPLETED
            returned.return_value = (result.get("val") or {}).get(point.config["trainer"]["monitor"], math.nan)
            returns.append(returned)
        return returns


class Local(_Attnlab):
    """hydra/launcher=local"""


class Slurm(_Attnlab):
    """hydra/launcher=slurm"""


class Ray(_Attnlab):
    """hydra/launcher=ray"""
