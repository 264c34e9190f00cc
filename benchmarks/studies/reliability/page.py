"""The live page in a real browser: what it shows moves, answers, and comes back by itself."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from foldcam.benchmarks.commands.demo.photographs import OBJECTS
from foldcam.benchmarks.evaluation.documents import Progress
from foldcam.benchmarks.studies.demo_model import demo_model
from foldcam.benchmarks.studies.reliability.film_server import write_film
from foldcam.runtime.web.address import bind, resolve

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


_RESTARTS = {False: 1, True: 5}
_FPS = 10.0


def check(full: bool, folder: Path, progress: Progress) -> dict[str, Any]:
    """Look at the page on a desk and on a phone; screenshots go to `folder`."""
    missing = why_no_browser()
    if missing:
        return {"passed": True, "skipped": missing}
    server = _Server(folder)
    steps: dict[str, Any] = {}
    with chromium() as browser:
        server.start()
        try:
            with _opened(browser, server.url, steps, color_scheme="dark", **DESKTOP) as page:
                progress("steps", 0, 4)
                _moves(page, steps)
                _answers_to_controls(page, steps)
                _tells(page, server.url, steps)
                _settle(page)
                page.screenshot(path=folder / "desk-dark.png")
                # The picture of docs/live.md.
                page.screenshot(path=folder / "live.jpg", type="jpeg", quality=60)
                page.emulate_media(color_scheme="light")
                page.screenshot(path=folder / "desk-light.png")
                progress("steps", 1, 4)
                _changes_streams(page, steps)
                page.locator("#streams button").first.click()
                wait_for_body(page, "picture", "live")
                progress("steps", 2, 4)
                steps["recovery_seconds"] = [
                    round(_comes_back(page, server, folder), 2) for _ in range(_RESTARTS[full])
                ]
                progress("steps", 3, 4)
            with _opened(browser, server.url, steps, color_scheme="dark", **PHONE) as page:
                _fits_a_phone(page, folder, steps)
            progress("steps", 4, 4)
        finally:
            server.stop()
    steps["recovered"] = len(steps["recovery_seconds"]) == _RESTARTS[full]
    passed = all(value for value in steps.values() if isinstance(value, bool))
    return {"passed": passed, "settings": {"restarts": _RESTARTS[full], "fps": _FPS}, **steps}


def rows(document: dict[str, Any]) -> list[tuple[str, str]]:
    """For the docs."""
    if document.get("skipped"):
        return []
    recovery = document["recovery_seconds"]
    names = {
        "video_moves": "the video moves",
        "overlay_follows_the_slider": "the overlay follows the slider",
        "threshold_hides_heat": "the threshold hides heat",
        "colours_change": "the colour map changes the overlay",
        "metrics_update": "figures and /metrics go on",
        "thumbnails": "thumbnails are shown",
        "streams_change": "another stream can be chosen",
        "fits_a_phone": "nothing is wider than a phone",
        "snapshot": "the snapshot is a JPEG of the picture",
        "own_host_only": "no other host is asked, no error is logged",
    }
    return [
        *((text, "yes" if document[key] else "NO") for key, text in names.items()),
        (
            f"recovery after {len(recovery)} kills of the server: from its being back to a new "
            "picture (longest)",
            f"{max(recovery):.1f} s",
        ),
    ]


class _Server:
    """The run in a process of its own, always on one port."""

    def __init__(self, folder: Path) -> None:
        family, place = resolve("127.0.0.1", 0)
        with bind(family, place) as probe:
            self._port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{self._port}/"
        model = demo_model(folder.parent / "model", "224")
        labels = list(OBJECTS)
        films = [
            write_film(folder / "front-door.avi", [labels[2], labels[3], labels[0]], _FPS),
            write_film(folder / "workshop.avi", [labels[6], labels[7], labels[4]], _FPS),
        ]
        self._command = [
            sys.executable, "-m", "foldcam.benchmarks.studies.reliability.film_server", str(model),
            *map(str, films), "--port", str(self._port), "--fps", str(_FPS),
        ]  # fmt: skip
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> float:
        """Returns `time.monotonic()` of when it served."""
        path = os.pathsep.join(path for path in sys.path if path)
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
        assert self._process.stdout is not None
        if not self._process.stdout.readline().startswith("http"):
            raise RuntimeError("the film server did not come up")
        return time.monotonic()

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(10)
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None


@contextmanager
def _opened(browser: Any, url: str, steps: dict[str, Any], **options: Any) -> Iterator[Any]:
    """The page once its first picture is there; foreign requests and errors are noted."""
    context = browser.new_context(**options)
    page = context.new_page()
    steps.setdefault("own_host_only", True)
    steps.setdefault("complaints", [])

    def complain(text: str) -> None:
        # While the server is down, the browser says so on its console.
        if "ERR_CONNECTION_REFUSED" not in text and "WebSocket" not in text:
            steps["complaints"].append(text)
            steps["own_host_only"] = False

    page.on("pageerror", lambda error: complain(str(error)))
    page.on("console", lambda said: complain(said.text) if said.type == "error" else None)
    page.on(
        "request",
        lambda asked: None if asked.url.startswith((url, "blob:" + url)) else complain(asked.url),
    )
    page.goto(url)
    wait_for_body(page, "picture", "live")
    yield page
    context.close()


def _settle(page: Any) -> None:
    """Some seconds of history, so that the chart has lines."""
    page.wait_for_timeout(6000)


def _moves(page: Any, steps: dict[str, Any]) -> None:
    before = cells(page)
    page.wait_for_timeout(1000)
    steps["video_moves"] = differing(before, cells(page), 4) > 0.05


def _answers_to_controls(page: Any, steps: dict[str, Any]) -> None:
    """With the picture held, whatever changes on it comes from the controls."""
    page.locator("#hold").click()
    page.wait_for_timeout(300)
    slide(page, "threshold", 0)
    slide(page, "opacity", 0)
    bare = cells(page)
    held = differing(bare, cells(page), 0) == 0.0
    slide(page, "opacity", 50)
    half = differing(bare, cells(page))
    slide(page, "opacity", 100)
    whole_cells = cells(page)
    whole = differing(bare, whole_cells)
    slide(page, "threshold", 80)
    hot_only = differing(bare, cells(page))
    slide(page, "threshold", 0)
    page.locator("#colormap").select_option("inferno")
    recoloured = differing(whole_cells, cells(page))
    page.locator("#colormap").select_option("turbo")
    back = differing(whole_cells, cells(page), 0) == 0.0
    slide(page, "opacity", 60)
    page.locator("#hold").click()
    wait_for_body(page, "picture", "live")
    steps["overlay_follows_the_slider"] = held and back and 0.02 < half < whole
    steps["threshold_hides_heat"] = 0.0 < hot_only < whole
    steps["colours_change"] = recoloured > 0.02
    steps["changed_by_heat"] = {
        "half": round(half, 3), "whole": round(whole, 3), "above_80": round(hot_only, 3),
    }  # fmt: skip


def _tells(page: Any, url: str, steps: dict[str, Any]) -> None:
    def shown() -> tuple[str, float]:
        text: str = page.locator("#about").inner_text()
        with urlopen(f"{url}metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        processed = [line for line in lines if line.startswith("foldcam_frames_processed_total{")]
        return text, sum(float(line.rpartition(" ")[2]) for line in processed)

    before = shown()
    page.wait_for_timeout(2500)
    after = shown()
    steps["metrics_update"] = before[0] != after[0] and after[1] > before[1]
    loaded = "[...document.querySelectorAll('img.thumb')].filter(i => i.naturalWidth > 0).length"
    steps["thumbnails"] = page.evaluate(loaded) > 0


def _changes_streams(page: Any, steps: dict[str, Any]) -> None:
    before = cells(page)
    page.locator("#streams button").nth(1).click()
    wait_for_body(page, "picture", "live")
    pressed = page.locator("#streams button[aria-pressed=true]").inner_text()
    steps["streams_change"] = pressed == "workshop" and differing(before, cells(page)) > 0.1


def _comes_back(page: Any, server: _Server, folder: Path) -> float:
    """Kill the server; returns the seconds from its being back to a new picture."""
    server.stop(signal.SIGKILL)
    wait_for_body(page, "link", "closed")
    wait_for_body(page, "picture", "stale")
    page.wait_for_timeout(600)  # until it has turned grey
    page.screenshot(path=folder / "disconnected.png")
    back = server.start()
    wait_for_body(page, "link", "open")
    wait_for_body(page, "picture", "live")
    return time.monotonic() - back


def _fits_a_phone(page: Any, folder: Path, steps: dict[str, Any]) -> None:
    page.wait_for_timeout(3000)
    width = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    steps["fits_a_phone"] = width[0] <= width[1]
    with page.expect_download(timeout=WAIT_MS) as download:
        page.locator("#snapshot").tap()
    path = folder / "snapshot.jpg"
    download.value.save_as(path)
    steps["snapshot"] = path.read_bytes()[:2] == b"\xff\xd8"
    page.screenshot(path=folder / "phone-dark.png", full_page=True)
