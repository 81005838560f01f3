"""Attention at every role of a network: what must hold on real tensors."""

import copy
import itertools
import warnings
from collections.abc import Sequence

import torch
from torch import nn

import attnlab
from attnlab.insertion import attached, find_sites

ATTENTIONS = ("se", "cbam")


def check(net: nn.Module, size: Sequence[int], classes: int, export: bool, only: int | None = None) -> list[str]:
    """The roles; an AssertionError names the role and attention that do not keep a promise of the README.

    ``only`` one role with one attention is checked, the one of this number, and nothing else.
    """
    net.eval().requires_grad_(False)
    for name, parameter in net.named_parameters():
        if not name.endswith("bias") and not parameter.any():
            parameter.fill_(1)  # branches that start at zero let no gradient through
    bare = copy.deepcopy(net.state_dict())
    x = torch.randn(2, *size)
    expected = net(x)
    assert expected.shape == (2, classes)
    roles = list(dict.fromkeys(site.role for site in find_sites(net, size)))
    every = list(itertools.product(roles, ATTENTIONS))
    for role, attention in every if only is None else [every[only % len(every)]]:
        sites = attnlab.attach(net, attention, at=role, init="identity", ratio=4, input_size=size)
        assert torch.equal(net(x), expected), (role, attention)
        stir(net)
        net.train()(x).square().sum().backward()
        for path, module in attached(net).items():
            reached = [p.grad is not None and p.grad.isfinite().all() for p in module.parameters()]
            assert all(reached), (role, path)
            assert any(p.grad.abs().sum() > 0 for p in module.parameters()), (role, path)
        missing, unexpected = net.eval().load_state_dict(bare, strict=False)
        assert not unexpected
        assert all("attention_" in key for key in missing)
        assert attnlab.detach(net) == len(sites)
        assert torch.equal(net(x), expected), (role, attention)
    if not roles or only is not None:
        return roles
    role = "stage" if "stage" in roles else roles[-1]
    attnlab.attach(net, "cbam", at=role, merge="concat", init="identity", ratio=4, input_size=size)
    torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-4)  # a 1×1 conv of two equal maps
    if export:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.export.export(net, (x,), strict=False)
        torch.testing.assert_close(exported.module()(x), net(x), rtol=1e-4, atol=1e-4)
    return roles


def stir(net: nn.Module) -> None:
    """A little noise: exactly at the identity many gradients are zero."""
    generator = torch.Generator().manual_seed(0)
    for module in attached(net).values():
        for parameter in module.parameters():
            parameter.data.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)
