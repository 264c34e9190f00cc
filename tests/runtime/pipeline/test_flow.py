"""Frames through a run: order, drops by cause, overlap, several sources, slow and dead sinks."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from pipeline_parts import Given, Kept, Reopened, Sized, foldcam_threads, until

from foldcam.runtime.backends import open_backend
from foldcam.runtime.model.folded_model import FoldedModel
from foldcam.runtime.pipeline.run import run
from foldcam.runtime.sources import open_source
from foldcam.runtime.sources.options import FlowOptions
from foldcam.runtime.sources.pattern import number_in
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.monitor import Monitor


@pytest.fixture
def model(tiny_model):
    with FoldedModel.load(tiny_model, "cpu", 1) as loaded:
        yield loaded


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = foldcam_threads()
    yield
    until(lambda: not foldcam_threads() - before)


def test_a_recorded_source_loses_none_in_order_however_slow_a_sink_is(model):
    slow = Kept(lambda item: time.sleep(0.004))
    quick, behind = Kept(), Given(60)
    most = []

    def look(item):
        most.append(behind.delivered - len(quick.items))

    slow._act = lambda item: (time.sleep(0.004), look(item))
    summary = run(behind, model, [slow, quick])
    assert slow.indices == quick.indices == list(range(60))
    assert summary.streams[0]["drops"] == {}
    assert [sink["drops"] for sink in summary.sinks] == [{}, {}]
    # Queues are bounded: the source is never far ahead of its slowest sink.
    assert max(most) <= 4 + 4 + 6


def test_frames_keep_their_own_pixels(model):
    """Buffers go round: a frame must not be overwritten while a slow sink holds it."""
    wrong = []

    def look(item):
        time.sleep(0.002)
        if number_in(item.frame.image) != item.frame.index:
            wrong.append(item.frame.index)

    kept = Kept(look)
    run(open_source("test://?size=64x32&frames=60"), model, [kept])
    assert (wrong, len(kept.items)) == ([], 60)


def test_stages_overlap(tiny_model):
    """Capture, inference and output are at work at the same time."""
    busy, together, lock = set(), set(), threading.Lock()

    def work(stage):
        with lock:
            busy.add(stage)
            together.add(frozenset(busy))
        time.sleep(0.01)
        with lock:
            busy.discard(stage)

    slow = Sized(open_backend(tiny_model, "cpu", 1), lambda: work("inference"))
    with slow:
        run(Given(30, before=lambda index: work("capture")), slow, [Kept(lambda s: work("sink"))])
    assert frozenset({"capture", "inference", "sink"}) in together


def test_a_live_source_gives_its_newest_frame_and_counts_the_rest(tiny_model):
    slow = Sized(open_backend(tiny_model, "cpu", 1), lambda: time.sleep(0.03))
    kept = Kept()
    source = Given(60, live=True, before=lambda index: time.sleep(0.005))
    with slow:
        summary = run(source, slow, [kept])
    (stream,) = summary.streams
    assert 3 < summary.frames < 40
    assert stream["captured"] == 60
    # The newest one waits when the source ends.
    assert kept.indices == sorted(set(kept.indices))
    assert kept.indices[-1] == 59
    assert stream["drops"] == {"overtaken": 60 - summary.frames}


def test_both_can_be_overridden(tiny_model):
    def slow():
        return Sized(open_backend(tiny_model, "cpu", 1), lambda: time.sleep(0.01))

    with slow() as model:
        source = Given(25, live=True, before=lambda index: time.sleep(0.001))
        assert run(source, model, flow=FlowOptions(keep="every")).frames == 25
    with slow() as model:
        source = Given(25, before=lambda index: time.sleep(0.001))
        summary = run(source, model, flow=FlowOptions(keep="newest"))
        assert summary.frames < 25
        assert summary.streams[0]["drops"] == {"overtaken": 25 - summary.frames}


def test_a_slow_sink_never_stalls_a_live_source(model):
    let_go = threading.Event()
    dead, quick = Kept(lambda item: let_go.wait(30), name="dead"), Kept(name="quick")
    source = Given(40, live=True, before=lambda index: time.sleep(0.004))
    monitor = Monitor()

    def release():
        until(lambda: monitor.snapshot().streams and source.delivered == 40)
        let_go.set()

    threading.Thread(target=release).start()
    summary = run(source, model, [dead, quick], monitor=monitor)
    told = {sink["sink"]: sink for sink in summary.sinks}
    assert len(quick.items) == summary.frames
    assert told["dead"]["drops"]["sink behind"] == summary.frames - len(dead.items)
    assert told["dead"]["written"] == len(dead.items) < summary.frames
    # It is given the newest of what it missed.
    assert dead.indices[-1] == quick.indices[-1]
    assert dead.indices == sorted(dead.indices)


def test_a_sink_that_may_skip_never_stalls_a_recorded_one(model):
    let_go = threading.Event()
    window = Kept(lambda item: let_go.wait(30), may_skip=True, name="window")
    lines = Kept(lambda item: len(lines.items) == 39 and let_go.set(), name="lines")
    summary = run(Given(40), model, [window, lines])
    assert lines.indices == list(range(40))
    assert len(window.items) < 40
    assert summary.sinks[0]["drops"]["sink behind"] == 40 - len(window.items)


def test_a_sink_that_hangs_does_not_keep_a_stopped_run(model, monkeypatch):
    from foldcam.runtime.pipeline import conductor, sink_thread

    for module in (sink_thread, conductor):
        monkeypatch.setattr(module, "GRACE_SECONDS", 0.3)
    let_go, stop = threading.Event(), threading.Event()
    dead, quick = Kept(lambda item: let_go.wait(30)), Kept()
    threading.Timer(0.2, stop.set).start()
    source = Given(10**9, live=True, before=lambda index: time.sleep(0.002))
    summary = run(source, model, [dead, quick], stop=stop)
    assert summary.interrupted
    assert quick.left == [None]
    # Nobody may touch it while it is being written to.
    assert dead.left == []
    let_go.set()


def test_a_sink_may_leave_a_frame_out_and_go_on(model):
    from foldcam.runtime.sinks.base import NotWritten

    def leave_out(item):
        if item.frame.index in (3, 4):
            raise NotWritten("the broker is busy")

    kept = Kept(leave_out)
    summary = run(Given(9), model, [kept])
    assert kept.indices == [0, 1, 2, 5, 6, 7, 8]
    assert summary.sinks[0]["drops"] == {"sink failed": 2}
    assert summary.sinks[0]["reason"] == "the broker is busy"


def test_windows_are_written_to_by_the_main_thread(model):
    threads = set()
    window = Kept(lambda item: threads.add(threading.current_thread()), may_skip=True)
    window.main_thread = True
    run(Given(60, before=lambda index: time.sleep(0.002)), model, [window])
    assert threads == {threading.main_thread()}
    assert window.left == [None]


def test_a_window_that_is_closed_ends_the_run(model):
    from foldcam.runtime.sinks import StopRequested

    def close(item):
        raise StopRequested

    window = Kept(close, may_skip=True)
    window.main_thread = True
    source = Given(10**9, live=True, before=lambda index: time.sleep(0.002))
    assert run(source, model, [window, Kept()]).interrupted


def test_a_sink_that_fails_on_a_recorded_source_ends_the_run(model):
    def fail(item):
        if item.frame.index == 3:
            raise FoldcamError("the disk is full")

    failing, other = Kept(fail), Kept()
    with pytest.raises(FoldcamError, match="the disk is full"):
        run(Given(50), model, [failing, other])
    assert failing.left == other.left == [FoldcamError]


def test_a_sink_that_fails_on_a_live_one_is_closed_and_the_others_go_on(model):
    def fail(item):
        raise FoldcamError("the disk is full.")

    failing, other = Kept(fail, name="video"), Kept()
    source = Given(40, live=True, before=lambda index: time.sleep(0.002))
    summary = run(source, model, [failing, other])
    assert other.left == [None]
    assert failing.left == [FoldcamError]
    assert summary.sinks[0]["reason"] == "the disk is full"
    assert summary.sinks[0]["drops"]["sink failed"] >= 1
    assert len(other.items) == summary.frames > 5


def test_it_is_opened_again_if_it_offers_that(model):
    broken = [3]

    def fail(item):
        if broken[0]:
            broken[0] -= 1
            raise FoldcamError("away")

    sink = Reopened(fail, refusals=2)
    source = Given(300, live=True, before=lambda index: time.sleep(0.002))
    flow = FlowOptions(backoff_seconds=0.01, backoff_most_seconds=0.02)
    run(source, model, [sink, Kept()], flow=flow)
    assert sink.reopened == 3
    assert sink.items[-1].frame.index == 299
    assert sink.left == [FoldcamError] * 3 + [None]


def test_what_a_failed_sink_removed_is_not_said_to_be_written(model):
    def fail(item):
        raise FoldcamError("the disk is full")

    failing, other = Kept(fail), Kept()
    failing.output, other.output = "film.mp4", "lines.jsonl"
    source = Given(50, live=True, before=lambda index: time.sleep(0.002))
    assert run(source, model, [failing, other]).outputs == ["lines.jsonl"]


def test_without_anybody_left_to_write_for_the_run_ends(model):
    def fail(item):
        raise FoldcamError("the disk is full")

    source = Given(10**9, live=True, before=lambda index: time.sleep(0.002))
    with pytest.raises(FoldcamError, match="the disk is full"):
        run(source, model, [Kept(fail)])


def test_who_only_looks_keeps_it_going(model):
    def fail(item):
        raise FoldcamError("the disk is full")

    page = Kept(may_skip=True)
    source = Given(100, live=True, before=lambda index: time.sleep(0.002))
    summary = run(source, model, [Kept(fail), page])
    assert page.items[-1].frame.index == 99
    assert summary.frames > 10


def test_a_bug_in_a_sink_is_not_swallowed(model):
    def bug(item):
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError):
        run(Given(10**9, live=True, before=lambda i: time.sleep(0.001)), model, [Kept(bug)])


def test_sources_share_a_pass_and_are_never_mixed(tiny_model):
    kept = Kept()
    colors = ("red", "green", "blue")
    with Sized(open_backend(tiny_model, "cpu", 1)) as model:
        sources = [Given(20, color=color, name=color) for color in colors]
        summary = run(sources, model, [kept])
    assert model.rows == [3] * 20
    for stream, color in enumerate(colors):
        own = [item for item in kept.items if item.frame.stream == stream]
        assert [item.frame.index for item in own] == list(range(20))
        assert {item.result.labels[0] for item in own} == {color}
        assert {item.frame.source for item in own} == {color}
    assert summary.frames == 60
    assert summary.source == "red, green, blue"
    assert [stream["processed"] for stream in summary.streams] == [20, 20, 20]


def test_a_source_that_ends_early_holds_nobody_up(tiny_model):
    kept = Kept()
    with Sized(open_backend(tiny_model, "cpu", 1)) as model:
        run([Given(3), Given(30, color="blue")], model, [kept])
    assert [item.frame.index for item in kept.items if item.frame.stream] == list(range(30))


def test_a_live_source_that_hangs_does_not_disturb_the_other(model):
    let_go, stop = threading.Event(), threading.Event()
    kept = Kept()
    hanging = Given(100, live=True, before=lambda i: i == 5 and let_go.wait(30))
    flowing = Given(100, live=True, color="blue", before=lambda index: time.sleep(0.002))
    sources = [hanging, flowing]
    threading.Thread(target=lambda: (until(lambda: flowing.closed), let_go.set())).start()
    run(sources, model, [kept], stop=stop)
    assert [s.frame.index for s in kept.items if s.frame.stream == 1][-1] == 99


def test_recorded_frames_fill_batches_as_asked(tiny_model):
    kept = Kept()
    with Sized(open_backend(tiny_model, "cpu", 1)) as model:
        run(Given(21), model, [kept], flow=FlowOptions(batch=8, queue=2))
    assert model.rows == [8, 8, 5]
    assert kept.indices == list(range(21))


def test_batches_give_what_single_frames_give(tiny_model):
    def results(batch: int) -> list:
        kept = Kept()
        with FoldedModel.load(tiny_model, "cpu", 1) as model:
            source = open_source("test://?size=64x32&frames=12")
            run(source, model, [kept], flow=FlowOptions(batch=batch))
        return [item.result for item in kept.items]

    for one, many in zip(results(1), results(5), strict=True):
        np.testing.assert_allclose(one.embedding, many.embedding, atol=1e-6)
        np.testing.assert_allclose(one.heatmap, many.heatmap, atol=1e-5)


def test_it_stops_when_told_with_what_was_begun_written(model):
    stop, kept = threading.Event(), Kept()
    kept._act = lambda item: item.frame.index == 20 and stop.set()
    summary = run(Given(10**9), model, [kept], stop=stop)
    assert summary.interrupted
    assert summary.frames == len(kept.items) == summary.sinks[0]["written"]
    assert kept.indices == list(range(len(kept.items)))
    assert kept.left == [None]


def test_it_stops_at_once_while_a_source_is_stuck(model):
    let_go, stop = threading.Event(), threading.Event()
    threading.Timer(0.2, stop.set).start()
    begun = time.monotonic()
    summary = run(Given(5, live=True, before=lambda i: let_go.wait(30)), model, stop=stop)
    assert time.monotonic() - begun < 10
    assert (summary.interrupted, summary.frames) == (True, 0)
    let_go.set()


def test_the_monitor_is_told_everything(model):
    monitor = Monitor()
    kept = Kept(lambda item: item.image)
    run(Given(10), model, [kept], monitor=monitor)
    now = monitor.snapshot()
    assert now.frames == 10
    assert set(now.stages_ms) == {"source", "wait", "preprocess", "inference", "render", "sinks"}
    for stage in ("preprocess", "inference", "render", "sinks"):
        assert now.stages_ms[stage] > 0
    assert now.streams[0].state == "stopped"
    assert now.latency_ms["p50"] > 0


def test_progress_is_told_at_least_once(model):
    told = []
    run(Given(5), model, [], lambda progress: told.append((progress.frames, progress.answer)))
    assert told[-1] == (5, "red")


def test_a_source_that_raises_ends_the_run(model):
    def fail(index):
        if index == 2:
            raise FoldcamError("the crop lies outside")

    kept = Kept()
    with pytest.raises(FoldcamError, match="outside"):
        run(Given(9, before=fail), model, [kept])
    assert kept.left == [FoldcamError]


def test_a_sink_that_cannot_begin_closes_what_was_open(model):
    class Refusing(Kept):
        def __enter__(self):
            raise FoldcamError("no room")

    source, other = Given(5), Kept()
    with pytest.raises(FoldcamError, match="no room"):
        run(source, model, [other, Refusing()])
    assert source.closed
    assert other.left == [FoldcamError]


def test_a_run_needs_a_source(model):
    with pytest.raises(ValueError, match="at least one"):
        run([], model)


def test_a_detector_that_stumbles_on_a_camera_costs_one_frame(model):
    from foldcam.runtime.sources.regions import Regions

    def find(frame):
        if frame.index % 2:
            raise FoldcamError("no face, no idea")
        return [(0, 0, 8, 8)]

    source = Given(20, live=True, before=lambda index: time.sleep(0.01))
    kept = Kept()
    summary = run(source, model, [kept], regions=Regions(find, "it", 1))
    assert summary.streams[0]["drops"]["failed"] >= 5
    assert all(index % 2 == 0 for index in kept.indices)
    with pytest.raises(FoldcamError, match="no idea"):
        run(Given(20), model, regions=Regions(find, "it", 1))


def test_a_detector_that_always_fails_ends_even_a_camera(model):
    from foldcam.runtime.sources.regions import Regions

    def find(frame):
        raise FoldcamError("no weights")

    source = Given(10**9, live=True, before=lambda index: time.sleep(0.001))
    with pytest.raises(FoldcamError, match="no weights"):
        run(source, model, regions=Regions(find, "it", 1))
