"""Loggers of a point besides its metrics.csv: W&B or TensorBoard, on request."""

import contextlib
import logging
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from attnlab.errors import surviving
from attnlab.explain.health import Gate
from attnlab.ledger import choice_names, mended, write_json
from attnlab.tracking.runs import artifacts_in, switched_off
from attnlab.training.stop import Preempted

FULL_MATRIX = 100  # classes; of more, the confusion matrix holds only the cells that are not empty


class Wandb(WandbLogger):
    """A W&B logger that survives the end of W&B's own process by SLURM's SIGTERM to all processes (wandb#9963)."""

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """W&B's step is the optimizer's, so that the attempts of one point make one curve.

        An epoch's row, which names the epoch, is the last of its step; it is written down at once, and survives a kill.
        """
        with surviving("W&B"):
            self.experiment.log(dict(metrics), step=step, commit="epoch" in metrics)

    def log_end(
        self,
        summary: Mapping[str, Any],
        answers: Any,
        classes: Sequence[str],
        gates: Sequence[Gate],
        pictures: Sequence[Path],
        checkpoints: Sequence[Path],
        step: int,
    ) -> None:
        """Log the results of the whole run: headline numbers, the confusion matrix, gates, pictures, weights.

        ``answers`` (2, N): labels and predicted classes of the test images; ``classes``: their names.
        """
        import wandb

        with surviving("W&B"):
            self.experiment.summary.update(summary)  # where a finished point is taken up, W&B has had its last step
            last: dict[str, Any] = {**summary, "confusion_matrix": _confusion(answers, classes)}
            if gates:
                last["gate_numbers"] = wandb.Table(columns=[*Gate._fields], data=[*gates])
            if pictures:
                last["pictures"] = [wandb.Image(str(path), caption=path.stem) for path in pictures]
            self.experiment.log(last, step=step + 1)
            if checkpoints:
                artifact = wandb.Artifact(f"checkpoints-{self.experiment.id}", "model", metadata=dict(summary))
                for path in checkpoints:  # they stay as they are, so that W&B need not copy them
                    artifact.add_file(str(path.resolve()), policy="immutable", skip_cache=True)
                self.experiment.log_artifact(artifact)


def _confusion(answers: Any, classes: Sequence[str]) -> Any:
    """W&B's chart of the test images by class and predicted class."""
    import numpy as np
    import wandb

    counts = np.zeros((len(classes), len(classes)), dtype=int)
    np.add.at(counts, tuple(answers), 1)
    cells = np.ndindex(counts.shape) if len(classes) <= FULL_MATRIX else np.argwhere(counts)
    columns = ("Actual", "Predicted", "nPredictions")
    rows = [(classes[label], classes[predicted], int(counts[label, predicted])) for label, predicted in cells]
    return wandb.plot_table(
        "wandb/confusion_matrix/v1",
        wandb.Table(columns=[*columns], data=[*rows]),
        {column: column for column in columns},
        {"title": "Confusion matrix of the test images"},
    )


@contextlib.contextmanager
def open_loggers(config: Mapping[str, Any], point: Path, first: bool = True) -> Iterator[list[Logger]]:
    """The loggers that the config asks for; closes W&B's run at the end, as failed if the body raises.

    ``first``: whether this is the process of rank 0; only that one logs.
    """
    name = config["logger"]["name"] if first else "csv"
    if name == "wandb" and (off := switched_off()):
        logging.getLogger("attnlab").info("nothing is logged to W&B: %s", off)
        name = "csv"
    if name == "tensorboard":
        yield [TensorBoardLogger(str(point), name="", version="tensorboard")]
    elif name == "wandb":
        exit_code, logger = 1, None
        with artifacts_in(point / "wandb"):
            try:
                logger = _wandb_logger(config, point)
                try:
                    yield [logger]
                except Preempted:
                    with surviving("W&B"):
                        logger.experiment.mark_preempting()
                    raise
                exit_code = 0
            finally:
                with surviving("W&B"):
                    if logger is not None:
                        logger.experiment.finish(exit_code=exit_code)
    else:
        yield []


def tags(config: Mapping[str, Any]) -> list[str]:
    """The point's choices and the config's own tags, each of at most W&B's 64 characters."""
    attention = config["attention"]
    settings = {key: attention[key] for key in ("ratio", "order") if attention.get(key) is not None}
    chosen = [f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in settings.items()]
    found = [*choice_names(config).values(), config["data"]["name"], *chosen, *config["tags"]]
    return list(dict.fromkeys(tag[:64] for tag in found))


def _wandb_logger(config: Mapping[str, Any], point: Path) -> Wandb:
    import wandb

    about = mended(point / "point.json")
    if not about.get("wandb_id"):  # written down before the run starts, so that it can be continued
        about["wandb_id"] = uuid.uuid4().hex[:12]
        write_json(point / "point.json", about)
    settings = config["logger"]
    os.environ.setdefault("WANDB__TRANSACTION_LOG_FLUSH_INTERVAL", "1")  # seconds; 15 would be lost with a kill
    run = wandb.init(
        project=settings.get("project", "attnlab"),
        entity=settings.get("entity"),
        mode=settings.get("mode", "offline"),
        name=point.name,
        id=about["wandb_id"],
        resume="allow",
        reinit="create_new",  # beside those of other points of this process
        group=config["study"],
        job_type="train",
        tags=tags(config),
        dir=str(point),
        config={key: config[key] for key in config if key not in ("output_dir", "logger")},
        settings=wandb.Settings(silent=settings.get("mode", "offline") == "offline", console="off"),
    )
    return Wandb(experiment=run)
