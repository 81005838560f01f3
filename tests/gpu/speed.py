"""How fast: attention modules beside a copy of their map, and training steps."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import attnlab
from attnlab.attention import create
from attnlab.training.classifier import Classifier
from attnlab.training.optimisation import Optimisation
from attnlab.training.stacked import Stacked
from tests.gpu.measure import Note, attempt, compiled, in_turns, spread

MODULES = ("se", "eca", "cbam")
VARIANTS = ("bare", *MODULES)
KERNELS = tuple(f"{name} kernels" for name in MODULES)  # as with ATTNLAB_KERNELS=triton
COMPILED = (*VARIANTS, "cbam kernels")  # when compiling, the others have none


class Copy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 1  # a clone's gradient would be no copy


def blocks(device: str, note: Note) -> None:
    """Forward and backward of a module over those of a copy of the same map, channels_last, in turns."""
    shapes = [(8, 256, 56, 56), (8, 1024, 14, 14)] if device == "cuda" else [(1, 32, 8, 8)]
    for mode, dtype in (("eager", torch.float32), ("eager", torch.bfloat16), ("compiled", torch.bfloat16)):
        for shape in shapes:
            name = f"{mode} {str(dtype).removeprefix('torch.')} {'x'.join(map(str, shape))}"
            attempt(note, name, block, device, mode, dtype, shape)


def block(device: str, mode: str, dtype: torch.dtype, shape: tuple[int, ...]) -> dict[str, Any]:
    torch._dynamo.reset()
    torch.manual_seed(0)
    x = torch.randn(shape, device=device, dtype=dtype).to(memory_format=torch.channels_last).requires_grad_()
    runs = {"copy": both_passes(Copy(), x)}
    for name in MODULES:
        module: Any = create(name, shape[1]).to(device, memory_format=torch.channels_last)
        runs[name] = both_passes(compiled(module, device) if mode == "compiled" else module, x)
    times, errors = in_turns(runs, device, *((30, 10) if device == "cuda" else (2, 1)))
    ratios = {
        name: spread([one / of_copy for one, of_copy in zip(of_it, times["copy"], strict=True)])
        for name, of_it in times.items()
        if name != "copy"
    }
    return {"copy_ms": spread([1000 * one for one in times["copy"]]), "ratio": ratios | errors}


def both_passes(module: Any, x: Tensor) -> Callable[[], object]:
    """bfloat16 as in training: by autocast, weights in float32."""
    wanted = [x, *module.parameters()]
    gradient = torch.randn(x.shape, device=x.device, dtype=x.dtype).contiguous(memory_format=torch.channels_last)

    def run() -> object:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=x.dtype == torch.bfloat16):
            y = module(x)
        return torch.autograd.grad(y, wanted, gradient, allow_unused=True)

    return run


def training_step(net: Any, x: Tensor, classes: int, precision: str = "32-true") -> Callable[[], object]:
    """Forward, backward, SGD with momentum; one batch on the device, again and again."""
    labels = torch.randint(classes, (len(x),), device=x.device)
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9)

    def step() -> object:
        torch.compiler.cudagraph_mark_step_begin()
        optimizer.zero_grad()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
            loss = nn.functional.cross_entropy(net(x), labels)
        loss.backward()
        return optimizer.step()

    return step


def resnet50(device: str, variant: str, mode: str) -> tuple[Callable[[], object], int]:
    """Its training step at 224×224, bfloat16, channels_last; and the batch."""
    torch.manual_seed(0)
    backbone, classes, batch, size = ("resnet50", 1000, 128, 224) if device == "cuda" else ("mini_xception", 7, 2, 48)
    net: Any = attnlab.create(backbone, num_classes=classes)
    if variant != "bare":
        attnlab.attach(net, variant.removesuffix(" kernels"), input_size=(3, size, size))
    net = net.to(device, memory_format=torch.channels_last)
    if mode == "compiled":
        net = compiled(net, device)
    x = torch.randn(batch, 3, size, size, device=device).to(memory_format=torch.channels_last)
    step = training_step(net, x, classes, "bf16-mixed")
    return (with_kernels(step) if variant.endswith(" kernels") else step), batch


def with_kernels(run: Callable[[], object]) -> Callable[[], object]:
    """As with ATTNLAB_KERNELS=triton."""
    from tests.attention.kernels.compared import wanted

    return wanted()(run)


def throughput(device: str, note: Note, mode: str) -> None:
    """Images a second that ResNet-50 trains, bare and with attention at its residual branches."""
    variants = COMPILED if mode == "compiled" else VARIANTS + KERNELS
    for variant in variants if device == "cuda" else ("bare", "se"):
        attempt(note, variant, images_per_s, device, variant, mode)


def images_per_s(device: str, variant: str, mode: str) -> dict[str, Any]:
    step, batch = resnet50(device, variant, mode)
    times, errors = in_turns({variant: step}, device, *((5, 5) if device == "cuda" else (2, 1)))
    return errors.get(variant) or {"images_per_s": spread([batch / one for one in times[variant]], 1)}


SMALL = {
    "mini_xception": (lambda: attnlab.create("mini_xception", num_classes=7, in_channels=1), (1, 48, 48), 32),
    "resnet20": (lambda: attnlab.create("resnet20", num_classes=10), (3, 32, 32), 128),
}
MODES = {"eager": None, "compiled": "default", "cuda_graphs": "reduce-overhead"}


def small_step(device: str, name: str, mode: str) -> tuple[Callable[[], object], int]:
    """A training step in float32, attnlab's default; and the batch."""
    torch.manual_seed(0)
    build, shape, batch = SMALL[name]
    batch = batch if device == "cuda" else 2
    net: Any = build().to(device, memory_format=torch.channels_last)
    if MODES[mode]:
        net = compiled(net, device, MODES[mode])
    x = torch.randn(batch, *shape, device=device).to(memory_format=torch.channels_last)
    return training_step(net, x, 7), batch


def small(device: str, note: Note) -> None:
    """Images a second that small networks train, whose steps wait for the processor that launches them."""
    for name in SMALL if device == "cuda" else ("mini_xception",):
        steps = {mode: small_step(device, name, mode) for mode in MODES}
        runs = {mode: step for mode, (step, _) in steps.items()}
        times, errors = in_turns(runs, device, *((7, 20) if device == "cuda" else (2, 1)))
        rates = {mode: spread([steps[mode][1] / one for one in of_it], 1) for mode, of_it in times.items()}
        note(name, {"batch": steps["eager"][1], "images_per_s": rates | errors})


PACKED = {  # images as the cluttered digits, and CIFAR's; batches as in conf/
    "mini_xception": (lambda: attnlab.create("mini_xception", num_classes=10, in_channels=1), (1, 40, 40), 32),
    "resnet20": (lambda: attnlab.create("resnet20", num_classes=10), (3, 32, 32), 128),
}


def packed(device: str, note: Note) -> None:
    """Images a second of all seeds together, steps only: stacked as one network, and eagerly one after another."""
    for name in PACKED if device == "cuda" else ("mini_xception",):
        for seeds in (1, 2, 4, 8, 16) if device == "cuda" else (2,):
            attempt(note, f"{name} {seeds}", packed_and_alone, device, name, seeds)


def packed_and_alone(device: str, name: str, seeds: int) -> dict[str, Any]:
    build, shape, batch = PACKED[name]
    batch = batch if device == "cuda" else 2
    make = functools.partial(torch.optim.SGD, lr=0.01, momentum=0.9)
    classifiers = [Classifier(Optimisation(build(), optimizer=make), 10).to(device).train() for _ in range(seeds)]
    optimizers = [classifier.optimisation.optimizer() for classifier in classifiers]
    stacked = Stacked(classifiers, optimizers, [0] * seeds, contextlib.nullcontext)
    x, y = torch.randn(seeds, batch, *shape, device=device), torch.randint(10, (seeds, batch), device=device)
    net = build().to(device, memory_format=torch.channels_last)
    alone = training_step(net, x[0].to(memory_format=torch.channels_last), 10)
    runs = {"packed": lambda: stacked.step(x, y), "alone": alone}
    times, errors = in_turns(runs, device, *((5, 10) if device == "cuda" else (2, 1)))
    if errors:
        return next(iter(errors.values()))
    rates = {
        "packed": [seeds * batch / one for one in times["packed"]],
        "alone": [batch / one for one in times["alone"]],
    }
    ratios = [mine / other for mine, other in zip(rates["packed"], rates["alone"], strict=True)]
    return {"images_per_s": {mode: spread(each, 1) for mode, each in rates.items()}, "ratio": spread(ratios, 2)}


def ahead(device: str, note: Note, build: Callable[..., tuple[Callable[[], object], int]], *which: str) -> None:
    """Compile what is timed later, beside other parts: its kernels are then in the compiler's cache."""
    step, _ = build(device, *which)
    step()
    note("compiled", True)
