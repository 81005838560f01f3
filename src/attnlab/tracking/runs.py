"""A study's W&B runs: those of its points, and their destination."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attnlab import ledger
from attnlab.errors import InputError, first_line

OWN = "wandb.json"  # in the study's folder: what W&B knows of the study itself


def points(study: Path) -> list[Path]:
    """Folders of the points that log to W&B. Raises InputError if there are none."""
    found = [folder for folder in ledger.points(study) if "wandb_id" in ledger.read_json(folder / "point.json")]
    if not found:
        lines = [f"{study}: no W&B runs; train points with logger=wandb", *damaged(study)]
        raise InputError("\n".join(lines))
    return found


def damaged(study: Path) -> list[str]:
    """Points whose W&B run is unknown because a file is damaged: ``outputs/s/x/point.json is empty``."""
    read = ((folder, ledger.read_json(folder / "point.json")) for folder in ledger.points(study))
    return [f"{folder}/{about.damage}" for folder, about in read if about.damage]


def destination(study: Path) -> dict[str, Any]:
    """``project``, ``entity`` (None: the account's own) and ``mode`` of its points. Raises InputError as ``points``."""
    settings = ledger.read_config(*points(study))["logger"]
    defaults = {"project": "attnlab", "entity": None, "mode": "offline"}
    return {key: settings.get(key) or default for key, default in defaults.items()}


def wait(study: Path) -> bool:
    """Whether offline runs of the study, or of its points, are not uploaded yet."""
    files = [*study.glob("wandb/offline-run-*/*.wandb"), *study.glob("*/wandb/offline-run-*/*.wandb")]
    return any(not Path(f"{file}.synced").exists() for file in files)


def switched_off() -> str:
    """The environment variable that turns W&B off, whatever a config says; empty if none does."""
    for name, off in (("WANDB_MODE", "disabled"), ("WANDB_DISABLED", "true")):
        if os.environ.get(name, "").lower() == off:
            return f"{name}={os.environ[name]}"
    return ""


def agents() -> str:
    """The id of the run that a W&B sweep's agent has started this process for; empty if none has."""
    return os.environ.get("WANDB_RUN_ID", "") if os.environ.get("WANDB_SWEEP_ID") else ""


def require_account() -> None:
    """Raises InputError if W&B has no credentials; does not ask the server whether they are valid."""
    import wandb

    try:
        with quiet():
            there = wandb.login(prompt=False, verify=False)
    except wandb.Error as error:
        raise InputError(f"W&B: {first_line(error)}") from None
    if not there:
        raise InputError("no W&B account: run `wandb login` once, or set WANDB_API_KEY")


@contextlib.contextmanager
def artifacts_in(folder: Path) -> Iterator[None]:
    """Keep files that wait for upload, such as tables and figures, with the study instead of the user's home."""
    if "WANDB_DATA_DIR" in os.environ:
        yield
        return
    os.environ["WANDB_DATA_DIR"] = str(folder.resolve())
    try:
        yield
    finally:
        del os.environ["WANDB_DATA_DIR"]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence W&B's own output; attnlab prints what matters."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stderr(nowhere):
        yield
