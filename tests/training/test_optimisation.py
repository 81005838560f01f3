"""Loss, regularisation, freezing and groups of learning rates."""

import functools

import lightning
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import attnlab
from attnlab.data import Digits
from attnlab.errors import InputError
from attnlab.training.classifier import Classifier, Feed
from attnlab.training.optimisation import Optimisation
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
