"""The study's page in a real browser: sorted, filtered, opened, copied, shared, on a phone, in the dark."""

import json
import re
import time
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from attnlab.study.metrics import METRICS
from attnlab.study.page import to_html
from tests.browser import launched, visiting
from tests.study.page_data import NASTY, make_study, with_also

playwright = pytest.importorskip("playwright.sync_api", reason="the page's tests need playwright")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as running:
        yield running


@pytest.fixture(scope="module")
def study_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(to_html(make_study()), encoding="utf-8")
    return file


@pytest.fixture
def visit(browser: Any, study_file: Path) -> Iterator[Callable[..., Any]]:
    with visiting(browser, study_file, timeout_ms=5000) as visit:
        yield visit


def labels(tab: Any) -> list[str]:
    return tab.locator("tr.row td.label").all_inner_texts()


def sort_by(tab: Any, head: str) -> None:
    tab.locator("#board > thead").get_by_role("button", name=head).first.click()


def best_first() -> list[dict[str, Any]]:
    return make_study()["variants"]


def test_head_says_what_was_found(visit):
    tab = visit()
    variants = best_first()
    better = [variant for variant in variants if variant["verdict"] == "better"]
    assert tab.title() == "ratio_and_place · attnlab"
    said = tab.inner_text("#verdict")
    assert tab.inner_text("#numbers").startswith(f"{len(better)} of 16 variants are better than the baseline")
    most = max(better, key=lambda variant: variant["difference"]["mean"])
    difference = most["difference"]
    assert said.startswith(f"{most['label']} is better than none: ")
    assert f"+{100 * difference['mean']:.1f} ± {100 * difference['half_width']:.1f} points" in said
    assert "17 variants, 85 finished points, 5 seeds a variant. The baseline is attention=none." in tab.inner_text(
        "#scope"
    )
    assert "2 points did not finish" in tab.inner_text("#scope")
    assert tab.locator(".warning").all_inner_texts()[0].startswith("Warning: Points of 2 code versions")
    assert tab.locator(".warning").first.is_visible()
    assert tab.locator(".head ol li").count() == 6


def test_a_study_that_shows_nothing_says_so(visit, tmp_path):
    told = make_study(seeds=1)
    told |= {
        "tables": [],
        "interactions": [],
        "unfinished": [],
        "figures": [],
        "notes": [],
        "warnings": [],
        "methods": "",
    }
    for variant in told["variants"]:
        for point in variant["points"]:
            point |= {"curve": None, "pictures": [], "log": "", "mcnemar_p": None}
    file = tmp_path / "report.html"
    file.write_text(to_html(told), encoding="utf-8")
    tab = visit(file=file)
    assert tab.inner_text("#verdict").startswith("No attention is shown to be better. The best attention is ")
    assert tab.inner_text("#numbers").startswith("None of 16 variants is better than the baseline")
    assert "16 are of one pair only" in tab.inner_text("#numbers")
    heads = tab.locator("#board > thead th").all_inner_texts()
    assert not any("p (Holm)" in head or "effect" in head for head in heads)  # columns without a number
    assert tab.locator("h2").all_inner_texts() == ["How to read this", "Leaderboard"]
    tab.locator("tr.row").first.click()
    assert tab.locator(".panel-body h3").all_inner_texts() == [
        "Against the baseline", "Seeds", "Commands", "Configuration"
    ]  # fmt: skip
    assert "McNemar" not in tab.inner_text(".panel-body")


def test_rows_show_the_numbers(visit):
    tab = visit()
    best = best_first()[0]
    text = " ".join(tab.locator("tr.row").first.inner_text().split())
    accuracy, difference = best["accuracy"], best["difference"]
    assert f"{100 * accuracy['mean']:.1f} ± {100 * accuracy['half_width']:.1f} (5)" in text
    assert f"+{100 * difference['mean']:.1f} ± {100 * difference['half_width']:.1f}" in text
    assert f"{best['parameters']:,}" in text
    assert f"{best['macs'] / 1e6:.3f} M" in text
    assert f"▲{best['verdict']}" in text
    baseline = tab.locator("tr.baseline")
    assert baseline.count() == 1
    assert "baseline" in baseline.inner_text()


def test_sorting(visit):
    tab = visit()
    variants = best_first()
    assert labels(tab) == [variant["label"] for variant in variants]
    assert tab.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"
    sort_by(tab, "parameters")
    assert labels(tab) == [v["label"] for v in sorted(variants, key=lambda v: v["parameters"])]
    sort_by(tab, "parameters")
    assert labels(tab) == [v["label"] for v in sorted(variants, key=lambda v: -v["parameters"])]
    head = tab.locator("th[aria-sort]")
    assert (head.count(), head.get_attribute("aria-sort")) == (1, "descending")
    assert head.inner_text().strip().endswith("parameters")
    sort_by(tab, "p (Holm)")
    assert labels(tab)[-1] == "none"  # which has no p, and is last in both directions
    sort_by(tab, "p (Holm)")
    assert labels(tab)[-1] == "none"
    sort_by(tab, "variant")
    assert labels(tab)[:4] == ["cbam ratio=4 block", "cbam ratio=4 branch", "cbam ratio=4 pre", "cbam ratio=4 stage"]


def test_keyboard_alone(visit):
    tab = visit()
    tab.locator("#board > thead button").first.focus()
    tab.keyboard.press("Enter")
    assert tab.locator("th[aria-sort]").inner_text().startswith("variant")
    assert tab.evaluate("document.activeElement.dataset.key") == "label"  # the focus stays where it was
    first = tab.locator("td.label button").first
    first.focus()
    assert first.evaluate("node => getComputedStyle(node).outlineStyle") == "solid"
    tab.keyboard.press("Enter")
    assert first.get_attribute("aria-expanded") == "true"
    assert tab.locator("tr.panel").count() == 1
    tab.keyboard.press("Tab")
    assert tab.evaluate("!!document.activeElement.closest('.panel-body')")
    tab.keyboard.press("Escape")
    assert tab.locator("tr.panel").count() == 0
    assert first.evaluate("node => node === document.activeElement")


def test_filters(visit):
    tab = visit()
    variants = best_first()
    assert tab.inner_text("#count") == "17 variants."
    tab.get_by_label("words in the variant").fill("CBAM ratio=16")
    expected = [v["label"] for v in variants if v["factors"].get("ratio") == "16" and "cbam" in v["label"]]
    assert labels(tab) == expected
    assert tab.inner_text("#count") == "4 of 17 variants."
    tab.get_by_label("sites").select_option("pre")
    assert labels(tab) == ["cbam ratio=16 pre"]
    tab.get_by_role("button", name="clear filters").click()
    assert len(labels(tab)) == 17
    tab.get_by_label("verdict").select_option("worse")
    assert labels(tab) == [v["label"] for v in variants if v["verdict"] == "worse"]
    tab.get_by_label("verdict").select_option("")
    tab.get_by_label("only the Pareto front").check()
    assert labels(tab) == [v["label"] for v in variants if "macs" in v["front"]]
    tab.get_by_label("cost that counts").select_option("parameters")
    assert labels(tab) == [v["label"] for v in variants if "parameters" in v["front"]]
    tab.get_by_label("words in the variant").fill("nothing has this")
    assert "No variant passes" in tab.inner_text("#board > tbody")


def test_a_link_shows_the_same_again(visit):
    tab = visit()
    sort_by(tab, "MACs")
    tab.get_by_label("words in the variant").fill("se")
    tab.get_by_label("ratio", exact=True).select_option("4")
    tab.get_by_label("cost that counts").select_option("latency_ms")
    tab.locator("tr.row").nth(1).click()
    url = tab.url
    assert {"sort=macs", "dir=up", "q=se", "f.ratio=4", "cost=latency_ms"} <= set(url.split("#")[1].split("&"))
    again = visit("#" + url.split("#")[1])
    assert labels(again) == labels(tab)
    assert again.get_by_label("words in the variant").input_value() == "se"
    assert again.get_by_label("ratio", exact=True).input_value() == "4"
    assert again.locator("tr.open td.label").inner_text() == labels(tab)[1]
    assert again.locator("tr.panel").count() == 1
    again.get_by_role("navigation").get_by_role("link", name="Methods").click()
    assert again.url == url  # going to a section keeps it
    again.evaluate("location.hash = 'q=cbam'")
    playwright.expect(again.locator("tr.row")).to_have_count(8)


@pytest.mark.parametrize(
    "fragment", ["#sort=toString&cost=constructor", "#f.no=1&open=zzz&dir=x", "#%", "#leaderboard"]
)
def test_a_broken_link_is_no_harm(visit, fragment):
    assert len(labels(visit(fragment))) == 17


def test_drill_down(visit):
    tab = visit()
    best = best_first()[0]
    tab.locator("tr.row").first.click()
    panel = tab.locator(".panel-body")
    assert panel.locator("h3").all_inner_texts() == [
        "Against the baseline", "Seeds", "Learning curves", "Commands", "Logs", "Configuration"
    ]  # fmt: skip
    seeds = panel.locator("section").nth(1).locator("tbody tr")
    assert seeds.count() == 5
    point = best["points"][0]
    cells = seeds.first.locator("td").all_inner_texts()
    assert cells[:2] == ["0", f"{100 * point['accuracy']:.1f}"]
    assert {"NVIDIA H200, node07", "9e1d20aa", point["name"]} <= set(cells)
    assert f"{point['mcnemar_p']:.3f}".removeprefix("0") in cells
    charts = panel.locator("figure.chart")
    assert charts.locator("figcaption").all_inner_texts() == ["train/loss", "val/loss", "val/accuracy, %"]
    assert charts.last.locator("path.line").count() == 5
    assert charts.last.locator("circle").count() == 5  # best epochs
    assert "epoch" in charts.last.locator("text").all_text_contents()
    assert panel.locator(".legend").inner_text().split("\n")[:2] == ["seed 0", "seed 1"]
    panel.get_by_text("seed 0, last lines of log.txt").click()
    assert point["log"] in panel.locator("pre").first.inner_text()
    panel.get_by_text("not the same in all variants").click()
    marked = panel.locator("mark").all_inner_texts()
    assert f"ratio: {best['factors']['ratio']}" in marked
    assert f"role: {best['factors']['sites']}" in marked
    assert not any("lr" in text for text in marked)
    assert "lr: 0.002" in panel.locator(".config").inner_text()
    tab.locator("tr.row").first.click()
    assert tab.locator("tr.panel").count() == 0
    tab.locator("tr.baseline").click()
    assert tab.locator(".pictures img").count() == 5
    assert tab.locator(".pictures img").first.evaluate("image => image.naturalWidth") == 32


def test_what_was_also_measured(visit, tmp_path):
    told = with_also(make_study())
    file = tmp_path / "report.html"
    file.write_text(to_html(told), encoding="utf-8")
    tab = visit(file=file)

    def heads() -> list[str]:
        return [" ".join(text.split()).strip("▴▾ ") for text in tab.locator("#board > thead th").all_inner_texts()]

    assert heads()[8:11] == ["ensemble %", "on data.clutter=16 %", "parameters"]  # the first two
    best = told["variants"][0]
    found = best["also"]["on data.clutter=16"]
    cell = tab.locator("tr.row").first.locator('td[data-name="on data.clutter=16 %"]')
    assert cell.inner_text().split("\n") == [f"{100 * found['mean']:.1f} ± 2.0", "−1.2 ± 2.0, p .400"]
    tab.get_by_text("also measured: 2 of 5 columns").click()
    tab.get_by_label("gates/energy").check()
    sort_by(tab, "gates/energy")
    expected = sorted(told["variants"], key=lambda row: -(row["also"].get("gates/energy") or {"mean": -1})["mean"])
    assert labels(tab) == [row["label"] for row in expected]  # the bare network, which has none, is last
    tab.get_by_label("on data.clutter=16").uncheck()
    assert heads()[8:11] == ["ensemble %", "gates/energy", "parameters"]
    again = visit("#" + tab.url.split("#")[1], file=file)
    assert labels(again) == labels(tab)
    assert again.locator("#board > thead th").count() == len(heads())
    tab.get_by_label("gates/energy").uncheck()  # by which it was sorted
    assert labels(tab) == [row["label"] for row in told["variants"]]
    tab.get_by_label("ensemble").uncheck()
    none = visit("#" + tab.url.split("#")[1], file=file)
    assert none.get_by_text("also measured: 0 of 5 columns").count() == 1
    tab.locator("tr.row").first.click()
    panel = tab.locator(".panel-body section").nth(1).inner_text()
    assert panel.startswith("Also measured")
    assert NASTY.replace("\u2028", "").strip() in " ".join(panel.split())
    assert f"validation 90.0, test {100 * best['ensembles']['']['test']:.1f} %" in panel
    phone = visit(file=file, viewport={"width": 390, "height": 800})
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    assert phone.locator('td[data-name="ensemble %"]').first.is_visible()


def test_copying(visit):
    tab = visit(permissions=["clipboard-read", "clipboard-write"])
    tab.locator("tr.row").first.click()
    point = best_first()[0]["points"][0]
    buttons = tab.locator(".commands button")
    assert buttons.count() == 10
    for button, text in ((buttons.first, point["command"]), (buttons.nth(1), point["repro"])):
        button.click()
        playwright.expect(button).to_have_text("copied")
        assert tab.evaluate("navigator.clipboard.readText()") == text
    tab.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(); }")  # as plain http has it
    tab.locator("#methods button").click()
    playwright.expect(tab.locator("#methods button")).to_have_text("copied")
    assert tab.evaluate("navigator.clipboard.readText()") == make_study()["methods"]


def test_factors_unfinished_and_figures(visit):
    tab = visit()
    assert tab.locator("#factors h3").first.inner_text().split("\n") == ["attention", "p .012, uncorrected .004"]
    first = tab.locator("#factors tbody tr").first.locator("td").all_inner_texts()
    assert first == ["se", "88.1 ± 0.6", "+1.0 ± 0.4", "20"]
    assert tab.locator("#interactions thead th").all_inner_texts() == [
        "ratio \\ sites", "branch", "block", "pre", "stage"
    ]  # fmt: skip
    assert tab.locator("#interactions tbody tr").first.locator("td").nth(2).inner_text() == "−0.4 ± 0.3"
    failed = tab.locator("#unfinished tbody tr").first
    assert "<GPU 0> & none is left" in failed.inner_text()
    failed.locator("summary").click()
    assert "Traceback" in failed.locator("pre").inner_text()
    figure = tab.locator("#figures figure")
    assert figure.locator("svg circle").count() == 17
    assert "Up and left is better." in figure.inner_text()
    links = figure.locator("a").evaluate_all("links => links.map(link => link.getAttribute('href'))")
    assert links == ["figures/pareto.svg", "figures/pareto.pdf", "figures/pareto.png"]


def test_any_text_is_text(visit, tmp_path):
    told = make_study(variants=3)
    told |= {"study": NASTY, "methods": NASTY, "notes": [NASTY], "warnings": [NASTY], "baseline": NASTY}
    told["factors"] = {NASTY: [NASTY]}
    told["unfinished"][0] |= {"error": NASTY, "log": NASTY, "name": NASTY}
    told["variants"][0] |= {"label": NASTY, "factors": {NASTY: NASTY}, "id": "a/&=b"}
    told["variants"][0]["config"]["data"][NASTY] = NASTY
    told["variants"][0]["points"][0] |= {"log": NASTY, "command": NASTY}
    told["tables"][0] |= {"factor": NASTY, "among": NASTY}
    file = tmp_path / "report.html"
    file.write_text(to_html(told), encoding="utf-8")
    tab = visit(file=file)
    tab.locator("tr.row").first.click()
    seen = NASTY.replace("\u2028", "").strip()
    assert seen in tab.title()
    for place in ("h1", "td.label", ".warning", "#notes", "#methods", ".panel-body pre", ".commands code", ".config"):
        assert seen in tab.locator(place).first.text_content(), place
    assert tab.locator("img[src=x]").count() == 0
    again = visit("#" + tab.url.split("#")[1], file=file)
    assert again.locator("tr.panel").count() == 1


def test_script_elements_hold_json_alone(study_file):
    """What stands in the file is what was told, with a gap for NaN, and no tag begins within it."""
    told = make_study(variants=3)
    told["variants"][0]["points"][0]["curve"]["val/loss"][1] = float("nan")
    told["notes"] = [NASTY]
    found: dict[str, str] = {}

    class Reader(HTMLParser):
        inside = ""

        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            self.inside = dict(attributes).get("id") or "" if tag == "script" else ""

        def handle_data(self, data: str) -> None:
            if self.inside:
                found[self.inside] = found.get(self.inside, "") + data

        def handle_endtag(self, tag: str) -> None:
            self.inside = ""

    Reader().feed(to_html(told))
    assert set(found) == {"told", "details-0", "details-1", "details-2"}
    assert json.loads(found["told"])["notes"] == [NASTY]
    details = json.loads(found["details-0"])
    assert details["points"][0]["curve"]["val/loss"][1] is None
    assert details["config"] == told["variants"][0]["config"]
    assert not any("<" in text for text in found.values())
    assert not re.search(r"(src|href)=.?https?:|@import|url\(", study_file.read_text(encoding="utf-8"))


def overflow(tab: Any) -> float:
    return tab.evaluate("document.documentElement.scrollWidth - innerWidth")


@pytest.mark.parametrize("width", [320, 1366, *(pytest.param(w, marks=pytest.mark.slow) for w in (390, 768))])
def test_the_page_itself_never_scrolls_sideways(visit, width):
    tab = visit(viewport={"width": width, "height": 844})
    tab.locator("td.label button").first.click()
    for summary in tab.locator(".panel-body summary").all():
        summary.click()
    assert overflow(tab) <= 0


def test_a_phone_shows_all_numbers_of_a_row(visit):
    tab = visit(viewport={"width": 390, "height": 844}, has_touch=True)
    row = tab.locator("tr.row").first
    box = row.bounding_box()
    for cell in row.locator("td:not(:empty)").all():
        inside = cell.bounding_box()
        assert inside["x"] >= box["x"] - 1
        assert inside["x"] + inside["width"] <= box["x"] + box["width"] + 1
    sort_by(tab, "ms")
    assert tab.locator("th[aria-sort]").inner_text().strip().endswith("ms")


def contrast(tab: Any, ink: str, paper: str) -> float:
    """The ratio of WCAG 2 of two of the page's colours."""

    def luminance(name: str) -> float:
        code = tab.evaluate("name => getComputedStyle(document.documentElement).getPropertyValue(name)", name).strip(
            "# "
        )
        code = "".join(2 * c for c in code) if len(code) == 3 else code
        parts = [int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(ink), luminance(paper)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark(visit, scheme):
    tab = visit(color_scheme=scheme)
    background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background))) < 200) == (scheme == "dark")
    for ink in ("--ink", "--soft", "--link", "--good", "--bad"):
        for paper in ("--paper", "--tint"):
            assert contrast(tab, ink, paper) >= 4.5, (ink, paper)


def test_the_head_stays_in_sight_where_the_table_fits(visit):
    tab = visit()
    tab.evaluate("scrollTo(0, document.querySelector('tr.row:nth-child(12)').getBoundingClientRect().top)")
    assert abs(tab.locator("#board > thead th").first.bounding_box()["y"]) < 2


def test_print_is_light_and_has_all_rows(visit, tmp_path):
    file = tmp_path / "report.html"
    file.write_text(to_html(make_study(variants=300, seeds=2, epochs=2)), encoding="utf-8")
    tab = visit(file=file, color_scheme="dark")
    assert len(labels(tab)) == 150
    tab.emulate_media(media="print")
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert len(labels(tab)) == 300
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not tab.locator("#tools").is_visible()


def test_a_study_of_3000_variants_is_quick(visit, tmp_path):
    told = make_study(variants=3000, seeds=4, epochs=12)
    start = time.perf_counter()
    text = to_html(told)
    wrote = time.perf_counter() - start
    file = tmp_path / "report.html"
    file.write_text(text, encoding="utf-8")
    start = time.perf_counter()
    tab = visit(file=file)
    opened = time.perf_counter() - start
    assert tab.inner_text("#count") == "3,000 variants."
    assert len(labels(tab)) == 150  # the others come when the reader comes to them
    start = time.perf_counter()
    sort_by(tab, "p (Holm)")
    tab.get_by_label("words in the variant").fill("coordinate pre")
    tab.get_by_role("button", name="clear filters").click()
    took = time.perf_counter() - start
    tab.evaluate("document.querySelector('#more').scrollIntoView()")
    playwright.expect(tab.locator("tr.row")).to_have_count(300)
    print(f"{len(text) / 1e6:.1f} MB: written {wrote:.2f} s, opened {opened:.2f} s, sorted and filtered {took:.2f} s")
    assert wrote < 10
    assert opened < 10  # about half a second on an idle machine
    assert took < 10


def test_a_page_of_the_loss(visit, tmp_path):
    """Lower is better, and it is not in percent."""
    told = make_study()
    told |= {"metric": METRICS["loss"]._asdict(), "variants": told["variants"][::-1]}
    file = tmp_path / "report-loss.html"
    file.write_text(to_html(told), encoding="utf-8")
    tab = visit(file=file)
    best = told["variants"][0]
    assert labels(tab)[0] == best["label"]  # the lowest
    cell = tab.locator("tr.row").first.locator("td[data-name]").all_inner_texts()
    row = tab.locator("tr.row").first.inner_text()
    assert f"{best['accuracy']['mean']:.3f} ± {best['accuracy']['half_width']:.3f}" in row, cell
    assert tab.locator("#board > thead").get_by_role("button", name="loss").count() == 1
    assert "accuracy" not in tab.inner_text("#board > thead")
    tab.locator("tr.row button").first.click()
    assert f"{best['accuracy']['mean']:.3f}" in tab.inner_text("tr.panel .numbers")
    assert "nats" in tab.inner_text("tr.panel .numbers")
    hrefs = [link.get_attribute("href") for link in tab.locator("figure a").all()]
    assert hrefs
    assert all(href.startswith("figures-loss/") for href in hrefs)


def test_a_page_of_a_cross_validation(visit, tmp_path):
    told = make_study(seeds=6)
    for row in told["variants"]:
        for i, point in enumerate(row["points"]):
            point |= {"seed": i // 3, "fold": i % 3}
    file = tmp_path / "folds.html"
    file.write_text(to_html({**told, "replicates": "3 folds × 2 seeds"}), encoding="utf-8")
    tab = visit(file=file)
    said = tab.inner_text("#scope")
    assert "6 replicates a variant. Replicates are 3 folds × 2 seeds, paired by fold and seed." in said
    assert "paired by fold and seed" in tab.locator(".head ol").inner_text()
    tab.locator("tr.row").first.click()
    panel = tab.locator(".panel-body")
    assert panel.locator("h3").nth(1).inner_text() == "Folds and seeds"
    rows = panel.locator("section").nth(1).locator("tbody tr")
    assert [row.locator("td").all_inner_texts()[:2] for row in rows.all()][2:4] == [["0", "2"], ["1", "0"]]
    assert panel.locator(".legend").inner_text().split("\n")[:2] == ["seed 0 fold 0", "seed 0 fold 1"]
