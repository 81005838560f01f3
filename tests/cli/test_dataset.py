"""attnlab data: counts, files, moments, times and a sheet of samples, for people and for programs."""

import json

import numpy as np
import pytest
from PIL import Image

from attnlab.cli import dataset
from attnlab.cli.dataset import of_different_classes, print_data
from attnlab.config.compose import composing
from tests.conftest import attnlab, crossed

CELL = (168, 192)  # pixels of a cell of the sheet, width × height


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Ten images of each of three classes: one grey, one transparent, one turned, one animated; two the same."""
    folder = tmp_path_factory.mktemp("images") / "photos"
    random = np.random.default_rng(0)
    for label in ("a cat", "$x$", "猫"):
        (folder / label).mkdir(parents=True)
        for i in range(10):
            pixels = random.integers(0, 256, (20 + i, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{i}.png")
    cats = folder / "a cat"
    Image.new("L", (30, 24), 9).save(cats / "0.png")
    Image.new("RGBA", (30, 24), (255, 0, 0, 128)).save(cats / "1.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (48, 24), (0, 99, 0)).save(cats / "turned.jpg", exif=turned)
    frames = [Image.new("RGB", (30, 24), (0, 0, shade)) for shade in (50, 200)]
    frames[0].save(cats / "two.gif", save_all=True, append_images=frames[1:])
    for i in range(1, 10):
        (folder / "$x$" / f"{i}.png").write_bytes((folder / "$x$" / "0.png").read_bytes())
    (folder / "notes.txt").write_text("")
    return folder


def told(tmp_path, capsys, *overrides, as_json=True):
    with composing() as compose_one:
        config = compose_one([f"output_dir={tmp_path}", *overrides])
    print_data(config, str(tmp_path / "sheet.png"), as_json=as_json)
    printed = capsys.readouterr()
    assert printed.err == ""
    with Image.open(tmp_path / "sheet.png") as image:
        columns, rows = image.width / CELL[0], image.height / CELL[1]
    return json.loads(printed.out) if as_json else printed.out, columns, rows


def of(folder, *more):
    return ["data=image_folder", f"data.folder={folder}", "data.size=16", "data.batch_size=4", *more]


def test_the_command(tmp_path):
    done = attnlab("data", "data=digits", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, *_, last = done.stdout.splitlines()
    assert first == "digits: 10 classes, images of 1×32×32; train 1,197, val 300, test 300"
    assert last == "samples: outputs/data-digits.png"
    assert "held in memory" in done.stdout
    assert (tmp_path / last.removeprefix("samples: ")).exists()
    done = attnlab("data", "data=digits", "--json", "--sheet", "s.png", cwd=tmp_path)
    assert json.loads(done.stdout)["sheet"] == "s.png"
    assert (tmp_path / "s.png").exists()


def test_the_command_ends_its_workers(photos, tmp_path):
    done = attnlab("data", *of(photos, "data.memory=never", "data.workers=2"), "--json", cwd=tmp_path, timeout=60)
    assert json.loads(done.stdout)["epoch"]["workers"] == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data=digts"], "data=digts: no such config; nearest: digits"),
        (["data=image_folder", "data.folder=none"], "data.folder=none: no such folder; it must be a folder"),
        (["data=fer2013", "data.file=none.csv"], "data.file=none.csv: must be FER-2013's CSV"),
        (["data=digits", "--sheet", "s.jpg"], "--sheet s.jpg: must end in .png"),
    ],
)
def test_bad_input_is_one_line(tmp_path, words, message):
    done = attnlab("data", *words, "--json", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"attnlab: {message}")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.rglob("*.png"))


def test_a_folder(photos, tmp_path, capsys):
    about, columns, rows = told(tmp_path, capsys, *of(photos))
    assert about["classes"] == ["$x$", "a cat", "猫"]
    assert {name: sum(each) for name, each in about["images"].items()} == {"train": 22, "val": 5, "test": 5}
    assert [sum(each) for each in zip(*about["images"].values(), strict=True)] == [10, 12, 10]
    files = about["files"]
    assert (files["number"], files["grey"]) == (32, 1)
    assert files["height"] == {"min": 20, "median": 23, "max": 48}
    assert files["width"] == {"min": 24, "median": 30, "max": 30}
    assert files["converted"] == {
        "turned as EXIF says": 1,
        "transparency laid on the background": 1,
        "palette to colours": 1,
        "first picture of several": 1,
    }
    duplicates, left_out = about["notes"]
    assert "identical images in two splits" in duplicates
    assert "left out 1 file of other formats: .txt 1" in left_out
    assert about["epoch"]["images"] == 20
    assert not about["epoch"]["streamed"]
    assert (columns, rows) == (8, 5)  # files, evaluation, three epochs


def test_in_words(photos, tmp_path, capsys):
    text, _, _ = told(tmp_path, capsys, *of(photos, "data.memory=never", "data.workers=1"), as_json=False)
    lines = text.splitlines()
    assert lines[0] == "image_folder: 3 classes, images of 3×16×16; train 22, val 5, test 5"
    assert "files: 32, 1 of them grey; height 20/23/48, width 24/30/30 pixels (min/median/max)" in lines
    assert any(line.startswith("converted: 1 turned as EXIF says, 1 transparency") for line in lines)
    assert sum(line.startswith(f"data.folder={photos}: ") for line in lines) == 2  # each note is one line
    assert any("decoded in each epoch by 1 worker, waiting for which takes" in line for line in lines)


SHEETS = {
    "plain": (["augment=none"], 2),
    "mixed": (["augment=none", "augment.mixup=1", "augment.cutmix=1", "augment.random_erasing=1"], 5),
    "imagenet": (["augment=imagenet"], 5),
}


@pytest.mark.parametrize(("memory", "sheet"), crossed(["auto", "never"], SHEETS))
def test_the_sheet(photos, tmp_path, capsys, memory, sheet):
    settings, rows = SHEETS[sheet]
    about, columns, drawn = told(
        tmp_path, capsys, *of(photos, f"data.memory={memory}", "data.workers=0", "data.eval_batch_size=1", *settings)
    )
    assert (columns, drawn) == (8, rows)
    assert about["epoch"]["streamed"] == (memory == "never" or "augment=imagenet" in settings)


def test_fewer_images_than_a_batch_and_than_columns(photos, tmp_path, capsys):
    few = tmp_path / "few"
    for label in "ab":
        (few / label).mkdir(parents=True)
        for i in range(4):
            Image.new("L", (9, 9), 30 * i).save(few / label / f"{i}.png")
    for memory in ("auto", "never"):
        settings = ["data.batch_size=64", f"data.memory={memory}", "data.workers=1"]
        about, columns, _ = told(tmp_path, capsys, *of(few, *settings))
        images = sum(about["images"]["train"])
        assert images < 8
        assert about["shape"] == [1, 16, 16]
        assert columns == images
        assert about["epoch"]["images"] == images
        assert about["notes"][-1].startswith(f"data.batch_size=64: there are only {images} training images")


def test_many_classes_show_the_largest_and_the_smallest():
    counts = {"train": list(range(100, 200)), "val": [1] * 100, "test": [0] * 100}
    table = dataset._table([f"class {i}" for i in range(100)], counts)
    names = [str(cell) for cell in table.columns[0].cells]
    assert len(names) == 31
    assert names[0] == "class 99"
    assert names[15] == "… 70 more"
    assert names[-1] == "class 0"


def test_images_of_different_classes():
    assert of_different_classes(np.array([0, 0, 0, 2, 2, 1]), 4).tolist() == [0, 5, 3, 1]
    assert of_different_classes(np.array([1, 1, 0]), 8).tolist() == [2, 0, 1]
