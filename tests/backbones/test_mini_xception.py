"""mini-Xception against the article's code run in Keras 2."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import attnlab
from attnlab.backbones import from_keras
from attnlab.backbones.mini_xception import SamePool
from tests.conftest import SHARED


def logits_of(net, x):
    return net.eval()(torch.from_numpy(x).permute(0, 3, 1, 2)).detach().numpy()


def article(**k):
    net = attnlab.create("mini_xception", num_classes=7, in_channels=1, **k)
    attnlab.attach(net, "cbam_article", at="shortcut", stages=[2], merge="add")
    return net


def test_bare_network_agrees_with_keras(golden):
    tensors = golden("mini_xception.npz", "plain/")
    net = from_keras({k: v for k, v in tensors.items() if k.startswith("weights/")})
    np.testing.assert_allclose(logits_of(net, tensors["x"]), tensors["logits"], rtol=1e-5, atol=1e-5)


def test_network_of_the_article_agrees_with_keras(golden):
    tensors = golden("mini_xception.npz", "cbam/")
    net = from_keras({k: v for k, v in tensors.items() if k.startswith("weights/")}, article())
    np.testing.assert_allclose(logits_of(net, tensors["x"]), tensors["logits"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kind", "build"), [("plain", lambda: None), ("cbam", article)])
def test_full_reference(kind, build):
    reference = SHARED / "golden" / "keras2_mini_xception.npz"
    if not reference.is_file():
        pytest.skip(f"the full reference {reference.name} is not on this machine; the cut of it is tested above")
    tensors = np.load(reference)
    weights = {key: tensors[key] for key in tensors.files if key.startswith(f"{kind}/weights/")}
    logits = logits_of(from_keras(weights, build()), tensors[f"{kind}/x"])
    np.testing.assert_allclose(logits, tensors[f"{kind}/logits"], rtol=1e-5, atol=1e-5)
    probabilities = torch.from_numpy(logits).softmax(1).numpy()
    np.testing.assert_allclose(probabilities, tensors[f"{kind}/probs"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(48, 48), (64, 64)])
def test_parameter_counts_of_the_article(size):
    bare = attnlab.cost(attnlab.create("mini_xception", num_classes=7, in_channels=1), (1, *size))
    assert (bare.parameters + bare.statistics, bare.trainable) == (58_423, 56_951)
    attended = attnlab.cost(article(), (1, *size))
    assert (attended.parameters + attended.statistics, attended.trainable) == (58_813, 57_341)
    assert attended.attention_parameters == 390


def test_macs_of_the_article():
    net = attnlab.create("mini_xception", num_classes=7, in_channels=1)
    assert attnlab.cost(net, (1, 64, 64)).macs == 10_163_392


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (48, 48), (71, 64)])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_any_size_and_channels(size, channels):
    net = attnlab.create("mini_xception", num_classes=4, in_channels=channels)
    assert net(torch.randn(2, channels, *size)).shape == (2, 4)


def test_too_small_an_input_is_named():
    net = attnlab.create("mini_xception", num_classes=4, in_channels=1)
    with pytest.raises(attnlab.InputError, match="input of 28×28: MiniXception needs at least 32×32"):
        attnlab.cost(net, (1, 28, 28))


@pytest.mark.parametrize("size", [(6, 6), (7, 7), (6, 7), (9, 12)])
def test_pool_pads_as_keras_same(size):
    """TensorFlow's rule: pad max((ceil(n/2) - 1)·2 + 3 - n, 0) in all, the smaller half before."""
    x = torch.randn(2, 3, *size) - 5  # negative: zeros for padding would show
    pads = []
    for n in reversed(size):
        total = max((-(-n // 2) - 1) * 2 + 3 - n, 0)
        pads += [total // 2, total - total // 2]
    expected = F.max_pool2d(F.pad(x, pads, value=-torch.inf), 3, 2)
    assert torch.equal(SamePool()(x), expected)


def test_batch_norms_have_keras_constants():
    norms = [m for m in attnlab.create("mini_xception", num_classes=2).modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.01)}
    assert len(norms) == 2 + 4 * 3


def test_unknown_backbone_lists_the_nearest():
    with pytest.raises(attnlab.InputError, match="backbone=mini_xeption: unknown; nearest: mini_xception; valid: "):
        attnlab.create("mini_xeption", num_classes=2)


def test_the_pool_is_exported_for_any_size():
    pool, negative = SamePool(), lambda *size: -1 - torch.rand(2, 3, *size)
    auto = torch.export.Dim.DYNAMIC
    exported = torch.export.export(pool, (negative(8, 8),), dynamic_shapes=({2: auto, 3: auto},)).module()
    for size in ((8, 8), (9, 8), (8, 9), (11, 13)):
        x = negative(*size)
        assert torch.equal(exported(x), pool(x)), size
