"""One network's answers and maps for some images."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attnlab.errors import InputError, choices
from attnlab.explain.cams import CAMS, METHODS, cam, default_layer
from attnlab.explain.maps import Look, looks
from attnlab.insertion import in_mode
from attnlab.terminal import with_progress

NAMES = dict(zip(METHODS, ("Grad-CAM", "Grad-CAM++", "HiResCAM", "Score-CAM", "integrated gradients"), strict=True))
AT_ONCE = 16
PATIENCE = 120.0  # seconds that Score-CAM may take where nobody has asked for it


@dataclass(frozen=True)
class Subjects:
    """N images to explain: ``pixels`` uint8 (N, C, H, W), what they are called, and by numbers of ``classes`` what they
    are (None: nobody knows) and which class is asked for."""

    pixels: Tensor
    names: Sequence[str]
    truth: Sequence[int | None]
    asked: Sequence[int]
    classes: Sequence[str]

    def __len__(self) -> int:
        return len(self.pixels)


@dataclass(frozen=True)
class Seeing:
    """What one network answers to N images, and where it looks.

    ``probabilities`` (N, classes); ``looks``: by site; ``cams``: by method, (N, H, W), of the classes that were asked
    for, at ``layer``.
    """

    name: str
    probabilities: Tensor
    looks: dict[str, Look]
    cams: dict[str, Tensor]
    layer: str

    @property
    def predicted(self) -> list[int]:
        return self.probabilities.argmax(1).tolist()

    @property
    def confidence(self) -> list[float]:
        return self.probabilities.amax(1).tolist()

    @property
    def sites(self) -> list[str]:
        """With a map."""
        return [site for site, look in self.looks.items() if look.map is not None]


def see(
    net: nn.Module,
    x: Tensor,
    classes: Sequence[int],
    methods: Sequence[str] = ("gradcam",),
    *,
    name: str = "",
    probabilities: Tensor | None = None,
    bar: bool = False,
) -> Seeing:
    """Look at ``net`` while it looks at the images ``x`` (N, C, H, W), for the class of each.

    ``probabilities`` (N, classes), where they are known already. ``bar``: show on a terminal how far it is.
    """
    require_methods(methods)
    parts = [slice(start, start + AT_ONCE) for start in range(0, len(x), AT_ONCE)]

    def each(what: str) -> Iterable[slice]:
        return with_progress(parts, len(parts), f"{what} of {name}") if bar else parts

    layer = default_layer(net, x) if {*methods} & {*CAMS} else ""
    seen = [looks(net, x[part]) for part in each("gates")]
    if probabilities is None:
        probabilities = torch.cat([answered(net, x[part]) for part in parts])
    cams = {
        method: torch.cat([cam(net, x[part], classes[part], method, layer) for part in each(NAMES[method])])
        for method in methods
    }
    return Seeing(name, probabilities, _joined(seen), cams, layer)


@torch.no_grad()
def answered(net: nn.Module, x: Tensor) -> Tensor:
    """Probabilities (N, classes), on the CPU."""
    device = next((parameter.device for parameter in net.parameters()), x.device)
    with in_mode(net, training=False):
        return net(x.to(device)).float().softmax(1).cpu()


def require_methods(methods: Sequence[str]) -> None:
    """Raise InputError for a name that is no method's."""
    for method in methods:
        if method not in METHODS:
            raise InputError(f"{method}: no such method; {choices(method, METHODS)}")


@torch.no_grad()
def seconds_of_score_cam(net: nn.Module, x: Tensor) -> float:
    """About how long Score-CAM of the images ``x`` takes: a forward pass for each channel of the layer."""
    channels: list[int] = []
    place = net.get_submodule(default_layer(net, x))
    handle = place.register_forward_hook(lambda module, args, output: channels.append(output.shape[1]))
    batch = x[:1].expand(AT_ONCE, -1, -1, -1)
    try:
        answered(net, batch[:1])
        started = time.perf_counter()
        answered(net, batch)
    finally:
        handle.remove()
    return len(x) * channels[0] / AT_ONCE * (time.perf_counter() - started)


def _joined(parts: Sequence[dict[str, Look]]) -> dict[str, Look]:
    """The looks at several batches, as those at one."""

    def together(several: Iterator[Tensor | None]) -> Tensor | None:
        tensors = [each for each in several if each is not None]
        return torch.cat(tensors) if tensors else None

    return {
        site: Look(
            together(part[site].map for part in parts), look.of_gate, together(part[site].channels for part in parts)
        )
        for site, look in (parts[0] if parts else {}).items()
    }
