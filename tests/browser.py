"""A real browser for the pages."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@contextmanager
def launched() -> Iterator[Any]:
    """Chromium or Chrome; skips the test where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the page's tests need playwright")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("the page's tests need Chromium or Chrome: none of " + ", ".join(BROWSERS) + " is there")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        running.close()


@contextmanager
def visiting(browser: Any, file: Path, timeout_ms: int) -> Iterator[Callable[..., Any]]:
    """visit(fragment, file, **context): the page, which must not complain, nor ask for anything but itself."""
    complaints: list[str] = []

    def visit(fragment: str = "", file: Path = file, **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1440, "height": 900}, **options})
        opened.callback(context.close)
        tab = context.new_page()
        tab.set_default_timeout(timeout_ms)
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("request", lambda request: _is_own(request.url, file) or complaints.append(request.url))
        tab.goto(file.as_uri() + fragment)
        return tab

    with ExitStack() as opened:
        yield visit
        assert complaints == []


def _is_own(url: str, file: Path) -> bool:
    return url.split("#")[0] == file.as_uri() or url.startswith("data:")
