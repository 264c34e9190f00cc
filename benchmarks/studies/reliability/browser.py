"""Headless Chromium, as a reader of the live page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
PHONE = {
    "viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "has_touch": True,
    "is_mobile": True,
}  # fmt: skip
WAIT_MS = 30_000
DESKTOP = {"viewport": {"width": 1360, "height": 850}}

# Mean colour of each cell of a grid over the canvas, so that two pictures can be compared.
_CELLS = """([columns, rows]) => {
  const canvas = document.getElementById("picture");
  const small = Object.assign(document.createElement("canvas"), { width: columns, height: rows });
  const pen = small.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.drawImage(canvas, 0, 0, columns, rows);
  return [...pen.getImageData(0, 0, columns, rows).data].filter((_, at) => at % 4 < 3);
}"""


def why_no_browser() -> str:
    """Why pages cannot be looked at here, as a clause; empty if they can."""
    try:
        import playwright  # noqa: F401
    except ImportError:
        return "playwright is not installed (pip install 'foldcam[dev]')"
    if _program() is None:
        return "Chromium is not installed (apt install chromium)"
    return ""


@contextmanager
def chromium() -> Iterator[Any]:
    """A `playwright` browser; contexts of it are made with `DESKTOP` or `PHONE`."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=_program(),
            # In a container Chromium's own sandbox has no rights; the page is ours.
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        try:
            yield browser
        finally:
            browser.close()


def cells(page: Any, columns: int = 32, rows: int = 24) -> list[int]:
    """What the canvas shows: the colours of a grid, row by row, three values each."""
    found: list[int] = page.evaluate(_CELLS, [columns, rows])
    return found


def differing(one: list[int], other: list[int], by: int = 12) -> float:
    """Share of the cells' values that differ by more than `by` of 255."""
    return sum(abs(a - b) > by for a, b in zip(one, other, strict=True)) / len(one)


def wait_for_body(page: Any, name: str, value: str) -> None:
    """Until the page says so of itself: its `link` is `open`, its `picture` is `live`, ...

    Not by a function that is evaluated: the page's own policy forbids that.
    """
    page.locator(f"body[data-{name}={value}]").wait_for(state="attached", timeout=WAIT_MS)


def slide(page: Any, control: str, value: int) -> None:
    """Move a slider, as a hand does: the page hears of it by its event."""
    page.locator(f"#{control}").evaluate(
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }",
        value,
    )


def _program() -> str | None:
    return next((found for name in PROGRAMS if (found := shutil.which(name))), None)
