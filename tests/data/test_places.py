"""Known places: a mask goes the way of its image's pixels."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from attnlab.data import Augment, ClutteredDigits, Digits, ImageFolder, Images
from attnlab.data.decode import ORIENTATION
from attnlab.data.places import Given, evenly, known_places
from attnlab.errors import InputError

SIZE = 16
BOX = (9, 3, 25, 13)  # of images 40 wide and 24 high


@pytest.fixture
def photos(tmp_path):
    """Black images with a white box, stored in each of EXIF's orientations, and the CSV of the boxes."""
    rows = []
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(12):
            pixels = np.zeros((24, 40, 3), np.uint8)
            pixels[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 255
            exif = Image.Exif()
            exif[ORIENTATION] = i % 8 + 1
            file = f"{name}/{i}.{'tif' if i >= 8 or name == 'dog' else 'png'}"  # Pillow turns these itself
            Image.fromarray(pixels).save(tmp_path / "photos" / file, exif=exif)
            rows.append([file, *BOX])
    write(tmp_path / "boxes.csv", rows)
    return tmp_path


def write(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["file", "x0", "y0", "x1", "y1"], *rows])


def data_of(folder, **settings):
    share = settings.pop("eval_share", 1.0)
    augment = Augment(eval_share=share)
    return ImageFolder(folder=str(folder / "photos"), size=SIZE, batch_size=2, augment=augment, test=0.4, **settings)


@pytest.mark.parametrize(
    "settings",
    [{"fit": "crop"}, {"fit": "pad", "background": "black"}, {"fit": "stretch"}, {"fit": "crop", "eval_share": 0.8}],
    ids=str,
)
@pytest.mark.parametrize("by", ["boxes", "masks"])
def test_the_mask_is_where_the_image_is_white(photos, settings, by):
    data = data_of(photos, **settings)
    given = photos / "boxes.csv"
    if by == "masks":
        given = photos / "masks"
        mask = np.zeros((24, 40), np.uint8)
        mask[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 255
        for path in (photos / "photos").glob("*/*"):
            other = given / path.relative_to(photos / "photos").with_suffix(".bmp")
            other.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(other)
    known = known_places(data, Given(given), 100)
    assert (len(known.indices), known.left_out) == (len(data.splits.test), 0)
    white = data.splits.test.images[:, 0] >= 128
    assert torch.equal(known.masks, white)
    assert white.any((1, 2)).all()


def test_a_pixel_that_is_partly_inside_counts(tmp_path):
    write(tmp_path / "boxes.csv", [["a.png", 1.5, 2.4, 4.5, 5.4]])
    mask = np.asarray(Given(tmp_path / "boxes.csv").mask("a.png", (8, 8)))
    assert np.argwhere(mask).min(0).tolist() == [2, 1]
    assert np.argwhere(mask).max(0).tolist() == [5, 4]


def test_several_boxes_are_one_place_and_images_without_are_left_out(photos):
    data = data_of(photos, fit="stretch")
    names = [data.loaded.test.read.names[i].decode() for i in data.loaded.test.indices]
    write(photos / "two.csv", [[names[0], 0, 0, 10, 24], [names[0], 30, 0, 40, 24], [names[3], 0, 0, 40, 24]])
    known = known_places(data, Given(photos / "two.csv"), 100)
    assert known.indices.tolist() == [0, 3]
    assert known.left_out == len(names) - 2
    assert known.masks[0].float().mean() == pytest.approx(0.5, abs=0.05)
    assert known.masks[1].all()


def test_digits_in_clutter_know_their_boxes():
    data = ClutteredDigits(copies=1)
    known = known_places(data, None, 50)
    test = data.splits.test
    x0, y0, x1, y1 = test.boxes[known.indices[7]].tolist()
    assert known.indices.tolist() == [6 * i for i in range(50)]
    assert known.masks[7, y0:y1, x0:x1].all()
    assert known.masks[7].sum() == (x1 - x0) * (y1 - y0)
    assert isinstance(test, Images)


def test_evenly():
    assert evenly(10, 4).tolist() == [0, 2, 5, 7]
    assert evenly(3, 5).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file,x0,y0,x1\n", "has no column y1; must have file, x0, y0, x1, y1 in its first row"),
        ("file,x0,y0,x1,y1\na,1,2,3,x\n", "line 2: x0=1, y0=2, x1=3, y1=x: must be numbers with x0 < x1, y0 < y1"),
        ("file,x0,y0,x1,y1\na,1,2,1,3\n", "line 2: x0=1, y0=2, x1=1, y1=3: must be numbers"),
        ("file,x0,y0,x1,y1\na,1,2\n", "x1=None"),
        ("file,x0,y0,x1,y1\nbird/1.png,1,2,3,4\n", "tells no place in any of 10 test images; their files are named "),
    ],
)
def test_boxes_that_cannot_be_used(photos, content, message):
    (photos / "wrong.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        known_places(data_of(photos), Given(photos / "wrong.csv"), 100)


def test_what_else_cannot_be_used(photos):
    with pytest.raises(InputError, match=r"explain.boxes=.*nowhere: no such file or folder"):
        Given(photos / "nowhere")
    (photos / "empty").mkdir()
    with pytest.raises(InputError, match="must hold masks: images named as those of the data"):
        Given(photos / "empty")
    with pytest.raises(InputError, match="only images in files have names that boxes can refer to"):
        known_places(Digits(), Given(photos / "boxes.csv"), 100)
    with pytest.raises(InputError, match=r"do not tell where the objects are; set explain\.boxes to a CSV of file,x0"):
        known_places(Digits(), None, 100)
    for path in (photos / "photos").rglob("*.png"):
        other = photos / "small" / path.relative_to(photos / "photos")
        other.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (10, 10), 255).save(other)
    with pytest.raises(InputError, match=r"is 10×10, its image 40×24: must be alike"):
        known_places(data_of(photos), Given(photos / "small"), 100)
