"""images a second in memory and streaming, beside torchvision's; memory of the workers

In turns in one process. In memory: 50,000 uint8 images of 3×32×32, by one thread, against a Dataset of PIL images with
torchvision's transforms and a DataLoader with 2 workers. Streaming: 400 JPEGs of 500×375 to random-resized crops of
224, against ImageFolder with the same workers. A ratio above 1: attnlab is faster; it is the median of the turns. At
last, the own memory of each of two streaming workers, after it has read 500 of few images, and of many.
"""

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from attnlab.data import Augment, ImageData, Images, Lazy, Splits
from attnlab.data.decode import Files

CIFAR, BATCH = 50_000, 128
MINE, THEIRS = 100, 25  # batches to be timed; torchvision gets only as many images, which does not change its speed
RECIPES = {
    "shift_flip": {},
    "trivial": {"policy": "trivial"},
    "randaugment": {"policy": "rand"},
    "mixup": {"mixup": 0.2},
}
JPEGS, STREAM_BATCH = 400, 20
FEW, MANY = 1_000, 200_000


class InMemory(ImageData):
    num_classes, shape = 10, (3, 32, 32)

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, **common) -> None:
        super().__init__(normalise="imagenet", **common)
        self.data = Images(images, labels)

    def load(self) -> Splits:
        return Splits(self.data, self.data, self.data)


class InFiles(ImageData):
    num_classes, shape = 2, (3, 224, 224)

    def __init__(self, root: Path, names: np.ndarray, **common) -> None:
        augment = Augment(crop_scale=(0.08, 1.0), flip=True)
        super().__init__(normalise="imagenet", memory="never", batch_size=STREAM_BATCH, augment=augment, **common)
        self.root, self.names = root, names

    def load(self) -> Splits:
        index = torch.arange(len(self.names))
        split = Lazy(Files(str(self.root), self.names, 3), index, index % 2)
        return Splits(split, split, split)


class Pictures(Dataset):
    """PIL images in memory, as torchvision's CIFAR10 has them."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, transform: Callable) -> None:
        self.images, self.labels, self.transform = images.permute(0, 2, 3, 1).numpy(), labels.tolist(), transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int):
        return self.transform(Image.fromarray(self.images[i])), self.labels[i]


def transforms(*first: v2.Transform) -> v2.Compose:
    normalise = v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return v2.Compose([*first, v2.ToImage(), v2.ToDtype(torch.float32, scale=True), normalise])


def loader(data: Dataset, batch_size: int, workers: int, collate: Callable | None = None) -> DataLoader:
    keep = {"shuffle": True, "drop_last": True, "persistent_workers": True}
    return DataLoader(data, batch_size, num_workers=workers, collate_fn=collate, **keep)


def mixed(batch: list) -> tuple:
    return v2.MixUp(alpha=0.2, num_classes=10)(*torch.utils.data.default_collate(batch))


def speed(batches: Iterable) -> float:
    """Images a second."""
    started = time.perf_counter()
    images = sum(len(x) for x, _ in batches)
    return images / (time.perf_counter() - started)


def compare(data: ImageData, theirs: DataLoader, turns: int, batches: int | None = None) -> dict[str, float]:
    """Largest images a second of both, and the ratio."""
    found = []
    for epoch in range(turns + 1):
        mine = itertools.islice(data.batches(data.splits.train, True, epoch), batches)
        pair = [speed(each) for each in ((mine, theirs) if epoch % 2 else (theirs, mine))]
        found.append(pair if epoch % 2 else pair[::-1])
    mine, its = zip(*found[1:], strict=True)  # in the first, workers start
    ratio = statistics.median(a / b for a, b in zip(mine, its, strict=True))
    return {"attnlab's images/s": max(mine), "torchvision's images/s": max(its), "ratio": ratio}


def in_memory(turns: int) -> dict[str, dict[str, float]]:
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (CIFAR, 3, 32, 32), generator=random, dtype=torch.uint8)
    labels = torch.randint(10, (CIFAR,), generator=random)
    policies = {"trivial": [v2.TrivialAugmentWide()], "randaugment": [v2.RandAugment()]}
    found = {}
    for name, settings in RECIPES.items():
        data = InMemory(images, labels, batch_size=BATCH, augment=Augment(pad=4, flip=True, **settings))
        chain = transforms(v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), *policies.get(name, []))
        pictures = Pictures(images[: THEIRS * BATCH], labels[: THEIRS * BATCH], chain)
        found[name] = compare(data, loader(pictures, BATCH, 2, mixed if name == "mixup" else None), turns, MINE)
    return found


def photo(seed: int) -> Image.Image:
    """Smooth noise of several scales: as much detail, and as large a file, as a photograph has."""
    random = np.random.default_rng(seed)
    pixels = np.full((375, 500, 3), 128.0)
    for side, strength in ((4, 50), (16, 30), (60, 16), (190, 12)):
        noise = 128 + strength * random.normal(size=(side, side * 4 // 3, 3))
        small = Image.fromarray(noise.clip(0, 255).astype(np.uint8))
        pixels += np.asarray(small.resize((500, 375), Image.Resampling.BICUBIC)) - 128.0
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def write_photos(root: Path) -> np.ndarray:
    names = [f"{i % 2}/{i}.jpg" for i in range(JPEGS)]
    for i, name in enumerate(names):
        (root / name).parent.mkdir(exist_ok=True)
        photo(i).save(root / name, quality=90)
    return np.array([name.encode() for name in names])


def streaming(root: Path, names: np.ndarray, turns: int) -> dict[str, dict[str, float]]:
    found = {}
    for workers in (1, 2):
        data = InFiles(root, names, workers=workers)
        chain = transforms(v2.RandomResizedCrop(224), v2.RandomHorizontalFlip())
        theirs = loader(ImageFolder(str(root), chain), STREAM_BATCH, workers)
        found[f"streaming, workers={workers}"] = compare(data, theirs, turns)
        del data, theirs  # their workers end
    return found


def memory(root: Path, names: np.ndarray) -> dict[str, float]:
    """MiB of a worker's own memory after the workers have read 1,000 images of few or of many."""
    found = {}
    for count in (FEW, MANY):
        many = np.resize(names, count)
        data = InFiles(root, many, workers=2)
        batches = iter(data.batches(data.splits.train, True))
        for _ in range(FEW // STREAM_BATCH):
            next(batches)
        used = [own_memory(worker.pid) for worker in data.stream._loader._iterator._workers]
        found[f"worker's own memory, {count:,} images, MiB"] = statistics.mean(used)
    return found


def own_memory(pid: int) -> float:
    """MiB that a process shares with no other (Linux)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def measure(turns: int = 5) -> dict[str, Any]:
    torch.set_num_threads(1)  # two that wait for each other would measure what else runs on the machine
    found = in_memory(turns)
    with tempfile.TemporaryDirectory() as folder:
        names = write_photos(Path(folder))
        return {**found, **streaming(Path(folder), names, turns), **memory(Path(folder), names)}
