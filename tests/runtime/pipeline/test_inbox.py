"""Frames on their way to the network: what is kept, what gives way, and who is waited for."""

from __future__ import annotations

import threading
import time

from foldcam.runtime.pipeline.inbox import Inbox


def box(newest, live=None, room=3, gather=0.0):
    gone: list[int] = []
    return Inbox(newest, live or newest, room, gather, gone.append), gone


def frames_of(taken) -> list:
    return [frame for frame, _ in taken]


def test_the_newest_replaces_what_was_not_taken():
    inbox, gone = box([True])
    for frame in "abc":
        inbox.put(0, frame)
    assert frames_of(inbox.take(4)) == ["c"]
    assert gone == [0, 0]


def test_who_keeps_every_frame_waits_for_room():
    inbox, gone = box([False], room=2)
    put: list[str] = []

    def reader():
        for frame in "abcd":
            inbox.put(0, frame)
            put.append(frame)
        inbox.finish(0)

    thread = threading.Thread(target=reader)
    thread.start()
    time.sleep(0.1)
    assert put == ["a", "b"]
    taken = []
    while found := inbox.take(1):
        taken += frames_of(found)
    thread.join()
    assert (taken, gone) == (list("abcd"), [])


def test_sources_take_turns():
    inbox, _ = box([False, False], room=9)
    for stream in (0, 1):
        for number in range(3):
            inbox.put(stream, (stream, number))
    assert frames_of(inbox.take(3)) == [(0, 0), (1, 0), (0, 1)]
    assert frames_of(inbox.take(3)) == [(1, 1), (0, 2), (1, 2)]


def test_a_recorded_source_is_waited_for_until_the_batch_is_full():
    inbox, _ = box([False], room=9)
    inbox.put(0, "a")

    def later():
        time.sleep(0.05)
        inbox.put(0, "b")

    threading.Thread(target=later).start()
    assert frames_of(inbox.take(2)) == ["a", "b"]


def test_an_ended_source_is_not_waited_for():
    inbox, _ = box([False], room=9)
    inbox.put(0, "a")
    inbox.finish(0)
    assert frames_of(inbox.take(5)) == ["a"]
    assert inbox.take(5) == []


def test_a_live_frame_waits_a_moment_for_the_other_camera():
    inbox, _ = box([True, True], gather=10.0)
    for stream in (0, 1):
        inbox.put(stream, "old")
    inbox.take(2)
    inbox.put(0, "a")

    def later():
        time.sleep(0.05)
        inbox.put(1, "b")

    threading.Thread(target=later).start()
    assert sorted(frames_of(inbox.take(2))) == ["a", "b"]


def test_but_not_for_one_that_does_not_deliver():
    inbox, _ = box([True, True], gather=60.0)
    inbox.put(0, "a")  # the other one has never delivered
    assert frames_of(inbox.take(2)) == ["a"]
    inbox.put(1, "b")
    inbox.take(1)
    inbox.put(0, "c")
    inbox.interrupted(1)
    assert frames_of(inbox.take(2)) == ["c"]


def test_nor_for_one_whose_next_frame_is_not_due_in_time(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    inbox, _ = box([True, True], gather=0.02)
    for _ in range(3):  # one frame a second
        inbox.put(1, "slow")
        inbox.take(1)
        now[0] += 1.0
    now[0] -= 0.5
    inbox.put(0, "a")
    # By this clock the deadline never comes: a wait would not end.
    assert frames_of(inbox.take(2)) == ["a"]


def test_nor_longer_than_it_may():
    inbox, _ = box([True, True], gather=0.05)
    for stream in (0, 1):
        inbox.put(stream, "old")
    inbox.take(2)
    inbox.put(0, "a")
    assert frames_of(inbox.take(2)) == ["a"]


def test_closing_lets_everybody_go():
    inbox, _ = box([False], room=1)
    inbox.put(0, "a")
    kept: list[bool] = []
    thread = threading.Thread(target=lambda: kept.append(inbox.put(0, "b")))
    thread.start()
    inbox.close()
    thread.join(5)
    assert kept == [False]
    assert inbox.take(1) == []
