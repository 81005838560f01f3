"""Where a point's metrics go besides its metrics.csv: W&B or TensorBoard, on request."""

import contextlib
import logging
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from attnlab.point import read_json, write_json
from attnlab.stop import Preempted

log = logging.getLogger("attnlab")


class Wandb(WandbLogger):
    """A point goes on without W&B's own process, which dies of the SIGTERM that SLURM sends to all (wandb#9963)."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        with _surviving():
            super().log_metrics(metrics, step)


@contextlib.contextmanager
def _surviving() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever W&B raises when its process is gone
        log.warning("W&B: %s: %s", type(error).__name__, error)


@contextlib.contextmanager
def open_loggers(config: Mapping[str, Any], point: Path, first: bool = True) -> Iterator[list[Logger]]:
    """The loggers that the config asks for; W&B's run is closed at the end, as failed if the body raises.

    ``first``: whether this is the process of rank 0, which alone logs.
    """
    name = config["logger"]["name"] if first else "csv"
    if name == "tensorboard":
        yield [TensorBoardLogger(str(point), name="", version="tensorboard")]
    elif name == "wandb":
        import wandb

        exit_code = 1
        try:
            logger = _wandb_logger(config, point)
            try:
                yield [logger]
            except Preempted:
                with _surviving():
                    logger.experiment.mark_preempting()
                raise
            exit_code = 0
        finally:  # else the next point of this process would go on in the same run
            with _surviving():
                wandb.finish(exit_code=exit_code)
    else:
        yield []


def _wandb_logger(config: Mapping[str, Any], point: Path) -> Wandb:
    import wandb

    about = read_json(point / "point.json")
    if "wandb_id" not in about:  # written down before the run starts, so that it can be continued
        about["wandb_id"] = uuid.uuid4().hex[:12]
        write_json(point / "point.json", about)
    settings = config["logger"]
    run = wandb.init(
        project=settings.get("project", "attnlab"),
        entity=settings.get("entity"),
        mode=settings.get("mode", "offline"),
        name=point.name,
        id=about["wandb_id"],
        resume="allow",
        group=config["study"],
        tags=[*config["tags"], config["backbone"]["name"], config["attention"]["name"]],
        dir=str(point),
        config={key: config[key] for key in config if key not in ("output_dir", "logger")},
        settings=wandb.Settings(silent=settings.get("mode", "offline") == "offline", console="off"),
    )
    return Wandb(experiment=run)
