"""Trains one point: its folder holds all that it says and finds."""

import contextlib
import dataclasses
import importlib.metadata
import logging
import math
import os
import platform
import shlex
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from attnlab import point as ledger

Config = Mapping[str, Any]
log = logging.getLogger("attnlab")
console = Console()

# So that config.yaml is a primary config of its own.
STANDALONE = {
    "defaults": [{"override hydra/job_logging": "none"}, {"override hydra/hydra_logging": "none"}],
    "hydra": {"run": {"dir": "."}, "output_subdir": None},
}


class PointFailed(Exception):
    """A point failed; its folder has the traceback."""


def run(config: Config, title: str = "", overrides: Sequence[str] = ()) -> float:
    """Train the point of a checked config, unless it stands finished; returns its best validation accuracy.

    Raises PointFailed, with the point's status.json and log.txt written.
    """
    folder = ledger.folder(config)
    name = title or folder.name
    if ledger.is_done(folder):
        console.print(f"[dim]✓ {name}  done already[/dim]", highlight=False)
        return ledger.read_json(folder / "result.json")["val"]["accuracy"]
    ledger.set_status(folder, "pending")
    with _log_file(folder):
        try:
            _write_about(folder, config, overrides)
            ledger.set_status(folder, "running")
            log.info("attempt %s, from the first epoch", ledger.read_json(folder / "status.json")["attempts"])
            result = _fit(config, folder, name)
            ledger.write_json(folder / "result.json", result)
            ledger.set_status(folder, "done")
        except (KeyboardInterrupt, SystemExit):  # Lightning turns Ctrl-C into an exit
            ledger.set_status(folder, "preempted", error="interrupted")
            log.warning("interrupted")
            raise KeyboardInterrupt from None
        except Exception as error:
            reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            log.error(traceback.format_exc())
            ledger.set_status(folder, "failed", error=reason)
            console.print(f"[red]✗[/red] {name}  {reason}", highlight=False, soft_wrap=True)
            raise PointFailed(f"{folder}: {reason}") from error
    accuracy = f"test {100 * result['test']['accuracy']:.1f} %  val {100 * result['val']['accuracy']:.1f} %"
    seconds = result["times"]["total_s"]
    console.print(f"[green]✓[/green] {name}  {accuracy}  {seconds:.0f} s", highlight=False, soft_wrap=True)
    return result["val"]["accuracy"]


def main(argv: Sequence[str], conf: Path, titles: Mapping[Path, str]) -> list[Path]:
    """Hydra's entry: each job trains its point; returns the folders of those that failed.

    ``titles`` are what the terminal calls the points, where not by the names of their folders.
    """
    import hydra
    from hydra.core.hydra_config import HydraConfig

    from attnlab.schema import check

    seen: set[Path] = set()
    failed: list[Path] = []

    def job(composed: Any) -> float:
        config = check(composed)
        folder = ledger.folder(config)
        if folder not in seen:  # combinations that differ in settings without effect are one point
            seen.add(folder)
            try:
                return run(config, titles.get(folder, ""), HydraConfig.get().overrides.task)
            except PointFailed:
                failed.append(folder)
        return math.nan  # no objective, for sweepers that look for one

    sys.argv = ["attnlab train", *argv]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here instead of being printed by Hydra
    hydra.main(config_path=str(conf), config_name="train", version_base="1.3")(job)()
    return failed


def _fit(config: Config, folder: Path, name: str) -> dict[str, Any]:
    """Train, choose the checkpoint on validation data, touch the test data once."""
    import lightning
    import torch
    from lightning.pytorch.callbacks import Callback, ModelCheckpoint

    from attnlab.build import build_classifier, build_data, build_network
    from attnlab.costs import cost
    from attnlab.loggers import EpochRows, open_loggers
    from attnlab.progress import PointProgress

    started = time.perf_counter()
    data = build_data(config)
    net, sites = build_network(config, data)
    where = "; attention at " + ", ".join(site.name for site in sites) if sites else ""
    log.info("%s%s", cost(net, data.shape), where)
    classifier = build_classifier(config, net, data.num_classes)
    torch.manual_seed(config["seed"])

    checkpoint = ModelCheckpoint(
        folder / "checkpoints",
        filename="best",
        monitor="val/accuracy",
        mode="max",
        save_last=True,
        enable_version_counter=False,
    )
    progress = PointProgress(name, console)
    settings = dict(config["trainer"])
    callbacks: list[Callback] = [checkpoint]
    if settings.pop("enable_progress_bar", True):
        callbacks.append(progress)
    with progress.bar_stopped(), open_loggers(config, folder) as others:
        rows = EpochRows(folder)
        trainer = lightning.Trainer(
            **settings,
            logger=[rows, *others],
            callbacks=callbacks,
            enable_progress_bar=progress in callbacks,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            log_every_n_steps=1,  # nothing is logged by step; this quiets a warning about short epochs
            reload_dataloaders_every_n_epochs=1,  # a batch is made from (seed, epoch, step)
            default_root_dir=folder,
        )
        trainer.fit(classifier, data)
        trained = time.perf_counter()
        best = torch.load(checkpoint.best_model_path, map_location="cpu", weights_only=True)
        classifier.load_state_dict(best["state_dict"])
        tested = _without_prefix(trainer.test(classifier, data, verbose=False)[0], "test/")
        validated = _without_prefix(rows.rows[best["epoch"]], "val/")
        costs = dataclasses.asdict(cost(net.to(trainer.strategy.root_device), data.shape, latency=True))
        for logger in others:
            logger.log_metrics({f"cost/{key}": value for key, value in costs.items()}, trainer.global_step)
        device = str(trainer.strategy.root_device)
    return {
        "test": tested,
        "val": validated,
        "best_epoch": best["epoch"],
        "epochs": config["trainer"]["max_epochs"],
        "cost": costs,
        "sites": [site.name for site in sites],
        "device": device,
        "times": {"train_s": trained - started, "total_s": time.perf_counter() - started},
    }


def _without_prefix(metrics: Mapping[str, Any], prefix: str) -> dict[str, float]:
    return {key.removeprefix(prefix): value for key, value in metrics.items() if key.startswith(prefix)}


def _write_about(folder: Path, config: Config, overrides: Sequence[str]) -> None:
    """config.yaml, enough to run the point again, and point.json: what made it."""
    command = f"# attnlab train --config-dir {shlex.quote(str(folder))} --config-name config\n"
    text = yaml.safe_dump({**STANDALONE, **config}, sort_keys=False, allow_unicode=True)
    ledger.write_text(folder / "config.yaml", command + text)
    identity = ledger.identity(config)
    about = {
        "study": config["study"],
        "hash": ledger.digest(identity),
        "identity": identity,
        "names": ledger.choice_names(config),
        "overrides": list(overrides),
        "code": _code_version(),
        "python": platform.python_version(),
        "libraries": {
            name: importlib.metadata.version(name)
            for name in (
                "attnlab",
                "torch",
                "torchvision",
                "lightning",
                "torchmetrics",
                "hydra-core",
                "numpy",
            )
        },
    }
    earlier = ledger.read_json(folder / "point.json")
    if "wandb_id" in earlier:
        about["wandb_id"] = earlier["wandb_id"]
    ledger.write_json(folder / "point.json", about)


def _code_version() -> str | None:
    """``git describe`` of the checkout that this file is in; None for an installed package."""
    here = Path(__file__).resolve()
    if not (here.parents[2] / ".git").exists():
        return None
    command = ["git", "-C", str(here.parent), "describe", "--always", "--dirty", "--abbrev=12"]
    with contextlib.suppress(OSError):
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None
    return None


@contextlib.contextmanager
def _log_file(folder: Path) -> Iterator[None]:
    """All that is logged or warned goes to the point's log.txt, Lightning's own words included."""
    import lightning  # noqa: F401  (its loggers get their handlers now)

    handler = logging.FileHandler(folder / "log.txt", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.handlers = handlers
        root.setLevel(level)
        handler.close()
