"""The report in headless Chromium: sorted, filtered, on a phone, without any request."""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePath

import numpy as np
import pytest

from foldcam.benchmarks.studies.reliability.page import (
    DESKTOP,
    PHONE,
    chromium,
    why_no_browser,
)
from foldcam.runtime.contract.gallery import Gallery
from foldcam.runtime.model.frame_results import FrameResults
from foldcam.runtime.sinks.report import ReportSink

pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(bool(why_no_browser()), reason=why_no_browser())
HOSTILE = "<img src=x onerror=alert(1)>\n\"'"


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture
def look(browser, tmp_path, make_item, make_result, make_source, gallery_of, contract_with):
    """`look(**options)`: the page of four photographs, and what it asked for and complained of."""
    contexts = []

    def open_page(**options):
        answers = [("owl", 0.9, False), (HOSTILE, 0.2, True), ("gull", 0.5, False),
                   ("owl", 0.7, True)]  # fmt: skip
        sink = ReportSink(tmp_path, [make_source(stills=True, live=False, name="photos")])
        with Gallery(gallery_of(), contract_with()) as gallery, sink:
            for number, (label, similarity, unknown) in enumerate(answers):
                result = replace(
                    make_result(label, similarity), unknown=unknown,
                    neighbors=np.array([number % 3, 0], np.int32),
                )  # fmt: skip
                item = make_item(number, result)
                frame = replace(item.frame, name=PurePath(f"{10 - number}{'x' * 60}.jpg"))
                sink.write(FrameResults(frame, item.results, gallery=gallery))
        context = browser.new_context(offline=True, **{**DESKTOP, **options})
        contexts.append(context)
        page = context.new_page()
        page.asked, page.complaints = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("console", lambda line: page.complaints.append(line.text))
        page.on("dialog", lambda dialog: page.complaints.append(dialog.message))
        page.goto(f"file://{tmp_path}/report.html")
        return page

    yield open_page
    for context in contexts:
        context.close()


def names(page) -> list[int]:
    found = page.eval_on_selector_all(
        ".card", "cards => cards.filter(c => c.offsetHeight).map(c => c.dataset.name)"
    )
    return [int(name.partition("x")[0]) for name in found]


def test_cards_are_sorted_and_filtered(look):
    page = look()
    assert names(page) == [10, 9, 8, 7]
    page.select_option("#order", "low")
    assert names(page) == [9, 8, 7, 10]
    page.select_option("#order", "high")
    assert names(page) == [10, 7, 8, 9]
    page.select_option("#order", "name")
    assert names(page) == [7, 8, 9, 10]
    page.select_option("#label", "=owl")
    assert names(page) == [7, 10]
    page.select_option("#kind", "unknown")
    assert names(page) == [7]
    assert page.locator("#shown").inner_text() == "1 of 4 shown"
    page.select_option("#label", "")
    assert names(page) == [7, 9]


def test_a_label_with_markup_is_text_and_can_be_chosen(look):
    page = look()
    page.select_option("#label", index=1)
    assert names(page) == [9]
    page.select_option("#label", "")
    assert page.locator("img[onerror]").count() == 0
    assert page.locator(".card").nth(1).text_content().count("<img src=x onerror=alert(1)>") == 1
    assert page.complaints == []


def test_it_asks_nobody_and_every_picture_is_there(look, tmp_path):
    page = look()
    outside = [url for url in page.asked if not url.startswith("data:")]
    assert outside == [f"file://{tmp_path}/report.html"]
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    widths = page.eval_on_selector_all(
        "img", "async images => Promise.all(images.map(async i => (await i.decode(), "
        "i.naturalWidth)))"
    )  # fmt: skip
    assert len(widths) == 8
    assert min(widths) > 0
    assert page.complaints == []


def test_a_phone_has_everything_within_its_width(look):
    page = look(**PHONE)
    # A phone's own innerWidth grows with what does not fit.
    wide = page.eval_on_selector_all(
        "body *", "all => Math.max(...all.map(e => e.getBoundingClientRect().right))"
    )
    assert wide <= PHONE["viewport"]["width"]
    boxes = page.eval_on_selector_all(
        "#controls label", "all => all.filter(e => e.offsetWidth).map(e => e.scrollWidth > "
        "e.clientWidth)"
    )  # fmt: skip
    assert not any(boxes)
    assert page.locator("#order").bounding_box()["height"] >= 34
