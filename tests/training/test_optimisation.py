"""Loss, regularisation, freezing and groups of learning rates."""

import functools
from types import SimpleNamespace

import lightning
import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

import attnlab
from attnlab.data import Digits
from attnlab.errors import InputError
from attnlab.training.classifier import Classifier, Feed
from attnlab.training.optimisation import Optimisation, class_weights
from attnlab.training.schedules import one_cycle


def optimisation(net=None, **k):
    net = net or nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    return Optimisation(net, optimizer=functools.partial(torch.optim.SGD, lr=0.1), **k)


def test_l2_acts_as_a_keras_kernel_regularizer():
    net = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    found = optimisation(net, l2={"0.weight": 0.01}, label_smoothing=0.1)
    x, y = torch.randn(5, 1, 8, 8), torch.randint(0, 10, (5,))
    expected = F.cross_entropy(net(x), y, label_smoothing=0.1) + 0.01 * (net[0].weight ** 2).sum()
    torch.testing.assert_close(found.losses(net(x), y)[0], expected)


def test_l2_that_matches_nothing_is_named():
    with pytest.raises(InputError, match=r"loss.l2: no parameter of the network matches 'stem\.\*'"):
        optimisation(l2={"stem.*": 0.01})


def test_auxiliary_logits_count_with_their_weight():
    class Two(nn.Module):
        aux_weight = 0.3

        def __init__(self):
            super().__init__()
            self.main, self.other = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x):
            x = x.mean((2, 3))
            return (self.main(x), self.other(x)) if self.training else self.main(x)

    net = Two()
    classifier = Classifier(Optimisation(net, optimizer=torch.optim.SGD), 3)
    x, y = torch.randn(5, 4, 2, 2), torch.tensor([0, 1, 2, 0, 1])
    main, other = (nn.functional.cross_entropy(logits, y) for logits in net(x))
    torch.testing.assert_close(classifier.training_step((x, y), 0), main + 0.3 * other)


@pytest.fixture
def digits():
    return Digits(batch_size=256, size=32)


def train(net, digits, epochs, **settings):
    seen = []

    class See(lightning.Callback):
        def on_train_epoch_end(self, trainer, module):
            seen.append({key: value.clone() for key, value in net.state_dict().items()})

        on_train_start = on_train_epoch_end

    settings = {"optimizer": functools.partial(torch.optim.AdamW, lr=0.02, weight_decay=0.1), **settings}
    module = Classifier(Optimisation(net, **settings), 10)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = lightning.Trainer(max_epochs=epochs, accelerator="cpu", limit_train_batches=2, callbacks=[See()], **quiet)
    trainer.fit(module, Feed(digits))
    return seen


@pytest.mark.parametrize(("freeze", "epochs"), [(True, 2), (1, 2), (2, 3)])
def test_frozen_only_attention_and_head_train(digits, freeze, epochs):
    net = attnlab.create("mini_xception", num_classes=10, in_channels=1, bn_momentum=0.1)
    attnlab.attach(net, "cbam", input_size=(1, 32, 32), merge="concat", init="he_normal")
    head = attnlab.insertion.head_of(net, attnlab.insertion.trace(net, (1, 32, 32)))
    assert head == [net.head]
    seen = train(net, digits, epochs, freeze=freeze, head=head)
    for epoch in range(epochs):
        frozen = freeze is True or epoch < freeze
        for key in seen[0]:
            equal = torch.equal(seen[epoch][key], seen[epoch + 1][key])
            if ".attention_out." not in key and not key.startswith("head."):  # statistics of batch norms too
                assert equal == frozen, (key, epoch)
            elif not key.endswith("running_mean"):
                assert not equal, (key, epoch)
    assert all(p.requires_grad for p in net.parameters())  # afterwards, for whoever goes on with the network


def test_a_network_may_be_frozen_again(digits):
    net = attnlab.create("mini_xception", num_classes=10, in_channels=1)
    make = functools.partial(optimisation, net, head=[net.head])
    first, second = make(freeze=True), make(freeze=1)
    assert first.body.parameters == second.body.parameters != []
    everything = sum(p.numel() for p in net.parameters())
    assert first.trainable() == net.head.weight.numel() + net.head.bias.numel()
    assert second.trainable() == make().trainable() == everything
    net.requires_grad_(False)
    with pytest.raises(InputError, match="freeze: the backbone is frozen already"):
        make(freeze=1)


def test_the_head_of_other_networks():
    for net, size, names in (
        (torchvision.models.squeezenet1_1(num_classes=5), 64, ["classifier.1"]),
        (torchvision.models.resnet18(num_classes=64), 64, ["fc"]),
        (torchvision.models.googlenet(num_classes=5, init_weights=False), 64, ["fc", "aux1", "aux2"]),
    ):
        paths = {module: path for path, module in net.named_modules()}
        attnlab.attach(net, "se", at="unit", blocks="last", input_size=(3, size, size), merge="concat")
        head = attnlab.insertion.head_of(net, attnlab.insertion.trace(net, (3, size, size)))
        assert [paths[module] for module in head] == names
    net = timm.create_model("repvit_m0_9", num_classes=5)  # for distillation: its logits are the mean of two heads'
    head = attnlab.insertion.head_of(net, attnlab.insertion.trace(net, (3, 64, 64)))
    assert set(head) == {net.head.head.l, net.head.head_dist.l}


def test_attention_may_have_its_own_learning_rate(digits):
    net = attnlab.create("mini_xception", num_classes=10, in_channels=1)
    attnlab.attach(net, "se", input_size=(1, 32, 32), init="he_normal")
    seen = train(net, digits, 1, attention_lr_scale=0.0, scheduler=one_cycle)
    for key in seen[0]:
        assert torch.equal(seen[0][key], seen[1][key]) == (".attention_out." in key), key
    optimizer = optimisation(net, attention_lr_scale=4.0).optimizer()
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.4]
    assert [len(group["params"]) for group in optimizer.param_groups] == [*map(len, attnlab.split_parameters(net))]
    scheduler = one_cycle(optimizer, 10)
    largest = [0.0, 0.0]
    for _ in range(10):
        largest = [max(a, group["lr"]) for a, group in zip(largest, optimizer.param_groups, strict=True)]
        optimizer.step()
        scheduler.step()
    assert largest == pytest.approx([0.1, 0.4])


def test_training_does_not_begin_without_its_attention(digits):
    net = attnlab.create("mini_xception", num_classes=10, in_channels=1)
    attnlab.attach(net, "se", input_size=(1, 32, 32))
    net.module1.branch[-1] = net.module1.branch[-1].host
    with pytest.raises(InputError, match=r"attention is gone from module1\.branch \(output\)"):
        train(net, digits, 1)


def weighted(y, logits, **k):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    return optimisation(net, **k).losses(logits, y)[1]


def test_class_weights_and_smoothing_are_pytorchs():
    logits, y = torch.randn(20, 10), torch.randint(0, 10, (20,))
    weights = torch.rand(10) + 0.1
    expected = F.cross_entropy(logits, y, weight=weights, label_smoothing=0.1)
    torch.testing.assert_close(weighted(y, logits, class_weights=weights.tolist(), label_smoothing=0.1), expected)
    shares = torch.rand(20, 10).softmax(1)  # as mixup makes them
    torch.testing.assert_close(
        weighted(shares, logits, class_weights=weights.tolist(), label_smoothing=0.1),
        F.cross_entropy(logits, shares, weight=weights, label_smoothing=0.1),
    )
    torch.testing.assert_close(weighted(shares, logits), -(shares * logits.log_softmax(1)).sum(1).mean())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_class_weights_keep_their_digits_in_any_precision(dtype):
    logits, y = torch.randn(20, 10).to(dtype), torch.arange(20) % 10
    weights = torch.linspace(0.1, 2, 10, dtype=torch.float64)
    expected = F.cross_entropy(logits.double(), y, weight=weights)
    found = weighted(y, logits, class_weights=weights.tolist())
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)


class Uneven:
    """Labels of which some classes are rare."""

    num_classes = 4
    classes = ("a", "b", "c", "d")

    def __init__(self, labels):
        self.loaded = SimpleNamespace(train=SimpleNamespace(labels=torch.as_tensor(labels)))


def test_balanced_weights_are_scikit_learns():
    labels = np.repeat([0, 1, 2, 3], [50, 7, 20, 3])
    expected = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    assert class_weights("balanced", Uneven(labels)) == pytest.approx(expected)
    assert class_weights([1.0, 2.0, 3.0, 4.0], Uneven(labels)) == [1.0, 2.0, 3.0, 4.0]
    assert class_weights(None, Uneven(labels)) is None


def test_class_weights_that_cannot_be():
    with pytest.raises(InputError, match=r"loss.class_weights: 2 numbers; must be 4, one for each class"):
        class_weights([1.0, 2.0], Uneven([0]))
    with pytest.raises(InputError, match=r"loss.class_weights=balanced: no training image is of class c"):
        class_weights("balanced", Uneven([0, 1, 1, 3]))


def test_training_accuracy_of_soft_labels_counts_the_largest_share():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    classifier = Classifier(Optimisation(net, optimizer=torch.optim.SGD), 3)
    x, y = torch.randn(50, 1, 8, 8), torch.rand(50, 3).softmax(1)
    loss = classifier.training_step((x, y), 0)
    torch.testing.assert_close(loss, F.cross_entropy(net(x), y))
    right = (net(x).argmax(1) == y.argmax(1)).float().mean()
    assert float(classifier.train_accuracy.compute()) == pytest.approx(float(right))
