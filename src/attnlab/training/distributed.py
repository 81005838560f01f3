"""Parts of data-parallel training that make its results those of one process."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from attnlab.errors import InputError

PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class _Sum(torch.autograd.Function):
    """The sum over all ranks; its gradient is the sum of theirs."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over the batches of all ranks: PyTorch's on GPUs, the same in plain PyTorch on CPUs.

    It is not an nn.SyncBatchNorm, because DistributedDataParallel refuses those on CPUs. The ranks' batches must be of
    equal size.
    """

    process_group = None

    def _check_input_dim(self, x: Tensor) -> None:
        """Any: the batch norm that this was has seen to it."""

    def _check_non_zero_input_channels(self, x: Tensor) -> None:
        """Likewise."""

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cuda:
            return nn.SyncBatchNorm.forward(self, x)  # type: ignore[arg-type]
        if not self.training or not dist.is_initialized():
            return super().forward(x)
        dtype, x = x.dtype, x.to(torch.promote_types(x.dtype, torch.float32))  # as PyTorch's, under mixed precision
        dims = [0, *range(2, x.ndim)]
        ranks = dist.get_world_size()
        shape = (1, -1, *(1 for _ in dims[1:]))
        mean = _Sum.apply(x.mean(dims)) / ranks
        var = _Sum.apply((x - mean.view(shape)).square().mean(dims)) / ranks
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            n = x.numel() // x.shape[1] * ranks
            self.num_batches_tracked.add_(1)
            share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.detach(), share)
            self.running_var.lerp_(var.detach() * n / (n - 1), share)
        x = (x - mean.view(shape)) * torch.rsqrt(var.view(shape) + self.eps)
        if self.weight is not None:
            x = x * self.weight.view(shape)
        if self.bias is not None:
            x = x + self.bias.view(shape)
        return x.to(dtype)


def relative_to_ranks(total: Tensor) -> Tensor | float:
    """This rank's total relative to the ranks' mean; 1 for one process.

    A rank's weighted mean times this, averaged over ranks, is the weighted mean of all their images.
    """
    if not dist.is_initialized():
        return 1.0
    mean = total.detach().clone()
    dist.all_reduce(mean)
    return total.detach() * dist.get_world_size() / mean


def from_all_ranks(parts: list[Tensor]) -> Tensor:
    """Gather what one process would have: each batch's parts from all ranks in order, along the last dimension."""
    if dist.is_initialized():
        ranks: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(ranks, parts)
        parts = [part for batch in zip(*ranks, strict=True) for part in batch]
    return torch.cat(parts, dim=-1)


def synchronise(net: nn.Module) -> None:
    """Let the batch norms of ``net`` use the batches of all ranks, in place.

    They become instances of a class that also runs on CPUs, unlike nn.SyncBatchNorm.
    Raises InputError for a batch norm of an unknown class.
    """
    for name, module in net.named_modules():
        if type(module) in PLAIN:
            module.__class__ = SyncBatchNorm
        elif isinstance(module, nn.modules.batchnorm._BatchNorm) and not isinstance(module, SyncBatchNorm):
            raise InputError(f"{name}: {type(module).__name__} cannot be synchronised; train it on one device")
