"""Whether modules and networks compute on the device what they compute in float64 on the CPU."""

import copy

import timm
import torch
from torch import Tensor, nn

import attnlab
from attnlab.attention import create, register
from tests.gpu.measure import Note, attempt, check, compiled, in_full_float32, relative_error

NEEDS = {"sequence": {"parts": ["eca", "spatial"]}, "parallel": {"parts": ["se", "spatial"]}}
NETWORKS = {
    "mini_xception": (lambda: attnlab.create("mini_xception", num_classes=7), (3, 48, 48)),
    "resnet18": (lambda: attnlab.create("resnet18", num_classes=10), (3, 64, 64)),
    "mobilenet_v2": (lambda: attnlab.create("mobilenet_v2", num_classes=10), (3, 64, 64)),
    # Layer scales of 1: with those of 1e-6 no branch would show in the output.
    "convnext_atto": (lambda: timm.create_model("convnext_atto", num_classes=10, ls_init_value=1.0), (3, 64, 64)),
    "resnet50": (lambda: attnlab.create("resnet50", num_classes=10), (3, 64, 64)),
}
FLOAT32, BFLOAT16, BFLOAT16_NETWORK = 1e-4, 0.02, 0.05  # tolerances of relative errors


def modules(device: str, note: Note) -> None:
    """Every registered attention module, forward and backward, in training."""
    in_full_float32()
    for name in sorted(register):
        attempt(note, name, module, name, device)


def module(name: str, device: str) -> dict[str, object]:
    """The largest relative error of output and gradients, in each layout and precision."""
    torch.manual_seed(0)
    attention = awake(create(name, 128, **NEEDS.get(name, {})))
    # Values that bfloat16 has too: a maximum is then the same one. Fewer would make batch norms magnify their rounding.
    x = torch.randn((8, 128, 28, 28) if device == "cuda" else (8, 128, 9, 9)).bfloat16().float()
    expected = results(copy.deepcopy(attention).double(), x.double())
    attention, x = attention.to(device), x.to(device)
    last = x.to(memory_format=torch.channels_last)
    found = {
        "float32": (results(copy.deepcopy(attention), x), FLOAT32),
        "channels_last": (results(copy.deepcopy(attention), last), FLOAT32),
    }
    with torch.autocast(device, torch.bfloat16):
        found["bfloat16"] = (results(copy.deepcopy(attention), last.bfloat16())[:1], BFLOAT16)
    return {
        kind: check(max(relative_error(*pair) for pair in zip(values, expected, strict=False)), tolerance)
        for kind, (values, tolerance) in found.items()
    }


def awake(attention: nn.Module) -> nn.Module:
    """Every weight random, so that nothing is hidden by what starts at 0."""
    for key, tensor in attention.state_dict().items():
        if key.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif tensor.is_floating_point():
            tensor.normal_(0, tensor[0].numel() ** -0.5 if tensor.dim() > 1 else 0.5)
    return attention


def results(attention: nn.Module, x: Tensor) -> list[Tensor]:
    """Output, gradient of the input, and all gradients of the weights as one."""
    x = x.detach().clone().requires_grad_()
    y = attention(x)
    (y.float() if y.dtype == torch.bfloat16 else y).square().sum().backward()
    weights = [weight.grad.flatten() for weight in attention.parameters() if weight.grad is not None]
    return [y, x.grad, *([torch.cat(weights)] if weights else [])]


def networks(device: str, note: Note) -> None:
    """CBAM attached: the same output and gradient; and with its gates starting at 1, the output of the bare one."""
    in_full_float32()
    for name in NETWORKS if device == "cuda" else ("mini_xception", "convnext_atto"):
        attempt(note, name, network, name, device)


def attended(name: str, **settings: object) -> tuple[nn.Module, Tensor]:
    build, size = NETWORKS[name]
    torch.manual_seed(0)
    net = build().eval()
    attnlab.attach(net, "cbam", input_size=size, **settings)
    return net, torch.randn(4, *size)


def network(name: str, device: str) -> dict[str, object]:
    net, x = attended(name)
    expected = results(copy.deepcopy(net).double(), x.double())[:2]
    net, x = net.to(device), x.to(device)
    plain = results(net, x)[:2]
    last = results(copy.deepcopy(net).to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last))
    with torch.autocast(device, torch.bfloat16), torch.no_grad():
        half = net(x)

    torch.manual_seed(0)
    bare = NETWORKS[name][0]().eval().to(device)
    starting, _ = attended(name, init="identity")
    with torch.no_grad():
        changed = float((starting.to(device)(x) - bare(x)).abs().max())
    return {
        "output": check(relative_error(plain[0], expected[0]), FLOAT32),
        "gradient": check(relative_error(plain[1], expected[1]), 10 * FLOAT32),
        "channels_last": check(relative_error(last[0], expected[0]), FLOAT32),
        "bfloat16": check(relative_error(half, expected[0]), BFLOAT16_NETWORK),
        "identity changes": check(changed, 0),
    }


def network_compiled(device: str, note: Note, name: str) -> None:
    in_full_float32()
    net, x = attended(name)
    with torch.no_grad():
        expected = copy.deepcopy(net).double()(x.double())
        found = compiled(net.to(device), device)(x.to(device))
    note("output", check(relative_error(found, expected), FLOAT32))
