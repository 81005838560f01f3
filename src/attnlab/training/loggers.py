"""Loggers of a point besides its metrics.csv: W&B or TensorBoard, on request."""

import contextlib
import logging
import os
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from attnlab.errors import InputError, first_line, surviving
from attnlab.explain.health import Gate
from attnlab.insertion import Site
from attnlab.ledger import choice_names, is_done, mended, placements, read_array, read_point, read_rows, write_json
from attnlab.study.designs import by_place
from attnlab.study.texts import written
from attnlab.tracking.runs import agents, artifacts_in, switched_off
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

        ``answers`` (2, N): labels and predicted classes of the test images, if there are; ``classes``: their names.
        """
        import wandb

        with surviving("W&B"):
            self.experiment.summary.update(summary)  # where a finished point is taken up, W&B has had its last step
            last: dict[str, Any] = dict(summary)
            if answers is not None:
                last["confusion_matrix"] = _confusion(answers, classes)
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
def open_loggers(
    config: Mapping[str, Any], point: Path, first: bool = True, sites: Iterable[Site] = ()
) -> Iterator[list[Logger]]:
    """The loggers that the config asks for; closes W&B's run at the end, as failed if the body raises.

    ``first``: whether this is the process of rank 0; only that one logs. ``sites``: those with attention.
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
                logger = _wandb_logger(config, point, sites)
                try:
                    yield [logger]
                except Preempted:
                    if not agents():  # its sweep may have stopped the run, and would start it again
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


def report_again(config: Mapping[str, Any], point: Path) -> None:
    """Tell the run of a W&B agent what a finished point has brought, as if it had been trained in that run.

    Raises InputError if W&B cannot be reached.
    """
    import wandb

    result, (answers, _) = read_point(point).result, read_array(point / "test.npy")
    step = int(max(read_rows(point / "metrics.csv")[0].get("step", [0])))
    try:
        with open_loggers(config, point, sites=_sites(config)) as loggers:
            for logger in loggers:
                if isinstance(logger, Wandb):
                    summary = _summary(result, config["trainer"]["monitor"])
                    logger.log_end(
                        summary, None if answers is None else answers[:2], result.get("classes") or (), (), (), (), step
                    )
    except wandb.Error as error:
        raise InputError(f"W&B: {first_line(error)}") from None


def _sites(config: Mapping[str, Any]) -> list[Site]:
    """Those with attention of a design of several placements."""
    from attnlab.config.build import build_data, placed_sites

    if len(found := placements(config)) < 2:
        return []
    _, chosen = placed_sites(config, build_data(config), [placement["sites"] for placement in found])
    return [site for of_one in chosen for site in of_one]


def _summary(result: Mapping[str, Any], monitor: str) -> dict[str, Any]:
    """The headline numbers of a finished point."""
    validated, scores = result.get("val") or {}, (result.get("explain") or {}).get("scores") or {}
    chosen = {f"best/val_{name}": validated[name] for name in ("accuracy", monitor) if name in validated}
    return {
        **{f"test/{name}": value for name, value in result["test"].items()},
        **({"best/epoch": result["best_epoch"]} if "best_epoch" in result else {}),
        **chosen,
        **{f"cost/{name}": value for name, value in result["cost"].items()},
        **{f"explain/{name}": value for name, value in scores.items()},
    }


def tags(config: Mapping[str, Any]) -> list[str]:
    """The point's choices and the config's own tags, each of at most W&B's 64 characters."""
    found = placements(config)
    names = [node["name"] for placement in found for node in placement.values()] if len(found) > 1 else []
    settings = [(key, placement["attention"].get(key)) for placement in found for key in ("ratio", "order")]
    chosen = [f"{key}={written(value)}" for key, value in settings if value is not None]
    told = [*choice_names(config).values(), *names, config["data"]["name"], *chosen, *config["tags"]]
    return list(dict.fromkeys(tag[:64] for tag in told))


def _wandb_logger(config: Mapping[str, Any], point: Path, sites: Iterable[Site]) -> Wandb:
    import wandb

    run_id, is_new = _run_of(point)
    settings = config["logger"]
    stages: dict[str, set[int]] = defaultdict(set)
    for site in sites:
        stages[site.role].add(site.stage)
    logged = by_place({key: config[key] for key in config if key not in ("output_dir", "logger")}, stages)
    place = {"id": run_id, "entity": settings.get("entity"), "project": settings.get("project", "attnlab")}
    if agents():
        place = {}  # the agent has set it, and W&B warns where it is given
        logged["point"] = dict(logged)  # W&B puts the sweep's own keys, such as attention: se, in place of ours
    os.environ.setdefault("WANDB__TRANSACTION_LOG_FLUSH_INTERVAL", "1")  # seconds; 15 would be lost with a kill
    run = wandb.init(
        **place,
        mode=settings.get("mode", "offline"),
        name=point.name,
        resume="allow",
        reinit="create_new",  # beside those of other points of this process
        group=config["study"],
        job_type="repeat" if is_new and is_done(point) else "train",
        tags=tags(config),
        dir=str(point),
        config=logged,
        settings=wandb.Settings(silent=settings.get("mode", "offline") == "offline", console="off"),
    )
    logger = Wandb(experiment=run)
    if is_new:
        curves, _ = read_rows(point / "metrics.csv")
        for values in zip(*curves.values(), strict=True):
            row = dict(zip(curves, values, strict=True))
            logger.log_metrics({key: value for key, value in row.items() if key != "step"}, int(row["step"]))
    return logger


def _run_of(point: Path) -> tuple[str, bool]:
    """The id of the point's W&B run, and whether what the point has trained before is not yet in that run.

    point.json has it as ``wandb_id``, written down before the run starts, so that it can be continued. A W&B agent
    brings its own: an unfinished point goes on in that run; a finished one keeps its own. ``wandb_others``: the others.
    """
    about = mended(point / "point.json")
    known, agent = about.get("wandb_id"), agents()
    if known and agent in ("", known):
        return known, False
    new = agent or uuid.uuid4().hex[:12]
    if known:
        other = new if is_done(point) else known
        about["wandb_others"] = [*dict.fromkeys([*(about.get("wandb_others") or []), other])]
    if not known or not is_done(point):
        about["wandb_id"] = new
    write_json(point / "point.json", about)
    return new, bool(agent)
