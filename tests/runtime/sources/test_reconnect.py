"""The state machine of a live source, by a clock that the test turns."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foldcam.runtime.sources.live import Reconnect
from foldcam.runtime.sources.options import FlowOptions
from foldcam.runtime.system.backoff import Backoff
from foldcam.runtime.system.monitor import State

FLOW = FlowOptions(stall_seconds=10.0, backoff_seconds=1.0, backoff_most_seconds=8.0)


class Steady(random.Random):
    """No jitter: every wait is the longest that it may be."""

    def uniform(self, a: float, b: float) -> float:
        return b


def machine(flow: FlowOptions = FLOW, now: float = 100.0) -> Reconnect:
    return Reconnect(flow, now, Steady())


def test_waits_double_up_to_the_limit_and_begin_anew():
    backoff = Backoff(1.0, 8.0, Steady())
    assert [backoff.next() for _ in range(6)] == [1, 2, 4, 8, 8, 8]
    backoff.reset()
    assert backoff.next() == 1


def test_waits_are_drawn_between_half_and_whole_and_repeat_with_their_seed():
    drawn = [Backoff(8.0, 8.0, random.Random(seed)).next() for seed in range(200)]
    assert all(4.0 <= wait <= 8.0 for wait in drawn)
    assert max(drawn) - min(drawn) > 3.0
    assert drawn[3] == Backoff(8.0, 8.0, random.Random(3)).next()


def test_no_wait_is_a_short_wait():
    assert Backoff(0.0, 0.0, Steady()).next() == 0.01


def test_a_year_of_failures_overflows_nothing():
    backoff = Backoff(0.5, 30.0, Steady())
    assert [backoff.next() for _ in range(100_000)][-1] == 30.0


def test_a_frame_makes_it_stream_and_moves_the_deadline():
    it = machine()
    assert (it.state, it.deadline) == (State.connecting, 110.0)
    it.frame(103.0)
    assert (it.state, it.reason, it.deadline) == (State.streaming, "", 108.0)


def test_silence_is_a_stall_and_then_a_reason_to_open_it_again():
    it = machine()
    it.frame(103.0)
    it.at(107.9)
    assert it.state is State.streaming
    it.at(108.0)
    assert (it.state, it.deadline) == (State.stalled, 113.0)
    it.frame(109.0)
    assert it.state is State.streaming
    it.at(114.0)
    it.at(119.0)
    assert (it.state, it.reason) == (State.backoff, "delivered nothing for 10 s")
    assert it.deadline == 120.0


def test_nothing_within_the_deadline_of_connecting():
    it = machine()
    it.at(110.0)
    assert (it.state, it.reason) == (State.backoff, "nothing came within 10 s")
    it.at(110.9)
    assert it.state is State.backoff
    it.at(111.0)
    assert (it.state, it.deadline) == (State.connecting, 121.0)


def test_each_failure_waits_longer_until_it_streams_for_longer_than_that():
    it, waits, now = machine(), [], 100.0
    for _ in range(5):
        it.failed(now, "is away")
        waits.append(it.deadline - now)
        now = it.deadline
        it.at(now)
    assert waits == [1, 2, 4, 8, 8]
    # One frame, then gone: no healthy source.
    it.frame(now)
    it.failed(now + 0.1, "is away")
    assert it.deadline == pytest.approx(now + 0.1 + 8)
    now = it.deadline
    it.at(now)
    it.frame(now)
    it.frame(now + 8.0)
    it.failed(now + 8.0, "is away")
    assert it.deadline == now + 9.0


def test_without_reconnecting_the_first_failure_is_the_last():
    it = machine(FlowOptions(reconnect=False))
    it.frame(101.0)
    it.failed(102.0, "stopped delivering after 9 frames")
    assert (it.state, it.reason) == (State.stopped, "stopped delivering after 9 frames")


@pytest.mark.parametrize("before", ["connecting", "streaming", "stalled", "backoff"])
def test_it_can_be_stopped_from_anywhere_and_stays_so(before):
    it = machine()
    if before in ("streaming", "stalled"):
        it.frame(101.0)
    if before == "stalled":
        it.at(106.0)
    if before == "backoff":
        it.failed(101.0, "is away")
    assert it.state.value == before
    it.stop()
    for late in (lambda: it.frame(200.0), lambda: it.failed(200.0, "x"), lambda: it.at(900.0)):
        late()
        assert it.state is State.stopped


def test_a_frame_that_comes_after_it_was_given_up_changes_nothing():
    it = machine()
    it.failed(101.0, "is away")
    it.frame(101.5)
    assert (it.state, it.deadline) == (State.backoff, 102.0)


def test_a_stall_ends_at_its_deadline_however_sums_are_rounded():
    """118.52 + 10 - 118.52 is less than 10: a deadline that is reached must not come again."""
    it = machine()
    it.frame(118.52063703740448)
    for _ in range(2):
        it.at(it.deadline)
    assert it.state is State.backoff


def test_a_call_long_after_the_deadline_moves_one_step():
    """As after a suspended laptop: the clock has gone far, and one state follows another."""
    it = machine()
    it.frame(101.0)
    it.at(1e6)
    assert it.state is State.backoff
    it.at(2e6)
    assert (it.state, it.deadline) == (State.connecting, 2e6 + 10)


ALLOWED = {
    State.connecting: {State.streaming, State.backoff},
    State.streaming: {State.stalled, State.backoff},
    State.stalled: {State.streaming, State.backoff},
    State.backoff: {State.connecting},
    State.stopped: set(),
}
EVENTS = st.tuples(st.sampled_from(["frame", "failed", "at"]), st.floats(0.0, 40.0))


@given(st.lists(EVENTS, max_size=60), st.integers(0, 2**32 - 1))
def test_whatever_happens_it_goes_only_where_it_may_and_always_has_something_to_do(events, seed):
    now = 100.0
    it = Reconnect(FLOW, now, random.Random(seed))
    for event, later in events:
        now += later
        before = it.state
        getattr(it, event)(*((now, "is away") if event == "failed" else (now,)))
        assert it.state is before or it.state in ALLOWED[before]
        if it.state is State.streaming:
            assert it.reason == ""
        if it.state in (State.stalled, State.backoff):
            assert it.reason
        if it.state is State.backoff and before is not State.backoff:
            assert 0.499 <= it.deadline - now <= FLOW.backoff_most_seconds + 1e-6
        # Nobody ever waits longer than for the longest of all deadlines.
        assert it.deadline - now <= FLOW.stall_seconds + 1e-6


@given(st.lists(EVENTS, max_size=40))
def test_left_alone_it_always_comes_to_another_attempt(events):
    now, it = 100.0, machine()
    for event, later in events:
        now += later
        getattr(it, event)(*((now, "is away") if event == "failed" else (now,)))
    for _ in range(4):
        now = max(now, it.deadline)
        it.at(now)
        if it.state is State.connecting:
            return
    pytest.fail(f"it stayed {it.state.value}")
