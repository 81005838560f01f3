"""Where a point's metrics go: its metrics.csv always, W&B or TensorBoard on request."""

import contextlib
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from attnlab.point import read_json, write_json, write_rows


class EpochRows(Logger):
    """``metrics.csv``: a row an epoch, written atomically."""

    name = "csv"
    version = 0

    def __init__(self, point: Path) -> None:
        super().__init__()
        self.path = point / "metrics.csv"
        self.rows: dict[int, dict[str, Any]] = {}

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: the point's config.yaml holds them."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        values = {key: value for key, value in metrics.items() if not key.startswith("test/")}
        epoch = int(values.pop("epoch", 0))
        if values:
            self.rows.setdefault(epoch, {"epoch": epoch, "step": step}).update(values)
            write_rows(self.path, list(self.rows.values()))


@contextlib.contextmanager
def open_loggers(config: Mapping[str, Any], point: Path) -> Iterator[list[Logger]]:
    """The loggers that the config asks for; W&B's run is closed at the end, as failed if the body raises."""
    name = config["logger"]["name"]
    if name == "tensorboard":
        yield [TensorBoardLogger(str(point), name="", version="tensorboard")]
    elif name == "wandb":
        import wandb

        exit_code = 1
        try:
            yield [_wandb_logger(config, point)]
            exit_code = 0
        finally:  # else the next point of this process would go on in the same run
            wandb.finish(exit_code=exit_code)
    else:
        yield []


def _wandb_logger(config: Mapping[str, Any], point: Path) -> WandbLogger:
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
    return WandbLogger(experiment=run)
