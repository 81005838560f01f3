"""Pictures that are made of a finished point, in its W&B run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attnlab import ledger
from attnlab.errors import InputError, first_line
from attnlab.tracking import runs

AFTER = (
    2  # steps after the last epoch's: the one between has the results. Pictures may be there: W&B drops earlier steps
)


def log_pictures(point: Path, pictures: Mapping[str, Path]) -> str:
    """Log PNG files by name to the point's run, which goes on; returns what to tell the user, empty if it has no run.

    Offline, it is one more attempt in the point's ``wandb/``. Raises InputError if W&B cannot be reached online.
    """
    about = ledger.read_json(point / "point.json")
    settings = ledger.read_config(point)["logger"]
    if not about.get("wandb_id") or settings["name"] != "wandb" or not pictures:
        return ""
    if off := runs.switched_off():
        return f"nothing is logged to W&B: {off}"
    import wandb

    mode: Any = settings.get("mode") or "offline"
    curves, _ = ledger.read_rows(point / "metrics.csv")
    step = int(max(curves.get("step", [0]))) + AFTER
    try:
        with (
            runs.artifacts_in(point / "wandb"),
            wandb.init(
                project=settings.get("project") or "attnlab",
                entity=settings.get("entity"),
                mode=mode,
                id=about["wandb_id"],
                resume="allow",
                name=point.name,
                group=about.get("study"),
                job_type="train",
                dir=str(point),
                settings=wandb.Settings(silent=mode == "offline", console="off"),
            ) as run,
        ):
            # W&B drops what is of an earlier step than the run's, as where there are pictures already.
            run.log({name: wandb.Image(str(path)) for name, path in pictures.items()}, step=max(step, run.step))
    except wandb.Error as error:
        raise InputError(f"W&B: {first_line(error)}") from None
    how = f"; attnlab sync {point.parent} uploads it" if runs.wait(point.parent) else ""
    return f"W&B: pictures in the run {point.name}{how}"
