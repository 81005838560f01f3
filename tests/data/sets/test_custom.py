"""A user's own Dataset or LightningDataModule."""

import random

import lightning
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset

from attnlab.data import Custom
from attnlab.errors import InputError


@pytest.fixture(autouse=True)
def _allowed(monkeypatch):
    monkeypatch.setenv("ATTNLAB_ALLOW", "tests")


class Squares(Dataset):
    """Grey squares, brighter by class, as PIL images."""

    classes = ("dark", "mid", "light")

    def __init__(self, count: int = 60, kind: str = "pil"):
        self.count, self.kind = count, kind

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        pixels = np.full((12, 16), 100 * (i % 3), np.uint8)
        made = {
            "pil": lambda: Image.fromarray(pixels),
            "uint8": lambda: torch.from_numpy(pixels)[None],
            "float": lambda: torch.from_numpy(pixels / 255).float().expand(3, 12, 16),
            "array": lambda: pixels,
            "normalised": lambda: torch.from_numpy(pixels / 255) - 0.5,
            "long": lambda: torch.from_numpy(pixels).long(),
            "flat": lambda: torch.zeros(7),
            "text": lambda: "no image",
        }
        return made[self.kind](), i % 3


class Train(Squares):
    def __init__(self, train: bool, count: int = 30):
        super().__init__(count if train else 9)
        self.targets = torch.arange(self.count) % 3


class Mapped(Squares):
    """As torchvision's with a target_transform: ``targets`` are those of before."""

    def __init__(self, to: str = "next"):
        super().__init__()
        self.targets = [i % 3 for i in range(self.count)]
        self.to = {
            "next": lambda label: (label + 1) % 3,
            "names": lambda label: "abc"[label],
            "half": lambda label: label / 2,
        }[to]

    def __getitem__(self, i):
        image, label = super().__getitem__(i)
        return image, self.to(label)


class Named(Squares):
    """Its list holds names, its items numbers."""

    def __init__(self):
        super().__init__()
        self.labels = [self.classes[i % 3] for i in range(self.count)]


class Drawn(Squares):
    """Each reading draws whether the square is turned."""

    def __init__(self, way: str):
        super().__init__()
        self.own = np.random.default_rng(0)
        self.draw = {
            "random": random.random,
            "numpy": np.random.rand,
            "torch": lambda: torch.rand(()),
            "own": self.own.random,
        }[way]

    def __getitem__(self, i):
        pixels = np.full((12, 12), 100 * (i % 3), np.uint8)
        pixels[:6] += 9
        return Image.fromarray(pixels[::-1].copy() if self.draw() < 0.5 else pixels), i % 3


class Stream(IterableDataset):
    def __len__(self):
        return 30

    def __iter__(self):
        return iter(Squares(30))


class Parts(Squares):
    def __init__(self, split):
        super().__init__({"train": 30, "val": 6, "test": 9}[split])


class NoDataset:
    def __init__(self):
        self.items = 3


class Module(lightning.LightningDataModule):
    def __init__(self, batch: int = 4):
        super().__init__()
        self.batch = batch

    def setup(self, stage):
        self.sets = {part: self.part(part) for part in ("train", "val", "test")}

    def part(self, name):
        return Parts(name)

    def train_dataloader(self):
        return DataLoader(self.sets["train"], self.batch)

    def val_dataloader(self):
        return DataLoader(self.sets["val"], self.batch)

    def test_dataloader(self):
        return DataLoader(self.sets["test"], self.batch)


class StreamModule(Module):
    def part(self, name):
        return Stream() if name == "val" else Parts(name)


def custom(name, **settings):
    settings = {"num_classes": 3, "size": 8, "channels": 1, "batch_size": 4, "val": 0.2, "test": 0.2, **settings}
    return Custom(target=f"tests.data.sets.test_custom.{name}", **settings)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("Squares", [36, 12, 12]), ("Train", [24, 6, 9]), ("Parts", [30, 6, 9]), ("Module", [30, 6, 9])],
)
def test_what_it_takes_and_gives(name, sizes):
    data = custom(name)
    assert [len(split) for split in data.splits] == sizes
    for split in data.splits:
        assert (split.images[:, 0, 4, 4] == 100 * split.labels).all()
        assert split.images.shape[1:] == data.shape == (1, 8, 8)
    assert data.classes == ["dark", "mid", "light"]


@pytest.mark.parametrize("kind", ["pil", "uint8", "float", "array"])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_any_kind(kind, channels):
    data = custom("Squares", settings={"kind": kind}, channels=channels)
    test = data.splits.test
    assert test.images.shape == (12, channels, 8, 8)
    assert (test.images == 100 * test.labels[:, None, None, None]).all()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("normalised", r"image 0: has values from -0.5 to -0.5; must be 0 to 1: leave the normalising to attnlab"),
        ("long", r"image 0: is of torch.int64; must be uint8, or float in 0 to 1"),
        ("flat", r"image 0: has the shape \(7,\); must be \(H, W\), \(1, H, W\) or \(3, H, W\)"),
        ("text", r"image 0: must be a PIL image, a tensor or an array, not a str"),
    ],
)
def test_what_is_no_image_is_told_before_anything_starts(kind, message):
    with pytest.raises(InputError, match=message):
        custom("Squares", settings={"kind": kind}).check()


def test_wrong_settings_are_named(monkeypatch):
    with pytest.raises(InputError, match=r"data.settings.colour: .* has no such setting; it has: count, kind"):
        custom("Squares", settings={"colour": 1})
    with pytest.raises(
        InputError, match=r"the labels of train are 0 to 2; with data.num_classes=2 they must be 0 to 1"
    ):
        custom("Squares", num_classes=2).check()
    with pytest.raises(InputError, match=r"Nothing: not found \(PYTHONPATH=. looks here\); it must be a Dataset or a"):
        custom("Nothing")
    with pytest.raises(
        InputError, match=r"must give a Dataset with a length, or a LightningDataModule, not a NoDataset"
    ):
        custom("NoDataset").check()
    with pytest.raises(InputError, match=r"class '3' has no image in train"):
        custom("Squares", num_classes=4).check()
    with pytest.raises(InputError, match=r"data.target=torch.load: no Dataset"):
        Custom(target="torch.load", num_classes=3)
    monkeypatch.delenv("ATTNLAB_ALLOW")
    with pytest.raises(
        InputError, match=r"package 'tests' is not allowed; .* \(to trust your own: ATTNLAB_ALLOW=tests\)"
    ):
        custom("Squares")


@pytest.mark.parametrize(("name", "by"), [("Mapped", 1), ("Named", 0)])
def test_labels_are_those_of_the_items(name, by):
    for split in custom(name).splits:
        assert (split.images[:, 0, 4, 4] == 100 * ((split.labels - by) % 3)).all()


def test_a_label_that_is_no_number():
    with pytest.raises(InputError, match=r"Mapped: the label of image 0: could not convert .* 'a'$"):
        custom("Mapped", settings={"to": "names"}).check()
    with pytest.raises(InputError, match=r"Mapped: the label of image 1: is 0.5; must be a whole number$"):
        custom("Mapped", settings={"to": "half"}).check()


@pytest.mark.parametrize("way", ["random", "numpy", "torch", "own"])
def test_random_transforms_are_refused(way):
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    with pytest.raises(InputError, match=r"Drawn: its items change from one reading to the next: leave random transf"):
        custom("Drawn", settings={"way": way}).check()
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Stream", "must give a Dataset with a length, or a LightningDataModule, not a Stream"),
        ("StreamModule", "val must be a Dataset with a length, not a Stream"),
    ],
)
def test_a_stream_is_no_dataset(name, message):
    with pytest.raises(InputError, match=f"{name}: {message}"):
        custom(name).check()


def test_one_of_torchvisions_own():
    settings = {"size": 40, "image_size": [3, 12, 12], "num_classes": 4, "random_offset": 0}
    data = Custom(target="torchvision.datasets.FakeData", num_classes=4, size=8, batch_size=4, settings=settings)
    assert data.splits.train.images.shape == (28, 3, 8, 8)
