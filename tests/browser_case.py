"""A headless browser for tests of pages, and a page that remembers what went wrong in it."""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page


@contextlib.contextmanager
def launched(*options: str) -> Iterator[Browser]:
    """Debian's Chromium, driven by Playwright; the test is skipped where one of them is missing."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no chromium on the PATH")
    # Chromium's sandbox refuses to run as root, which containers do.
    given = [*options, "--no-sandbox"] if os.geteuid() == 0 else list(options)
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=given)
        try:
            yield browser
        finally:
            browser.close()


class Opened:
    """A page with its errors and requests.

    Attributes:
        page: Playwright's.
        errors: messages of the console, errors and warnings, and errors of scripts.
        requests: addresses that were asked for, beside the page itself.
    """

    def __init__(self, browser: Browser, place: Path | str, **context: Any) -> None:
        self.page: Page = browser.new_page(**context)
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self._note(message.type, message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.errors.append(f"dialog {dialog.message}"), dialog.dismiss()))
        address = place if isinstance(place, str) else place.as_uri()
        self.page.on("request", lambda request: self._ask(request.url, address))
        self.page.goto(address)

    def _note(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.errors.append(text)

    def _ask(self, url: str, own: str) -> None:
        # What is inside the page is no request to anywhere.
        if url != own and not url.startswith(("data:", "blob:")):
            self.requests.append(url)
