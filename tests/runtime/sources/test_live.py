"""A live source that fails in every way, with captures that the test holds in its hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from foldcam.runtime.sources import Link
from foldcam.runtime.sources.live import LiveSource
from foldcam.runtime.sources.options import FlowOptions
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.monitor import Monitor

QUICK = FlowOptions(stall_seconds=0.3, backoff_seconds=0.02, backoff_most_seconds=0.05, wait=True)


class Fake:
    """Delivers grey pictures; then ends, raises, or hangs until it is let go."""

    fps = 25.0
    bad = 0

    def __init__(self, pictures: int, then: str = "end", pause: float = 0.0) -> None:
        self.pictures = pictures
        self.then = then
        self.pause = pause
        self.let_go = threading.Event()
        self.released = False

    def read(self):
        time.sleep(self.pause)
        if self.pictures:
            self.pictures -= 1
            return np.full((4, 6, 3), 9, np.uint8)
        if self.then == "raise":
            raise RuntimeError("driver")
        if self.then == "hang":
            self.let_go.wait(20)
        return None

    def release(self) -> None:
        self.released = True


def source_of(*attempts: object, flow: FlowOptions = QUICK) -> LiveSource:
    """Each attempt is a capture, an error to raise, or a function to call."""
    left = list(attempts)

    def open_capture():
        attempt = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(attempt, Exception):
            raise attempt
        return attempt() if callable(attempt) else attempt

    return LiveSource(open_capture, "cam", "cam", flow)


def taken(source: LiveSource, count: int) -> list:
    frames = []
    for frame in source:
        frames.append(frame)
        if len(frames) == count:
            source.stop()
    return frames


def watched(source: LiveSource) -> tuple[Monitor, list[tuple[str, str]]]:
    monitor, states = Monitor(), []
    monitor.add_stream("cam", True)
    monitor.listen(lambda name, state, reason: states.append((state.value, reason)))
    source.attach(Link(monitor, 0))
    return monitor, states


def every(flow: FlowOptions = QUICK) -> FlowOptions:
    from dataclasses import replace

    return replace(flow, keep="every")


def test_it_is_opened_again_and_its_frames_go_on_counting():
    source = source_of(Fake(3), Fake(0), FoldcamError("cam cannot be opened: gone."), Fake(4),
                       flow=every())  # fmt: skip
    _, states = watched(source)
    with source:
        frames = taken(source, 7)
    assert [frame.index for frame in frames] == list(range(7))
    assert frames[0].timestamp == 0.0
    times = [frame.timestamp for frame in frames]
    assert times == sorted(times)
    # By this a vote knows that there was a gap.
    assert len({frame.connection for frame in frames[:3]}) == 1
    assert len({frame.connection for frame in frames[3:]}) == 1
    assert frames[2].connection < frames[3].connection
    told = [state for state, _ in states]
    assert told[:3] == ["streaming", "backoff", "connecting"]
    assert ("backoff", "stopped delivering after 3 frames") in states
    assert ("backoff", "gone") in states
    assert told[-1] == "stopped"


def test_a_capture_that_hangs_is_left_behind_and_the_next_one_delivers():
    stuck, good = Fake(1, "hang"), Fake(5)
    source = source_of(stuck, good, flow=every())
    _, states = watched(source)
    with source:
        frames = taken(source, 3)
        assert len(frames) == 3
        assert ("backoff", "delivered nothing for 0.3 s") in states
        assert source.left_behind == 1
    stuck.let_go.set()
    deadline = time.monotonic() + 5
    while source.left_behind and time.monotonic() < deadline:
        time.sleep(0.01)
    assert source.left_behind == 0
    assert stuck.released


def test_it_stops_at_once_while_opening_hangs():
    let_go = threading.Event()
    source = source_of(lambda: let_go.wait(20) and Fake(1), flow=FlowOptions(wait=True))
    with source:
        threading.Timer(0.1, source.stop).start()
        begun = time.monotonic()
        assert list(source) == []
    assert time.monotonic() - begun < 3
    let_go.set()


def test_it_stops_at_once_in_backoff():
    slow = FlowOptions(backoff_seconds=60, backoff_most_seconds=60, wait=True)
    source = source_of(FoldcamError("cam cannot be opened: away."), flow=slow)
    with source:
        threading.Timer(0.1, source.stop).start()
        begun = time.monotonic()
        assert list(source) == []
    assert time.monotonic() - begun < 3


def test_a_capture_that_raises_is_a_reason_not_a_crash():
    source = source_of(Fake(1, "raise"), Fake(3), flow=every())
    _, states = watched(source)
    with source:
        assert len(taken(source, 2)) == 2
    assert ("backoff", "failed with RuntimeError") in states


def test_without_reconnecting_it_ends_and_says_how():
    flow = FlowOptions(reconnect=False, keep="every")
    source = source_of(Fake(3), flow=flow)
    with source:
        assert len(list(source)) == 3
    assert [(skip.path, skip.reason) for skip in source.skipped] == [
        ("cam", "stopped delivering after 3 frames")
    ]
    with source_of(Fake(0), flow=flow) as empty:
        assert list(empty) == []
    assert empty.skipped[0].reason == "delivered no frame"


def test_frames_that_nobody_took_are_counted_and_leave_gaps():
    source = source_of(lambda: Fake(40, "hang"))
    monitor, _ = watched(source)
    frames = []
    with source:
        for frame in source:
            monitor.captured(0, 0.0)
            frames.append(frame.index)
            time.sleep(0.05)
            if frame.index >= 39:
                source.stop()
    (stream,) = monitor.snapshot().streams
    assert frames == sorted(set(frames))
    assert frames[-1] == 39
    assert stream.drops == {"overtaken": 40 - len(frames)}
    assert stream.captured == 40


def test_the_first_attempt_can_be_made_at_once():
    good = source_of(lambda: Fake(2, "hang"))
    good.connect()
    assert good.fps == 25.0
    with good:
        assert len(taken(good, 2)) == 2
    with pytest.raises(FoldcamError, match="away"):
        source_of(FoldcamError("cam cannot be opened: away.")).connect()
    with pytest.raises(FoldcamError, match=r"nothing came within 0\.3 s"):
        source_of(lambda: time.sleep(1) or Fake(1)).connect()


def test_a_first_attempt_that_fails_leaves_no_thread_behind():
    before = threading.active_count()
    with pytest.raises(FoldcamError):
        source_of(FoldcamError("cam cannot be opened: away.")).connect()
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_one_thread_serves_all_attempts_that_end_by_themselves():
    names = set()

    def attempt():
        names.add(threading.get_ident())
        return Fake(2)

    source = source_of(*[attempt] * 20, flow=every())
    with source:
        assert len(taken(source, 40)) == 40
    assert len(names) == 1


def test_many_cuts_leave_no_thread_behind():
    before = threading.active_count()
    attempts: list[Callable[[], Fake]] = [lambda: Fake(2) for _ in range(100)]
    flow = FlowOptions(
        stall_seconds=5, backoff_seconds=0.001, backoff_most_seconds=0.001, wait=True
    )
    source = source_of(*attempts, flow=every(flow))
    with source:
        assert len(taken(source, 200)) == 200
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before
    assert source.left_behind == 0


def test_a_clock_that_jumps_does_no_harm(monkeypatch):
    """Only the monotonic clock counts: the wall clock may go where it wants."""
    monkeypatch.setattr(time, "time", lambda: 1e12 * np.random.default_rng().standard_normal())
    source = source_of(Fake(3), Fake(3), flow=every())
    with source:
        assert [frame.index for frame in taken(source, 5)] == list(range(5))
