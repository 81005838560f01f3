"""Statistics of the gates on validation images."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from attnlab.errors import surviving
from attnlab.insertion import in_mode, places_with_attention

IMAGES = 64  # the first of the validation images
NEAR = 0.1


class Gate(NamedTuple):
    """One gate of one site over images, channels and positions."""

    site: str
    gate: str  # what the attention calls it: gate, channel, spatial, ...
    mean: float
    std: float
    near_0: float  # share of values within 0.1 of 0: shut
    near_1: float  # share of values within 0.1 of 1: they change nothing

    @property
    def name(self) -> str:
        return self.site if self.gate == "gate" else f"{self.site}/{self.gate}"


def gate_numbers(net: nn.Module, run: Callable[[], Any]) -> list[Gate]:
    """Statistics of the gates of all attached attention while ``run()`` runs ``net``; leaves out modules without.

    If a place runs several times, the last run counts.
    """
    found: dict[tuple[str, str], Tensor] = {}

    def see(site: str, attention: nn.Module, x: Tensor) -> None:
        for name, gate in _gates(attention, x).items():
            gate = gate.float()
            near = [((gate - at).abs() < NEAR).float().mean() for at in (0, 1)]
            found[site, name] = torch.stack([gate.mean(), gate.std(correction=0), *near])

    with _watching(net, see):
        run()
    numbers = torch.stack(list(found.values())).tolist() if found else []
    return [Gate(*key, *values) for key, values in zip(found, numbers, strict=True)]


@contextlib.contextmanager
def _watching(net: nn.Module, see: Callable[[str, nn.Module, Tensor], None]) -> Iterator[None]:
    """Within the body ``see(site, attention, x)`` is told what each attached attention is given."""
    with contextlib.ExitStack() as stack:
        for place in places_with_attention(net).values():
            hook = place.attended_by.register_forward_pre_hook(
                lambda attention, args, site=place.site: see(site, attention, args[0])
            )
            stack.callback(hook.remove)
        yield


def _gates(attention: nn.Module, x: Tensor) -> dict[str, Tensor]:
    if not hasattr(attention, "gates"):  # the user's own
        return {}
    try:
        return attention.gates(x)  # type: ignore[operator]
    except TypeError:  # it has none: see attention.base
        return {}


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


def numbers_of(trainer: Any, classifier: Any) -> list[Gate]:
    """``gate_numbers`` of the first validation images (of this rank's part of the first batch)."""
    images = next(iter(trainer.datamodule.val_dataloader()))[0][:IMAGES]
    if not len(images):
        return []
    with as_in_validation(trainer, classifier) as forward:
        return gate_numbers(classifier.net, lambda: forward(images))


class GateCurves(Callback):
    """Logs the mean of each gate after each epoch, as ``gates/<site>`` or ``gates/<site>/<its name>``."""

    def on_validation_epoch_end(self, trainer: Any, module: Any) -> None:
        if not (trainer.is_global_zero and trainer.loggers):
            return
        with surviving("gates"):
            means = {f"gates/{gate.name}": gate.mean for gate in numbers_of(trainer, module)}
            for logger in trainer.loggers:
                logger.log_metrics(means, trainer.global_step)
