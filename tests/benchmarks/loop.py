"""a point's training loop, with all its callbacks, over a hand-written PyTorch loop

mini-Xception (cluttered digits, 40×40, batch 64) and ResNet-20 (32×32, batch 32) with CBAM, AdamW and one cycle, one
thread: epochs of 205 steps and a validation, as `attnlab train` runs them, gates.csv and checkpoints included. After
each of its batches a hand-written loop takes the same one, with its own copy of the network and of the optimizer; in
validation it takes only loss and accuracy. The first epoch and what is before and after training do not count. At the
end both networks must be equal to the bit. "epoch" is all between the starts of two epochs; the percentages are what of
it is not training. ``cpu=1`` takes CPU time: it is the same on a busy machine, but leaves out waiting for the disk.
"""

import contextlib
import copy
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from attnlab import ledger
from attnlab.sweep import plan
from attnlab.training import loop
from attnlab.training.optimisation import build_optimisation

CASES = {
    "mini_xception": ["data=cluttered_digits", "data.copies=11", "data.batch_size=64"],
    "resnet20": ["backbone=resnet20", "data=cluttered_digits", "data.canvas=32", "data.digit=14", "data.copies=6"],
}
COMMON = ["attention=cbam", "trainer.accelerator=cpu"]
EPOCHS = 3


class ByHand:
    """The same training, written down as one would without a framework."""

    def __init__(self, config: dict[str, Any], net: torch.nn.Module, data: Any, steps: int) -> None:
        self.net, self.data = copy.deepcopy(net), data
        optimisation = build_optimisation(config, self.net, data)
        self.optimizer = optimisation.optimizer()
        self.schedule = optimisation.make_scheduler(optimizer=self.optimizer, total_steps=steps)
        self.batches: Iterator[tuple[Tensor, Tensor]] = iter(())

    def begin(self, batches: Iterable[tuple[Tensor, Tensor]], training: bool) -> None:
        self.net.train(training)
        self.batches, self.loss, self.right = iter(batches), torch.zeros(()), torch.zeros((), dtype=torch.long)

    def train(self) -> None:
        x, y = next(self.batches)
        self.optimizer.zero_grad()
        logits = self.net(x.to(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits, y)
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        self.count(logits.detach(), loss.detach(), y)

    def validate(self) -> None:
        x, y = next(self.batches)
        with torch.inference_mode():
            logits = self.net(x.to(memory_format=torch.channels_last))
            self.count(logits, F.cross_entropy(logits, y, reduction="sum"), y)

    def count(self, logits: Tensor, loss: Tensor, y: Tensor) -> None:
        self.loss += loss
        self.right += (logits.argmax(1) == y).sum()


class Beside(Callback):
    """Trains by hand between the Trainer's own steps, and takes the time of both, in parts of each epoch."""

    def __init__(self, config: dict[str, Any], clock: Callable[[], float]) -> None:
        self.config, self.clock = config, clock
        self.epochs: list[tuple[Counter[str], Counter[str]]] = []  # seconds of the Trainer, and by hand

    @contextlib.contextmanager
    def turn(self, part: str) -> Iterator[None]:
        """The part that has ended is the Trainer's; the body is by hand."""
        started = self.clock()
        theirs, mine = self.epochs[-1]
        theirs[part] += started - self.mark
        yield
        self.mark = self.clock()
        mine[part] += self.mark - started

    def on_train_start(self, trainer: Any, module: Any) -> None:
        data = trainer.datamodule.data
        self.hand = ByHand(self.config, module.net, data, trainer.estimated_stepping_batches)

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        if self.epochs:
            with self.turn("checkpoint and metrics"):
                pass
        self.epochs.append((Counter(), Counter()))
        self.mark = self.clock()
        with self.turn("training"):
            data = self.hand.data
            self.hand.begin(data.batches(data.splits.train, True, trainer.current_epoch), training=True)

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        with self.turn("training"):
            self.hand.train()

    def on_validation_start(self, trainer: Any, module: Any) -> None:
        with self.turn("validation"):
            self.hand.begin(self.hand.data.batches(self.hand.data.splits.val), training=False)

    def on_validation_batch_end(self, trainer: Any, *_: Any) -> None:
        with self.turn("validation"):
            self.hand.validate()

    def on_validation_epoch_end(self, trainer: Any, module: Any) -> None:
        with self.turn("gates"):
            pass

    def on_train_end(self, trainer: Any, module: Any) -> None:
        with self.turn("checkpoint and metrics"):
            pass
        theirs, mine = (net.state_dict() for net in (module.net, self.hand.net))
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs), "it has trained another network"


@contextlib.contextmanager
def with_callback(callback: Callback) -> Iterator[None]:
    """Each Trainer gets one callback more."""
    init = lightning.Trainer.__init__

    def more(self: Any, *args: Any, callbacks: list[Callback], **settings: Any) -> None:
        init(self, *args, callbacks=[*callbacks, callback], **settings)

    lightning.Trainer.__init__ = more  # type: ignore[method-assign]
    try:
        yield
    finally:
        lightning.Trainer.__init__ = init  # type: ignore[method-assign]


def measure(cases: dict[str, list[str]] = CASES, epochs: int = EPOCHS, cpu: int = 0) -> dict[str, float]:
    figures = dict[str, float]()
    for name, words in cases.items():
        with tempfile.TemporaryDirectory() as folder:
            settings = [*COMMON, *words, f"trainer.max_epochs={1 + epochs}", f"output_dir={folder}"]
            (point,) = plan.make(settings).points
            ledger.prepare(point.folder, point.config)
            beside = Beside(point.config, time.process_time if cpu else time.perf_counter)
            with with_callback(beside):
                loop.run(Path(point.folder), threads=1)
        theirs, mine = (sum(each, Counter[str]()) for each in zip(*beside.epochs[1:], strict=True))
        figures[f"{name}: epoch, over by hand"] = theirs.total() / mine.total()
        figures[f"{name}: training alone, over by hand"] = theirs["training"] / mine["training"]
        for part in ("validation", "gates", "checkpoint and metrics"):
            figures[f"{name}: {part}, % of an epoch by hand"] = 100 * (theirs[part] - mine[part]) / mine.total()
        for whose, seconds in (("epoch, s", theirs), ("epoch by hand, s", mine)):
            figures[f"{name}: {whose}"] = seconds.total() / epochs
    return figures
