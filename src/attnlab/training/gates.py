"""Statistics of the gates on validation images, and pictures of where the attention looks."""

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from attnlab.errors import surviving
from attnlab.insertion import in_mode, places_with_attention
from attnlab.ledger import write_bytes

IMAGES = 64  # the first of the validation images
NEAR = 0.1
PANELS = 5  # sites in a picture


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


def attention_maps(net: nn.Module, run: Callable[[], Any]) -> dict[str, Tensor]:
    """Site -> (N, height, width): the gate's mean over channels, or the mean of |A(x)| if no gate has positions.

    Leaves out sites of one position, and attention that changes the number of images.
    """
    found: dict[str, Tensor] = {}

    def see(site: str, attention: nn.Module, x: Tensor) -> None:
        seen = attention.gate(x).float().mean(1) if getattr(attention, "is_gate", False) else None  # type: ignore[operator]
        if seen is None or seen.shape[1:].numel() == 1:
            seen = attention.forward(x).float().abs().mean(1)  # not by a call, which would be watched again
        if seen.shape[1:].numel() > 1:
            found[site] = seen.cpu()

    with _watching(net, see):
        run()
    return found


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


def draw_pictures(trainer: Any, classifier: Any, folder: Path, count: int) -> list[Path]:
    """``pictures/00.png``, ...: each of the first validation images, with its attention maps."""
    images = next(iter(trainer.datamodule.val_dataloader()))
    data = trainer.datamodule.data
    few = data.splits.val.take(torch.arange(min(count, len(data.splits.val)), device=data.splits.val.labels.device))
    pixels = data.unnormalised(data.shown(few)[0])
    x, labels = (part[:count] for part in images)
    with as_in_validation(trainer, classifier) as forward:
        predicted = forward(x).argmax(1).tolist()
        maps = attention_maps(classifier.net, lambda: forward(x))
    paths, classes = [], trainer.datamodule.data.classes
    for i, label in enumerate(labels.tolist()):
        path = folder / "pictures" / f"{i:02d}.png"
        title = f"class {classes[label]}, predicted {classes[predicted[i]]}"
        write_bytes(path, picture(pixels[i], {site: seen[i] for site, seen in maps.items()}, title))
        paths.append(path)
    return paths


def picture(image: Tensor, maps: Mapping[str, Tensor], title: str) -> bytes:
    """A PNG: the image (C, H, W) uint8, and beside it the image under each map (height, width); at most five maps."""
    from matplotlib.figure import Figure

    channels, height, width = image.shape
    shown = image.permute(1, 2, 0).numpy() if channels == 3 else image.float().mean(0).numpy()
    panels: Sequence[str] = list(maps)
    if len(panels) > PANELS:  # evenly, the last one included
        panels = [panels[round((i + 1) * len(panels) / PANELS) - 1] for i in range(PANELS)]
    figure = Figure(figsize=(1.5 * (1 + len(panels)), 1.5 * height / width + 0.3), dpi=100, layout="constrained")
    for axes, site in zip(figure.subplots(1, 1 + len(panels), squeeze=False)[0], (None, *panels), strict=True):
        axes.imshow(shown, cmap="gray")
        if site is not None:
            axes.imshow(maps[site].numpy(), extent=(-0.5, width - 0.5, height - 0.5, -0.5), alpha=0.6, cmap="inferno")
        words = title if site is None else site if len(site) < 25 else f"…{site[-23:]}"
        axes.set_title(words, fontsize=6, parse_math=False)  # a class may be called anything
        axes.set_axis_off()
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
