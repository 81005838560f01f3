"""Images in files: the same batches from memory and from any number of workers, killed or not."""

import dataclasses
import itertools
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from attnlab.data import Augment, ImageData, Images, Lazy, Splits
from attnlab.errors import InputError

N, SIZE = 22, 12


class Read:
    """Image i, of a size of its own."""

    key = "pictures"

    def __call__(self, i):
        random = np.random.default_rng(i)
        return Image.fromarray(random.integers(0, 256, (14 + i % 5, 15 + i % 3, 3), dtype=np.uint8))


class Pictures(ImageData):
    num_classes, shape = 2, (3, SIZE, SIZE)

    def load(self):
        labels = torch.arange(N) % 2
        parts = (torch.arange(0, 14), torch.arange(14, 18), torch.arange(18, 22))
        return Splits(*(Lazy(Read(), part, labels[part]) for part in parts))


def epoch(data, number=0, shard=(0, 1), split="train"):
    chosen = getattr(data.splits, split)
    return [(x.clone(), y.clone()) for x, y in data.batches(chosen, split == "train", number, shard=shard)]


def assert_equal(a, b):
    assert len(a) == len(b) > 0
    for (x, y), (x2, y2) in zip(a, b, strict=True):
        assert torch.equal(x, x2)
        assert torch.equal(y, y2)


RECIPES = {
    "shift, flip, policy": Augment(pad=2, flip=True, policy="trivial", cutout=3),
    "crops": Augment(crop_scale=(0.2, 1.0), flip=True),
    "mixed": Augment(crop_scale=(0.2, 1.0), mixup=0.3, cutmix=1.0, random_erasing=0.3),
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_any_number_of_workers_gives_the_same_batches(recipe):
    make = partial(Pictures, batch_size=4, augment=RECIPES[recipe], order_seed=3, memory="never")
    whole = make(workers=0)
    expected = [epoch(whole, n, split=split) for n, split in ((0, "train"), (1, "train"), (0, "val"))]
    assert not torch.equal(expected[0][0][0], expected[1][0][0])
    for workers in (1, 3):
        data = make(workers=workers)
        for found, (n, split) in zip(expected, ((0, "train"), (1, "train"), (0, "val")), strict=True):
            assert_equal(found, epoch(data, n, split=split))


@pytest.mark.parametrize("recipe", ["shift, flip, policy", "mixed"])
def test_ranks_together_see_what_one_process_sees(recipe):
    make = partial(Pictures, batch_size=4, augment=RECIPES[recipe], order_seed=3, memory="never", workers=0)
    whole, parts = epoch(make()), [epoch(make(), shard=(rank, 2)) for rank in range(2)]
    assert_equal(whole, [tuple(map(torch.cat, zip(*step, strict=True))) for step in zip(*parts, strict=True)])


@pytest.mark.parametrize("workers", [0, 2])
def test_goes_on_at_the_next_batch(workers):
    make = partial(Pictures, batch_size=4, augment=RECIPES["crops"], memory="never", workers=workers)
    data = make()
    whole = epoch(data, 2)
    begun = data.batches(data.splits.train, True, 2)
    assert len(list(itertools.islice(begun, 1))) == 1
    data = make()
    rest = data.batches(data.splits.train, True, 2)
    rest.load_state_dict(begun.state_dict())
    assert_equal(whole[1:], list(rest))


def test_memory_and_streaming_are_the_same_to_the_bit():
    recipe = RECIPES["shift, flip, policy"]
    kept, streamed = (Pictures(batch_size=4, augment=recipe, memory=memory) for memory in ("always", "never"))
    assert isinstance(kept.splits.train, Images)
    assert isinstance(streamed.splits.train, Lazy)
    assert_equal(epoch(kept), epoch(streamed))
    assert_equal(epoch(kept, split="test"), epoch(streamed, split="test"))
    pixels = kept.splits.train.images.double() / 255
    for data in (kept, streamed):
        mean, std = data.moments
        torch.testing.assert_close(mean.double(), pixels.mean((0, 2, 3)), rtol=0, atol=1e-6)
        torch.testing.assert_close(std.double(), pixels.std((0, 2, 3), correction=0), rtol=0, atol=1e-6)


def test_memory_is_chosen_by_what_fits(monkeypatch):
    assert isinstance(Pictures(batch_size=4).splits.train, Images)
    monkeypatch.setattr("attnlab.data.module._machine_memory", lambda: 4.0 * N * 3 * SIZE * SIZE - 1)
    assert isinstance(Pictures(batch_size=4).splits.train, Lazy)
    crops = Augment(crop_scale=(0.5, 1.0))
    assert isinstance(Pictures(batch_size=4, augment=crops).splits.train, Lazy)
    with pytest.raises(InputError, match="memory=always: this augmentation crops from the original files"):
        Pictures(augment=crops, memory="always")


def test_decoded_once_for_all_points_of_a_machine(tmp_path):
    opened = []

    class Counted(Pictures):
        cache = tmp_path / "cache"

        def fit(self, image):
            opened.append(image.size)
            return super().fit(image)

    first = Counted(batch_size=4).splits
    assert len(opened) == N
    again = Counted(batch_size=4, order_seed=9).splits
    assert len(opened) == N
    assert all(torch.equal(a.images, b.images) for a, b in zip(first, again, strict=True))
    assert [path.suffix for path in Counted.cache.iterdir()] == [".npy"]
    streamed = Counted(batch_size=4, memory="never")
    mean, _ = streamed.moments
    assert len(opened) == N + 14  # of the training images
    assert torch.equal(Counted(batch_size=4, memory="never").moments[0], mean)
    assert len(opened) == N + 14

    class Larger(Counted):
        shape = (3, 16, 16)

    assert Larger(batch_size=4).splits.train.images.shape[2:] == (16, 16)


def test_a_damaged_cache_is_made_again(tmp_path):
    class Kept(Pictures):
        cache = tmp_path

    whole = Kept(batch_size=4).splits.train.images.clone()
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:200])
    assert torch.equal(Kept(batch_size=4).splits.train.images, whole)


def test_an_image_that_cannot_be_read_is_named():
    class Broken(Pictures):
        def load(self):
            def read(number):
                if number == 5:
                    raise InputError("photos/5.jpg: cannot be read: truncated; repair or remove it")
                return Read()(number)

            return Splits(*(dataclasses.replace(split, read=read) for split in super().load()))

    for workers in (0, 1):
        data = Broken(batch_size=14, memory="never", workers=workers, normalise="imagenet")
        with pytest.raises(InputError, match=r"photos/5\.jpg: cannot be read"):
            epoch(data)


def test_the_time_that_training_waits_is_counted():
    data = Pictures(batch_size=4, memory="never", workers=1)
    epoch(data)
    assert 0 < data.stream.waited < 60


def test_workers_end_with_the_data_and_with_the_process():
    code = """
import multiprocessing
from tests.data.test_streaming import Pictures
data = Pictures(batch_size=4, memory="never", workers=2)
batches = iter(data.batches(data.splits.train))
next(batches)
assert len(multiprocessing.active_children()) == 2
del data, batches
assert not multiprocessing.active_children()
data = Pictures(batch_size=4, memory="never", workers=2)
batches = iter(data.batches(data.splits.train))
next(batches)"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_normalised_as_imagenet():
    mean, std = Pictures(normalise="imagenet").moments
    assert mean.tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert std.tolist() == pytest.approx([0.229, 0.224, 0.225])
