"""What all of attnlab's launchers refuse."""

from pathlib import Path

import pytest

from attnlab.errors import InputError
from attnlab.sweep.launch import launchers
from attnlab.sweep.plan import Plan, Planned


def test_many_points_are_not_a_wandb_agents_run(monkeypatch):
    points = [Planned(Path(f"s/{seed}"), {"logger": {"name": "wandb"}}, [[]], "new", 0, "", "") for seed in (0, 1)]
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv("WANDB_RUN_ID", "run1")
    with pytest.raises(InputError, match="a W&B agent's run is one point, not 2: unset WANDB_SWEEP_ID and"):
        launchers.launch(Plan(points, 2, [], []), {"_target_": "hydra_plugins.attnlab_launcher.Local"})
