"""Batches depend on nothing but (seed, epoch, step)."""

import pytest
import torch

from attnlab.data import Augment, Batches, Digits, Images
from attnlab.data.images import generator, order_of


@pytest.fixture
def data():
    return Images(torch.arange(10 * 4 * 5, dtype=torch.uint8).view(10, 1, 4, 5), torch.arange(10))


def batches(data, batch_size=4, **k):
    return Batches(data, batch_size, mean=torch.tensor([0.5]), std=torch.tensor([0.25]), **k)


def labels(b):
    return [y.tolist() for _, y in b]


def test_evaluation_is_in_order_and_complete(data):
    b = batches(data)
    assert labels(b) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert len(b) == 3


def test_normalised(data):
    x, _ = next(iter(batches(data)))
    torch.testing.assert_close(x, (data.images[:4].float() / 255 - 0.5) / 0.25)


def test_training_order_comes_from_seed_and_epoch_alone(data):
    first = labels(batches(data, shuffle=True, seed=3, epoch=2))
    torch.manual_seed(99)
    torch.rand(7)
    assert labels(batches(data, shuffle=True, seed=3, epoch=2)) == first
    assert labels(batches(data, shuffle=True, seed=3, epoch=3)) != first
    assert labels(batches(data, shuffle=True, seed=4, epoch=2)) != first
    assert [len(batch) for batch in first] == [4, 4]  # the last partial batch is left out
    assert len({n for batch in first for n in batch}) == 8


def test_drawing_batches_leaves_the_global_generator_alone(data):
    before = torch.get_rng_state()
    list(batches(data, shuffle=True, augment=Augment(pad=1, flip=True)))
    assert torch.equal(torch.get_rng_state(), before)


def test_evaluation_is_never_augmented(data):
    plain, augmenting = batches(data), batches(data, augment=Augment(pad=2, flip=True, mixup=1.0))
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(plain, augmenting, strict=True))


def test_take_keeps_boxes_and_sources(data):
    full = Images(data.images, data.labels, boxes=torch.arange(40).view(10, 4), sources=torch.arange(10) + 100)
    part = full.take(torch.tensor([7, 2]))
    assert part.labels.tolist() == [7, 2]
    assert part.boxes.tolist() == [[28, 29, 30, 31], [8, 9, 10, 11]]
    assert part.sources.tolist() == [107, 102]
    assert data.take(torch.tensor([0])).boxes is None


@pytest.mark.parametrize(("ranks", "batch_size", "shuffle"), [(2, 4, True), (4, 4, True), (3, 7, False), (4, 9, False)])
def test_the_ranks_together_see_what_one_process_sees(data, ranks, batch_size, shuffle):
    settings = {"batch_size": batch_size, "shuffle": shuffle, "seed": 5, "epoch": 2}
    settings["augment"] = Augment(pad=1, flip=True)
    whole = list(batches(data, **settings))
    shards = [list(batches(data, **settings, shard=(rank, ranks))) for rank in range(ranks)]
    for step, (x, y) in enumerate(whole):
        assert torch.equal(torch.cat([shard[step][0] for shard in shards]), x)
        assert torch.equal(torch.cat([shard[step][1] for shard in shards]), y)
    assert [len(shard) for shard in shards] == [len(whole)] * ranks


def test_batches_go_on_where_others_stopped(data):
    settings = {"batch_size": 2, "shuffle": True, "augment": Augment(pad=1, flip=True), "epoch": 3}
    whole = list(batches(data, **settings))
    first = batches(data, **settings)
    handed_out = [batch for _, batch in zip(range(2), first, strict=False)]
    assert len(handed_out) == 2
    second = batches(data, **settings)
    second.load_state_dict(first.state_dict())
    rest = list(second)
    assert len(rest) == len(whole) - 2
    assert all(torch.equal(a[0], b[0]) for a, b in zip(rest, whole[2:], strict=True))
    another = batches(data, **{**settings, "epoch": 4})
    another.load_state_dict(first.state_dict())  # of another epoch: starts at its beginning
    assert len(list(another)) == len(whole)


def test_balanced_order_draws_each_class_equally_often():
    labels = torch.tensor([0] * 900 + [1] * 90 + [3] * 10)
    order = order_of(labels, "balanced", generator(0, 1))
    assert order.shape == labels.shape
    seen = torch.bincount(labels[order], minlength=4)
    assert seen[2] == 0
    share = 1000 / 3
    assert all(abs(n - share) < 4 * (share * 2 / 3) ** 0.5 for n in seen[[0, 1, 3]].tolist())  # four deviations
    assert {*order[labels[order] == 3].tolist()} == {*range(990, 1000)}
    assert torch.equal(order, order_of(labels, "balanced", generator(0, 1)))
    assert not torch.equal(order, order_of(labels, "balanced", generator(0, 2)))


def test_the_order_without_a_sampler_is_a_permutation_as_it_was(data):
    expected = torch.randperm(10, generator=generator(3, 2))
    assert torch.equal(order_of(data.labels, None, generator(3, 2)), expected)
    assert labels(batches(data, shuffle=True, seed=3, epoch=2, batch_size=10)) == [expected.tolist()]


def test_ranks_share_a_balanced_batch(data):
    whole = labels(batches(data, shuffle=True, sampler="balanced"))
    parts = [labels(batches(data, shuffle=True, sampler="balanced", shard=(rank, 2))) for rank in range(2)]
    assert [a + b for a, b in zip(*parts, strict=True)] == whole


def test_pixels_come_back_from_a_batch_to_the_bit():
    digits = Digits(batch_size=4)
    x, _ = next(iter(digits.batches(digits.splits.val)))
    assert torch.equal(digits.unnormalised(x), digits.splits.val.images[: len(x)])
