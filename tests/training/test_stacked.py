"""Stacked networks train as each would alone: weights, statistics, the optimizers' states, metrics."""

import contextlib
import copy
import functools

import pytest
import torch
from torch import nn

from attnlab.training.classifier import Classifier
from attnlab.training.optimisation import Body, Optimisation
from attnlab.training.stacked import ELEMENTWISE, Stacked
from tests.attention.test_every import EVERY, awake, make

K, CLASSES = 3, 5


class Small(nn.Module):
    def __init__(self, case):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.attention, self.head = awake(make(case)), nn.Linear(16, CLASSES)

    def forward(self, x):
        return self.head(self.attention(self.norm(self.stem(x)).relu()).mean((2, 3)))


def classifiers(case, optimizer, **settings):
    """Of K networks with first weights of their own, in float64; and their optimizers."""
    made = []
    for _ in range(K):
        net = Small(case)
        made.append(Classifier(Optimisation(net, optimizer=optimizer, **settings), CLASSES).double().train())
    return made, [classifier.optimisation.optimizer() for classifier in made]


def trained_alone(classifier, optimizer, batches, clip=None):
    for batch in batches:
        optimizer.zero_grad()
        classifier.training_step(batch, 0).backward()
        if clip:
            nn.utils.clip_grad_norm_(classifier.net.parameters(), clip)
        optimizer.step()


def same(classifier, optimizer, other, theirs):
    for key, value in other.state_dict().items():
        torch.testing.assert_close(classifier.state_dict()[key], value, rtol=0, atol=1e-9, msg=key)
    for mine, expected in zip(optimizer.state.values(), theirs.state.values(), strict=True):
        assert mine.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(mine[key], value, rtol=0, atol=1e-9, msg=key)
    for name in ("train_loss", "train_accuracy"):
        torch.testing.assert_close(getattr(classifier, name).compute(), getattr(other, name).compute())


def check(case, optimizer, numbers, shares=False, clip=None, **settings):
    """Two legs stacked, a step alone between them; and the same steps alone."""
    mine, optimizers = classifiers(case, optimizer, **settings)
    for each, number in zip(optimizers, numbers, strict=True):
        each.param_groups[0]["lr"] *= number
    theirs = [copy.deepcopy(classifier) for classifier in mine]
    expected = [classifier.optimisation.optimizer() for classifier in theirs]
    for each, number in zip(expected, numbers, strict=True):
        each.param_groups[0]["lr"] *= number
    x = torch.randn(3, K, 4, 3, 8, 8, dtype=torch.double)
    y = torch.rand(3, K, 4, CLASSES).double().softmax(-1) if shares else torch.randint(CLASSES, (3, K, 4))
    for legs in ([0], [2]):
        stacked = Stacked(mine, optimizers, numbers, contextlib.nullcontext, clip)
        for i in legs:
            stacked.step(x[i], y[i])
        stacked.give_back()
        if legs == [0]:
            for k in range(K):
                trained_alone(mine[k], optimizers[k], [(x[1, k], y[1, k])], clip)
    for k in range(K):
        trained_alone(theirs[k], expected[k], [(x[i, k], y[i, k]) for i in range(3)], clip)
        same(mine[k], optimizers[k], theirs[k], expected[k])


@pytest.mark.parametrize("case", EVERY)
def test_every_attention_trains_as_alone(case):
    check(case, functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9), (1, 1, 1))


@pytest.mark.parametrize("optimizer", [each for each in ELEMENTWISE if each is not torch.optim.Adam])
def test_numbers_of_optimizers_may_differ(optimizer):
    settings = {"l2": {"stem.*": 0.01}, "label_smoothing": 0.1, "class_weights": [1.0, 2.0, 1.0, 0.5, 1.0]}
    check("cbam", functools.partial(optimizer, lr=0.01, weight_decay=0.1), (1, 1, 3), **settings)


def test_labels_may_be_shares_of_classes():
    check("se", torch.optim.AdamW, (1, 2, 2), shares=True)


def test_gradients_are_clipped_by_each_networks_norm():
    check("se", functools.partial(torch.optim.SGD, lr=0.1), (1, 1, 1), clip=1.0)


def test_what_is_frozen_stays():
    mine, optimizers = classifiers("cbam", torch.optim.AdamW)
    for classifier in mine:
        net, optimisation = classifier.net, classifier.optimisation
        optimisation.freeze_for, optimisation.body = True, Body(net, [net.head, net.attention])
    before = copy.deepcopy(mine[0].state_dict())
    for classifier in mine:
        classifier.optimisation.freeze(0)
    stacked = Stacked(mine, optimizers, (1, 1, 1), contextlib.nullcontext)
    stacked.step(torch.randn(K, 4, 3, 8, 8, dtype=torch.double), torch.zeros(K, 4, dtype=torch.long))
    stacked.give_back()
    changed = {key for key, value in mine[0].state_dict().items() if not torch.equal(value, before[key])}
    assert changed
    assert not any(key.startswith(("net.stem", "net.norm")) for key in changed)


def test_a_network_that_diverges_leaves_the_others_alone():
    mine, optimizers = classifiers("se", torch.optim.SGD)
    x, y = torch.randn(K, 4, 3, 8, 8, dtype=torch.double), torch.zeros(K, 4, dtype=torch.long)
    x[1] = torch.nan
    stacked = Stacked(mine, optimizers, (1, 1, 1), contextlib.nullcontext)
    stacked.step(x, y)
    stacked.give_back()
    finite = [all(parameter.isfinite().all() for parameter in classifier.net.parameters()) for classifier in mine]
    assert finite == [True, False, True]
    assert [bool(classifier.train_loss.compute().isfinite()) for classifier in mine] == [True, False, True]


def test_an_optimizer_that_looks_at_other_weights_is_refused():
    mine, optimizers = classifiers("se", torch.optim.LBFGS)
    with pytest.raises(ValueError, match="LBFGS is not one of SGD, Adam, "):
        Stacked(mine, optimizers, (1, 1, 1), contextlib.nullcontext)
