"""Trains one point, from the config in its folder to the results there."""

import contextlib
import dataclasses
import functools
import logging
import os
import platform
import random
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnlab import ledger
from attnlab.ledger import lock
from attnlab.ledger.fingerprints import fingerprint, same_data
from attnlab.training import meeting
from attnlab.training.memory import keep_freed_memory
from attnlab.training.stop import Preempted, Stop
from attnlab.training.version import code_version, library_versions

if TYPE_CHECKING:
    from attnlab.training.packed import Member

Config = Mapping[str, Any]
log = logging.getLogger("attnlab")
PREEMPTED = 75  # exit code of a process that saved and stopped because it was asked to (EX_TEMPFAIL)
ALONE = 4  # of a process that has ended to have its points trained in a process for each


class PointFailed(Exception):
    """A point failed; its folder has the traceback."""


def run(
    folder: Path, title: str = "", bar: bool = False, threads: int | None = None, member: "Member | None" = None
) -> None:
    """Train the prepared point of ``folder`` from its last checkpoint, unless it is finished, or has enough epochs.

    ``threads``: CPU threads of the first attempt; later attempts use the same number, because it changes sums in the
    last bit. ``member``: of a pack of points that are trained as one network.
    Raises lock.Busy while another process trains it, PointFailed, and Preempted if a signal asked to stop, after
    writing the folder's status.json and log.txt.
    """
    stop, lost = member.stop if member else Stop(), functools.partial(_give_up, folder)
    abandon = functools.partial(_abandon, ALONE if member else PREEMPTED)
    with stop.listening(), meeting.opened(lost) as others, lock.hold(folder, lost=abandon), _log_file(folder):
        if ledger.is_done(folder):
            return
        try:
            config = ledger.read_config(folder)
            until = _until(folder, config)
            if until and (epochs := _finished_epochs(folder, until)) >= until:
                _pause(folder, config, epochs)
                return
            _write_about(folder, config, threads)
            ledger.set_status(folder, "running")
            checkpoints, result = _fit(config, folder, stop, title or folder.name, bar, others, member, until)
            if result is None:
                _pause(folder, config, len(checkpoints.rows))
                return
            ledger.write_json(folder / "result.json", result)
            ledger.set_status(folder, "done")
        except (Preempted, KeyboardInterrupt) as error:
            if ledger.state(folder) in ("done", "paused"):
                return
            ledger.set_status(folder, "preempted", error=f"asked to stop by {error}")
            log.warning("stopped by %s", error)
            raise Preempted(str(error)) from None
        except (Exception, SystemExit) as error:
            reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            log.error(traceback.format_exc())
            ledger.set_status(folder, "failed", error=reason)
            raise PointFailed(f"{folder}: {reason}") from error
        with contextlib.suppress(OSError, Preempted):  # the point is done
            checkpoints.delete_steps()
            (folder / "progress.json").unlink(missing_ok=True)


def _until(folder: Path, config: Config) -> int | None:
    """After how many epochs the point is paused; None: it is trained to its end."""
    until = ledger.read_json(folder / "status.json").get("until")
    return until if until and until < config["trainer"]["max_epochs"] else None


def _finished_epochs(folder: Path, until: int) -> int:
    """Those that the point can go on after, with metrics.csv written again if it was lost; 0 where it has too few."""
    from attnlab.training.checkpoints import finished_rows

    known = len(ledger.read_rows(folder / "metrics.csv")[0].get("epoch", []))
    if 0 < known < until:  # it is sooner read
        return 0
    rows = finished_rows(folder)
    if rows and not known:
        ledger.write_rows(folder / "metrics.csv", rows)
    return len(rows)


def _pause(folder: Path, config: Config, epochs: int) -> None:
    ledger.set_status(folder, "paused", until=epochs, error=None)
    log.info("paused after epoch %s of %s", epochs, config["trainer"]["max_epochs"])


def follow(folder: Path) -> None:
    """A rank above 0 of the point's data-parallel training: rank 0 says when to begin."""
    stop = Stop(follows=True)
    with stop.listening(), _log_file(folder), meeting.joined() as word:
        if word is None:
            return
        os.environ.update(word)
        _fit(ledger.read_config(folder), folder, stop, "", bar=False)


def rank() -> int:
    """This process's rank in data-parallel training: on one machine, Lightning says which."""
    return int(os.environ.get("ATTNLAB_RANK") or os.environ.get("LOCAL_RANK", "0"))


def _fit(
    config: Config,
    folder: Path,
    stop: Stop,
    title: str,
    bar: bool,
    others: meeting.Others | None = None,
    member: "Member | None" = None,
    until: int | None = None,
) -> tuple[Any, dict[str, Any] | None]:
    """Train, choose the checkpoint on validation data, touch the test data once.

    Returns None for the result if the point is paused: when ``until`` epochs are saved. (Rank 0 tells the others.)
    """
    import lightning
    import numpy
    import torch
    from lightning.pytorch.callbacks import Callback
    from lightning.pytorch.plugins.environments import LightningEnvironment

    from attnlab.config.build import build_data, build_network
    from attnlab.config.settings import NOT_EXPLAINED, OUR_TRAINER
    from attnlab.data import Preprocess
    from attnlab.data.measures import per_class
    from attnlab.insertion import check, count, time_forward, trace
    from attnlab.training.checkpoints import Checkpoints, InPlace, latest
    from attnlab.training.classifier import Classifier, Feed
    from attnlab.training.distributed import from_all_ranks, synchronise
    from attnlab.training.gates import GateHealth
    from attnlab.training.loggers import open_loggers
    from attnlab.training.optimisation import build_optimisation
    from attnlab.training.pictures import EpochPictures
    from attnlab.training.progress import PointProgress, ProgressFile

    first, ranks = rank() == 0, ledger.ranks(config)
    keep_freed_memory()
    _set_threads(max(1, ledger.read_json(folder / "point.json")["threads"] // ranks))
    monitor = config["trainer"]["monitor"]
    clock = member.clock if member else time.perf_counter
    checkpoints = Checkpoints(folder, stop, config["checkpoint"]["every_n_steps"], monitor, clock, until)
    data = member.share(config) if member else build_data(config)
    net, sites = build_network(config, data)
    counted = count(net, trace(net, data.shape))
    if first:
        where = "; attention at " + ", ".join(site.name for site in sites) if sites else ""
        log.info("%s%s", counted, where)
    if ranks > 1:
        synchronise(net)
    check(net, data.shape)
    optimisation = build_optimisation(config, net, data)
    classifier = Classifier(
        optimisation, data.num_classes, eval_flip=data.augment.eval_flip, compiled=config["trainer"]["compile"]
    )
    feed = Feed(data)
    counted = dataclasses.replace(counted, trainable=optimisation.trainable())
    if optimisation.body is not None and first:
        epochs = "all epochs" if optimisation.freeze_for is True else f"the first {optimisation.freeze_for} epochs"
        frozen = sum(p.numel() for p in optimisation.body.parameters)
        log.info("frozen for %s: %s parameters, all but the attention and the last layer", epochs, f"{frozen:,}")
    for seed in (random.seed, numpy.random.seed, torch.manual_seed):
        seed(config["seed"])

    settings = {key: value for key, value in config["trainer"].items() if key not in OUR_TRAINER}
    progress = PointProgress(title)
    callbacks: list[Callback] = [checkpoints, ProgressFile(folder)]
    explained = {**NOT_EXPLAINED, **(config.get("explain") or {})}
    health = GateHealth(folder if explained["gates"] else None, bool(config["logger"].get("gates")))
    if health.folder is not None or health.curves:
        callbacks.append(health)
    if explained["every_n_epochs"]:
        callbacks.append(EpochPictures(folder, explained["every_n_epochs"]))
    if settings.pop("enable_progress_bar", True) and bar and first:
        callbacks.append(progress)
    with contextlib.closing(data), progress.bar_stopped(), open_loggers(config, folder, first, sites) as loggers:
        trainer = lightning.Trainer(
            **settings,
            logger=loggers,
            callbacks=callbacks,
            enable_progress_bar=progress in callbacks,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            log_every_n_steps=1,  # nothing is logged by step; this quiets a warning about short epochs
            reload_dataloaders_every_n_epochs=1,  # a batch is made from (seed, epoch, step)
            # Else Lightning would take the signals and tasks of a SLURM job for its own.
            plugins=[LightningEnvironment(), InPlace()],
            default_root_dir=folder,
        )
        if str(settings.get("precision")).startswith("64"):
            classifier.double()  # as Lightning does only after it has loaded a checkpoint
        if member:
            member.join(config, trainer, classifier)
        start = latest(folder) if first else None
        if ranks > 1:
            start = _told_by_first(folder, start, first, others)
        log.info("attempt %s, from %s", ledger.read_json(folder / "status.json")["attempts"], start or "the beginning")
        trainer.fit(classifier, feed, ckpt_path=start, weights_only=True)
        if checkpoints.paused:
            return checkpoints, None
        seconds, best = checkpoints.seconds, checkpoints.best
        if first:
            for note in data.notes:
                log.info("%s", note)
            if data.waited is not None:
                share = 100 * data.waited / max(seconds - checkpoints.seconds_before, 1e-9)
                log.info("images were decoded in each epoch; training waited for them %.0f %% of its time", share)
            checkpoints.keep_best_and_last()
            health.write()
        weights = torch.load(checkpoints.path(best["step"]), map_location="cpu", weights_only=True)["state_dict"]
        classifier.load_state_dict(weights)
        trainer.test(classifier, feed, verbose=False)
        tested = {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("test/")}
        answers = from_all_ranks(classifier.tested).numpy()
        if first:
            kept = answers if data.test_groups is None else numpy.vstack([answers, data.test_groups])
            ledger.write_array(folder / "test.npy", kept.astype(numpy.min_scalar_type(kept.max())))
        timed = time_forward(net.to(trainer.strategy.root_device), data.shape) if first else None
        costs = dataclasses.replace(counted, latency=timed).numbers()
        found: dict[str, Any] = {}
        explain_s = 0.0
        if first:
            names = dict.fromkeys(("accuracy", monitor))
            chosen = {"best/epoch": best["epoch"], **{f"best/val_{name}": best[f"val/{name}"] for name in names}}
            summary = {**tested, **chosen, **{f"cost/{key}": value for key, value in costs.items()}}
            start_s = checkpoints.seconds
            found = _explain(explained, trainer, classifier, data)
            explain_s = checkpoints.seconds - start_s
            summary |= {f"explain/{key}": value for key, value in (found.get("scores") or {}).items()}
            _show_end(config, folder, trainer, classifier, summary, answers, health)
    return checkpoints, {
        "test": _without_prefix(tested, "test/"),
        "val": _without_prefix(best, "val/"),
        "per_class": per_class(answers, data.classes),
        "best_epoch": best["epoch"],
        "epochs": config["trainer"]["max_epochs"],
        "cost": costs,
        "sites": [site.name for site in sites],
        "classes": list(data.classes),
        "preprocess": Preprocess.of(data).facts,
        "device": str(trainer.strategy.root_device),
        "devices": ranks,
        **({"explain": found} if found else {}),
        "times": {
            "train_s": seconds,
            "total_s": checkpoints.seconds - explain_s,
            **({"explain_s": explain_s} if found else {}),
        },
    }


def _show_end(
    config: Config, folder: Path, trainer: Any, classifier: Any, summary: dict[str, Any], answers: Any, health: Any
) -> None:
    """The headline numbers, pictures, and what W&B gets once; nothing of it decides a result."""
    from attnlab.errors import surviving
    from attnlab.training.loggers import Wandb
    from attnlab.training.pictures import draw_pictures

    wanted, classes = config["logger"], trainer.datamodule.data.classes
    pictures, gates = list[Path](), list[Any]()
    if wanted.get("pictures"):
        with surviving("pictures"):
            pictures = draw_pictures(trainer, classifier, folder, wanted["pictures"])
    for logger in trainer.loggers:
        if not isinstance(logger, Wandb):
            logger.log_metrics(summary, trainer.global_step)
            continue
        if wanted.get("gates"):
            with surviving("gates"):
                gates = health.numbers(trainer, classifier)
        names = ("best.ckpt", "last.ckpt") if wanted.get("checkpoints") else ()
        kept = [folder / "checkpoints" / name for name in names]
        logger.log_end(summary, answers, classes, gates, pictures, kept, trainer.global_step)


def _explain(explained: Config, trainer: Any, classifier: Any, data: Any) -> dict[str, Any]:
    """``explain`` of result.json: what is asked for, of the network that was tested."""
    if not (explained["ablation"] or explained["scores"]):
        return {}
    from attnlab.explain.attending import measure_attention
    from attnlab.training.gates import as_in_validation

    keys = ("ablation", "scores", "methods", "images", "boxes")
    with as_in_validation(trainer, classifier) as forward:
        return measure_attention(
            classifier.net, lambda x: classifier.averaged(x, forward), data, **{key: explained[key] for key in keys}
        )


def _without_prefix(metrics: Mapping[str, Any], prefix: str) -> dict[str, float]:
    return {key.removeprefix(prefix): value for key, value in metrics.items() if key.startswith(prefix)}


def _told_by_first(folder: Path, start: Path | None, first: bool, others: meeting.Others | None) -> Path | None:
    """The checkpoint that rank 0 has found whole; the others begin after it, and read its choice."""
    if first:
        os.environ["ATTNLAB_START"] = start.name if start else ""
        if others is not None:
            from lightning.pytorch.plugins.environments import LightningEnvironment

            os.environ["MASTER_PORT"] = str(LightningEnvironment().main_port)  # a free one
            others.start({key: os.environ[key] for key in ("ATTNLAB_START", "MASTER_PORT")})
        return start
    name = os.environ["ATTNLAB_START"]
    return folder / "checkpoints" / name if name else None


def _set_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # else Lightning chooses for data-parallel training


def _abandon(code: int) -> None:
    log.error("another process has taken this point over; leaving it")
    os._exit(code)


def _give_up(folder: Path, why: str) -> None:
    """Another rank has died, and this process would wait for its gradients."""
    with contextlib.suppress(OSError):
        ledger.set_status(folder, "failed", error=why)
    os._exit(1)


def _write_about(folder: Path, config: Config, threads: int | None) -> None:
    """point.json: what the point is made with."""
    import torch

    from attnlab.attention import kernels

    about = ledger.mended(folder / "point.json") or ledger.about(config)
    code = code_version(config)
    versions = [*(v for v in about.get("code") or [] if v["source"] != code["source"]), code]
    if len(versions) > 1:
        log.warning("the code has changed since the first attempt: %s", [v["source"] for v in versions])
    if (seen := fingerprint(config["data"], contents=True)) is not None:
        before = about.get("data") or []
        if before and not same_data(before[-1], seen, config["data"]):
            log.warning(
                "the data have changed since the last attempt: %s files then, %s now",
                before[-1]["files"],
                seen["files"],
            )
            before = [*before, seen]
        about["data"] = [*before[:-1], seen]  # the last one is what this attempt saw
    computed = "eager" if kernels.off else kernels.wanted or "default"
    if (earlier := about.get("kernels") or computed) != computed:
        log.warning("ATTNLAB_KERNELS has changed since the last attempt: %s then, %s now", earlier, computed)
    about |= {
        "code": versions,  # the last one is that of this attempt
        "python": platform.python_version(),
        "libraries": library_versions(),
        "kernels": computed,
        "threads": about.get("threads") or threads or torch.get_num_threads(),
    }
    ledger.write_json(folder / "point.json", about)


@contextlib.contextmanager
def _log_file(folder: Path) -> Iterator[None]:
    """All that is logged or warned goes to the point's log.txt, Lightning's own words included."""
    import lightning  # noqa: F401  (its loggers get their handlers now)

    handler = logging.FileHandler(folder / meeting.log_name(int(os.environ.get("ATTNLAB_RANK", "0"))), encoding="utf-8")
    handler.handleError = lambda record: None  # type: ignore[method-assign]  # of a full disk others will tell
    handler.addFilter(lambda record: not record.getMessage().startswith("💡"))  # Lightning's advertisements
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")  # of what backbone.freeze freezes
    for kind in (DeprecationWarning, FutureWarning):  # what Lightning calls of PyTorch is Lightning's to mend
        warnings.filterwarnings("ignore", category=kind, module=r"lightning\.")
    warnings.filterwarnings("ignore", message="You called `self.log")  # without W&B nobody needs to hear it
    warnings.filterwarnings("ignore", message="The `srun` command is available")  # a point is one task
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.handlers = handlers
        root.setLevel(level)
        handler.close()
