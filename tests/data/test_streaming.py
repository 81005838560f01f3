"""Images in files: the same batches from memory and from any number of workers, killed or not."""

import dataclasses
import errno
import itertools
import multiprocessing
import os
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from attnlab.data import Augment, ImageData, Images, Lazy, Splits
from attnlab.data.decode import Files
from attnlab.errors import InputError

N, SIZE = 22, 12


class Read:
    """Image i, of a size of its own."""

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
    monkeypatch.setattr("attnlab.data.module._memory_of_this_process", lambda: 2.0 * N * 3 * SIZE * SIZE - 1)
    assert isinstance(Pictures(batch_size=4).splits.train, Lazy)
    crops = Augment(crop_scale=(0.5, 1.0))
    assert isinstance(Pictures(batch_size=4, augment=crops).splits.train, Lazy)
    with pytest.raises(InputError, match="memory=always: this augmentation crops from the original files"):
        _ = Pictures(batch_size=4, augment=crops, memory="always").splits


@pytest.fixture
def on_disk(tmp_path):
    """A data set of files, with a cache; ``opened`` counts what was made of them."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(N):
        Read()(number).save(folder / f"{number:02d}.png")

    class OnDisk(Pictures):
        cache, opened = tmp_path / "cache", 0

        def load(self):
            names = np.array([path.name.encode() for path in sorted(folder.iterdir())])
            read = Files(str(folder), names, 3)
            return Splits(*(dataclasses.replace(split, read=read) for split in super().load()))

        def fit(self, image):
            type(self).opened += 1
            return super().fit(image)

    return OnDisk


def test_decoded_once_for_all_points_of_a_machine(on_disk):
    first = on_disk(batch_size=4).splits
    assert on_disk.opened == N
    again = on_disk(batch_size=4, order_seed=9).splits
    assert on_disk.opened == N
    assert all(torch.equal(a.images, b.images) for a, b in zip(first, again, strict=True))
    assert torch.equal(first.val.images, Pictures(batch_size=4).splits.val.images)

    class OtherSplits(on_disk):
        def load(self):
            train, val, test = super().load()
            return Splits(test, val, train)

    assert torch.equal(OtherSplits(batch_size=4).splits.test.images, first.train.images)
    assert on_disk.opened == N  # the files are the same

    class Larger(on_disk):
        shape = (3, 16, 16)

    assert Larger(batch_size=4).splits.train.images.shape[2:] == (16, 16)
    assert Larger.opened > N


def test_moments_of_streamed_images_are_found_once(on_disk):
    mean, _ = on_disk(batch_size=4, memory="never").moments
    assert on_disk.opened == 14  # of the training images
    assert torch.equal(on_disk(batch_size=4, memory="never").moments[0], mean)
    assert on_disk.opened == 14
    (file,) = on_disk.cache.glob("moments-*")
    file.write_text("")
    assert torch.equal(on_disk(batch_size=4, memory="never").moments[0], mean)
    assert torch.equal(on_disk(batch_size=4).moments[0], mean)


def test_a_changed_file_is_decoded_anew(on_disk):
    first = on_disk(batch_size=4).splits.train.images.clone()
    path = on_disk.cache.parent / "photos" / "00.png"
    before = path.stat()
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    os.truncate(path, max(path.stat().st_size, before.st_size))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not torch.equal(on_disk(batch_size=4).splits.train.images[0], first[0])


def test_a_damaged_cache_is_made_again(on_disk):
    whole = on_disk(batch_size=4).splits.train.images.clone()
    (file,) = on_disk.cache.glob("pixels-*.npy")
    file.write_bytes(file.read_bytes()[:200])
    assert torch.equal(on_disk(batch_size=4).splits.train.images, whole)


def test_without_room_for_the_cache_it_decodes_into_memory(on_disk, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert torch.equal(on_disk(batch_size=4).splits.val.images, Pictures(batch_size=4).splits.val.images)
    assert not list(on_disk.cache.glob("*.npy"))


def test_one_process_decodes_and_the_others_wait(on_disk):
    def decode(told):
        told.put((on_disk(batch_size=4).splits.train.images.sum().item(), on_disk.opened))

    fork = multiprocessing.get_context("fork")
    told = fork.Queue()
    processes = [fork.Process(target=decode, args=(told,)) for _ in range(3)]
    for process in processes:
        process.start()
    found = [told.get(timeout=60) for _ in processes]
    assert {total for total, _ in found} == {on_disk(batch_size=4).splits.train.images.sum().item()}
    assert sorted(opened for _, opened in found) == [0, 0, N]


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
        with pytest.raises(InputError) as error:
            epoch(data)
        assert str(error.value) == "photos/5.jpg: cannot be read: truncated; repair or remove it"


@pytest.mark.parametrize("workers", [0, 1])
def test_two_epochs_at_once_are_refused(workers):
    data = Pictures(batch_size=4, memory="never", workers=workers)
    first = iter(data.batches(data.splits.train, True))
    next(first)
    next(iter(data.batches(data.splits.val)))
    with pytest.raises(RuntimeError, match="another epoch of this data set was begun"):
        next(first)


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
