"""From whatever holds an image to the tensor that a trained network gets."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from attnlab.data.decode import Background, Fit, fitted, reason, upright_image
from attnlab.data.module import ImageData
from attnlab.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

COLOURS = (1, 3, 4)  # channels of an array that is an image


@dataclass(frozen=True)
class Preprocess:
    """A path, a PIL image, an array or a tensor of one image, any size and mode -> float32 ``shape`` (C, H, W).

    Images are treated as in evaluation: turned upright, brought to the channels, fitted, normalised by ``mean`` and
    ``std`` (of each channel, of pixels in 0 .. 1). Arrays are (H, W) or (H, W, C) and tensors (H, W) or (C, H, W);
    uint8, uint16, or float in 0 .. 1. ``flip``: the logits are those of the image and its mirror image, on average.
    """

    shape: tuple[int, int, int]
    mean: Sequence[float]
    std: Sequence[float]
    fit: Fit | None = "crop"  # None: the data set has its own way, ``made``
    background: Background = "white"
    eval_share: float = 1.0
    flip: bool = False
    made: "Callable[[Image.Image], Tensor] | None" = None

    @classmethod
    def of(cls, data: ImageData) -> "Preprocess":
        """As the data set does it in evaluation. Loads the data if they are normalised by their own moments."""
        mean, std = (each.tolist() for each in data.moments)
        own = type(data).fit is not ImageData.fit or data.shape[1] != data.shape[2]
        recipe = data.augment
        fit, made = (None, data.fit) if own else (data.fit_how, None)
        return cls(data.shape, mean, std, fit, data.background, recipe.eval_share, recipe.eval_flip, made)

    @classmethod
    def from_facts(
        cls, facts: Mapping[str, Any], made: "Callable[[Image.Image], Tensor] | None" = None
    ) -> "Preprocess":
        """What ``facts`` wrote; ``made`` is what the data set itself does if ``fit`` is None."""
        return cls(**{**facts, "shape": tuple(facts["shape"]), "made": made})

    @property
    def facts(self) -> dict[str, Any]:
        """As JSON holds it."""
        found = {key: value for key, value in vars(self).items() if key != "made"}
        return {**found, "shape": list(self.shape), "mean": list(self.mean), "std": list(self.std)}

    def __call__(self, image: Any) -> Tensor:
        """(C, H, W), normalised. Raises InputError for what is no image."""
        return self.normalised(self.pixels(image))

    def pixels(self, image: Any) -> Tensor:
        """uint8 (C, H, W): what the network sees of the image. Raises InputError for what is no image."""
        from PIL import Image

        if isinstance(image, (str, os.PathLike)):
            try:
                with Image.open(image) as opened:
                    return self._fitted(opened)
            except InputError:
                raise
            except FileNotFoundError:
                raise InputError(f"{image}: no such file") from None
            except Exception as error:  # whatever a decoder raises
                raise InputError(f"{image}: cannot be read: {reason(error)}") from None
        return self._fitted(image if isinstance(image, Image.Image) else to_pil(image))

    def normalised(self, pixels: Tensor) -> Tensor:
        """uint8 (..., C, H, W) -> float32."""
        mean, std = (torch.tensor(each, device=pixels.device).view(-1, 1, 1) for each in (self.mean, self.std))
        return (pixels.float() / 255 - mean) / std

    def _fitted(self, image: "Image.Image") -> Tensor:
        image = upright_image(image, self.shape[0], self.background)
        if self.fit is not None:
            return fitted(image, self.shape[-1], self.fit, self.background, self.eval_share)
        if self.made is None:
            raise InputError("the data set has its own way to fit images; give what it makes of them")
        return self.made(image)


def to_pil(image: Any) -> "Image.Image":
    """An array (H, W) or (H, W, C), or a tensor (H, W) or (C, H, W): uint8, uint16, bool, or float in 0 .. 1."""
    from PIL import Image

    if not isinstance(image, (Tensor, np.ndarray)):
        raise InputError(f"must be a path, a PIL image, an array or a tensor, not a {type(image).__name__}")
    shape = tuple(image.shape)
    array = image.detach().cpu().numpy() if isinstance(image, Tensor) else image
    if array.ndim == 3:
        first, last = shape[0] in COLOURS, shape[2] in COLOURS
        if first and (isinstance(image, Tensor) or not last):
            array = array.transpose(1, 2, 0)
        elif not last:
            array = array[None]  # told below
    if array.ndim not in (2, 3) or 0 in shape:
        form = "(H, W), (1, H, W) or (3, H, W)" if isinstance(image, Tensor) else "(H, W) or (H, W, 3)"
        raise InputError(f"an image of shape {shape}: must be {form}")
    if array.dtype == bool:
        array = array * np.uint8(255)
    elif array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):
            raise InputError(
                f"an image of values from {low:.3g} to {high:.3g}: must be 0 to 1, or uint8; "
                "what is normalised already goes to .net"
            )
        array = (array * 255).round().astype(np.uint8)
    elif array.dtype == np.uint16:
        array = (array / 65535 * 255).round().astype(np.uint8)
    elif array.dtype != np.uint8:
        raise InputError(f"an image of {array.dtype}: must be uint8, uint16, or float in 0 to 1")
    return Image.fromarray(np.ascontiguousarray(array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array))
