"""Maps as colours that lie on an image: the less, the more of the image is seen."""

import functools

import numpy as np
from torch import Tensor

LEAST, MOST = 0.15, 0.85  # opacity


def on_top(seen: Tensor, signed: bool = False) -> np.ndarray:
    """RGBA uint8 (height, width, 4) of a map (height, width), from its smallest value to its largest.

    ``signed``: orange above 0 and blue below it, as far as the 99th percentile of the amount.
    """
    return palette(signed)[levels(seen, signed)]


def levels(seen: Tensor, signed: bool = False) -> np.ndarray:
    """uint8: places in the ``palette``. A map that is the same everywhere is the lowest (or 0) everywhere."""
    values = seen.float().numpy()
    if signed:
        reach = float(np.quantile(np.abs(values), 0.99)) or float(np.abs(values).max()) or 1.0
        share = 0.5 + 0.5 * np.clip(values / reach, -1, 1)
    else:
        low, high = float(values.min()), float(values.max())
        share = (values - low) / (high - low) if high > low else np.zeros_like(values)
    return np.rint(255 * share).astype(np.uint8)


@functools.cache
def palette(signed: bool) -> np.ndarray:
    """RGBA uint8 (256, 4)."""
    import matplotlib
    from matplotlib.colors import Colormap, LinearSegmentedColormap

    colours: Colormap
    if signed:
        colours = LinearSegmentedColormap.from_list("signed", ["#0072B2", "#9fd0ee", "#f2c6a0", "#D55E00"])
        opacity = MOST * np.abs(np.linspace(-1, 1, 256)) ** 0.6
    else:
        colours = matplotlib.colormaps["inferno"]
        opacity = np.linspace(LEAST, MOST, 256)
    table = colours(np.linspace(0, 1, 256))
    table[:, 3] = opacity
    return np.rint(255 * table).astype(np.uint8)
