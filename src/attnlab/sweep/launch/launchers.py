"""attnlab's launchers by the names that a config gives them."""

import functools
import importlib
from collections.abc import Mapping
from typing import Any

from attnlab.config.settings import check_keys
from attnlab.errors import InputError
from attnlab.sweep.plan import Plan
from attnlab.targets import parameters
from attnlab.tracking import runs

NAMES = {"Local": "local", "Slurm": "slurm", "Ray": "ray"}
NEEDS = {"slurm": "submitit", "ray": "ray"}


def ours(launcher: Mapping[str, Any]) -> bool:
    """Whether ``hydra.launcher`` is one of attnlab's."""
    package, _, name = launcher["_target_"].rpartition(".")
    return package == "hydra_plugins.attnlab_launcher" and name in NAMES


def warm_up(launcher: Mapping[str, Any]) -> None:
    """Prepare what a launcher on this machine needs while the plan is made."""
    if ours(launcher) and NAMES[launcher["_target_"].rpartition(".")[2]] == "local":
        from attnlab.sweep.launch.local import start_fork_server

        start_fork_server()


def prepared(launcher: Mapping[str, Any]) -> functools.partial[None]:
    """The launcher's function with its settings. Raises InputError for a wrong setting, or a package not installed."""
    name = NAMES[launcher["_target_"].rpartition(".")[2]]
    try:
        if name in NEEDS:
            importlib.import_module(NEEDS[name])
    except ImportError:
        needed = f"needs {NEEDS[name]}: pip install 'attnlab[{name}]'"
        raise InputError(f"hydra/launcher={name}: {needed}") from None
    function = importlib.import_module(f"attnlab.sweep.launch.{name}").launch
    takes, _ = parameters(function)
    hints = {key: p.annotation for key, p in takes.items() if p.kind is p.KEYWORD_ONLY and key != "train"}
    settings = {key: value for key, value in launcher.items() if key != "_target_"}
    return functools.partial(function, **check_keys("hydra.launcher", settings, hints))


def launch(plan: Plan, launcher: Mapping[str, Any]) -> None:
    """Launch the unfinished points. Raises InputError before anything starts, KeyboardInterrupt after Ctrl-C."""
    function = prepared(launcher)
    refuse_agent(plan)
    if plan.todo:
        function(plan.todo)


def refuse_agent(plan: Plan) -> None:
    """Raise InputError where the agent of a W&B sweep has started this command: its run is that of one point."""
    if runs.agents() and any(point.config["logger"]["name"] == "wandb" for point in plan.todo):
        raise InputError(
            f"a W&B agent's run is one point, not {len(plan.todo)}: unset WANDB_SWEEP_ID and WANDB_RUN_ID, "
            "or leave out logger=wandb"
        )
