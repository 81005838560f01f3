"""The LightningModule: losses, metrics and schedules against independent references."""

import functools

import lightning
import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from sklearn.metrics import accuracy_score, f1_score
from torch import nn

import attnlab
from attnlab.data import Digits
from attnlab.errors import InputError
from attnlab.training.classifier import Classifier, metrics
from attnlab.training.schedules import cosine, one_cycle, steps


def classifier(net=None, **k):
    net = net or nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    return Classifier(net, 10, optimizer=functools.partial(torch.optim.SGD, lr=0.1), **k)


def test_l2_acts_as_a_keras_kernel_regularizer():
    net = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    module = classifier(net, l2={"0.weight": 0.01}, label_smoothing=0.1)
    x, y = torch.randn(5, 1, 8, 8), torch.randint(0, 10, (5,))
    expected = F.cross_entropy(net(x), y, label_smoothing=0.1) + 0.01 * (net[0].weight ** 2).sum()
    torch.testing.assert_close(module.training_step((x, y), 0), expected)


def test_l2_that_matches_nothing_is_named():
    with pytest.raises(InputError, match=r"loss.l2: no parameter of the network matches 'stem\.\*'"):
        classifier(l2={"stem.*": 0.01})


def test_metrics_against_scikit_learn():
    logits, y = torch.randn(200, 10), torch.randint(0, 10, (200,))
    collection = metrics(10, "val/")
    for part in (slice(0, 128), slice(128, 200)):  # unequal batches
        for name, metric in collection.items():
            if name.endswith("loss"):
                metric.update(F.cross_entropy(logits[part], y[part]), weight=len(y[part]))
            else:
                metric.update(logits[part], y[part])
    found = {key: float(value) for key, value in collection.compute().items()}
    predicted, probabilities = logits.argmax(1), logits.softmax(1).max(1).values.numpy()
    right = (predicted == y).numpy()
    bins = np.clip(np.ceil(probabilities * 15).astype(int) - 1, 0, 14)
    error = sum(
        abs(right[bins == b].mean() - probabilities[bins == b].mean()) * (bins == b).mean() for b in set(bins.tolist())
    )
    assert found["val/accuracy"] == pytest.approx(accuracy_score(y, predicted))
    assert found["val/f1"] == pytest.approx(f1_score(y, predicted, average="macro"))
    assert found["val/calibration_error"] == pytest.approx(error, abs=1e-5)
    assert found["val/loss"] == pytest.approx(float(F.cross_entropy(logits, y)))


def rates(schedule, steps, **k):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.4, momentum=0.9)
    scheduler = schedule(optimizer, steps, **k)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def test_cosine():
    expected = [0.2 * (1 + np.cos(np.pi * step / 50)) for step in range(50)]
    assert rates(cosine, 50) == pytest.approx(expected)
    warm = rates(cosine, 50, warmup=0.2)
    assert warm[:10] == pytest.approx([0.4 * (i + 1) / 11 for i in range(10)])
    assert warm[10:] == pytest.approx([0.2 * (1 + np.cos(np.pi * step / 40)) for step in range(40)])


def test_one_cycle_peaks_at_the_optimizers_rate():
    seen = rates(one_cycle, 50, warmup=0.3)
    assert max(seen) == pytest.approx(0.4)
    assert seen.index(max(seen)) == 14
    assert seen[-1] < 1e-5


def test_steps_fall_at_equal_parts_of_the_run():
    assert rates(steps, 9) == pytest.approx([0.4] * 3 + [0.04] * 3 + [0.004] * 3)
    assert rates(steps, 10, parts=2, factor=0.5) == pytest.approx([0.4] * 5 + [0.2] * 5)
    with pytest.raises(InputError, match=r"scheduler.parts=0: must be at least 1"):
        rates(steps, 9, parts=0)


@pytest.mark.parametrize(("schedule", "warmup"), [(cosine, 1.0), (cosine, -0.1), (one_cycle, 0.0), (one_cycle, 1.5)])
def test_warmup_out_of_range(schedule, warmup):
    with pytest.raises(InputError, match=f"scheduler.warmup={warmup}"):
        rates(schedule, 10, warmup=warmup)


def fit(tmp_path, seed):
    torch.manual_seed(seed)
    module = classifier(scheduler=cosine)
    data = Digits(size=8, batch_size=100, order_seed=seed)
    trainer = lightning.Trainer(
        max_epochs=8,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        reload_dataloaders_every_n_epochs=1,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, data)
    fitted = dict(trainer.callback_metrics)
    trainer.test(module, data, verbose=False)
    return module, {**fitted, **trainer.callback_metrics}


def test_it_learns_and_repeats_to_the_bit(tmp_path):
    first, found = fit(tmp_path, seed=1)
    second, again = fit(tmp_path, seed=1)
    _, other = fit(tmp_path, seed=2)
    assert found["test/accuracy"] > 0.85
    assert {"train/loss", "train/accuracy", "lr", "val/loss", "val/accuracy", "val/f1", "val/calibration_error"} < set(
        found
    )
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert float(found["train/loss"]) == float(again["train/loss"]) != float(other["train/loss"])


def test_training_metrics_are_of_all_batches(tmp_path):
    """With a rate of 0 the network stands still: the epoch's loss is the mean over its batches."""
    module = Classifier(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), 10, optimizer=functools.partial(torch.optim.SGD, lr=0.0)
    )
    data = Digits(size=8, batch_size=100, order_seed=3)
    trainer = lightning.Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False
    )
    trainer.fit(module, data)
    with torch.no_grad():
        losses = [F.cross_entropy(module.net(x), y) for x, y in data.batches(data.splits.train, shuffle=True, epoch=0)]
    assert float(trainer.callback_metrics["train/loss"]) == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)


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
    classifier = Classifier(net, 3, optimizer=torch.optim.SGD)
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
    module = Classifier(net, 10, **settings)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = lightning.Trainer(max_epochs=epochs, accelerator="cpu", limit_train_batches=2, callbacks=[See()], **quiet)
    trainer.fit(module, digits)
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
    make = functools.partial(Classifier, net, 10, optimizer=torch.optim.SGD, head=[net.head])
    first, second = make(freeze=True), make(freeze=1)
    assert first.body.parameters == second.body.parameters != []
    everything = sum(p.numel() for p in net.parameters())
    assert first.trainable() == net.head.weight.numel() + net.head.bias.numel()
    assert second.trainable() == make().trainable() == everything
    net.requires_grad_(False)
    with pytest.raises(InputError, match="freeze: none of the backbone's parameters requires gradients"):
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
    optimizer = classifier(net, attention_lr_scale=4.0).grouped_optimizer()
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
