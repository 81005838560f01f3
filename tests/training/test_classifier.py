"""The LightningModule: losses, metrics and schedules against independent references."""

import functools

import lightning
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attnlab.data import Augment, Digits
from attnlab.errors import InputError
from attnlab.training.classifier import Classifier, Feed
from attnlab.training.optimisation import Optimisation
from attnlab.training.schedules import cosine, one_cycle, steps


def classifier(net=None, **k):
    net = net or nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    return Classifier(Optimisation(net, optimizer=functools.partial(torch.optim.SGD, lr=0.1), **k), 10)


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
    data = Feed(Digits(size=8, batch_size=100, order_seed=seed))
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
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    module = Classifier(Optimisation(net, optimizer=functools.partial(torch.optim.SGD, lr=0.0)), 10)
    data = Digits(size=8, batch_size=100, order_seed=3)
    trainer = lightning.Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False
    )
    trainer.fit(module, Feed(data))
    with torch.no_grad():
        losses = [F.cross_entropy(module.net(x), y) for x, y in data.batches(data.splits.train, shuffle=True, epoch=0)]
    assert float(trainer.callback_metrics["train/loss"]) == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)


def test_data_move_to_the_trainers_device():
    class OnMeta:  # any device but the CPU
        class strategy:  # noqa: N801
            root_device = torch.device("meta")

        current_epoch = global_rank = 0
        world_size = 1

    feed = Feed(Digits(batch_size=50, augment=Augment(pad=1, flip=True)))
    feed.trainer = OnMeta()
    feed.setup("fit")
    for batches in (feed.train_dataloader(), feed.val_dataloader(), feed.test_dataloader()):
        assert {t.device.type for t in (batches.data.images, batches.data.labels, batches.mean)} == {"meta"}
        x, y = next(iter(batches))
        assert (x.device.type, y.device.type, x.shape[1:]) == ("meta", "meta", (1, 32, 32))
