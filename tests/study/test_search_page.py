"""The page of a search in a real browser: what is confirmed first, what was searched apart, on a phone, in the dark."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from attnlab.study.report import write_report
from tests.browser import launched, visiting

playwright = pytest.importorskip("playwright.sync_api", reason="the page's tests need playwright")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as running:
        yield running


@pytest.fixture
def study(whole_search, tmp_path):
    shutil.copytree(whole_search.parent, tmp_path, dirs_exist_ok=True)
    (tmp_path / "demo" / "search" / "best.txt").write_text("stem\n └─ block2  se <b>\n", encoding="utf-8")
    return tmp_path / "demo"


def test_the_page_of_a_search(study, browser):
    told = write_report(study)
    with visiting(browser, study / "report.html", timeout_ms=5000) as visit:
        tab = visit()
        assert tab.locator("h2").all_inner_texts()[1:] == [
            "Confirmed", "Searched against confirmed", "Searched", "Figures", "Unfinished points", "Methods", "Notes"
        ]  # fmt: skip
        assert tab.inner_text("#curse").startswith("Warning: The validation numbers of a search are winner's-curse")
        assert tab.inner_text("#verdict").startswith("Confirmed with fresh seeds: se ratio=16 init=identity is better")
        assert "24 trials of one seed each. Confirmed: 6 variants with seeds 1, 2, 3 and 4" in tab.inner_text("#scope")
        assert tab.locator("tr.row td.label").all_inner_texts() == [row["label"] for row in told["variants"]]
        first = tab.locator("#optimism tbody tr").first.locator("td").all_inner_texts()
        assert first == ["se ratio=16 init=identity", "90.2", "87.5 ± 1.7", "+2.7", "▲better", "search", "22"]
        searched = tab.locator("#searched tbody tr")
        assert searched.count() == 10
        tab.get_by_role("button", name="show all 24 trials").click()
        assert searched.count() == 24
        assert searched.last.inner_text().split("\t")[3] == "0 (failed)"
        assert tab.locator("#searched pre").inner_text() == "stem\n └─ block2  se <b>"
        alts = tab.locator("#figures svg[role=img]").evaluate_all("all => all.map(one => one.ariaLabel)")
        assert [alt.split(" ")[0] for alt in alts] == ["validation", "validation", "attention", "validation"]
        assert "best: se ratio=16 init=identity, 90.2 %; random search: 88.5 %" in alts[0]
        tab.locator("tr.row").first.click()
        assert tab.locator(".panel-body h3").first.inner_text() == "Against the baseline"
        phone = visit(viewport={"width": 390, "height": 844}, color_scheme="dark")
        assert phone.evaluate("document.documentElement.scrollWidth") <= 390
        ink = phone.locator("#figures svg").first.evaluate("svg => getComputedStyle(svg).color")
        assert min(map(int, ink.removeprefix("rgb(").removesuffix(")").split(", "))) > 200
    assert {path.stem for path in (study / "figures").iterdir()} == {"history", "front", "importance", "optimism"}
    for path in (study / "figures").glob("*.png"):
        with Image.open(path) as picture:
            assert min(picture.size) > 150
    assert f"![{alts[0]}](figures/history.png)" in (study / "report.md").read_text(encoding="utf-8")


def test_nothing_confirmed_yet(study, browser, undrawn):
    shutil.rmtree(study.with_name("demo-confirmed"))
    (study / "search" / "trials.json").unlink()  # which says what to confirm
    write_report(study)
    with visiting(browser, study / "report.html", timeout_ms=5000) as visit:
        tab = visit()
        assert tab.inner_text("#verdict").startswith("Nothing is confirmed yet. Of 24 trials the best in validation is")
        assert "confirm=4" in tab.inner_text("#unconfirmed")
        assert not tab.locator("#leaderboard").is_visible()
        assert not tab.get_by_text("How to read this").is_visible()
        assert tab.get_by_role("navigation").get_by_role("link").first.inner_text() == "Confirmed"
        assert "trials.json is missing" in tab.locator(".warning").nth(1).inner_text()
