"""Keras 2 weights -> mini-Xception (with or without attention), from arrays or from a .h5 file."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from attnlab.backbones.mini_xception import MiniXception, SeparableConv
from attnlab.errors import InputError

Layer = dict[str, Any]  # weight name -> array
KINDS = {
    "separable_conv2d": (SeparableConv, "separable convolutions"),
    "conv2d": (nn.Conv2d, "convolutions"),
    "batch_normalization": (nn.BatchNorm2d, "batch norms"),
    "dense": (nn.Linear, "dense layers"),
}


def from_keras(weights: Mapping[str, Any] | str | Path, net: nn.Module | None = None) -> nn.Module:
    """Load the article's Keras weights into ``net`` (by default a bare mini-Xception that fits them); returns it.

    ``weights`` maps ``"<anything>/<layer>/<weight>"`` to arrays in Keras' layouts (conv kernels
    ``(kh, kw, in, out)``, depthwise ``(kh, kw, in, 1)``, dense ``(in, out)``), or is the path of a Keras 2 .h5 file
    (needs h5py: ``pip install attnlab[keras]``). Layers are matched kind by kind in the order of their creation,
    which Keras numbers, so weights with attention load into a network that has it:

    >>> net = attnlab.create("mini_xception", num_classes=7, in_channels=1)
    >>> attnlab.attach(net, "cbam_article", at="shortcut", stages=[2], merge="add")
    >>> attnlab.backbones.from_keras("article.h5", net)

    Raises InputError if layers or shapes do not fit.
    """
    if not isinstance(weights, Mapping):
        weights = read_h5(Path(weights))
    layers = layers_by_kind(weights)
    if net is None:
        convs = layers["conv2d"]
        if not convs:
            raise InputError("Keras weights: no conv2d layers found; expected the article's mini_XCEPTION")
        net = MiniXception(num_classes=convs[-1]["kernel"].shape[-1], in_channels=convs[0]["kernel"].shape[2])
    fitted: list[tuple[torch.Tensor, np.ndarray]] = []
    inside_separable = {id(c) for m in net.modules() if isinstance(m, SeparableConv) for c in m.children()}
    for kind, (module_class, plural) in KINDS.items():
        modules = [m for m in net.modules() if isinstance(m, module_class) and id(m) not in inside_separable]
        if len(modules) != len(layers[kind]):
            raise InputError(
                f"Keras weights: {len(layers[kind])} {plural}, but {type(net).__name__} has {len(modules)}; "
                "attach attention before you load weights that include it"
            )
        for module, layer in zip(modules, layers[kind], strict=True):
            fitted += _fit_layer(module, layer, kind)
    with torch.no_grad():  # nothing is copied before everything fits
        for tensor, array in fitted:
            tensor.copy_(torch.from_numpy(np.ascontiguousarray(array)))
    return net


def layers_by_kind(weights: Mapping[str, Any]) -> dict[str, list[Layer]]:
    """Kind -> its layers in the order of creation (``conv2d`` < ``conv2d_1`` < ``conv2d_2`` ...)."""
    found: dict[str, dict[int, Layer]] = {kind: {} for kind in KINDS}
    for key, array in weights.items():
        layer, _, weight = key.removesuffix(":0").rpartition("/")
        name = layer.rpartition("/")[2]
        match = re.fullmatch(r"(.*?)(?:_(\d+))?", name)
        kind, number = match.groups() if match else (name, None)
        if kind not in found:
            raise InputError(f"Keras weights: layer {name!r} is none of {', '.join(KINDS)}")
        found[kind].setdefault(int(number or 0), {})[weight] = np.asarray(array)
    return {kind: [layers[n] for n in sorted(layers)] for kind, layers in found.items()}


# Keras' name -> (PyTorch's name, the axes of Keras' array in PyTorch's order)
WEIGHTS: dict[str, tuple[str, tuple[int, ...]]] = {
    "depthwise_kernel": ("depthwise.weight", (2, 3, 0, 1)),
    "pointwise_kernel": ("pointwise.weight", (3, 2, 0, 1)),
    "bias": ("bias", (0,)),
    "gamma": ("weight", (0,)),
    "beta": ("bias", (0,)),
    "moving_mean": ("running_mean", (0,)),
    "moving_variance": ("running_var", (0,)),
}


def _fit_layer(module: nn.Module, layer: Layer, kind: str) -> list[tuple[torch.Tensor, np.ndarray]]:
    """The tensors of a PyTorch module, each with its Keras array. Raises InputError if they do not fit."""
    state = module.state_dict()  # with what is attached to the module, which has layers of its own
    targets = {key: state[key] for key in dict.fromkeys(["weight", *(k for k, _ in WEIGHTS.values())]) if key in state}
    kernel = ("weight", (1, 0) if kind == "dense" else (3, 2, 0, 1))
    arrays = {}
    for name, array in layer.items():
        key, axes = kernel if name == "kernel" else WEIGHTS.get(name, (name, ()))
        arrays[key] = np.transpose(array, axes) if array.ndim == len(axes) else array
    have = {key: tuple(array.shape) for key, array in arrays.items()}
    want = {key: tuple(tensor.shape) for key, tensor in targets.items()}
    if have != want:
        raise InputError(f"Keras weights: a {kind} layer holds {have}, where the network has {want}")
    return [(tensor, arrays[key]) for key, tensor in targets.items()]  # these share memory with the module


def read_h5(path: Path) -> dict[str, np.ndarray]:
    """``<layer>/<weight>`` -> array, from a Keras 2 weights file or whole-model file."""
    try:
        import h5py
    except ImportError:
        raise InputError(f"{path}: reading .h5 files needs h5py: pip install 'attnlab[keras]'") from None
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if not h5py.is_hdf5(path):
        raise InputError(f"{path}: not an HDF5 file")
    with h5py.File(path) as file:
        root = file.get("model_weights", file)
        if "layer_names" not in root.attrs:
            raise InputError(f"{path}: not a Keras 2 weights file (it has no 'layer_names')")
        weights = {}
        for layer in map(_text, root.attrs["layer_names"]):
            for weight in map(_text, root[layer].attrs["weight_names"]):
                weights[f"{layer}/{weight.rpartition('/')[2]}"] = root[layer][weight][()]
    return weights


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)
