"""Pictures of where the network looks, on the first validation images: in the course of a training, and at its end."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from torch import Tensor

from attnlab.errors import InputError, surviving
from attnlab.explain.cams import require_libraries
from attnlab.explain.looking import Subjects, see
from attnlab.explain.maps import looks_of
from attnlab.explain.pictures import as_file, draw_grid, picture
from attnlab.insertion import places_with_attention, record
from attnlab.ledger import write_bytes
from attnlab.training.gates import as_in_validation

IMAGES = 8  # in the picture of an epoch
METHODS = ("gradcam", "hirescam")  # what takes no more than a few passes


class EpochPictures(Callback):
    """``pictures/epoch-003.png`` and so on, every so many epochs: gates and maps of the first validation images.

    Results are the same to the bit with and without it. Maps are of the class that an image is of. Without the packages
    grad-cam and captum there are the gates alone, which the log says.
    """

    def __init__(self, folder: Path, every_n_epochs: int) -> None:
        self.folder, self.every = folder, every_n_epochs
        self.methods: Sequence[str] = METHODS
        try:
            require_libraries()
        except InputError as error:
            logging.getLogger("attnlab").warning("explain.every_n_epochs: no class activation maps: %s", error)
            self.methods = ()

    def on_validation_epoch_end(self, trainer: Any, module: Any) -> None:
        epoch = trainer.current_epoch + 1
        if not trainer.is_global_zero or epoch % self.every:
            return
        with surviving("pictures"):
            path = self.folder / "pictures" / f"epoch-{epoch:03d}.png"
            write_bytes(path, self._draw(trainer, module))
            for logger in trainer.loggers:
                if hasattr(logger, "log_image"):
                    logger.log_image("pictures/epoch", [str(path)], step=trainer.global_step)
                elif isinstance(logger, TensorBoardLogger):
                    pixels = np.asarray(Image.open(path).convert("RGB"))
                    logger.experiment.add_image("pictures/epoch", pixels, trainer.global_step, dataformats="HWC")

    def _draw(self, trainer: Any, module: Any) -> bytes:
        x, labels, pixels = _first_images(trainer, IMAGES)
        with as_in_validation(trainer, module) as forward:
            x = trainer.precision_plugin.convert_input(x)
            answers = forward(x).float().softmax(1).cpu()
            seen = see(module.net, x, labels, self.methods, probabilities=answers)
        names = [str(i) for i in range(len(labels))]
        subjects = Subjects(pixels, names, labels, labels, trainer.datamodule.data.classes)
        return as_file(draw_grid(subjects, [seen]), "png")


def _first_images(trainer: Any, count: int) -> tuple[Tensor, list[int], Tensor]:
    """The first validation images, normalised; their labels; and their pixels as uint8 (N, C, H, W)."""
    data = trainer.datamodule.data
    val = data.splits.val
    few = val.take(torch.arange(min(count, len(val)), device=val.labels.device))
    x, labels = data.shown(few)
    return x.to(trainer.strategy.root_device), labels.tolist(), data.unnormalised(x)


def draw_pictures(trainer: Any, classifier: Any, folder: Path, count: int) -> list[Path]:
    """``pictures/00.png``, ...: each of the first validation images, with its attention maps."""
    x, labels, pixels = _first_images(trainer, count)
    with as_in_validation(trainer, classifier) as forward:
        if places_with_attention(classifier.net):
            with record(classifier.net) as seen:
                predicted = forward(x).argmax(1).tolist()
            looks = looks_of(classifier.net, seen)
        else:
            predicted, looks = forward(x).argmax(1).tolist(), {}
    paths, classes = [], trainer.datamodule.data.classes
    for i, label in enumerate(labels):
        path = folder / "pictures" / f"{i:02d}.png"
        title = f"class {classes[label]}, predicted {classes[predicted[i]]}"
        maps = {site: look.map[i] for site, look in looks.items() if look.map is not None}
        write_bytes(path, picture(pixels[i], maps, title))
        paths.append(path)
    return paths
