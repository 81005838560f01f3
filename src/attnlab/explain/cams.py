"""Class activation maps and attributions: which positions speak for a class, by the libraries grad-cam and captum."""

import contextlib
import copy
import importlib
import importlib.util
import types
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from attnlab.backbones.recording import Run
from attnlab.errors import InputError, choices
from attnlab.insertion import head_of, in_mode, trace, without_attention
from attnlab.insertion.recording import untouched
from attnlab.insertion.tracing import unwrapped

# Selvaraju et al. 2017, arXiv 1610.02391; Chattopadhay et al. 2018, 1710.11063; Draelos and Carin 2020, 2011.08891;
# Wang et al. 2020, 1910.01279; Sundararajan et al. 2017, 1703.01365.
CAMS = {"gradcam": "GradCAM", "gradcam++": "GradCAMPlusPlus", "hirescam": "HiResCAM", "scorecam": "ScoreCAM"}
METHODS = (*CAMS, "integrated_gradients")
IMAGES = 32  # at once
STEPS = (32, 128, 512)  # of the integral, until the gradients add up
NOTHING = (nn.Identity, nn.Dropout, nn.Dropout2d)
SHORT = (torch.float16, torch.bfloat16)
MOST_AFTER = 0.8  # of the convolutions and fully connected layers


def cam(
    net: nn.Module, x: Tensor, classes: Sequence[int] | Tensor, method: str = "gradcam", layer: str | None = None
) -> Tensor:
    """(N, H, W) float32, on the CPU: where in the images ``x`` (N, C, H, W) the logit of each one's class comes from.

    ``method``: one of ``METHODS``. Class activation maps are of the output of ``layer`` (its attention included), by
    default ``default_layer``; each is brought to 0 .. 1 and to the size of its image. A map that is 0 everywhere has
    found nothing for the class. ``integrated_gradients`` are of the image itself, summed over its channels, and have a
    sign: they add up to the logit of ``x`` less that of an image of zeros (the mean colour, after normalisation).

    The network is used in eval mode; all its modes, gradients, hooks and random states are as before afterwards. Of a
    network of 16 bits, a copy of 32 is used: not all methods work with 16.
    Raises InputError for a class, method or layer that there is not, and where grad-cam or captum is not installed.
    """
    if method not in METHODS:
        raise InputError(f"method={method}: {choices(method, METHODS)}")
    require_libraries()
    net = unwrapped(net)
    targets = [int(each) for each in classes]
    if not len(x):
        return torch.empty(0, *x.shape[2:], dtype=torch.float32)
    if any(parameter.dtype in SHORT for parameter in net.parameters()):
        net, x = copy.deepcopy(net).float(), x.float()
    with _float32_by_default(), _used(net) as device:
        _check_classes(net, x[:1].to(device), len(x), targets)
        pairs = [
            (part.detach().to(device), targets[start : start + IMAGES])
            for start, part in zip(range(0, len(x), IMAGES), x.split(IMAGES), strict=True)
        ]
        if method == "integrated_gradients":
            maps = [_integrated_gradients(net, part, of_part) for part, of_part in pairs]
        else:
            place = _module_at(net, x, layer) if layer else net.get_submodule(default_layer(net, x))
            maps = [_class_activation(net, place, method, part, of_part) for part, of_part in pairs]
    return torch.cat(maps)


def default_layer(net: nn.Module, x: Tensor) -> str:
    """The module of the last feature map before the head, through which all of the network goes, for images ``x``.

    It is that of the bare network, so an attended network and its bare counterpart have the same.
    Raises InputError if there is none, as in networks of tokens.
    """
    net = unwrapped(net)
    size = tuple(x.shape[1:])
    with without_attention(net):
        run = trace(net, size)
        head = set(head_of(net, run))
        modules = dict(net.named_modules())
        begin = min((run[p][0].begin for p, module in modules.items() if module in head and p in run), default=None)
        maps = [
            path
            for path, calls in run.items()
            if path
            and len(calls) == 1
            and (begin is None or calls[0].end < begin)
            and _is_map(calls[0].output, size)
            and not isinstance(modules[path], NOTHING)
            and not (type(modules[path]).__name__.startswith("Adaptive") and not modules[path]._modules)
        ]
        with _used(net) as device:
            image = x[:1].detach().to(device)
            found = next((path for path in reversed(maps) if _all_goes_through(net, path, image)), None)
        if found is not None and _share_after(found, run, modules) <= MOST_AFTER:
            return found
    raise InputError(
        f"{type(net).__name__}: has no last feature map (N, C, H, W) of more than one position for images of "
        f"{size[1]}×{size[2]}: it may work on tokens, or need larger images; name a layer"
    )


def require_layer(net: nn.Module, shape: tuple[int, int, int], methods: Sequence[str]) -> None:
    """Raise InputError if one of the methods needs the ``default_layer`` and ``net`` has none for images (C, H, W)."""
    if any(method in CAMS for method in methods):
        try:
            default_layer(net, torch.zeros(1, *shape))
        except InputError as error:
            raise InputError(f"explain.methods=[{','.join(methods)}]: {error}") from None


def require_libraries() -> None:
    """Raise InputError unless grad-cam and captum are installed. (To import them takes seconds.)"""
    missing = [name for name, module in (("grad-cam", "pytorch_grad_cam"), ("captum", "captum")) if not _found(module)]
    if missing:
        raise InputError(f"maps need {' and '.join(missing)}: pip install 'attnlab[explain]'")


def _found(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


@contextlib.contextmanager
def _float32_by_default() -> Iterator[None]:
    """Inside, new tensors are not of the 16 bits that a trainer may have set."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32 if before in SHORT else before)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def _used(net: nn.Module) -> Iterator[torch.device]:
    """Inside, ``net`` can be derived by its input; it is left as it was. Yields its device."""
    parameters = [(each, each.requires_grad, each.grad) for each in net.parameters()]
    device = parameters[0][0].device if parameters else torch.device("cpu")
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        contextlib.nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False),
        in_mode(net, training=False),
        untouched(net),
    ):
        for parameter, _, _ in parameters:
            parameter.requires_grad_(False)
            parameter.grad = None
        try:
            yield device
        finally:
            for parameter, derived, grad in parameters:
                parameter.requires_grad_(derived)
                parameter.grad = grad


def _check_classes(net: nn.Module, image: Tensor, images: int, classes: Sequence[int]) -> None:
    with torch.no_grad():
        logits = net(image)
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        raise InputError(f"{type(net).__name__}: must map images (N, C, H, W) to logits (N, classes)")
    if len(classes) != images:
        raise InputError(f"classes: must be one for each of the {images} images, not {len(classes)}")
    if wrong := [each for each in classes if not 0 <= each < logits.shape[1]]:
        raise InputError(f"class {wrong[0]}: must be 0 to {logits.shape[1] - 1}")


def _module_at(net: nn.Module, x: Tensor, layer: str) -> nn.Module:
    with without_attention(net):
        run = trace(net, tuple(x.shape[1:]))
    valid = [p for p, calls in run.items() if p and len(calls) == 1 and _is_map(calls[0].output, tuple(x.shape[1:]))]
    if layer not in valid:
        what = "is not called once with a map (N, C, H, W) of more than one position" if layer in run else "none such"
        raise InputError(f"layer={layer}: {what}; {choices(layer, valid)}")
    return net.get_submodule(layer)


def _is_map(shape: tuple[int, ...] | None, size: tuple[int, ...]) -> bool:
    """(N, C, h, w) in the proportions of the image."""
    if shape is None or len(shape) != 4 or shape[2] * shape[3] == 1:
        return False
    return abs(shape[2] * size[2] - shape[3] * size[1]) <= max(size[1:])


def _all_goes_through(net: nn.Module, path: str, image: Tensor) -> bool:
    """Whether the logits depend on the image by this module's output alone: then no gradient goes past it."""
    handle = net.get_submodule(path).register_forward_hook(lambda module, args, output: output.detach())
    try:
        return not net(image.clone().requires_grad_()).requires_grad
    finally:
        handle.remove()


def _share_after(path: str, run: Run, modules: dict[str, nn.Module]) -> float:
    """The share of convolutions and fully connected layers that run after this module."""
    begins = [c.begin for p, calls in run.items() if isinstance(modules[p], (nn.Conv2d, nn.Linear)) for c in calls]
    return sum(begin > run[path][0].end for begin in begins) / max(1, len(begins))


def _class_activation(net: nn.Module, place: nn.Module, method: str, x: Tensor, classes: Sequence[int]) -> Tensor:
    library = importlib.import_module("pytorch_grad_cam")
    targets = [library.utils.model_targets.ClassifierOutputTarget(each) for each in classes]
    maker = getattr(library, CAMS[method])(net, [place])
    # After the library has taken it: what follows may overwrite it in place, as ReLUs do.
    handle = place.register_forward_hook(lambda module, args, output: output.clone())
    try:
        with _quiet_score_cam():
            maps = maker(x.clone().requires_grad_(), targets)
    finally:
        handle.remove()
        maker.activations_and_grads.release()
    return torch.from_numpy(maps)


@contextlib.contextmanager
def _quiet_score_cam() -> Iterator[None]:
    """Without its bar for each image."""
    module: Any = importlib.import_module("pytorch_grad_cam.score_cam")
    bars, module.tqdm = module.tqdm, types.SimpleNamespace(tqdm=iter)
    try:
        yield
    finally:
        module.tqdm = bars


def _integrated_gradients(net: nn.Module, x: Tensor, classes: Sequence[int]) -> Tensor:
    """With more steps for images whose attributions do not add up to the difference within 5 %."""
    make = importlib.import_module("captum.attr").IntegratedGradients(net)
    maps = torch.empty(len(x), *x.shape[2:])
    open_ones, targets = torch.arange(len(x)), torch.tensor(classes, device=x.device)
    for steps in STEPS:
        at = open_ones.to(x.device)
        found, wrong_by = make.attribute(
            x[at], target=targets[at], n_steps=steps, internal_batch_size=2 * IMAGES, return_convergence_delta=True
        )
        maps[open_ones] = found.detach().sum(1).float().cpu()
        total, size = maps[open_ones].sum((1, 2)), maps[open_ones].abs().sum((1, 2))
        wrong = wrong_by.abs().cpu() > torch.maximum(0.05 * (total - wrong_by.cpu()).abs(), 0.01 * size)
        open_ones = open_ones[wrong]
        if not len(open_ones):
            return maps
    warnings.warn(
        f"integrated gradients of {len(open_ones)} of {len(x)} images do not add up to the logit's difference within "
        f"5 %, even in {STEPS[-1]} steps",
        stacklevel=3,
    )
    return maps
