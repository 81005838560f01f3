"""A folder of images: what is read, what is left out, and what is said."""

import shutil
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from attnlab.data import ImageFolder
from attnlab.errors import InputError, MissingData
from attnlab.sweep import plan


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
    for split in data.splits:
        assert (split.images[:, 0, 8, 8] == 80 * split.labels).all()
    (tmp_path / "test" / "cat").rename(tmp_path / "cat")
    with pytest.raises(
        InputError, match="class 'cat' has no image in test, and 7 in all: add some, or remove the class"
    ):
        _ = ImageFolder(folder=str(tmp_path), size=16, batch_size=4).splits
    (tmp_path / "cat").rename(tmp_path / "test" / "cat")
    with pytest.raises(InputError, match=r"data.folds=3: data.folder=.* has splits of its own; set data.folds=null"):
        _ = ImageFolder(folder=str(tmp_path), folds=3, batch_size=4).splits
    (tmp_path / "val" / "owl").rename(tmp_path / "val" / "yak")
    with pytest.raises(InputError, match="class 'yak' is not among those of train"):
        ImageFolder(folder=str(tmp_path), size=16, batch_size=4)


def test_a_class_may_be_called_train(tmp_path):
    make_folder(tmp_path, classes=("cat", "plane", "train"), each=10)
    data = ImageFolder(folder=str(tmp_path), size=16, batch_size=4)
    assert data.classes == ["cat", "plane", "train"]
    assert sum(len(split) for split in data.splits) == 30
    make_folder(tmp_path / "train", each=5)  # now a split, with images beside its classes
    make_folder(tmp_path / "test", each=5)
    data = ImageFolder(folder=str(tmp_path), size=16, batch_size=4)
    assert data.classes == ["cat", "dog", "owl"]
    assert sum(len(split) for split in data.splits) == 30
    assert "10 files beside the classes' folders; the folders cat, plane" in " ".join(data.notes)


def test_each_real_folder_is_read_once(tmp_path):
    make_folder(tmp_path / "far", classes=("more",), each=3)
    photos = tmp_path / "photos"
    make_folder(photos, each=10)
    for name, to in (
        ("cat/self", photos / "cat"),
        ("cat/up", photos),
        ("cat/more", tmp_path / "far" / "more"),
        ("cat/again", tmp_path / "far" / "more"),
        ("emu", tmp_path / "far"),
    ):
        (photos / name).symlink_to(to)
    data = ImageFolder(folder=str(photos), size=16, batch_size=4, val=0.3, test=0.3)
    assert data.classes == ["cat", "dog", "emu", "owl"]
    assert np.bincount(data.listing.labels).tolist() == [13, 10, 3, 10]
    assert sum(len(split) for split in data.splits) == 36


def test_val_is_drawn_from_train_where_it_is_missing(tmp_path):
    for name, each in (("train", 10), ("test", 3)):
        make_folder(tmp_path / name, each=each)
    data = ImageFolder(folder=str(tmp_path), size=16, val=0.2, batch_size=4)
    assert [len(split) for split in data.splits] == [24, 6, 9]
    assert data.notes[0] == f"data.folder={tmp_path}: val is a share of 0.2 of train, because none is given"
    shutil.rmtree(tmp_path / "test")
    with pytest.raises(InputError, match="no image in test, though there are splits"):
        _ = ImageFolder(folder=str(tmp_path), size=16, batch_size=4).splits


def test_broken_images_are_named(tmp_path):
    make_folder(tmp_path)
    whole = (tmp_path / "dog" / "1.png").read_bytes()
    (tmp_path / "dog" / "0.png").write_bytes(b"no picture")
    (tmp_path / "dog" / "1.png").write_bytes(whole[:-30])
    named = r"cannot be read: dog/0\.png \(no image\), dog/1\.png \(.*truncated.*\); repair or remove, or set data\.un"
    with pytest.raises(InputError, match=named) as error:
        _ = ImageFolder(folder=str(tmp_path)).splits
    assert len(str(error.value).splitlines()) == 1
    for i in range(3):
        (tmp_path / "cat" / f"{i}.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"cat/2\.png \(no image\) and 2 more; repair"):
        ImageFolder(folder=str(tmp_path)).check()
    skipping = ImageFolder(folder=str(tmp_path), unreadable="skip", size=16, batch_size=4)
    assert sum(len(split) for split in skipping.splits) == 55
    (note,) = skipping.notes
    assert (
        "skipped 5 that cannot be read: cat/0.png (no image), cat/1.png (no image), cat/2.png (no image) and 2" in note
    )


def test_what_is_no_image_of_a_class_is_told_once(tmp_path):
    make_folder(tmp_path)
    before = ImageFolder(folder=str(tmp_path), size=16, batch_size=4)
    assert (len(before.splits.train), before.notes) == (42, ())
    for name in ("dog/notes.txt", "cat/README", "cat/.DS_Store", "owl/Thumbs.db", "cat/.x/y.png", "dog/._1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    for name in (".git/config", "__MACOSX/._1.png", "newt/only.txt", "yak"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).mkdir() if name == "yak" else (tmp_path / name).write_bytes(b"")
    (tmp_path / "cat" / "more" / "young").mkdir(parents=True)
    (tmp_path / "cat" / "7.png").rename(tmp_path / "cat" / "more" / "young" / "7.png")
    Image.new("RGB", (9, 9)).save(tmp_path / "beside.png")
    data = ImageFolder(folder=str(tmp_path), size=16, batch_size=4)
    assert (data.num_classes, data.classes) == (3, ["cat", "dog", "owl"])
    assert sum(len(split) for split in data.splits) == 60
    (note,) = data.notes
    assert note == (
        f"data.folder={tmp_path}: left out 3 files of other formats: .txt 2, no extension 1; 1 file beside the "
        "classes' folders; 4 hidden or of a system; the folders .git, __MACOSX; the folders without images newt, yak. "
        "1 file in folders within a class's folder: of that class"
    )


def photo(size=(40, 30), colour=(200, 30, 90)):
    """A picture whose upper left quarter is black."""
    image = Image.new("RGB", size, colour)
    image.paste((0, 0, 0), (0, 0, size[0] // 2, size[1] // 2))
    return image


def test_a_dirty_folder(tmp_path):
    """What each kind of file becomes, in a folder as people have them."""
    red, blue = tmp_path / "rot & Süß", tmp_path / "naïve 日本"
    for folder in (red, blue, tmp_path / "empty"):
        folder.mkdir()
    for i in range(6):
        photo(colour=(200, 30 + i, 90)).save(red / f"{i}.png")
        photo(colour=(30 + i, 90, 200)).save(blue / f"{i}.png")
    grey16 = np.full((30, 40), 200 * 257, np.uint16)
    grey16[:15, :20] = 0
    alpha = Image.new("RGBA", (40, 30), (1, 2, 3, 0))
    alpha.paste((200, 30, 90, 255), (20, 0, 40, 30))
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned clockwise by 90°
    kinds = {
        "palette.png": (photo().convert("P", palette=Image.Palette.ADAPTIVE), {}),
        "alpha.png": (alpha, {}),
        "sixteen.png": (Image.fromarray(grey16), {}),
        "cmyk.jpg": (photo().convert("CMYK"), {"quality": 100}),
        "moving.gif": (photo(), {"save_all": True, "append_images": [Image.new("RGB", (40, 30))]}),
        "turned.jpg": (photo(), {"exif": turned, "quality": 100}),
        "UPPER.JPEG": (photo(), {"quality": 100}),
        "grey.webp": (photo().convert("L"), {"lossless": True}),
    }
    for name, (image, how) in kinds.items():
        image.save(red / name, **how)
    whole = (red / "UPPER.JPEG").read_bytes()
    (red / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (red / "text.png").write_text("a text")
    shutil.copy(red / "0.png", blue / "0 again.png")

    settings = {"folder": str(tmp_path), "size": 30, "val": 0.3, "test": 0.3, "batch_size": 2}
    with pytest.raises(
        InputError, match=r"Süß/text\.png \(no image\), rot & Süß/truncated\.jpg \(.*[Tt]runcated.*\); rep"
    ):
        ImageFolder(**settings).check()
    data = ImageFolder(**settings, unreadable="skip")
    data.check()
    assert (data.classes, data.shape) == (["naïve 日本", "rot & Süß"], (3, 30, 30))
    files = data.loaded.train.read
    assert sorted(name.decode() for name in files.names if b"png" not in name.lower()) == sorted(
        f"rot & Süß/{name}" for name in kinds if "png" not in name
    )
    pixel = {}
    for i, name in enumerate(files.names):
        image = data.fit(files(i))
        at = {"left top": image[:, 3, 3], "left bottom": image[:, 26, 3], "right top": image[:, 3, 26]}
        pixel[name.decode().partition("/")[2]] = {where: tuple(colour.tolist()) for where, colour in at.items()}

    def near(found, *wanted):
        return max(abs(a - b) for a, b in zip(found, wanted, strict=True)) <= 3

    for name in ("palette.png", "cmyk.jpg", "moving.gif", "UPPER.JPEG"):
        assert near(pixel[name]["left top"], 0, 0, 0), name
        assert near(pixel[name]["left bottom"], 200, 30, 90), name
    assert pixel["alpha.png"]["left top"] == (255, 255, 255)
    assert pixel["alpha.png"]["right top"] == (200, 30, 90)
    assert pixel["sixteen.png"]["left bottom"] == (200, 200, 200)
    assert pixel["sixteen.png"]["left top"] == (0, 0, 0)
    assert near(pixel["turned.jpg"]["right top"], 0, 0, 0)
    assert near(pixel["turned.jpg"]["left top"], 200, 30, 90)
    told = " ".join(data.notes)
    assert "skipped 2 that cannot be read" in told
    assert "the folder without images empty" in told
    (tmp_path / "lonely").mkdir()
    photo().save(tmp_path / "lonely" / "1.png")
    with pytest.raises(InputError, match="class 'lonely' has 1 image: train, val and test need one each; add some, or"):
        ImageFolder(**settings, unreadable="skip").check()


@pytest.mark.parametrize("seed", range(3))
def test_identical_images_in_two_splits_are_told_and_dropped(tmp_path, seed):
    make_folder(tmp_path)
    for i in range(20):  # the same pixels in another format
        Image.open(tmp_path / "owl" / f"{i}.png").save(tmp_path / "cat" / f"again{i}.bmp")
    settings = {"folder": str(tmp_path), "size": 16, "batch_size": 4, "seed": seed}
    kept, dropped = ImageFolder(**settings), ImageFolder(**settings, duplicates="drop")
    pixels = [[{image.numpy().tobytes() for image in part.images} for part in data.splits] for data in (kept, dropped)]
    assert len(kept.splits.train) == 56
    assert pixels[0][0] & (pixels[0][1] | pixels[0][2])
    assert not pixels[1][0] & (pixels[1][1] | pixels[1][2])
    assert not pixels[1][1] & pixels[1][2]
    assert torch.equal(dropped.splits.test.images, kept.splits.test.images)
    assert "of train in " in kept.notes[0]
    assert kept.notes[0].endswith("(kept; data.duplicates=drop drops them)")
    assert dropped.notes[0].endswith("(dropped from the first of the two)")


def test_channels_are_those_of_the_files(tmp_path):
    make_folder(tmp_path, each=5)
    for path in tmp_path.glob("*/*.png"):
        Image.open(path).convert("L").save(path)
    settings = {"folder": str(tmp_path), "size": 16, "batch_size": 4, "val": 0.2, "test": 0.2}
    assert ImageFolder(**settings).shape == ImageFolder(**settings).splits.train.images.shape[1:] == (1, 16, 16)
    assert ImageFolder(**settings, channels=3).splits.val.images.shape[1:] == (3, 16, 16)
    Image.new("RGB", (30, 30)).save(tmp_path / "owl" / "colour.png")
    assert ImageFolder(**settings).shape == (3, 16, 16)
    assert ImageFolder(**settings, channels=1).splits.test.images.shape[1:] == (1, 16, 16)


def test_folds_test_each_image_once(tmp_path):
    make_folder(tmp_path, each=10)
    settings = {"folder": str(tmp_path), "size": 8, "val": 0.25, "batch_size": 4, "folds": 5}
    tested = []
    for fold in range(5):
        splits = ImageFolder(**settings, fold=fold).loaded
        assert [len(split) for split in splits] == [18, 6, 6]
        assert torch.bincount(splits.test.labels).tolist() == [2, 2, 2]
        tested += splits.test.indices.tolist()
        assert len({*splits.train.indices.tolist(), *splits.val.indices.tolist(), *splits.test.indices.tolist()}) == 30
    assert sorted(tested) == list(range(30))
    with pytest.raises(InputError, match=r"data.fold=5 with data.folds=5: must be 0 to 4"):
        ImageFolder(**settings, fold=5)


def test_settings_without_effect_make_no_other_points(tmp_path):
    make_folder(tmp_path, each=5)
    folder = ["-m", "data=image_folder", f"data.folder={tmp_path}", "data.size=32", "data.batch_size=4"]
    assert (
        len(plan.make([*folder, "data.folds=null,2", "data.fold=0", "data.test=0.2,0.3", "data.val=0.3"]).points) == 3
    )


def test_a_fold_without_folds_is_an_error(tmp_path):
    make_folder(tmp_path, each=5)
    with pytest.raises(InputError, match=r"data.fold=2: has no effect without data.folds$"):
        plan.make(["data=image_folder", f"data.folder={tmp_path}", "data.size=32", "data.fold=2"])


@pytest.mark.parametrize("folds", [None, 3])
def test_one_persons_images_stay_together(tmp_path, folds):
    for name in ("calm", "glad"):
        (tmp_path / name).mkdir()
        for i in range(40):
            Image.new("L", (8, 8), i).save(tmp_path / name / f"person{i % 10}_{i}.png")
    settings = {"folder": str(tmp_path), "size": 8, "val": 0.2, "test": 0.2, "batch_size": 4, "folds": folds}
    data = ImageFolder(**settings, group=r"/(person\d+)_")
    people = [
        {data.loaded.train.read.names[i].decode().partition("person")[2].partition("_")[0] for i in split.indices}
        for split in data.loaded
    ]
    assert not people[0] & people[1] | people[0] & people[2] | people[1] & people[2]
    assert len(set.union(*people)) == 10
    assert all(len(torch.bincount(split.labels)) == 2 for split in data.loaded)
    assert "makes 10 groups" in data.notes[0]
    assert len(data.test_groups) == len(data.loaded.test.labels)
    assert len({*data.test_groups}) > 1
    assert len(data.notes) == (1 if folds is None else 2)  # ten people in three folds: 4, 3 and 3
    again = ImageFolder(**settings, group=r"/(person\d+)_")
    assert torch.equal(again.loaded.train.indices, data.loaded.train.indices)
    for group, message in (
        (r"person\d", "must have a group in parentheses"),
        ("(", "must be a regular expression"),
        (r"(animal\d)", r"not found in calm/person0_0\.png, .* and 77 more"),
    ):
        with pytest.raises(InputError, match=message):
            _ = ImageFolder(**settings, group=group).loaded


def test_shares_that_groups_do_not_allow_are_told(tmp_path):
    for name in ("calm", "glad"):
        (tmp_path / name).mkdir()
        for i in range(40):
            Image.new("L", (8, 8), i).save(tmp_path / name / f"person{i % 4}_{i}.png")
    settings = {"folder": str(tmp_path), "size": 8, "batch_size": 4, "group": r"/(person\d+)_"}
    data = ImageFolder(**settings, val=0.35, test=0.35)
    _ = data.loaded
    assert [note.partition(": ")[2] for note in data.notes[1:]] == [
        "test is a share of 0.25, not of 0.35, because groups stay together",
        "val is a share of 0.25, not of 0.35, because groups stay together",
    ]


def test_real_photographs(shared_data, tmp_path):
    with tarfile.open(shared_data / "flowers128.tar") as tar:
        members = [m for m in tar.getmembers() if m.isfile() and m.name.endswith(("0_n.jpg", "1_n.jpg", "2_n.jpg"))]
        tar.extractall(tmp_path, members, filter="data")
    root = next(p for p in (tmp_path, *tmp_path.iterdir()) if (p / "tulip").is_dir())
    data = ImageFolder(folder=str(root), size=32, batch_size=16)
    assert (data.num_classes, data.shape) == (5, (3, 32, 32))
    assert sum(len(split) for split in data.splits) == len(members) > 100
    assert data.classes == ["daisy", "dandelion", "rose", "sunflower", "tulip"]


@pytest.mark.parametrize("make", [lambda root: None, lambda root: (root / "only").mkdir()])
def test_no_folder_of_classes(tmp_path, make):
    make(tmp_path)
    with pytest.raises(InputError, match=r"data.folder=.*must be a folder with a subfolder of images for each class"):
        ImageFolder(folder=str(tmp_path))


def test_stated_classes_need_no_folder_until_the_data_are_loaded(tmp_path):
    data = ImageFolder(folder=str(tmp_path / "absent"), size=24, num_classes=7)
    assert (data.num_classes, data.shape) == (7, (3, 24, 24))
    with pytest.raises(InputError, match=r"data.folder=: must name a folder"):
        ImageFolder(folder="")
    with pytest.raises(
        MissingData, match=r"data.folder=.*absent: no such folder; it must be a folder with a subfolder of images"
    ):
        _ = data.splits
    make_folder(tmp_path)
    assert ImageFolder(folder=str(tmp_path), num_classes=3).num_classes == 3
    with pytest.raises(InputError, match=r"data.num_classes=7: .* has 3 subfolders"):
        ImageFolder(folder=str(tmp_path), num_classes=7)
    with pytest.raises(InputError, match=r"data.num_classes=1: must be at least 2"):
        ImageFolder(folder=str(tmp_path), num_classes=1)
