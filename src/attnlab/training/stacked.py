"""Several networks of one shape trained as one: a forward pass for all by vmap, one backward pass, one optimizer."""

import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.func import functional_call, vmap
from torch.utils._pytree import tree_map

from attnlab.training.classifier import Classifier
from attnlab.training.lightning_insides import mark_updated

# Each weight's step depends on that weight alone, so that stacked weights step as each network's own.
ELEMENTWISE = (
    *(optim.SGD, optim.Adam, optim.AdamW, optim.NAdam, optim.RAdam),
    *(optim.RMSprop, optim.Adagrad, optim.Adadelta, optim.Adamax),
)
OF_ALL = ("step", "mu_product")  # what an optimizer keeps of a weight that is no tensor of the weight's shape


def not_stacked(optimizer: optim.Optimizer) -> str:
    return f"{type(optimizer).__name__} is not one of {', '.join(each.__name__ for each in ELEMENTWISE)}"


class Stacked:
    """K classifiers, their optimizers and their metrics of training, copied; ``give_back`` copies them back.

    Weights and buffers are stacked to ``(K, ...)``. ``alike``: of each classifier, something that is equal where the
    optimizer's numbers are: neighbours with equal ones are stepped as one. ``context``: in which a forward pass is run.
    ``clip``: the largest norm of a network's gradient.
    Raises ValueError where the classifiers cannot be trained as one.
    """

    def __init__(
        self,
        classifiers: Sequence[Classifier],
        optimizers: Sequence[optim.Optimizer],
        alike: Sequence[Hashable],
        context: Callable[[], AbstractContextManager[Any]],
        clip: float | None = None,
    ) -> None:
        self.classifiers, self.optimizers, self.context, self.clip = classifiers, optimizers, context, clip
        self.optimisation = classifiers[0].optimisation
        self.net = classifiers[0].net
        if any(type(each) not in ELEMENTWISE for each in optimizers):
            raise ValueError(not_stacked(optimizers[0]))
        self.parameters = _stacked([dict(each.net.named_parameters()) for each in classifiers])
        self.buffers = _stacked([dict(each.net.named_buffers()) for each in classifiers])
        for name, parameter in self.net.named_parameters():
            self.parameters[name].requires_grad_(parameter.requires_grad)
        names = _names(self.net)
        self.l2 = [(names[id(parameter)], strength) for parameter, strength in self.optimisation.l2]
        self.pieces: list[tuple[str, slice, Tensor]] = []  # weights of neighbours with equal numbers
        self.groups: list[tuple[dict[str, Any], dict[str, Any]]] = []  # a classifier's, ours
        self.optimizer = self._optimizer(alike)
        self.loss = torch.stack([each.train_loss.mean_value for each in classifiers])
        self.weight = torch.stack([each.train_loss.weight for each in classifiers])
        self.right = torch.zeros(len(classifiers), dtype=torch.long, device=self.loss.device)
        self.images = 0

    def step(self, x: Tensor, y: Tensor) -> None:
        """A training step of each: its images ``(K, N, C, H, W)``, and labels ``(K, N)`` or shares ``(K, N, C)``."""
        for theirs, ours in self.groups:  # as their schedules have set them
            ours.update(numbers(theirs))
        trained = {name: each for name, each in self.parameters.items() if each.requires_grad}
        with self.context():
            output = vmap(self._forward)(self.parameters, self.buffers, x)
            losses, logits = self._losses(output, y)
            total = losses.sum()
            for name, strength in self.l2:
                total = total + strength * self.parameters[name].square().sum()
        found = torch.autograd.grad(total, [*trained.values()], allow_unused=True)
        gradients = {name: each for name, each in zip(trained, found, strict=True) if each is not None}
        if self.clip:
            gradients = _clipped(gradients, self.clip)
        for name, which, piece in self.pieces:
            gradient = gradients.get(name)
            piece.grad = None if gradient is None else gradient[which]
        self.optimizer.step()
        self.loss += losses.detach().to(self.loss.dtype)
        self.weight += 1
        self.right += (logits.detach().argmax(2) == (y.argmax(2) if y.is_floating_point() else y)).sum(1)
        self.images += y.shape[1]

    def _forward(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Any:
        """Of one network."""
        return functional_call(self.net, (parameters, buffers), (x,))

    def _losses(self, output: Any, y: Tensor) -> tuple[Tensor, Tensor]:
        """``(K,)`` without regularisation, and logits ``(K, N, C)``."""
        if self.optimisation.class_weights is None:
            return vmap(self.optimisation.classification)(output, y)
        each = [  # of which PyTorch has no loss for all at once; they may differ between folds
            classifier.optimisation.classification(tree_map(lambda stack: stack[k], output), y[k])  # noqa: B023
            for k, classifier in enumerate(self.classifiers)
        ]
        return torch.stack([loss for loss, _ in each]), torch.stack([logits for _, logits in each])

    @torch.no_grad()
    def give_back(self) -> None:
        """Copy weights, buffers, the optimizers' states and the metrics to the classifiers and optimizers."""
        for k, classifier in enumerate(self.classifiers):
            for name, parameter in classifier.net.named_parameters():
                parameter.copy_(self.parameters[name][k])
            for name, buffer in classifier.net.named_buffers():
                buffer.copy_(self.buffers[name][k])
            metric = classifier.train_loss
            metric.mean_value, metric.weight = self.loss[k].clone(), self.weight[k].clone()
            mark_updated(metric)
            answers = torch.arange(self.images, device=self.right.device) >= self.right[k]  # class 0 where it was right
            if self.images:
                classifier.train_accuracy.update(torch.zeros_like(answers, dtype=torch.long), answers.long())
        for name, which, piece in self.pieces:
            for i, k in enumerate(range(which.start, which.stop)):
                own = self.classifiers[k].net.get_parameter(name)
                if piece in self.optimizer.state:
                    self.optimizers[k].state[own] = {
                        key: _copy(value if key in OF_ALL or value is None else value[i])
                        for key, value in self.optimizer.state[piece].items()
                    }
        self.right.zero_()
        self.images = 0

    def _optimizer(self, alike: Sequence[Hashable]) -> optim.Optimizer:
        """One of the same class, of the stacked weights; with the states of theirs."""
        names = [_names(classifier.net) for classifier in self.classifiers]
        states: dict[Tensor, dict[str, Any]] = {}
        for which in _neighbours(alike):
            for theirs in self.optimizers[which.start].param_groups:
                ours: dict[str, Any] = {**numbers(theirs), "params": []}
                for parameter in theirs["params"]:
                    name = names[which.start][id(parameter)]
                    piece = self.parameters[name].detach()[which]
                    self.pieces.append((name, which, piece))
                    ours["params"].append(piece)
                    each = [
                        self.optimizers[k].state.get(self.classifiers[k].net.get_parameter(name), {})
                        for k in range(which.start, which.stop)
                    ]
                    if each[0]:
                        states[piece] = {
                            key: _copy(value) if key in OF_ALL or value is None else torch.stack([s[key] for s in each])
                            for key, value in each[0].items()
                        }
                self.groups.append((theirs, ours))
        optimizer = type(self.optimizers[0])([ours for _, ours in self.groups])  # type: ignore[call-arg]
        self.groups = [(theirs, ours) for (theirs, _), ours in zip(self.groups, optimizer.param_groups, strict=True)]
        optimizer.state.update(states)
        return optimizer


def _stacked(each: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([tensors[name].detach() for tensors in each]) for name in each[0]}


def _clipped(gradients: dict[str, Tensor], most: float) -> dict[str, Tensor]:
    """As torch.nn.utils.clip_grad_norm_ of each network."""
    norms = torch.stack([each.flatten(1).norm(dim=1) for each in gradients.values()]).norm(dim=0)  # (K,)
    scale = (most / (norms + 1e-6)).clamp(max=1)
    return {name: each * scale.view(-1, *[1] * (each.ndim - 1)) for name, each in gradients.items()}


def _names(net: nn.Module) -> dict[int, str]:
    return {id(parameter): name for name, parameter in net.named_parameters()}


def numbers(group: dict[str, Any]) -> dict[str, Any]:
    """Of an optimizer's group of parameters: learning rate and the like."""
    return {key: value for key, value in group.items() if key != "params"}


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _neighbours(alike: Sequence[Hashable]) -> Iterator[slice]:
    start = 0
    for _, same in itertools.groupby(alike):
        length = len(list(same))
        yield slice(start, start + length)
        start += length
