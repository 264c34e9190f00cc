"""The page in headless Chromium, with frames whose results are known."""

from __future__ import annotations

import re
import time
from dataclasses import replace

import numpy as np
import pytest

from foldcam.benchmarks.studies.reliability.page import (
    DESKTOP,
    PHONE,
    cells,
    chromium,
    slide,
    wait_for_body,
    why_no_browser,
)
from foldcam.runtime.contract.bank.bank_file import read_bank
from foldcam.runtime.contract.gallery import Gallery
from foldcam.runtime.model.drawing.overlay import WARM, overlay, veil
from foldcam.runtime.model.drawing.style import Style
from foldcam.runtime.model.frame_results import FrameResults
from foldcam.runtime.model.vote import Vote
from foldcam.runtime.system.monitor import Cause
from foldcam.runtime.web import broadcast

ROW_0 = re.compile(r"api/match\.jpg\?row=0&of=0{16}$")
sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect
pytestmark = pytest.mark.skipif(bool(why_no_browser()), reason=why_no_browser())


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture
def look(browser):
    """`look(served, **options)`: the page, and a list of what it complains of."""
    contexts = []

    def open_page(served, token: str = "", **options):
        context = browser.new_context(**{**DESKTOP, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.complaints = []
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.goto(f"http://127.0.0.1:{served.port}/")
        return page

    yield open_page
    for context in contexts:
        context.close()


def grid(page, width: int, height: int) -> np.ndarray:
    return np.array(cells(page, width, height)).reshape(height, width, 3)


def test_the_blend_is_that_of_the_overlay(serve, look, make_item):
    served = serve()
    heat = np.array([[1.0, 0.2], [0.0, 0.6]], np.float32)
    item = make_item(size=(320, 240), colour=(90, 140, 60), heatmap=heat)
    served.feed(item)
    page = look(served)
    wait_for_body(page, "picture", "live")
    slide(page, "opacity", 70)
    drawn = grid(page, 32, 24)
    expected = overlay(item.frame.image, item.heat, 0.7, "turbo")
    # Means of 10 x 10 pixels; JPEG and the canvas' own smoothing are off by a little.
    means = expected.reshape(24, 10, 32, 10, 3).mean((1, 3))
    assert abs(drawn - means).mean() < 3
    assert abs(drawn - means).max() < 16
    slide(page, "opacity", 0)
    assert abs(grid(page, 32, 24) - [90, 140, 60]).max() < 5
    assert page.complaints == []


def test_what_is_unknown_is_said_and_has_no_colour(serve, look, make_item):
    served = serve()
    heat = np.array([[1.0, 0.2], [0.0, 0.6]], np.float32)
    item = make_item(size=(320, 240), colour=(90, 140, 60), heatmap=heat)
    unknown = replace(item.result, unknown=True, known_score=0.3)
    item = FrameResults(item.frame, [unknown])
    served.feed(item)
    page = look(served)
    wait_for_body(page, "picture", "live")
    expect(page.locator("#answer")).to_have_text(f"unknown, nearest {unknown.labels[0]}")
    slide(page, "opacity", 70)
    drawn = grid(page, 32, 24)
    expected = veil(item.frame.image, item.heat, 0.7)
    means = expected.reshape(24, 10, 32, 10, 3).mean((1, 3))
    assert abs(drawn - means).max() < 16
    assert page.complaints == []


def test_below_the_threshold_there_is_no_heat(serve, look, make_item):
    served = serve()
    heat = np.array([[1.0, 0.0]], np.float32)
    served.feed(make_item(size=(320, 240), heatmap=heat))
    page = look(served)
    wait_for_body(page, "picture", "live")
    slide(page, "opacity", 100)
    slide(page, "threshold", 60)
    row = abs(grid(page, 32, 24)[12] - [40, 80, 120]).max(1)
    # Heat falls from 1 to 0 between a quarter and three quarters of the width.
    assert row[:12].min() > 40
    assert row[16:].max() < 8


def test_an_estimate_has_two_colours_and_its_range(serve, look, make_item, outcome_with):
    served = serve(outcome_with())
    raising = np.array([[1.0, 0.0]], np.float32)
    lowering = np.array([[0.0, 1.0]], np.float32)
    served.feed(
        make_item(size=(320, 240), labels=[], estimate=512.25, heatmap=raising,
                  heatmap_lower=lowering)
    )  # fmt: skip
    page = look(served)
    wait_for_body(page, "picture", "live")
    slide(page, "opacity", 100)
    drawn = grid(page, 32, 24)
    assert abs(drawn[12, 1] - WARM).max() < 25
    assert drawn[12, 30, 2] > 200 > drawn[12, 30, 0] + 150
    assert page.locator("#estimate-value").inner_text() == "512.2"
    assert "10 to 60" in page.locator("#estimate-scale").inner_text()
    assert page.locator("#legend").is_visible()
    assert not page.locator("#colormap").is_visible()
    assert "row 2" in page.locator("#nearest").inner_text()
    assert page.complaints == []


def test_the_voted_label_stands_before_what_the_frame_says(serve, look, make_item):
    served = serve()
    served.feed(make_item(vote=Vote("green", 0.6, 5, 0.0)))
    page = look(served)
    wait_for_body(page, "picture", "live")
    assert page.locator("#answer").inner_text() == "green"
    assert page.locator("#similarity").inner_text() == "60% of 5 frames; now red 0.90"
    served.feed(make_item(1, vote=Vote("red", 1.0, 1, 0.0)))
    expect(page.locator("#similarity")).to_have_text("100% of 1 frame, 0.90")
    assert page.complaints == []


def test_frames_left_out_by_every_are_no_drops_and_the_network_s_time_is_said(
    serve, look, make_item
):
    served = serve()
    served.monitor.dropped(0, Cause.skipped, 7, early=True)
    served.monitor.processed(0, 5.0, {}, [12.0])
    served.feed(make_item())
    page = look(served)
    expect(page.locator("#sources")).to_contain_text("7 left out by --every")
    assert page.locator("#drops").inner_text() == "0"
    assert page.locator("#causes").inner_text() == ""
    expect(page.locator("#network")).to_have_text(re.compile(r"12(\.\d)? ms"))


def test_labels_from_the_model_are_text_and_never_markup(serve, look, make_item):
    served = serve()
    hostile = "<img src=x onerror=alert(1)>"
    served.feed(make_item(labels=[hostile, "green"]))
    page = look(served)
    wait_for_body(page, "picture", "live")
    assert page.locator("#nearest .name").first.inner_text() == hostile
    assert page.locator("#answer").inner_text() == hostile
    assert page.locator("#nearest img[onerror]").count() == 0


def test_each_neighbour_shows_its_own_picture_of_the_gallery(
    serve, look, make_item, gallery_of, contract_with
):
    with Gallery(gallery_of(), contract_with()) as gallery:
        served = serve(gallery=gallery)
        # Two rows of one label: each has a picture of its own.
        served.feed(make_item(labels=["red", "red"], neighbors=np.array([2, 1], np.int32)))
        page = look(served)
        wait_for_body(page, "picture", "live")
        expect(page.locator("#nearest img.thumb")).to_have_count(2)
        colours = page.eval_on_selector_all(
            "#nearest img.thumb",
            """async images => Promise.all(images.map(async image => {
              await image.decode();
              const canvas = document.createElement("canvas");
              const pen = canvas.getContext("2d");
              pen.drawImage(image, 0, 0);
              return [...pen.getImageData(70, 50, 1, 1).data].slice(0, 3);
            }))""",
        )
        assert abs(np.array(colours) - [(210, 40, 20), (30, 200, 40)]).max() < 16
        # The next frame's neighbours come with theirs, though the labels are the same.
        served.feed(make_item(1, labels=["red", "red"], neighbors=np.array([0, 1], np.int32)))
        expect(page.locator("#nearest img.thumb").first).to_have_attribute("src", ROW_0)
        assert page.complaints == []


def test_without_a_gallery_no_neighbour_has_a_picture(serve, look, make_item):
    served = serve()
    served.feed(make_item())
    page = look(served)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    wait_for_body(page, "picture", "live")
    expect(page.locator("#nearest span.thumb")).to_have_count(2)
    assert page.locator("#nearest img").count() == 0
    assert not [url for url in asked if "match" in url]


def test_regions_have_boxes_and_heat_stays_within_them(serve, look, make_item):
    from foldcam.runtime.images.preprocess import Affine

    served = serve()
    frame = make_item(size=(320, 240))
    one = make_item(
        size=(320, 240), box=(40, 60, 80, 80), affine=Affine(10.0, 10.0, 40.0, 60.0),
        heatmap=np.ones((2, 2), np.float32),
    ).results[0]  # fmt: skip
    served.feed(FrameResults(frame.frame, [one]))
    page = look(served)
    wait_for_body(page, "picture", "live")
    slide(page, "opacity", 100)
    away = abs(grid(page, 64, 48) - [40, 80, 120]).max(2)
    assert away[20:26, 10:22].min() > 40
    assert away[30:, :].max() < 8
    assert away[:, 30:].max() < 8


def test_an_old_picture_is_shown_as_old(serve, look, make_item):
    served = serve()
    served.feed(make_item())
    page = look(served)
    wait_for_body(page, "picture", "live")
    wait_for_body(page, "picture", "stale")
    assert page.locator("#badge").inner_text() == "stale"
    assert re.fullmatch(r"[1-9][\d.]* s old", page.locator("#age").inner_text())
    served.feed(make_item(1))
    wait_for_body(page, "picture", "live")


def test_a_source_that_is_not_streaming_is_named(serve, look, make_item):
    from foldcam.runtime.system.monitor import State

    served = serve()
    served.feed(make_item())
    served.monitor.state(0, State.backoff, "the camera refused")
    page = look(served)
    expect(page.locator("#badge")).to_have_text("backoff")
    assert "the camera refused" in page.locator("#sources").inner_text()


def test_the_token_is_asked_for_once_and_is_in_no_address(serve, look, make_item, token):
    served = serve(token=token)
    served.feed(make_item())
    page = look(served)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.locator("#token").fill("wrong, and long enough")
    page.get_by_role("button").click()
    assert page.get_by_role("alert").inner_text() == "That is not the token."
    page.locator("#token").fill(token)
    page.get_by_role("button").click()
    wait_for_body(page, "picture", "live")
    assert not [url for url in asked if token in url]
    assert page.evaluate("document.cookie") == ""
    page.get_by_role("button", name="Sign out").click()
    assert page.locator("#token").is_visible()


def test_it_reconnects_after_the_page_was_served_anew(serve, look, make_item):
    served = serve()
    served.feed(make_item())
    page = look(served)
    wait_for_body(page, "picture", "live")
    served.page.__exit__(None, None, None)
    wait_for_body(page, "link", "closed")
    assert page.locator("#link").inner_text() == "disconnected, trying again"
    assert page.title() == "(disconnected) foldcam"
    served.page.reopen()
    wait_for_body(page, "link", "open")
    for index in range(1, 40):
        served.feed(make_item(index))
        time.sleep(0.05)
    wait_for_body(page, "picture", "live")


def test_one_viewer_too_many_is_told_so(serve, look, make_item):
    served = serve(clients=1)
    with served.watch() as first:
        first.recv(5)
        page = look(served)
        expect(page.locator("#link-text")).to_have_text("too many viewers, trying again")


def test_a_phone_has_everything_within_its_width(serve, look, make_item):
    served = serve(streams=3)
    served.feed(make_item(labels=["a-label-without-any-space-" * 4, "green"]))
    page = look(served, **PHONE)
    wait_for_body(page, "picture", "live")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    small = page.evaluate(
        "[...document.querySelectorAll('button')].filter(b => b.offsetHeight && "
        "b.offsetHeight < 34).map(b => b.textContent)"
    )
    assert small == []


def test_a_hidden_page_is_sent_no_pictures(serve, look, make_item, monkeypatch):
    encoded: list[int] = []
    encode = broadcast.encode_packet

    def counted(item):
        encoded.append(item.frame.index)
        return encode(item)

    monkeypatch.setattr(broadcast, "encode_packet", counted)
    served = serve()
    served.feed(make_item())
    page = look(served)
    wait_for_body(page, "picture", "live")
    hide = (
        "hidden => { Object.defineProperty(document, 'hidden', {value: hidden, "
        "configurable: true}); document.dispatchEvent(new Event('visibilitychange')); }"
    )
    page.evaluate(hide, True)
    page.wait_for_timeout(500)
    served.feed(make_item(1))
    page.wait_for_timeout(500)
    assert encoded == [0]
    page.evaluate(hide, False)
    wait_for_body(page, "picture", "live")
    page.wait_for_timeout(500)
    assert encoded == [0, 1]


def test_the_style_that_the_run_was_given_is_where_the_page_begins(contract_with, look, make_item):
    from foldcam.runtime.sources.options import ServeOptions
    from foldcam.runtime.system.monitor import Monitor
    from foldcam.runtime.web import LivePage

    style = Style(opacity=0.35, colormap="viridis")
    with LivePage(ServeOptions(port=0), Monitor(), contract_with(), style=style) as page_:
        page_.write(make_item())

        class At:
            port = page_._place[1]

        page = look(At)
        expect(page.locator("#colormap")).to_have_value("viridis")
        assert page.locator("#opacity").input_value() == "35"


def test_an_unknown_region_is_named_and_learned(serve, look, make_item, token, living):
    contract, bank = living
    served = serve(contract, bank=bank, token=token)
    served.feed(make_item(unknown=True, embedding=np.array([0, 0, 1], np.float32)))
    page = look(served, **PHONE)
    page.locator("#token").fill(token)
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("#offers img")).to_have_count(1)
    page.get_by_role("button", name="Learn").click()
    assert "anna" not in [run.name for run in read_bank(bank).labels]
    page.locator("#name").fill("<b>anna</b>")
    page.get_by_role("button", name="Learn").click()
    expect(page.locator("#learned")).to_have_text("Choose one picture or several.")
    page.locator("#offers input").check()
    page.get_by_role("button", name="Learn").click()
    expect(page.locator("#learned")).to_have_text(re.compile("1 picture of <b>anna</b> learned"))
    expect(page.locator("#offers img")).to_have_count(0)
    assert "<b>anna</b>" in [run.name for run in read_bank(bank).labels]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.complaints == []
