"""Data sets on disk: real ones where they are there, small ones made here, and what is absent is named."""

import pickle
import shutil
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from attnlab.data import ImageFolder, TorchvisionData
from attnlab.errors import InputError, MissingData


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


@pytest.mark.parametrize("dataset", ["fashion_mnist", "cifar10", "cifar100"])
def test_absent_without_download(tmp_path, dataset):
    with pytest.raises(
        InputError, match=rf"data={dataset}: put .* into {tmp_path}, or set data.root \(data.download=true fetches"
    ) as error:
        _ = TorchvisionData(dataset=dataset, root=str(tmp_path), download=False).splits
    assert len(str(error.value).splitlines()) == 1


def test_absent_and_offline(tmp_path, monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(InputError, match=r"data=fashion_mnist: put FashionMNIST/raw.*\(the download failed: ") as error:
        _ = TorchvisionData(dataset="fashion_mnist", root=str(tmp_path)).splits
    assert len(str(error.value).splitlines()) == 1


def make_folder(root, classes=("cat", "dog", "owl"), each=20):
    for c, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(each):
            Image.new("RGB", (40 + i, 30), (80 * c, i, 0)).save(root / name / f"{i}.png")


def test_image_folder_is_split_by_seed(tmp_path):
    make_folder(tmp_path)
    data = ImageFolder(folder=str(tmp_path), size=16, val=0.15, test=0.25, batch_size=4, seed=2)
    assert (data.num_classes, data.shape) == (3, (3, 16, 16))
    assert [len(split) for split in data.splits] == [36, 9, 15]
    for split in data.splits:
        assert (split.images[:, 0, 8, 8] == 80 * split.labels).all()  # red tells the class
        assert len(set(torch.bincount(split.labels).tolist())) == 1  # in equal shares
    greens = [set(zip(s.labels.tolist(), s.images[:, 1, 8, 8].tolist(), strict=True)) for s in data.splits]
    assert len(set.union(*greens)) == 60  # disjoint and complete
    again = ImageFolder(folder=str(tmp_path), size=16, val=0.15, test=0.25, batch_size=4, seed=2)
    assert torch.equal(again.splits.train.images, data.splits.train.images)


def test_image_folder_with_given_splits(tmp_path):
    for name, each in (("train", 5), ("val", 2), ("test", 3)):
        make_folder(tmp_path / name, each=each)
    data = ImageFolder(folder=str(tmp_path), size=16, batch_size=4)
    assert [len(split) for split in data.splits] == [15, 6, 9]
    shutil.rmtree(tmp_path / "test" / "cat")  # labels go by the names of train's classes, not by position
    test = ImageFolder(folder=str(tmp_path), size=16, batch_size=4).splits.test
    assert test.labels.tolist() == [1, 1, 1, 2, 2, 2]
    assert (test.images[:, 0, 8, 8] == 80 * test.labels).all()
    (tmp_path / "val" / "owl").rename(tmp_path / "val" / "yak")
    with pytest.raises(InputError, match="class 'yak' is not among those of train"):
        _ = ImageFolder(folder=str(tmp_path), size=16, batch_size=4).splits


def test_broken_images_are_named(tmp_path):
    make_folder(tmp_path)
    whole = (tmp_path / "dog" / "1.png").read_bytes()
    (tmp_path / "dog" / "0.png").write_bytes(b"no picture")
    (tmp_path / "dog" / "1.png").write_bytes(whole[:-30])
    named = r"cannot be read: dog/0\.png \(no image\), dog/1\.png \(.*truncated.*\); repair or remove$"
    with pytest.raises(InputError, match=named) as error:
        _ = ImageFolder(folder=str(tmp_path)).splits
    assert len(str(error.value).splitlines()) == 1
    for i in range(3):
        (tmp_path / "cat" / f"{i}.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"cat/2\.png \(no image\) and 2 more; repair"):
        _ = ImageFolder(folder=str(tmp_path)).splits


def test_what_is_left_out_is_counted_and_what_is_no_class_is_none(tmp_path):
    make_folder(tmp_path)
    before = ImageFolder(folder=str(tmp_path), size=16, batch_size=4)
    assert (len(before.splits.train), before.notes) == (42, ())
    Image.new("RGB", (9, 9)).save(tmp_path / "dog" / "moving.gif")
    for name in ("dog/a.GIF", "cat/notes.txt", "cat/README", "cat/.DS_Store", ".git/config", "__MACOSX/._1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    data = ImageFolder(folder=str(tmp_path), size=16, batch_size=4)
    assert torch.equal(data.splits.train.images, before.splits.train.images)
    assert data.num_classes == 3
    (note,) = data.notes
    assert note == (
        f"data.folder={tmp_path}: left out 4 files of other formats: .gif 2, .txt 1, no extension 1; "
        "the folders .git, __MACOSX"
    )
    (tmp_path / "newt").mkdir()
    (tmp_path / "newt" / "only.gif").write_bytes(b"")
    with pytest.raises(InputError, match=r"no image in newt; remove the folder \(left out 5 files .*: \.gif 3, "):
        _ = ImageFolder(folder=str(tmp_path)).splits


def test_real_photographs(shared_data, tmp_path):
    with tarfile.open(shared_data / "flowers128.tar") as tar:
        members = [m for m in tar.getmembers() if m.isfile() and m.name.endswith(("0_n.jpg", "1_n.jpg", "2_n.jpg"))]
        tar.extractall(tmp_path, members, filter="data")
    root = next(p for p in (tmp_path, *tmp_path.iterdir()) if (p / "tulip").is_dir())
    data = ImageFolder(folder=str(root), size=32, batch_size=16)
    assert data.num_classes == 5
    assert sum(len(split) for split in data.splits) == len(members) > 100


@pytest.mark.parametrize("make", [lambda root: None, lambda root: (root / "only").mkdir()])
def test_no_folder_of_classes(tmp_path, make):
    make(tmp_path)
    with pytest.raises(InputError, match=r"data.folder=.*: must be a folder with a subfolder of images for each class"):
        ImageFolder(folder=str(tmp_path))


def test_stated_classes_need_no_folder_until_the_data_are_loaded(tmp_path):
    data = ImageFolder(folder=str(tmp_path / "absent"), size=24, num_classes=7)
    assert (data.num_classes, data.shape) == (7, (3, 24, 24))
    with pytest.raises(MissingData, match=r"data.folder=.*absent: must be a folder with a subfolder of images"):
        _ = data.splits
    make_folder(tmp_path)
    assert ImageFolder(folder=str(tmp_path), num_classes=3).num_classes == 3
    with pytest.raises(InputError, match=r"data.num_classes=7: .* has 3 subfolders"):
        ImageFolder(folder=str(tmp_path), num_classes=7)
    with pytest.raises(InputError, match=r"data.num_classes=1: must be at least 2"):
        ImageFolder(folder=str(tmp_path), num_classes=1)


def test_an_empty_class_is_named(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "newt").mkdir()
    with pytest.raises(InputError, match="newt"):
        _ = ImageFolder(folder=str(tmp_path)).splits
