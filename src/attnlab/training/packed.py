"""Points that differ in their seeds (and in numbers such as the learning rate), trained in one process as one network.

A small network leaves most of a GPU idle, which waits for the processor to launch one kernel after another; K networks
stacked into one need hardly more launches than one of them. Lightning's loop trains one network, hence this room beside
it. It is small, because each point still runs through ``loop.run``, with a Trainer, a folder, checkpoints and loggers
of its own, in a thread of its own; only one of the threads runs at a time. Where Lightning would train the batches of
an epoch, the point waits, and the pack trains a *leg* of all points that wait at the same batch: up to the end of the
epoch, the next checkpoint or a signal. Their weights are stacked before a leg and copied back after it.
"""

import contextlib
import copy
import json
import logging
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attnlab import ledger
from attnlab.config.build import build_data, build_network
from attnlab.errors import InputError, first_line
from attnlab.ledger import lock
from attnlab.training import loop
from attnlab.training.checkpoints import random_states, set_random_states
from attnlab.training.lightning_insides import position, rewind, train_elsewhere
from attnlab.training.optimisation import build_optimisation
from attnlab.training.stacked import ELEMENTWISE, Stacked, not_stacked, numbers
from attnlab.training.stop import Preempted, Stop

Config = Mapping[str, Any]
log = logging.getLogger("attnlab")

WANDB = "WANDB_DATA_DIR"
WORTH = 1.1  # times as fast
LEG_S = 1.0  # after which the points write their progress
LIGHTNING_S = 0.001  # that Lightning's loop adds to a step, at least; 2 to 3 ms were measured on a slow machine
# Settings of the Trainer under which a leg does what Lightning's loop would.
KNOWN = {
    *("max_epochs", "monitor", "accelerator", "enable_progress_bar", "limit_train_batches"),
    *("gradient_clip_val", "deterministic", "benchmark"),
}
PLAIN = {"precision": ("32-true", "32", 32, "64-true", "64", 64, None), "devices": (1,), "num_nodes": (1,)}
PLAIN |= {"gradient_clip_algorithm": (None, "norm"), "strategy": ("auto",), "compile": ("none",)}


def likeness(config: Config) -> str:
    """Equal for points that can be trained as one network: all but seed, fold and numbers of optimizer and schedule."""
    made = ledger.without_seed(ledger.identity(config))
    for group in ("optimizer", "scheduler"):
        made[group] = {key: value for key, value in made[group].items() if isinstance(value, str | bool)}
    others = [config.get(group) for group in ("trainer", "checkpoint", "explain", "logger", "study", "output_dir")]
    return json.dumps([made, others], sort_keys=True)


def obstacle(config: Config) -> str:
    """Why the point must be trained alone, in words; empty if it may be packed with others that are like it."""
    for key, value in config["trainer"].items():
        if key not in KNOWN and value not in PLAIN.get(key, ()):
            return f"trainer.{key}={value}"
    try:
        data = build_data(config)
        with torch.device("meta"):
            net, _ = build_network(config, data)
            loss = {**config["loss"], "class_weights": None}
            optimisation = build_optimisation({**config, "loss": loss}, net, data)
            optimizer = optimisation.optimizer()
            if type(optimizer) not in ELEMENTWISE:
                return not_stacked(optimizer)
            x, y = torch.randn(2, 2, *data.shape), torch.zeros(2, 2, dtype=torch.long)

            def forward(parameters: Any, buffers: Any, x: Tensor, y: Tensor) -> Tensor:
                output = torch.func.functional_call(net.train(), (parameters, buffers), (x,))
                return optimisation.classification(output, y)[0]

            stacks = torch.func.stack_module_state([net, net])
            torch.func.vmap(forward)(*stacks, x, y)
    except InputError:  # others tell it, or the training will
        return ""
    except Exception as error:
        return _words(error)
    return ""


def _words(error: Exception) -> str:
    if "randomness" in str(error):
        return "its network draws random numbers in training (dropout, say)"
    return f"{type(error).__name__}: {first_line(error)}"


def _is_lost(error: Exception) -> bool:
    """Whether all that follows on the GPU will fail in this process. (Out of memory has other words.)"""
    return "CUDA error" in str(error)


class Pack:
    """Points that are trained in this process."""

    def __init__(self, folders: Sequence[Path], titles: Sequence[str], threads: int | None) -> None:
        self.stop = _Asked()
        self.data: dict[str, Any] = {}  # by its settings: points of the same share it
        self.together: bool | None = None  # None: not yet known; False: each goes on in a process of its own
        self.lost = False  # after a CUDA error, all that this process does on the GPU fails
        self.threads = threads
        self.members = [Member(self, *point) for point in zip(folders, titles, strict=True)]

    def train(self) -> int:
        """Train the points; their folders say how it went. Returns the exit code of their process.

        ALONE: those that have not ended go on from their last checkpoints in a process for each.
        """
        with self.stop.listening():
            for member in self.members:  # to its first batch, or to its end
                if not self.lost:
                    member.resume()
            while not self.lost and (waiting := [member for member in self.members if not member.ended]):
                first = min(member.position for member in waiting)
                group = [member for member in waiting if member.position == first]
                batches = self._train(group) if len(group) > 1 else 0
                self.stop.at_once, self.stop.asked = not batches, self.stop.signal
                for member in waiting if self.together is False else group:
                    member.batches = batches
                    if not self.lost:
                        member.resume()
        if self.lost or self.together is False:
            return loop.ALONE
        if any(member.broken for member in self.members):
            return 1
        return loop.PREEMPTED if self.stop.asked else 0

    def _train(self, group: list["Member"]) -> int:
        """A leg. Returns how many batches of each are trained; 0 if they shall be trained alone."""
        for member in group:
            member.note_numbers()
        group.sort(key=lambda member: member.numbers)  # equal ones are stepped as one
        torch.set_num_threads(group[0].threads)
        with _heard_by(group):
            try:
                if self.together is None:
                    self.together = self._choose(group)
                if self.together:
                    return self._leg(group)
            except Exception as error:
                memory = isinstance(error, torch.OutOfMemoryError)
                log.warning("trained alone from here on: %s", _words(error), exc_info=not memory)
                self.together, self.lost = False, _is_lost(error)
        return 0

    def _choose(self, group: list["Member"]) -> bool:
        """Whether the points are trained as one: where that is faster, or was before."""
        others = f"packed with {len(group) - 1} other{'s' * (len(group) > 2)}"
        if all(member.packed == len(group) for member in group):
            log.info(others)
            return True
        with torch.random.fork_rng(devices=[]):
            gain = _gain(group)
        if gain < WORTH:
            log.info("trained alone: packing is %s here (%.1f ×)", "slower" if gain < 1 else "hardly faster", gain)
            return False
        log.info("%s: about %.1f × as fast as one after another, by a few steps", others, gain)
        return True

    def _leg(self, group: list["Member"]) -> int:
        started = time.perf_counter()
        most, batches = min(member.batches_to_go() for member in group), 0
        stacked = _stacked(group)
        while batches < most and not (batches and (self.stop.signal or time.perf_counter() - started > LEG_S)):
            stacked.step(*_batch(group))
            for member in group:
                member.step_schedule()
            batches += 1
        stacked.give_back()
        for member in group:
            member.seconds += (time.perf_counter() - started) / len(group)
            member.note_packed(len(group))
        return batches


class Member:
    """A point of a pack, in a thread of its own; ``loop.run`` calls ``share``, ``join`` and ``clock``."""

    trainer: Any
    classifier: Any
    fetcher: Any

    def __init__(self, pack: Pack, folder: Path, title: str) -> None:
        self.pack, self.folder, self.title, self.stop = pack, folder, title, pack.stop
        self.numbers = ""
        self.packed = 0  # with how many it was trained as one
        self.batches = 0  # of the last leg
        self.seconds = 0.0  # this point's part of the process's time
        self.since: float | None = None
        self.ended = self.broken = False
        self.device = torch.device("cpu")
        self.states: dict[str, Any] | None = None  # random ones
        self.handlers: list[logging.Handler] = []
        self.wandb: str | None = None  # where W&B keeps files of this point
        self.go, self.waits = threading.Semaphore(0), threading.Semaphore(0)
        threading.Thread(target=self._run, daemon=True, name=title).start()

    def _run(self) -> None:
        self.go.acquire()
        try:
            if self.stop.asked is None:
                loop.run(self.folder, self.title, threads=self.pack.threads, member=self)
        except loop.PointFailed as failed:  # its folder says so, as of the next ones
            self.pack.lost |= _is_lost(failed)
        except (lock.Busy, Preempted):
            pass
        except BaseException:
            self.broken = True
            with contextlib.suppress(OSError), (self.folder / "log.txt").open("a", encoding="utf-8") as file:
                traceback.print_exc(file=file)
        finally:
            self.ended = True
            self.waits.release()

    def resume(self) -> None:
        """Let the point's thread run until it waits for a leg, or ends; with its own random states and log."""
        root, device = logging.getLogger(), self.device
        ours, states, wandb = root.handlers, random_states(device), os.environ.get(WANDB)
        level = root.level
        if self.handlers:
            root.handlers = self.handlers
            root.setLevel(logging.INFO)
            logging.captureWarnings(True)  # another point may have ended it
        if self.states is not None:
            set_random_states(self.states, device)
        os.environ.update({WANDB: self.wandb} if self.wandb else {})
        self.since = time.perf_counter()
        self.go.release()
        self.waits.acquire()
        self.seconds, self.since = self.clock(), None
        self.states, self.handlers = random_states(self.device), root.handlers
        self.wandb = os.environ.pop(WANDB, None)
        os.environ.update({WANDB: wandb} if wandb else {})
        set_random_states(states, device)
        root.handlers = ours
        root.setLevel(level)

    def clock(self) -> float:
        """Seconds that were spent on this point: of a leg its part."""
        return self.seconds + (0.0 if self.since is None else time.perf_counter() - self.since)

    def share(self, config: Config) -> Any:
        """The point's data; of points with the same, only the first reads them."""
        same = json.dumps([config["data"], config["augment"]], sort_keys=True)
        if same not in self.pack.data:
            self.pack.data[same] = build_data(config)
            return self.pack.data[same]
        data = copy.copy(self.pack.data[same])
        vars(data).pop("stream", None)
        data.order_seed = config["seed"]
        return data

    def join(self, config: Config, trainer: Any, classifier: Any) -> None:
        """From now on, the trainer's batches are trained in legs."""
        self.config, self.trainer, self.classifier = config, trainer, classifier
        self.packed = ledger.read_json(self.folder / "point.json").get("packed") or 0
        self.device, self.threads = trainer.strategy.root_device, torch.get_num_threads()
        train_elsewhere(trainer, self._await_leg)

    def _await_leg(self, fetcher: Any) -> int:
        self.fetcher = fetcher
        self.waits.release()
        self.go.acquire()
        if self.pack.together is False:
            raise Preempted("its pack")
        return self.batches

    @property
    def position(self) -> tuple[int, int]:
        return position(self.trainer)

    def batches_to_go(self) -> int:
        """Until the end of the epoch, or the next checkpoint."""
        left, every = self.fetcher.length - self.fetcher.fetched, self.config["checkpoint"]["every_n_steps"]
        return min(left, every - self.trainer.global_step % every) if every else left

    def step_schedule(self) -> None:
        for config in self.trainer.lr_scheduler_configs:
            config.scheduler.optimizer._opt_called = True  # else PyTorch warns that it was not stepped before
            config.scheduler.step()

    def note_numbers(self) -> None:
        """Equal ones: the same steps with the same learning rates, from here to the end."""
        settings, trainer = [self.config["optimizer"], self.config["scheduler"]], self.trainer
        groups = [numbers(group) for group in trainer.optimizers[0].param_groups]
        # Folds may differ in the number of batches, and so in what their schedules do.
        steps = [trainer.num_training_batches, trainer.global_step]
        self.numbers = json.dumps([settings, steps, groups], sort_keys=True, default=str)

    def note_packed(self, number: int) -> None:
        if not self.packed:
            self.packed = number
            about = ledger.read_json(self.folder / "point.json")
            ledger.write_json(self.folder / "point.json", {**about, "packed": number})


class _Asked(Stop):
    """Notes a signal; the points look at ``asked``, as no signal reaches their threads.

    After a leg, all of its points must find the same there, so that they stop at the same batch: ``at_once`` is for
    points that train alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.signal: str | None = None
        self.at_once = True

    def _handle(self, number: int, frame: Any) -> None:
        self.signal = signal.Signals(number).name
        if self.at_once:
            self.asked = self.signal


@contextlib.contextmanager
def _heard_by(group: Sequence[Member]) -> Iterator[None]:
    """What is logged and warned in the body goes to the log of each of the points."""
    root = logging.getLogger()
    ours, level = root.handlers, root.level
    root.handlers = [handler for member in group for handler in member.handlers]
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        root.handlers = ours
        root.setLevel(level)


def _batch(group: Sequence[Member]) -> tuple[Tensor, Tensor]:
    """The next batch of each, stacked: images ``(K, N, C, H, W)`` and labels."""
    batches = [member.trainer.precision_plugin.convert_input(next(member.fetcher)[0]) for member in group]
    return torch.stack([x for x, _ in batches]), torch.stack([y for _, y in batches])


def _stacked(group: Sequence[Member]) -> Stacked:
    return Stacked(
        [member.classifier for member in group],
        [member.trainer.optimizers[0] for member in group],
        [member.numbers for member in group],
        group[0].trainer.precision_plugin.train_step_context,
        group[0].trainer.gradient_clip_val,
    )


def _gain(group: Sequence[Member]) -> float:
    """How many times as fast a step of all points as one is as one step after another; trained on copies."""
    x, y = _batch(group)
    for member in group:
        rewind(member.trainer, member.fetcher)
    context = group[0].trainer.precision_plugin.train_step_context
    optimisation = copy.deepcopy(group[0].classifier.optimisation)
    optimizer = optimisation.optimizer()
    images = x[0].to(memory_format=torch.channels_last)

    def alone() -> None:
        optimizer.zero_grad()
        with context():
            total, _, _ = optimisation.losses(optimisation.net(images), y[0])
        total.backward()
        optimizer.step()

    stacked = _stacked(group)
    one_by_one = len(group) * (LIGHTNING_S + _seconds(alone, x.device))
    return one_by_one / _seconds(lambda: stacked.step(x, y), x.device, enough=max(2.0, 3 * one_by_one))


def _seconds(step: Callable[[], None], device: torch.device, enough: float = float("inf")) -> float:
    """The shorter of two runs after a first one; that one's time if it takes more than ``enough`` on a CPU."""

    def timed() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    first = timed()
    return first if device.type == "cpu" and first > enough else min(timed(), timed())
