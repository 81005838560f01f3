"""State dicts as people keep them: files of PyTorch or safetensors, alone or in a checkpoint."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attnlab.errors import InputError


def weights_in(file: str | Path, setting: str = "backbone.pretrained") -> dict[str, Tensor]:
    """The state dict in a file, as ``plain_weights``. InputError, which names ``setting``, for any other file."""
    path = Path(file)
    if not path.is_file():
        raise InputError(f"{setting}={path}: no such file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if isinstance(error, pickle.UnpicklingError) and "global" in str(error).lower():
            raise InputError(f"{setting}={path}: holds more than weights; save net.state_dict()") from None
        raise InputError(f"{setting}={path}: not a file of weights: {str(error).splitlines()[0]}") from None
    if not isinstance(state, Mapping):
        raise InputError(f"{setting}={path}: holds a {type(state).__name__}, no state dict; save net.state_dict()")
    return plain_weights(state)


def plain_weights(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict in a checkpoint's ``state_dict`` or ``model``, without DataParallel's ``module.`` in its keys."""
    state = state.get("state_dict", state.get("model", state))
    return {key.removeprefix("module."): value for key, value in state.items()}
