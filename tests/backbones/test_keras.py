"""Keras weights: from files in Keras 2's layout, and what does not fit is named."""

import h5py
import numpy as np
import pytest
import torch

import attnlab
from attnlab.backbones import from_keras
from attnlab.errors import InputError


@pytest.fixture
def weights(golden):
    return {key: v for key, v in golden("mini_xception.npz", "plain/").items() if key.startswith("weights/")}


@pytest.mark.parametrize("whole_model", [False, True])
@pytest.mark.parametrize("as_bytes", [False, True])
def test_h5_file_in_keras_2_layout(tmp_path, weights, whole_model, as_bytes):
    """Keras 2 writes layer_names, and in each layer weight_names such as 'conv2d/kernel:0' (bytes in older files)."""
    layers = {}
    for key, array in weights.items():
        _, _, layer, name = key.split("/")
        layers.setdefault(layer, {})[f"{layer}/{name}:0"] = array
    text = (lambda s: s.encode()) if as_bytes else str
    with h5py.File(tmp_path / "net.h5", "w") as file:
        root = file.create_group("model_weights") if whole_model else file
        root.attrs["layer_names"] = [text("input_1"), *map(text, layers)]
        root.create_group("input_1").attrs["weight_names"] = []
        for layer, arrays in layers.items():
            group = root.create_group(layer)
            group.attrs["weight_names"] = list(map(text, arrays))
            for name, array in arrays.items():
                group[name] = array
    x = torch.randn(1, 1, 48, 48)
    expected, found = from_keras(weights).eval()(x), from_keras(tmp_path / "net.h5").eval()(x)
    assert torch.equal(found, expected)


def test_inputs_and_classes_come_from_the_weights(weights):
    kernel = next(key for key in weights if key.endswith("conv2d/kernel"))
    weights[kernel] = np.repeat(weights[kernel], 3, axis=2)
    net = from_keras(weights)
    assert (net.stem.conv1.in_channels, net.head.out_channels) == (3, 7)


def test_attention_in_the_weights_but_not_in_the_network(golden):
    with pytest.raises(InputError, match=r"8 convolutions, but MiniXception has 7; attach attention before"):
        from_keras({k: v for k, v in golden("mini_xception.npz", "cbam/").items() if k.startswith("weights/")})


def test_wrong_shape_is_named(weights):
    net = attnlab.create("mini_xception", num_classes=10, in_channels=1)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(InputError, match=r"a conv2d layer holds .*\(7, 128, 3, 3\).*network has .*\(10, 128, 3, 3\)"):
        from_keras(weights, net)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())  # all or nothing


@pytest.mark.parametrize(("name", "content", "message"), [
    ("absent.h5", None, "no such file"),
    ("other.h5", {}, "not a Keras 2 weights file"),
])  # fmt: skip
def test_files_that_are_none(tmp_path, name, content, message):
    if content is not None:
        h5py.File(tmp_path / name, "w").close()
    with pytest.raises(InputError, match=message):
        from_keras(tmp_path / name)


def test_a_file_of_another_kind(tmp_path):
    (tmp_path / "x.h5").write_text("no")
    with pytest.raises(InputError, match="not an HDF5 file"):
        from_keras(tmp_path / "x.h5")


def test_unknown_layer_is_named():
    with pytest.raises(InputError, match="layer 'lstm_1' is none of"):
        from_keras({"lstm_1/kernel": np.zeros((2, 2))})
