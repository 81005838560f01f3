"""What a point optimises, in plain PyTorch: loss, regularisation, freezing, optimizer and schedule."""

import functools
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from attnlab.config import signatures
from attnlab.data import ImageData
from attnlab.errors import InputError
from attnlab.insertion import head_of, places_with_attention, split_parameters, trace
from attnlab.training.distributed import relative_to_ranks

MakeOptimizer = Callable[..., torch.optim.Optimizer]
MakeScheduler = Callable[..., LRScheduler]


class Optimisation:
    """How a network is trained.

    In training, the network may return a tuple: its logits, then auxiliary ones, whose losses count ``net.aux_weight``.
    ``optimizer`` is called with ``params``, ``scheduler`` with ``optimizer`` and ``total_steps``.
    ``attention_lr_scale`` multiplies the optimizer's learning rate for the attached attention. ``freeze``: in all
    epochs (True) or in the first N, only the attention and the layers of ``head`` train; the batch norms of the rest
    stay in eval mode, so their statistics do not change. ``l2`` maps globs of parameter names to λ and adds ``λ Σ w²``
    to the training loss, as a Keras kernel_regularizer does. ``class_weights``: what each class counts in the loss.

    Raises InputError if a glob matches nothing, or nothing is left to freeze.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        optimizer: MakeOptimizer,
        scheduler: MakeScheduler | None = None,
        attention_lr_scale: float = 1.0,
        freeze: bool | int = False,
        head: Sequence[nn.Module] = (),
        label_smoothing: float = 0.0,
        l2: Mapping[str, float] | None = None,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        self.net = net
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.attention_lr_scale, self.freeze_for = attention_lr_scale, freeze
        self.body = Body(net, head) if freeze else None
        self.label_smoothing = label_smoothing
        self.class_weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float64)
        self.l2 = _regularised(net, l2 or {})

    def losses(self, output: Any, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The loss to minimise, the loss without regularisation, and the logits ``(N, K)``.

        ``output``: what the network returned in training; ``y``: labels ``(N,)``, or each class's share ``(N, K)``.
        """
        loss, logits = self.classification(output, y)
        total = loss
        for parameter, strength in self.l2:
            total = total + strength * parameter.square().sum()
        return total, loss, logits

    def classification(self, output: Any, y: Tensor) -> tuple[Tensor, Tensor]:
        """The loss without regularisation, and the logits."""
        logits, *auxiliary = output if isinstance(output, tuple) else (output,)
        loss = self.cross_entropy(logits, y)
        for other in auxiliary:  # heads that only train, such as GoogLeNet's
            loss = loss + self.net.aux_weight * self.cross_entropy(other, y)  # type: ignore[operator]
        return loss, logits

    def cross_entropy(self, logits: Tensor, y: Tensor) -> Tensor:
        """PyTorch's mean; of weighted labels it is the mean by weight, of shares ``(N, K)`` the mean over images."""
        if self.class_weights is None:
            return F.cross_entropy(logits, y, label_smoothing=self.label_smoothing)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # 16 bits would round the weights
        weights = self.class_weights = self.class_weights.to(logits)
        loss = F.cross_entropy(logits, y, weight=weights, label_smoothing=self.label_smoothing)
        return loss if y.is_floating_point() else loss * relative_to_ranks(weights[y].sum())

    def trainable(self) -> int:
        """How many parameters train in at least some epochs."""
        never = {id(p) for p in self.body.parameters} if self.body is not None and self.freeze_for is True else set()
        return sum(p.numel() for p in self.net.parameters() if p.requires_grad and id(p) not in never)

    def freeze(self, epoch: int) -> None:
        """Freeze or unfreeze the body for this epoch (counted from 0)."""
        if self.body is not None:
            self.body.freeze(self.freeze_for is True or epoch < self.freeze_for)

    def thaw(self) -> None:
        if self.body is not None:
            self.body.freeze(False)

    def optimizer(self) -> torch.optim.Optimizer:
        """Of one group of parameters, or of the backbone's and the attention's where their learning rates differ."""
        if self.attention_lr_scale == 1:
            return self.make_optimizer(params=self.net.parameters())
        backbone, attention = split_parameters(self.net)
        optimizer = self.make_optimizer(params=[{"params": backbone}, {"params": attention}])
        optimizer.param_groups[1]["lr"] *= self.attention_lr_scale
        return optimizer


class Body:
    """All of a network but its head and its attention, to freeze and thaw."""

    def __init__(self, net: nn.Module, head: Sequence[nn.Module]) -> None:
        added = [part for place in places_with_attention(net).values() for part in place.added()]
        others = {inner for module in (*head, *added) for inner in module.modules()}
        mine = [module for module in net.modules() if module not in others]
        own = (p for module in mine for p in module.parameters(recurse=False) if p.requires_grad)
        self.parameters = list(dict.fromkeys(own))
        self.norms = [module for module in mine if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        if not self.parameters:
            raise InputError("freeze: the backbone is frozen already; none of its parameters requires gradients")

    def freeze(self, frozen: bool) -> None:
        for parameter in self.parameters:
            parameter.requires_grad_(not frozen)
        for norm in self.norms:
            norm.train(not frozen)


def build_optimisation(config: Mapping[str, Any], net: nn.Module, data: ImageData) -> Optimisation:
    """The optimisation that a checked config names."""
    scheduler, frozen = config["scheduler"], config["backbone"]["freeze"]
    loss = {**config["loss"], "class_weights": class_weights(config["loss"]["class_weights"], data)}
    return Optimisation(
        net,
        attention_lr_scale=config["optimizer"]["attention_lr_scale"],
        freeze=frozen,
        head=head_of(net, trace(net, data.shape)) if frozen else (),
        optimizer=functools.partial(signatures.call, config["optimizer"], "optimizer"),
        scheduler=None if scheduler["name"] == "none" else functools.partial(signatures.call, scheduler, "scheduler"),
        **loss,
    )


def class_weights(wanted: str | Sequence[float] | None, data: ImageData) -> Sequence[float] | None:
    """What each class counts in the loss; ``balanced``: images / (classes · images of the class) in training.

    Raises InputError for a wrong number of weights, and if a class to be balanced has no training images.
    """
    if wanted != "balanced":
        if wanted is not None and len(wanted) != data.num_classes:
            raise InputError(
                f"loss.class_weights: {len(wanted)} numbers; must be {data.num_classes}, one for each class"
            )
        return wanted  # type: ignore[return-value]
    counts = torch.bincount(data.loaded.train.labels.cpu(), minlength=data.num_classes)
    if absent := [name for name, n in zip(data.classes, counts.tolist(), strict=True) if not n]:
        raise InputError(f"loss.class_weights=balanced: no training image is of class {absent[0]}")
    return (counts.sum() / (len(counts) * counts.double())).tolist()


def _regularised(net: nn.Module, l2: Mapping[str, float]) -> list[tuple[nn.Parameter, float]]:
    chosen, names = [], dict[int, str]()
    for name, parameter in net.state_dict(keep_vars=True).items():  # keys, the same with and without attention
        names.setdefault(id(parameter), name)
    for glob, strength in l2.items():
        matching = [p for p in net.parameters() if fnmatchcase(names[id(p)], glob)]
        if not matching:
            raise InputError(f"loss.l2: no parameter of the network matches {glob!r}")
        chosen += [(parameter, strength) for parameter in matching]
    return chosen
