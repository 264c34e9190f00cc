"""The report: one page of a run, whose size is bounded and whose text is text."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import PurePath

import numpy as np
import pytest

from foldcam.runtime.contract.gallery import Gallery
from foldcam.runtime.model.drawing.style import Style
from foldcam.runtime.model.frame_results import FrameResults
from foldcam.runtime.model.result import without_answer
from foldcam.runtime.model.vote import Vote
from foldcam.runtime.sinks import report
from foldcam.runtime.sinks.report import ReportSink, smaller
from foldcam.runtime.sources import Skip
from foldcam.runtime.system.errors import FoldcamError


@pytest.fixture
def photos(make_source):
    return make_source(stills=True, live=False, name="photos")


@pytest.fixture
def page_of(tmp_path, photos):
    """`page_of(items)`: the page that they make."""

    def write(items, source=photos, failed=False, folder=tmp_path / "out"):
        sink = ReportSink(folder, [source])
        for item in items:
            sink.write(item)
        sink.close(failed)
        path = folder / "report.html"
        return path.read_text("utf-8") if path.exists() else None

    return write


def named(item, name: str) -> FrameResults:
    return FrameResults(replace(item.frame, name=PurePath(name)), item.results, item.style)


def shown(page: str) -> list[str]:
    return re.findall(r'<article [^>]*data-name="([^"]*)"', page)


def figures(page: str) -> dict[str, str]:
    return dict(re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", page))


def test_every_photograph_has_a_card_and_the_figures_count(page_of, make_item, make_result, photos):
    photos.skipped.append(Skip("photos/broken.jpg", "is <empty>"))
    blank = replace(make_result(), heatmap=np.zeros((2, 2), np.float32))
    failed = without_answer(make_result(), "the network returned NaN")
    items = [
        make_item(0, make_result()),
        make_item(1, replace(make_result(), unknown=True)),
        make_item(2, replace(blank, unknown=False)),
        make_item(3, failed),
    ]
    page = page_of(named(item, f"{n}.jpg") for n, item in enumerate(items))
    assert shown(page) == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    assert figures(page) == {
        "photographs": "4", "answers": "3", "unknown": "1", "without evidence": "1",
        "no answer": "1", "not read": "1", "the network, median": "0.2 ms",
    }  # fmt: skip
    assert re.findall(r'<article class="([^"]*)"', page) == [
        "card", "card unknown", "card known blank", "card silent",
    ]  # fmt: skip
    assert "photos/broken.jpg: is &lt;empty&gt;" in page
    assert "1: the network returned NaN" in page
    assert "nearest: owl" in page
    assert page.count("data:image/jpeg;base64,") == 4


def test_text_of_the_user_is_text(page_of, make_item, make_result):
    hostile = '"><script>alert(1)</script>\ud800'
    page = page_of([named(make_item(0, make_result(hostile)), "<b>'\".jpg")])
    assert "<script>alert" not in page
    assert "<b>'" not in page
    assert page.count("<script>") == 1


def test_regions_an_empty_frame_and_estimates_have_cards(page_of, make_item, make_result):
    boxed = [make_result(f"bird {n}", box=(n, n, 8, 8)) for n in range(6)]
    page = page_of([make_item(0, *boxed), FrameResults(make_item(1).frame, [])])
    assert "and 2 more regions" in page
    assert "no region" in page
    assert figures(page)["regions"] == "6"
    page = page_of([make_item(0, make_result(estimate=512.25))])
    assert "estimate 512.2" in page
    assert "lowest estimate" in page


def test_the_match_is_beside_where_there_is_a_gallery(
    page_of, make_item, make_result, gallery_of, contract_with
):
    result = replace(make_result("red"), neighbors=np.array([2, 1], np.int32))
    item = make_item(0, result)
    assert "has no gallery" in page_of([item])
    with Gallery(gallery_of(), contract_with()) as gallery:
        page = page_of([FrameResults(item.frame, item.results, gallery=gallery)])
    assert "has no gallery" not in page
    assert "matched to<br>red/1.png" in page
    assert page.count("data:image/jpeg;base64,") == 2


def test_pictures_are_drawn_at_the_size_in_which_they_are_shown(make_item, make_result):
    image = np.zeros((600, 1200, 3), np.uint8)
    heat = ((0.0, 1.0), (0.0, 0.0))
    item = make_item(0, replace(make_result(heat=heat), affine=make_result().affine), image=image)
    result = replace(item.results[0], input_wh=(8, 8), box=(600, 0, 600, 300))
    result = replace(result, affine=type(result.affine)(75.0, 37.5, 600.0, 0.0))
    drawn = smaller(FrameResults(item.frame, [result]), 400, Style(caption=False))
    assert drawn.image.shape == (200, 400, 3)
    assert drawn.results[0].box == (200, 0, 200, 100)
    heat = drawn.heat
    assert heat[10, 390] > 0.9
    assert not heat[:, :200].any()
    assert not heat[100:].any()


def test_the_page_does_not_grow_without_end_and_covers_the_whole_run(
    page_of, make_item, monkeypatch
):
    monkeypatch.setattr(report, "MOST_CARDS", 8)
    page = page_of(named(make_item(n), f"{n}.jpg") for n in range(100))
    numbers = [int(name.removesuffix(".jpg")) for name in shown(page)]
    assert numbers == list(range(0, 100, 16))
    assert figures(page)["photographs"] == "100"
    assert "One of 16 of these pictures is shown, 7 in all" in page


def test_of_a_film_a_frame_is_shown_when_its_answer_changes_or_after_ten_seconds(
    page_of, make_item, make_result, make_source
):
    film = make_source(stills=False, live=False, name="film.mp4")
    labels = ["owl"] * 5 + ["gull"] * 30 + ["owl", "gull"] * 2
    items = [make_item(n, make_result(label), seconds=0.5 * n) for n, label in enumerate(labels)]
    page = page_of(items, film)
    assert shown(page) == [f"cam at {at:.1f} s" for at in (0.0, 2.5, 12.5, 17.5, 19.0)]
    assert "a picture is shown when the answer changes" in page


def test_a_voted_answer_comes_first_and_decides_what_is_shown(
    page_of, make_item, make_result, make_source
):
    film = make_source(stills=False, live=False, name="film.mp4")
    vote = Vote("owl", 0.75, 8, 0.0)
    items = [
        make_item(n, replace(make_result(label), vote=vote), seconds=float(n))
        for n, label in enumerate(["owl", "gull", "owl", "gull"])
    ]
    page = page_of(items[1:], film)
    assert shown(page) == ["cam at 1.0 s"]
    assert "<b>owl</b>" in page
    assert "75% of 8 frames; now gull" in page
    assert 'data-labels="owl"' in page


def test_a_failed_run_leaves_nothing_unless_its_source_was_live(
    page_of, make_item, make_source, tmp_path
):
    assert page_of([make_item()], failed=True) is None
    assert [*(tmp_path / "out").iterdir()] == []
    assert page_of([make_item()], make_source(live=True), failed=True) is not None
    assert page_of([], folder=tmp_path / "empty") is None


def test_two_runs_do_not_write_one_page(tmp_path, photos):
    with (
        ReportSink(tmp_path, [photos]),
        pytest.raises(FoldcamError, match="Another run is writing"),
    ):
        ReportSink(tmp_path, [photos])
