"""ImageNet's layout: train and val by WordNet id."""

import pytest
from PIL import Image

from attnlab.data import ImageNet
from attnlab.errors import InputError, MissingData

IDS = ["n01440764", "n01443537", "n02102040"]


@pytest.fixture
def root(tmp_path):
    for part, each in (("train", 4), ("val", 2)):
        for c, name in enumerate(IDS):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(each):
                path = tmp_path / part / name / (f"{name}_{i}.JPEG" if part == "train" else f"ILSVRC2012_val_{i}.JPEG")
                Image.new("L" if i == 1 else "RGB", (50, 40 + i), 100 * c).convert("RGB").save(path)
    return tmp_path


def test_the_test_images_are_those_of_val(root):
    data = ImageNet(root=str(root), num_classes=3, size=32, batch_size=4)
    assert (data.shape, data.classes[2], data.num_classes) == ((3, 32, 32), "2", 3)
    assert [len(split) for split in data.splits] == [12, 6, 6]
    assert data.classes == IDS
    assert data.splits.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert data.splits.test.images.equal(data.splits.val.images)
    assert data.notes == [f"data.root={root}: test = val: the labels of ImageNet's test images are not public"]


def test_planned_without_files_and_told_what_is_missing(root):
    data = ImageNet(root=str(root / "absent"))
    assert (data.num_classes, data.shape) == (1000, (3, 224, 224))
    with pytest.raises(MissingData, match=r"data.root=.*absent: must hold train/ and val/, each with a folder a class"):
        data.check()
    with pytest.raises(InputError, match=r"3 folders in train/; must be data.num_classes=1000"):
        ImageNet(root=str(root)).check()
    (root / "val" / IDS[1]).rename(root / "val" / "n1")
    with pytest.raises(InputError, match=r"val/n01443537 is missing; val/ must have the classes of train/"):
        ImageNet(root=str(root), num_classes=3).check()


def test_files_are_not_decoded_before_they_are_needed(root):
    (root / "train" / IDS[0] / f"{IDS[0]}_0.JPEG").write_bytes(b"no")
    settings = {"root": str(root), "num_classes": 3, "size": 32, "batch_size": 4}
    data = ImageNet(**settings)
    data.check()
    with pytest.raises(InputError, match=r"n01440764_0.JPEG: cannot be read: no image; repair or remove it"):
        _ = data.splits
    with pytest.raises(InputError, match=r"cannot be read: train/n01440764/n01440764_0.JPEG \(no image\); repair"):
        ImageNet(**settings, unreadable="error").check()
    assert len(ImageNet(**settings, unreadable="skip").loaded.train) == 11
