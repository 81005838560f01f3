"""Networks of torchvision and timm, fitted to the data: number of classes, input channels, small images, weights.

Weights of the libraries expect images normalised as theirs were: see ``normalise`` of the data.
"""

import contextlib
import difflib
import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from attnlab.backbones.registry import register
from attnlab.backbones.weight_files import weights_in
from attnlab.errors import InputError

log = logging.getLogger("attnlab")
Stem = Literal["imagenet", "cifar"]
Pretrained = bool | str
AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
AUX_WEIGHT = {"googlenet": 0.3, "inception_v3": 0.4}  # arXiv 1409.4842, section 5; TensorFlow's Inception
INCEPTION_V3_AUX = {"imagenet": 299, "cifar": 149}  # what its auxiliary head needs, in training only
_empty: list[bool] = []  # inside without_weights


@contextlib.contextmanager
def without_weights() -> Iterator[None]:
    """Inside, networks are built as ``pretrained`` says, but no weights are read or downloaded: others will follow."""
    _empty.append(True)
    try:
        yield
    finally:
        _empty.pop()


def torchvision_net(
    name: str, *, num_classes: int = 1000, in_channels: int = 3, stem: Stem = "imagenet", pretrained: Pretrained = False
) -> nn.Module:
    """torchvision's classification network ``name``: ``(N, in_channels, H, W)`` -> logits ``(N, num_classes)``.

    ``stem``: ``cifar`` is for small images, see ``small_stem``. ``pretrained``: torchvision's best weights, or a file
    of them. Raises InputError for an unknown name, weights that do not fit, and pretrained with another stem.
    """
    if name in AUX_WEIGHT:
        return inception_net(name, num_classes=num_classes, in_channels=in_channels, stem=stem, pretrained=pretrained)
    return _torchvision(name, num_classes, in_channels, stem, pretrained)


def inception_net(
    name: str,
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    aux: bool = False,
    stem: Stem = "imagenet",
    pretrained: Pretrained = False,
) -> nn.Module:
    """torchvision's GoogLeNet (arXiv 1409.4842) or Inception-v3 (arXiv 1512.00567), as ``torchvision_net``.

    ``aux``: in training, the auxiliary heads give logits too: a tuple, the main ones first, whose losses count
    ``net.aux_weight`` each. Evaluation ignores them.
    """
    if name not in AUX_WEIGHT:
        raise _unknown("inception_net", name, list(AUX_WEIGHT))
    # torchvision's weights of these two want inputs in [-1, 1], and the network makes them of ImageNet's normalisation.
    net = _torchvision(
        name,
        num_classes,
        in_channels,
        stem,
        pretrained,
        aux_logits=aux,
        init_weights=True,
        transform_input=bool(pretrained) and in_channels == 3,
    )
    if aux:
        net.aux_weight = AUX_WEIGHT[name]  # type: ignore[assignment]
        net.min_size = INCEPTION_V3_AUX[stem] if name == "inception_v3" else 1  # type: ignore[assignment]
    return net


def shufflenet_v2(
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    width: float = 1.0,
    stem: Stem = "imagenet",
    pretrained: Pretrained = False,
) -> nn.Module:
    """torchvision's ShuffleNet-v2 (arXiv 1807.11164) of a width, as ``torchvision_net``."""
    if width not in (0.5, 1, 1.5, 2):
        raise InputError(f"backbone.width={width}: must be 0.5, 1, 1.5 or 2")
    name = f"shufflenet_v2_x{width:.1f}".replace(".", "_")
    return _torchvision(name, num_classes, in_channels, stem, pretrained)


def timm_net(
    name: str, *, num_classes: int = 1000, in_channels: int = 3, stem: Stem = "imagenet", pretrained: Pretrained = False
) -> nn.Module:
    """timm's network ``name`` (with or without the tag of its weights), as ``torchvision_net``."""
    import timm

    name = {"xception": "legacy_xception"}.get(name, name)  # what timm calls the paper's
    if not timm.is_model(name):
        raise _unknown("timm", name, timm.list_models())
    _no_weights_for(stem, pretrained)
    download = pretrained is True and torch.get_default_device().type != "meta" and not _empty
    net = timm.create_model(name, num_classes=num_classes, in_chans=in_channels, pretrained=download)
    return fit(net, None, stem, pretrained)


def fit(
    net: nn.Module,
    in_channels: int | None,
    stem: Stem,
    pretrained: Pretrained,
    download: Callable[[], Mapping[str, Tensor] | None] = lambda: None,
) -> nn.Module:
    """The network with another number of input channels (if given), the stem for small images, and weights, as asked.

    ``download`` gets the library's weights, where they are not in the network already; a file that ``pretrained``
    names is read here. On the meta device weights are only checked.
    """
    _no_weights_for(stem, pretrained)
    first = next((path for path, module in net.named_modules() if isinstance(module, nn.Conv2d)), "")
    if in_channels is not None and net.get_submodule(first).in_channels != in_channels:
        _replace_conv(net, first, in_channels=in_channels)
    if _empty:
        pretrained = False
    state = weights_in(pretrained) if isinstance(pretrained, str) else download() if pretrained else None
    if state is not None:
        _load(net, state)
    if stem == "cifar":
        small_stem(net)
    return net


def _no_weights_for(stem: Stem, pretrained: Pretrained) -> None:
    if stem == "cifar" and pretrained:
        raise InputError(
            "backbone.stem=cifar: there are no pretrained weights for this stem; set backbone.pretrained=false"
        )


def small_stem(net: nn.Module) -> None:
    """For images of about 32×32, in place: the first convolution becomes a 3×3 without stride, and a max-pool right
    after it is removed. A network whose first convolution has no stride stays unchanged.
    """
    layers = [(path, m) for path, m in net.named_modules() if isinstance(m, (nn.Conv2d, nn.MaxPool2d))]
    if not layers or layers[0][1].stride in (1, (1, 1)):
        return
    first, conv = layers[0]
    inputs = conv.in_channels
    second, pool = layers[1] if len(layers) > 1 else ("", None)
    for path, other in layers:  # RepVGG and its like have several convolutions side by side on the image
        beside = path.partition(".")[0] == first.partition(".")[0] and getattr(other, "in_channels", 0) == inputs
        if beside and other.stride == conv.stride:
            kernel = 1 if other.kernel_size == (1, 1) else 3
            _replace_conv(net, path, kernel_size=kernel, stride=1, padding=kernel // 2)
    if isinstance(pool, nn.MaxPool2d):
        parent, _, name = second.rpartition(".")
        setattr(net.get_submodule(parent), name, nn.Identity())


def _torchvision(
    name: str, num_classes: int, in_channels: int, stem: Stem, pretrained: Pretrained, **settings: Any
) -> nn.Module:
    import torchvision

    known = torchvision.models.list_models(torchvision.models)
    if name not in known:
        raise _unknown("torchvision", name, known)
    net = torchvision.models.get_model(name, num_classes=num_classes, **settings)
    return fit(net, in_channels, stem, pretrained, partial(weights_of, name))


def weights_of(name: str) -> Mapping[str, Tensor] | None:
    """torchvision's best weights, downloaded once; None while a network is built without memory."""
    import torchvision

    if torch.get_default_device().type == "meta":
        return None
    return torchvision.models.get_model_weights(name).DEFAULT.get_state_dict(progress=True)


def _unknown(library: str, name: str, known: list[str]) -> InputError:
    near = difflib.get_close_matches(name, known, 6, 0.4)
    return InputError(f"backbone.name={name}: {library} has no such network; nearest: {', '.join(near) or 'none'}")


def _replace_conv(net: nn.Module, path: str, **changes: Any) -> None:
    old = net.get_submodule(path)
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
    settings = {name: getattr(old, name) for name in names} | {"bias": old.bias is not None} | changes
    new = type(old)(**settings)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")  # type: ignore[arg-type]
    parent, _, name = path.rpartition(".")
    setattr(net.get_submodule(parent), name, new)


def _load(net: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Weights for all but a head of another number of classes; InputError where anything else does not fit."""
    from timm.models import adapt_input_conv

    state, own = dict(state), net.state_dict()
    for key in [key for key in state if key in own and own[key].dim() == state[key].dim() == 4]:
        if state[key].shape[1] == 3 != own[key].shape[1]:  # trained on colour
            state[key] = adapt_input_conv(own[key].shape[1], state[key])
    for key in [key for key in state if key.startswith(AUXILIARY) and key not in own]:
        del state[key]
    head = list(own)[-1].rpartition(".")[0]
    classes = own[list(own)[-1]].shape[0]
    new = [key for key in own if key.startswith(f"{head}.") and key not in state]
    state |= {key: own[key] for key in new}
    for key in [key for key in state if key in own and state[key].shape != own[key].shape]:
        if own[key].shape[0] == classes and state[key].shape[1:] == own[key].shape[1:]:
            state[key] = own[key]
            new.append(key)
    wrong = [k for k in state if k in own and state[k].shape != own[k].shape]
    kinds = {"of another shape": wrong, "missing": sorted(own.keys() - state), "too many": sorted(state.keys() - own)}
    if any(kinds.values()):
        found = "; ".join(f"{len(keys)} {kind}, such as {keys[0]}" for kind, keys in kinds.items() if keys)
        raise InputError(f"backbone.pretrained: the weights do not fit {type(net).__name__}: {found}")
    if not next(net.parameters()).is_meta:
        log.info("pretrained weights loaded%s", f"; new, at random: {', '.join(new)}" if new else "")
        net.load_state_dict(state)


TORCHVISION = (
    *("alexnet", "squeezenet1_0", "squeezenet1_1", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"),
    *(f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")),
)
for _name in TORCHVISION:
    register(_name)(partial(torchvision_net, _name))
for _name in AUX_WEIGHT:
    register(_name)(partial(inception_net, _name))
register("shufflenet_v2")(shufflenet_v2)
register("inception_resnet_v2")(partial(timm_net, "inception_resnet_v2"))
register("xception")(partial(timm_net, "xception"))
