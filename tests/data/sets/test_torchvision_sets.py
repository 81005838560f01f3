"""Official data sets: real ones where they are there, small files of their formats made here."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from attnlab.data import TorchvisionData, TorchvisionPhotos
from attnlab.errors import InputError
from tests.idx import write_idx


def test_fashion_mnist_from_its_official_files(shared_data, tmp_path):
    shutil.copytree(shared_data / "FashionMNIST", tmp_path / "FashionMNIST")
    data = TorchvisionData(dataset="fashion_mnist", root=str(tmp_path), seed=1)
    assert [len(split) for split in data.splits] == [54_000, 6_000, 10_000]
    assert data.splits.train.images.shape[1:] == data.shape == (1, 28, 28)
    assert torch.bincount(data.splits.val.labels).tolist() == [600] * 10
    mean, std = data.moments  # of 90 % of the images; the known ones are of all
    assert (float(mean), float(std)) == pytest.approx((0.28604, 0.35302), abs=1e-3)
    assert TorchvisionData(dataset="fashion_mnist", root=str(tmp_path), size=32).shape == (1, 32, 32)


@pytest.fixture
def cifar10(tmp_path, monkeypatch):
    """CIFAR-10's layout with a few random images; torchvision checks its files by their hashes, off for these."""
    import torchvision

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_check_integrity", lambda self: True)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    random = np.random.default_rng(0)
    images = {}
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        images[name] = random.integers(0, 256, (20, 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": images[name], "labels": [i % 10 for i in range(20)]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    monkeypatch.setattr(
        torchvision.datasets.CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": None}
    )
    return tmp_path, images


def test_cifar10_layout(cifar10):
    root, images = cifar10
    data = TorchvisionData(dataset="cifar10", root=str(root), val=0.2, download=False, batch_size=10)
    assert [len(split) for split in data.splits] == [80, 20, 20]
    assert torch.equal(data.splits.test.images, torch.from_numpy(images["test_batch"].reshape(20, 3, 32, 32)))
    assert data.splits.test.labels.tolist() == [i % 10 for i in range(20)]
    assert TorchvisionData(dataset="cifar10", root=str(root), size=16, download=False).splits.test.images.shape == (
        20,
        3,
        16,
        16,
    )


@pytest.mark.parametrize("dataset", [*TorchvisionData.sets, *TorchvisionPhotos.sets])
def test_absent_without_download(tmp_path, dataset):
    with pytest.raises(
        InputError, match=rf"data={dataset}: put .* into {tmp_path}, or set data.root \(data.download=true fetches"
    ) as error:
        _ = make(dataset, root=str(tmp_path), download=False).splits
    assert len(str(error.value).splitlines()) == 1


def test_absent_and_offline(tmp_path, monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(InputError, match=r"data=fashion_mnist: put FashionMNIST/raw.*\(the download failed: ") as error:
        _ = TorchvisionData(dataset="fashion_mnist", root=str(tmp_path)).splits
    assert len(str(error.value).splitlines()) == 1


def make(dataset, **settings):
    return (TorchvisionData if dataset in TorchvisionData.sets else TorchvisionPhotos)(dataset=dataset, **settings)


@pytest.mark.parametrize(
    ("dataset", "folder", "prefix", "classes"),
    [
        ("mnist", "MNIST", ("train", "t10k"), 10),
        ("kmnist", "KMNIST", ("train", "t10k"), 10),
        ("fashion_mnist", "FashionMNIST", ("train", "t10k"), 10),
        ("emnist", "EMNIST", ("emnist-balanced-train", "emnist-balanced-test"), 47),
    ],
)
def test_idx_files(tmp_path, dataset, folder, prefix, classes):
    random = np.random.default_rng(0)
    written = {}
    for name, each in zip(prefix, (10, 2), strict=True):
        written[name] = random.integers(0, 256, (each * classes, 28, 28), dtype=np.uint8)
        write_idx(tmp_path / folder / "raw" / f"{name}-images-idx3-ubyte", written[name])
        labels = (np.arange(each * classes) % classes).astype(np.uint8)
        write_idx(tmp_path / folder / "raw" / f"{name}-labels-idx1-ubyte", labels)
    data = TorchvisionData(dataset=dataset, root=str(tmp_path), download=False, val=0.2)
    assert [len(split) for split in data.splits] == [8 * classes, 2 * classes, 2 * classes]
    upright = written[prefix[1]].transpose(0, 2, 1) if dataset == "emnist" else written[prefix[1]]
    assert torch.equal(data.splits.test.images[:, 0], torch.from_numpy(upright.copy()))
    assert data.splits.test.labels.tolist() == [i % classes for i in range(2 * classes)]
    assert (data.shape, data.num_classes, len(data.classes)) == ((1, 28, 28), classes, classes)


def test_svhn_matlab_files(tmp_path, monkeypatch):
    import torchvision

    monkeypatch.setattr(torchvision.datasets.SVHN, "_check_integrity", lambda self: True)
    random = np.random.default_rng(0)
    labels = np.arange(40) % 10 + 1  # 10 stands for the digit 0
    images = random.integers(0, 256, (32, 32, 3, 40), dtype=np.uint8)
    for name in ("train", "test"):
        savemat(tmp_path / f"{name}_32x32.mat", {"X": images, "y": labels[:, None].astype(np.uint8)})
    data = TorchvisionData(dataset="svhn", root=str(tmp_path), download=False, val=0.25, batch_size=8)
    assert [len(split) for split in data.splits] == [30, 10, 40]
    assert data.splits.test.labels.tolist() == (labels % 10).tolist()
    assert torch.equal(data.splits.test.images, torch.from_numpy(images.transpose(3, 2, 0, 1).copy()))


def test_stl10_binary_files(tmp_path, monkeypatch):
    import torchvision

    monkeypatch.setattr(torchvision.datasets.STL10, "_check_integrity", lambda self: True)
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    (folder / "class_names.txt").write_text("\n".join(TorchvisionData.sets["stl10"].classes) + "\n")
    random = np.random.default_rng(0)
    for name in ("train", "test"):
        images = random.integers(0, 256, (20, 3, 96, 96), dtype=np.uint8)
        images.transpose(0, 1, 3, 2).tofile(folder / f"{name}_X.bin")  # column by column
        (np.arange(20) % 10 + 1).astype(np.uint8).tofile(folder / f"{name}_y.bin")
    data = TorchvisionData(dataset="stl10", root=str(tmp_path), download=False, val=0.5, batch_size=8)
    assert data.shape == (3, 96, 96)
    assert torch.equal(data.splits.test.images, torch.from_numpy(images))
    assert data.splits.test.labels.tolist() == [i % 10 for i in range(20)]


def test_cifar100_names_its_classes(tmp_path, monkeypatch):
    import torchvision

    monkeypatch.setattr(torchvision.datasets.CIFAR100, "_check_integrity", lambda self: True)
    monkeypatch.setattr(
        torchvision.datasets.CIFAR100, "meta", {"filename": "meta", "key": "fine_label_names", "md5": None}
    )
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    names = [f"thing {i}" for i in range(100)]
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": names}))
    for name in ("train", "test"):
        batch = {"data": np.zeros((200, 3072), np.uint8), "fine_labels": [i % 100 for i in range(200)]}
        (folder / name).write_bytes(pickle.dumps(batch))
    data = TorchvisionData(dataset="cifar100", root=str(tmp_path), download=False, val=0.5)
    assert data.classes[7] == "7"
    assert len(data.splits.test) == 200
    assert data.classes == names


def photo(path, red, size=(50, 40)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (red, 0, 0)).save(path)


def test_eurosat_is_split_by_seed(tmp_path):
    for c, name in enumerate(TorchvisionPhotos.sets["eurosat"].classes):
        for i in range(10):
            photo(tmp_path / "eurosat" / "2750" / name / f"{name}_{i}.png", 20 * c, (64, 64))
    data = TorchvisionPhotos(
        dataset="eurosat", root=str(tmp_path), download=False, val=0.2, test=0.2, size=64, batch_size=4
    )
    assert [len(split) for split in data.splits] == [60, 20, 20]
    for split in data.splits:
        assert (split.images[:, 0, 9, 9] == 20 * split.labels).all()
    assert data.classes[4] == "Industrial"


def test_oxford_pets(tmp_path):
    base = tmp_path / "oxford-iiit-pet"
    for part, each in (("trainval", 4), ("test", 2)):
        lines = []
        for c in range(37):
            for i in range(each):
                photo(base / "images" / f"breed_{c:02}_{part}{i}.jpg", 5 * c, (30 + c, 40))
                lines.append(f"breed_{c:02}_{part}{i} {c + 1} 1 1")
        (base / "annotations").mkdir(exist_ok=True)
        (base / "annotations" / f"{part}.txt").write_text("\n".join(lines))
    data = TorchvisionPhotos(dataset="oxford_pets", root=str(tmp_path), download=False, val=0.25, size=24)
    assert [len(split) for split in data.loaded] == [111, 37, 74]
    assert (data.splits.test.images[:, 0, 9, 9].int() - 5 * data.splits.test.labels).abs().max() < 4  # JPEG
    assert (len(data.classes), data.classes[3]) == (37, "Breed 03")


def test_flowers102_has_official_validation_images(tmp_path, monkeypatch):
    import torchvision

    monkeypatch.setattr(torchvision.datasets.flowers102, "check_integrity", lambda path, md5: True)
    base = tmp_path / "flowers-102"
    labels = np.arange(408) % 102 + 1
    for i in range(408):
        photo(base / "jpg" / f"image_{i + 1:05}.jpg", 2 * int(labels[i]), (20, 20))
    savemat(base / "imagelabels.mat", {"labels": labels[None]})
    ids = np.arange(1, 409)[None]
    savemat(base / "setid.mat", {"trnid": ids[:, :102], "valid": ids[:, 102:204], "tstid": ids[:, 204:]})
    data = TorchvisionPhotos(dataset="flowers102", root=str(tmp_path), download=False, size=16)
    assert [len(split) for split in data.splits] == [102, 102, 204]
    assert data.splits.val.labels.tolist() == list(range(102))
    assert (data.splits.val.images[:, 0, 9, 9].int() - 2 * (data.splits.val.labels + 1)).abs().max() < 4


def test_food101(tmp_path):
    base = tmp_path / "food-101"
    names = [f"food_{c:03}" for c in range(101)]
    for part, each in (("train", 2), ("test", 1)):
        files = {name: [f"{name}/{part}{i}" for i in range(each)] for name in names}
        for c, name in enumerate(names):
            for file in files[name]:
                photo(base / "images" / f"{file}.jpg", 2 * c, (20, 30))
        (base / "meta").mkdir(exist_ok=True)
        (base / "meta" / f"{part}.json").write_text(json.dumps(files))
    data = TorchvisionPhotos(dataset="food101", root=str(tmp_path), download=False, val=0.5, size=16)
    assert [len(split) for split in data.loaded] == [101, 101, 101]
    assert data.classes == names


@pytest.mark.parametrize(
    ("size", "edition"), [(128, "imagenette2-160"), (224, "imagenette2-320"), (400, "imagenette2")]
)
def test_imagenette_edition_by_size(tmp_path, size, edition):
    from torchvision.datasets import Imagenette

    for part, each in (("train", 2), ("val", 1)):
        for c, wnid in enumerate(sorted(Imagenette._WNID_TO_CLASS)):
            for i in range(each):
                photo(tmp_path / edition / part / wnid / f"{i}.JPEG", 20 * c, (20, 30))
    data = TorchvisionPhotos(dataset="imagenette", root=str(tmp_path), download=False, val=0.5, size=size, batch_size=2)
    assert [len(split) for split in data.loaded] == [10, 10, 10]
    assert data.classes[2] == "cassette player"
