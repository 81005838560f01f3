"""From a file to pixels: as a person sees it, and to the bit as torchvision does it."""

import pickle
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from attnlab.data.augment import crop_box, random_crop
from attnlab.data.decode import Files, extensions, fitted, is_grey, upright
from attnlab.data.images import generator
from attnlab.data.sets.files import as_bytes
from attnlab.errors import InputError


def noise(height, width, channels=3):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(height * width).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("shape", [(30, 40), (40, 30), (61, 33), (16, 16), (7, 90), (13, 12), (200, 201)])
@pytest.mark.parametrize("size", [16, 21])
@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_crop_is_torchvisions_to_the_bit(tmp_path, shape, size, kind):
    from torchvision.datasets.folder import default_loader
    from torchvision.transforms import v2

    path = str(tmp_path / f"a.{kind}")
    Image.fromarray(noise(*shape)).save(path)
    wanted = v2.Compose([v2.Resize(size), v2.CenterCrop(size), v2.PILToTensor()])(default_loader(path))
    found = fitted(upright(path, 3), size)
    assert torch.equal(found, wanted)
    assert (found.dtype, found.is_contiguous()) == (torch.uint8, True)


def test_pad_and_stretch():
    white = Image.new("L", (40, 20), 200)
    padded = fitted(white, 10, "pad")
    assert padded.shape == (1, 10, 10)
    assert padded[0, :, 5].tolist() == [255] * 2 + [200] * 5 + [255] * 3
    assert fitted(white, 10, "pad", "black")[0, 0, 0] == 0
    assert (fitted(white, 10, "stretch") == 200).all()
    assert fitted(Image.new("RGB", (1, 300), (9, 9, 9)), 10, "pad").shape == (3, 10, 10)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_as_exif_says(tmp_path, orientation):
    """Each of the eight orientations shows the same picture."""
    picture = noise(6, 9)
    back = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(back[orientation](picture))).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(np.asarray(upright(str(tmp_path / "a.png"))), picture)


def test_a_damaged_orientation_is_ignored(tmp_path):
    Image.fromarray(noise(6, 9)).save(tmp_path / "a.png", exif=b"Exif\0\0II*\0\xff\xff")
    assert np.array_equal(np.asarray(upright(str(tmp_path / "a.png"))), noise(6, 9))


@pytest.mark.parametrize("background", ["white", "black"])
def test_transparent_pixels_lie_on_the_background(tmp_path, background):
    behind = 255 if background == "white" else 0
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([9, 9, 9, 200, 100, 50])
    palette.putpixel((0, 0), 0)
    half = Image.new("LA", (4, 4), (100, 128))
    half.putpixel((0, 0), (7, 0))
    for name, image, how, rest in (
        ("rgba.png", palette.convert("RGBA"), {}, (200, 100, 50)),
        ("palette.png", palette, {"transparency": 0}, (200, 100, 50)),
        ("rgb.png", palette.convert("RGB"), {"transparency": (9, 9, 9)}, (200, 100, 50)),
        ("half.png", half, {}, (round(100 * 128 / 255 + behind * 127 / 255),)),
    ):
        if name == "rgba.png":
            image.putpixel((0, 0), (9, 9, 9, 0))
        image.save(tmp_path / name, **how)
        found = np.asarray(upright(str(tmp_path / name), None, background)).reshape(4, 4, -1)
        assert set(found[0, 0].tolist()) == {behind}, name
        assert np.abs(found[1, 1].astype(int) - rest).max() <= 1, name


def test_more_than_eight_bits(tmp_path):
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    eight = np.round(ramp / 257).astype(np.uint8)
    for name in ("a.png", "a.tif"):
        Image.fromarray(ramp).save(tmp_path / name)
        assert np.array_equal(np.asarray(upright(str(tmp_path / name))), eight)
    Image.fromarray(ramp.astype(np.int32)).save(tmp_path / "wide.tif")
    assert np.array_equal(np.asarray(upright(str(tmp_path / "wide.tif"))), eight)
    Image.fromarray((ramp / 65535).astype(np.float32)).save(tmp_path / "float.tif")
    assert np.abs(np.asarray(upright(str(tmp_path / "float.tif"))).astype(int) - eight).max() <= 1
    Image.fromarray(noise(8, 8, 1) > 127).save(tmp_path / "bits.png")
    assert np.array_equal(np.asarray(upright(str(tmp_path / "bits.png"))), (noise(8, 8, 1) > 127) * np.uint8(255))


def test_what_is_grey_stays_grey(tmp_path):
    for name, mode, grey in (("a.png", "L", True), ("b.png", "RGB", False), ("c.jpg", "CMYK", False)):
        Image.new(mode, (4, 4)).save(tmp_path / name)
        with Image.open(tmp_path / name) as image:
            assert is_grey(image) is grey
        assert upright(str(tmp_path / name)).mode == ("L" if grey else "RGB")
        assert upright(str(tmp_path / name), 1).mode == "L"
        assert upright(str(tmp_path / name), 3).mode == "RGB"
    for colours, grey in (([0, 0, 0, 77, 77, 77], True), ([0, 0, 0, 77, 70, 77], False)):
        image = Image.new("P", (4, 4), 1)
        image.putpalette(colours)
        image.save(tmp_path / "p.png")
        assert (upright(str(tmp_path / "p.png")).mode == "L") is grey


def test_the_first_of_several_pictures(tmp_path):
    first = Image.new("RGB", (4, 4), (10, 20, 30))
    for kind in ("gif", "webp", "png", "tif"):
        first.save(tmp_path / f"a.{kind}", save_all=True, append_images=[Image.new("RGB", (4, 4))])
        assert np.abs(np.asarray(upright(str(tmp_path / f"a.{kind}"))).astype(int) - (10, 20, 30)).max() <= 3, kind


def test_files_go_to_other_processes_and_name_what_cannot_be_read(tmp_path):
    Image.fromarray(noise(4, 4)).save(tmp_path / "é 1.png")
    (tmp_path / "no.png").write_text("no")
    read = pickle.loads(pickle.dumps(Files(str(tmp_path), as_bytes(["é 1.png", "no.png"]), 3)))
    assert np.array_equal(np.asarray(read(0)), noise(4, 4))
    with pytest.raises(InputError, match=r"no\.png: cannot be read: no image; repair or remove it"):
        read(1)


def kinds(folder):
    """Files that are cropped: large and small, grey, turned, of a palette, with alpha."""
    y, x = np.mgrid[:600, :800] / 800
    smooth = Image.fromarray((np.stack([x, y, 1 - x], 2) * 255).astype(np.uint8))
    turned = smooth.getexif()
    turned[0x0112] = 6
    smooth.save(folder / "large.jpg", quality=95)
    smooth.resize((40, 30)).save(folder / "small.jpg", quality=95)
    smooth.convert("L").save(folder / "grey.jpg", quality=95)
    smooth.convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    smooth.save(folder / "turned.jpg", quality=95, exif=turned)
    smooth.quantize(64).save(folder / "palette.png")
    smooth.convert("RGBA").save(folder / "alpha.png")
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("channels", [1, 3])
def test_a_crop_of_a_file_is_that_of_the_whole_image(tmp_path, channels):
    names = kinds(tmp_path)
    files = Files(str(tmp_path), as_bytes(names), channels)
    for i, name in enumerate(names):
        for seed in range(6):
            crop = partial(random_crop, size=(24, 24), scale=(0.1, 1.0), aspect=(0.75, 1.3333))
            found = files.cropped(i, lambda image, crop=crop, seed=seed: crop(image, random=generator(seed)))
            whole = files(i)
            top, left, h, w = crop_box(whole.height, whole.width, (0.1, 1.0), (0.75, 1.3333), generator(seed))
            cut = whole.crop((left, top, left + w, top + h)).resize((24, 24), Image.Resampling.BILINEAR)
            expected = torch.from_numpy(np.array(cut)).view(24, 24, -1).permute(2, 0, 1)
            off = (found.int() - expected.int()).abs()
            assert found.shape == (channels, 24, 24)
            assert off.max() <= (6 if name in ("large.jpg", "grey.jpg") else 1), (name, off.max())


def test_a_large_jpeg_is_decoded_at_a_reduced_size(tmp_path):
    kinds(tmp_path)
    with Image.open(tmp_path / "large.jpg") as image:
        random_crop(image, (24, 24), (0.9, 1.0), (0.75, 1.3333), generator(0))
        assert image.size == (100, 75)


def test_a_broken_jpeg_that_is_cropped_is_named(tmp_path):
    kinds(tmp_path)
    (tmp_path / "large.jpg").write_bytes((tmp_path / "large.jpg").read_bytes()[:2000])
    (tmp_path / "text.jpg").write_text("no image")
    files = Files(str(tmp_path), as_bytes(["large.jpg", "text.jpg"]), 3)
    for i, name in enumerate(("large.jpg", "text.jpg")):
        with pytest.raises(InputError, match=f"{name}: cannot be read"):
            files.cropped(i, lambda image: random_crop(image, (24, 24), (0.5, 1.0), (0.75, 1.3333), generator(0)))


def test_what_pil_opens():
    assert {".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".ppm", ".pgm"} <= extensions()
    assert not {".txt", ".pdf", ".mpg", ".h5", ".eps"} & extensions()
