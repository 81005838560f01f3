"""The embedded digits: real images, disjoint splits, true boxes."""

import pytest
import torch
from sklearn.datasets import load_digits

from attnlab.data import ClutteredDigits, Digits, Images
from attnlab.errors import InputError


@pytest.fixture(scope="module")
def cluttered():
    return ClutteredDigits(batch_size=32)


@pytest.mark.parametrize("data", [Digits(), ClutteredDigits(copies=2)])
def test_splits_are_disjoint_and_complete(data):
    sources = [set(split.sources.tolist()) for split in data.splits]
    assert [len(s) for s in sources] == [1197, 300, 300]
    assert len(set.union(*sources)) == 1797
    labels = torch.from_numpy(load_digits().target)
    for split in data.splits:
        assert torch.equal(split.labels, labels[split.sources])
        assert (split.images.dtype, tuple(split.images.shape[1:])) == (torch.uint8, data.shape)


def test_plain_digits_at_8_pixels_are_the_originals():
    data = Digits(size=8).splits.train
    original = torch.from_numpy(load_digits().images[data.sources.numpy()]) * 255 / 16
    assert (data.images[:, 0] - original).abs().max() <= 0.5


def test_the_digit_is_where_its_box_says(cluttered):
    plain = Digits(size=cluttered.digit).splits.test
    by_source = dict(zip(plain.sources.tolist(), plain.images[:, 0], strict=True))
    test = cluttered.splits.test
    for i in range(0, len(test), 37):
        x0, y0, x1, y1 = test.boxes[i].tolist()
        assert 0 <= x0 < x1 <= cluttered.canvas
        assert 0 <= y0 < y1 <= cluttered.canvas
        digit = by_source[int(test.sources[i])]
        ink = (digit > 32).nonzero()
        (top, left), (bottom, right) = ink.min(0).values.tolist(), (ink.max(0).values + 1).tolist()
        assert (x1 - x0, y1 - y0) == (right - left, bottom - top)  # tight
        on_canvas = test.images[i, 0, y0:y1, x0:x1]
        assert (on_canvas >= digit[top:bottom, left:right]).all()  # clutter only brightens


def test_there_is_clutter_and_digits_move(cluttered):
    clean = ClutteredDigits(clutter=0)
    ink = [(data.splits.test.images > 32).float().mean() for data in (clean, cluttered)]
    assert ink[1] > 1.5 * ink[0]
    assert len({tuple(box) for box in cluttered.splits.test.boxes[:, :2].tolist()}) > 200
    for i in range(20):  # without clutter nothing is outside the box
        x0, y0, x1, y1 = clean.splits.test.boxes[i].tolist()
        image = clean.splits.test.images[i, 0].clone()
        image[y0:y1, x0:x1] = 0
        assert not (image > 32).any()


def test_deterministic_from_its_seed():
    a, b, other = (ClutteredDigits(copies=1, seed=seed).splits for seed in (5, 5, 6))
    assert torch.equal(a.train.images, b.train.images)
    assert not torch.equal(a.train.images, other.train.images)
    assert set(a.test.sources.tolist()) != set(other.test.sources.tolist())


def test_sizes_are_settings():
    data = ClutteredDigits(canvas=60, digit=28, clutter=3, fragment=8, copies=1)
    assert data.splits.train.images.shape == (1197, 1, 60, 60)
    assert data.shape == (1, 60, 60)


def test_moments_are_those_of_the_training_images(cluttered):
    mean, std = cluttered.moments
    pixels = cluttered.splits.train.images.double() / 255
    assert float(mean) == pytest.approx(float(pixels.mean()), abs=1e-6)
    assert float(std) == pytest.approx(float(pixels.std(correction=0)), abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"canvas": 0}, "canvas=0: must be at least 1"),
        ({"canvas": 10}, "digit=16: must be at most canvas=10"),
        ({"fragment": 17}, "fragment=17: must be at most digit=16"),
        ({"clutter": -1}, "clutter=-1: must be at least 0"),
        ({"batch_size": 0}, "batch_size=0: must be at least 1"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        ClutteredDigits(**{"digit": 16, "fragment": 6, **settings})


@pytest.mark.parametrize(
    ("data", "images"), [(Digits(batch_size=2000), 1197), (ClutteredDigits(batch_size=4000, copies=2), 2394)]
)
def test_more_in_a_batch_than_there_are(data, images):
    message = f"batch_size={data.batch_size}: there are only {images} training images"
    with pytest.raises(InputError, match=message):
        data.check()
    with pytest.raises(InputError, match=message):
        _ = data.splits


def test_a_derived_data_set_is_checked_by_what_it_loads():
    class Few(Digits):
        def load(self):
            splits = super().load()
            return splits._replace(train=Images(splits.train.images[:40], splits.train.labels[:40]))

    Few(batch_size=40).check()
    with pytest.raises(InputError, match="batch_size=64: there are only 40 training images"):
        Few(batch_size=64).check()


def test_what_would_not_be_called_is_refused():
    class Hooked(Digits):
        def train_dataloader(self): ...

    with pytest.raises(InputError, match=r"Hooked\.train_dataloader would not be called"):
        Hooked()
