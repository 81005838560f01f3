"""What the gates do over the training."""

import contextlib
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from attnlab.data.places import evenly
from attnlab.errors import surviving
from attnlab.explain.health import DEAD, Gate, gate_numbers
from attnlab.insertion import in_mode, places_with_attention
from attnlab.ledger import write_rows

log = logging.getLogger("attnlab")

IMAGES = 64  # of the validation images


@contextlib.contextmanager
def as_in_validation(trainer: Any, classifier: nn.Module) -> Iterator[Callable[[Tensor], Tensor]]:
    """The classifier in eval mode and the trainer's precision, without gradients; random states stay as they were."""
    device, precision = trainer.strategy.root_device, trainer.precision_plugin
    with (
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        torch.no_grad(),
        in_mode(classifier, training=False),
        precision.val_step_context(),
    ):
        yield lambda x: classifier(precision.convert_input(x))


class GateHealth(Callback):
    """After each epoch, what the gates do on 64 validation images: rows of gates.csv, curves for the loggers.

    ``folder``: where gates.csv lies, None: nowhere; ``curves``: whether to log ``gates/<site>`` or
    ``gates/<site>/<its name>``, each gate's mean, and with a folder ``.../spread``, ``saturated`` and ``dead``, too.
    Warns once of each gate that is dead after half of the epochs or later.
    """

    def __init__(self, folder: Path | None, curves: bool) -> None:
        self.folder, self.curves = folder, curves
        self.rows: list[dict[str, Any]] = []
        self.images: Tensor | None = None

    def on_train_start(self, trainer: Any, module: Any) -> None:
        if trainer.is_global_zero:
            self.write()

    def on_validation_epoch_end(self, trainer: Any, module: Any) -> None:
        wanted = self.folder is not None or (self.curves and trainer.loggers)
        if not (trainer.is_global_zero and wanted and places_with_attention(module.net)):
            return
        with surviving("gates"):
            gates = self.numbers(trainer, module)
            for logger in trainer.loggers if self.curves else ():
                logger.log_metrics(_curves(gates, whole=self.folder is not None), trainer.global_step)
            if self.folder is not None:
                self.note(trainer.current_epoch, trainer.max_epochs, gates)
        self.write()

    def note(self, epoch: int, epochs: int, gates: Sequence[Gate]) -> None:
        """Add the rows of an epoch; warn of gates that are dead in the second half of the epochs for the first time."""
        self.rows += [_row(epoch, gate) for gate in gates]
        late = [row for row in self.rows if 2 * row["epoch"] + 2 > epochs]
        dead = Counter((row["site"], row["gate"]) for row in late if row["dead"] >= DEAD)
        new = [gate.name for gate in gates if gate.is_dead and dead[gate.site, gate.gate] == 1]
        if new and 2 * epoch + 2 > epochs:
            log.warning("dead gates hardly vary over images, they only rescale: %s", ", ".join(new))

    def numbers(self, trainer: Any, module: Any) -> list[Gate]:
        """Of the network as it is now."""
        if self.images is None:
            data = trainer.datamodule.data
            val = data.splits.val
            few = data.in_memory(val.take(evenly(len(val), IMAGES).to(val.labels.device)))
            self.images = torch.cat([x for x, _ in data.batches(few)])
        images = self.images
        with as_in_validation(trainer, module) as forward:
            return gate_numbers(module.net, lambda: forward(images))

    def write(self) -> None:
        """gates.csv, if there are rows."""
        if self.folder is not None and self.rows:
            write_rows(self.folder / "gates.csv", self.rows)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = list(state["rows"])


def _row(epoch: int, gate: Gate) -> dict[str, Any]:
    told = {key: getattr(gate, key) for key in ("mean", "std", "spread", "saturated", "dead")}
    return {"epoch": epoch, "site": gate.site, "gate": gate.gate, **told}


def _curves(gates: Sequence[Gate], whole: bool) -> dict[str, float]:
    means = {f"gates/{gate.name}": gate.mean for gate in gates}
    more = ("spread", "saturated", "dead") if whole else ()
    numbers = {f"gates/{gate.name}/{key}": getattr(gate, key) for gate in gates for key in more}
    return means | {key: value for key, value in numbers.items() if not math.isnan(value)}
