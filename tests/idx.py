"""Files in the format of MNIST and its successors."""

import struct
from pathlib import Path

import numpy as np


def write_idx(path: Path, array: np.ndarray) -> None:
    """Two zeros, the type (uint8), the number of dimensions, their sizes, the bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes())


def write_fashion_mnist(root: Path, train: int, test: int) -> None:
    """Noise where torchvision looks for Fashion-MNIST, classes in equal shares."""
    random = np.random.default_rng(0)
    for name, n in (("train", train), ("t10k", test)):
        raw = root / "FashionMNIST" / "raw"
        write_idx(raw / f"{name}-images-idx3-ubyte", random.integers(0, 256, (n, 28, 28), dtype=np.uint8))
        write_idx(raw / f"{name}-labels-idx1-ubyte", (np.arange(n) % 10).astype(np.uint8))
