"""The page in a real browser: filtered, ordered, on a phone, in the dark, by keyboard."""

import base64
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attnlab.explain import page
from attnlab.explain.looking import Seeing, Subjects
from attnlab.explain.page import to_html
from attnlab.explain.pictures import draw_channels
from tests.browser import launched, visiting
from tests.explain.page_data import CLASSES, make_seen, told_by

FACTS = {"Network": "resnet18, cbam at branch", "Maps": "of the class that cbam predicts, of the output of layer2"}


def html(*args: Any, **more: Any) -> str:
    subjects, seen = make_seen(*args)
    figure = draw_channels({"layer1": torch.rand(9, 6)}, [0, 1, 2] * 3, CLASSES, "gates")
    drawn = {"Channel gates": ("How to read it.", figure)}
    return to_html(subjects, seen, title="Where cbam looks", made="here", facts=FACTS, figures=drawn, **more)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(html(), encoding="utf-8")
    return path


def test_it_is_self_contained_and_safe(file):
    text = file.read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=.?https?:|@import|url\((?!#)", text)
    assert "<b>owl" not in text
    assert told_by(file)["classes"] == CLASSES


def test_maps_are_small_and_their_ranges_are_told(file):
    image = told_by(file)["images"][3]
    seen = image["seen"][0]
    assert [(seen_map["width"], seen_map["height"]) for seen_map in seen["maps"]] == [(4, 4), (8, 8)]
    _, networks = make_seen()
    real = networks[0].looks["layer2"].map[3]
    values = np.frombuffer(base64.b64decode(seen["maps"][1]["values"]), np.uint8)
    assert values[real.argmax()] == 255
    assert values[real.argmin()] == 0
    assert seen["maps"][1]["low"] == f"{float(real.min()):.2f}"


def test_a_page_of_64_photographs_is_below_10_mb_and_what_is_too_much_is_told(monkeypatch):
    random = torch.Generator().manual_seed(0)
    rough = torch.nn.functional.interpolate(
        torch.rand(64, 3, 28, 28, generator=random), size=(224, 224), mode="bicubic"
    )
    pixels = (rough * 255).clamp(0, 255).byte()
    looks = make_seen(64)[1][0].looks
    cams = {method: torch.rand(64, 224, 224, generator=random) for method in ("gradcam", "hirescam", "scorecam")}
    seen = [Seeing(name, torch.full((64, 3), 1 / 3), looks, cams, "layer4") for name in ("one", "other")]
    subjects = Subjects(pixels, [str(i) for i in range(64)], [0] * 64, [0] * 64, CLASSES)
    text = to_html(subjects, seen, title="many")
    assert len(text) < 10e6
    monkeypatch.setattr(page, "MOST_BYTES", len(text) // 4)
    fewer = to_html(subjects, seen, title="many")
    shown = re.search(r"the first (\d+) of 64: more would make the file too large", fewer)
    assert 8 < int(shown[1]) < 24
    assert len(fewer) < len(text) / 2


playwright = pytest.importorskip("playwright.sync_api", reason="the page's tests need playwright")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as running:
        yield running


@pytest.fixture
def visit(browser: Any, file: Path) -> Iterator[Callable[..., Any]]:
    with visiting(browser, file, timeout_ms=10000) as visit:
        yield visit


def names(tab: Any) -> list[int]:
    """Numbers of the images that are shown."""
    return [int(text.removeprefix("test image ")) for text in tab.locator(".card h3 .of").all_inner_texts()]


def test_the_head_and_a_card(visit):
    tab = visit()
    assert tab.title() == "Where cbam looks · attnlab"
    assert tab.locator("#summary dd").all_inner_texts() == [*FACTS.values()]
    assert tab.inner_text("#count") == "30 images."
    card = tab.locator(".card").nth(2)  # an owl, which the first network takes for a cat
    first, second = card.locator(".row").all()
    assert " ".join(card.locator("h3").inner_text().split()) == "<b>owl</b> & co test image 2"
    assert " ".join(first.locator("p").first.inner_text().split()) == "cbam says cat 44 % ✗ wrong"
    captions = [" ".join(text.split()) for text in first.locator("figcaption").all_inner_texts()]
    assert captions[0] == "image 32 × 32"
    assert re.fullmatch(r"layer1 mean \|output\| 0\.\d\d to \d\.\d\d", captions[1])
    assert re.fullmatch(r"layer2 gate 0\.\d\d to \d\.\d\d", captions[2])
    assert captions[3:] == ["Grad-CAM for cat", "integrated gradients for cat"]
    assert second.locator("figcaption").count() == 2
    assert "no attention, so no gates" in second.inner_text()
    left = [row.locator("figure", has_text="Grad-CAM").bounding_box()["x"] for row in (first, second)]
    assert left[0] == left[1]  # below each other


def test_maps_are_painted_in_their_colours(visit):
    tab = visit()
    pixels = (
        tab.locator("canvas")
        .nth(1)
        .evaluate("canvas => [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]")
    )
    painted = np.array(pixels).reshape(8, 8, 4)
    _, networks = make_seen()
    brightest = np.unravel_index(int(networks[0].looks["layer2"].map[0].argmax()), (8, 8))
    assert painted[brightest].tolist()[3] >= painted[..., 3].max() - 1
    assert painted[brightest][:3].sum() > 500
    assert tab.locator("canvas").nth(1).get_attribute("aria-label").startswith("layer2, gate 0.")


def test_filters(visit):
    tab = visit()
    tab.get_by_label("answers").select_option("wrong")
    assert names(tab) == list(range(2, 30, 3))
    assert tab.inner_text("#count") == "10 of 30 images."
    tab.get_by_label("confidence from").fill("60")
    tab.get_by_label("confidence to").fill("81")
    assert names(tab) == [11, 14, 17, 20]
    tab.get_by_label("order").select_option("high")
    assert names(tab) == [20, 17, 14, 11]
    tab.reload()
    assert names(tab) == [20, 17, 14, 11]  # the address has it
    tab.get_by_role("button", name="clear filters").click()
    assert tab.inner_text("#count") == "30 images."
    assert tab.evaluate("document.activeElement.id") == "words"
    tab.get_by_label("order").select_option("")
    tab.get_by_label("words in name or class").fill("owl 2")
    assert names(tab) == [2, 20, 23, 26, 29]
    tab.get_by_label("words in name or class").fill("nothing of the kind")
    assert tab.inner_text("#cards") == "No image is like that."
    tab.get_by_label("words in name or class").fill("")
    tab.get_by_label("class, or answer").select_option("2")
    assert names(tab) == list(range(2, 30, 3))
    tab.get_by_label("class, or answer").select_option("")
    tab.get_by_label("answers").select_option("only bare right")
    assert names(tab) == []
    tab.get_by_label("answers").select_option("only cbam right")
    assert tab.inner_text("#count") == "10 of 30 images."  # cats: bare says dog


def test_sites_methods_and_strength(visit):
    tab = visit()
    first = tab.locator(".row").first
    tab.get_by_label("gates").select_option("layer2")
    tab.get_by_label("maps of a class").select_option("none")
    assert [text.split("\n")[0] for text in first.locator("figcaption").all_inner_texts()] == ["image", "layer2"]
    tab.get_by_label("strength of the maps").fill("25")
    assert first.locator("canvas").evaluate("canvas => getComputedStyle(canvas).opacity") == "0.25"


def test_more_images_come_on_demand_and_by_keyboard(visit):
    tab = visit()
    assert len(names(tab)) == 24
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.className") == "skip"
    tab.locator("#more button").focus()
    tab.keyboard.press("Enter")
    assert names(tab) == list(range(30))
    assert tab.evaluate("document.activeElement.innerText").endswith("test image 24")
    assert not tab.locator("#more").is_visible()


@pytest.mark.parametrize("width", [320, 1440, *(pytest.param(w, marks=pytest.mark.slow) for w in (390, 768))])
def test_it_never_scrolls_sideways(visit, width):
    tab = visit(viewport={"width": width, "height": 844})
    assert tab.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark(visit, scheme):
    tab = visit(color_scheme=scheme)
    background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background))) < 200) == (scheme == "dark")
    ink = tab.locator(".drawn text").first.evaluate("text => getComputedStyle(text).fill")
    assert (sum(map(int, re.findall(r"\d+", ink))) > 500) == (scheme == "dark")


def test_one_network_of_images_that_nobody_knows(visit, tmp_path):
    subjects, (_, bare) = make_seen(4)
    unknown = Subjects(subjects.pixels, subjects.names, [None] * 4, subjects.asked, CLASSES)
    path = tmp_path / "page.html"
    path.write_text(to_html(unknown, [bare], title="Where bare looks"), encoding="utf-8")
    tab = visit(file=path)
    assert " ".join(tab.locator(".row p").first.inner_text().split()) == "says dog 60 %"
    assert tab.locator("select#answer, select#site").count() == 0
    assert tab.inner_text("#count") == "4 images."
