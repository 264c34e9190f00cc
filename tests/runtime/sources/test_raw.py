"""Raw frames from a pipe: whole ones, half ones, and one that is stopped while it waits."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest

from foldcam.runtime.sources.address import parse_address
from foldcam.runtime.sources.options import SourceOptions
from foldcam.runtime.sources.raw import RawSource

ADDRESS = parse_address("-", SourceOptions(width=3, height=2, fps=10.0))


@pytest.fixture
def pipe():
    reading, writing = os.pipe()
    yield RawSource(ADDRESS, reading), writing
    os.close(reading)


def test_frames_in_order_and_the_torn_last_one_is_reported(pipe):
    source, writing = pipe
    frames = np.arange(2 * 18, dtype=np.uint8).reshape(2, 2, 3, 3)
    os.write(writing, frames.tobytes()[:5])

    def rest():
        time.sleep(0.05)
        os.write(writing, frames.tobytes()[5:] + b"half a fr")
        os.close(writing)

    threading.Thread(target=rest).start()
    found = list(source)
    np.testing.assert_array_equal([frame.image for frame in found], frames)
    assert [(frame.index, frame.timestamp) for frame in found] == [(0, 0.0), (1, 0.1)]
    assert [skip.reason for skip in source.skipped] == [
        "the last frame was cut short: 9 of 18 bytes"
    ]


def test_an_end_between_two_frames_is_no_loss(pipe):
    source, writing = pipe
    os.write(writing, bytes(18))
    os.close(writing)
    assert len(list(source)) == 1
    assert source.skipped == []


def test_it_stops_while_it_waits_for_the_rest_of_a_frame(pipe):
    source, writing = pipe
    os.write(writing, bytes(7))
    threading.Timer(0.1, source.stop).start()
    begun = time.monotonic()
    assert list(source) == []
    assert time.monotonic() - begun < 3
    assert source.skipped == []
    os.close(writing)


def test_frames_have_memory_of_their_own(pipe):
    source, writing = pipe
    os.write(writing, bytes(18) + bytes([255] * 18))
    os.close(writing)
    first, second = source
    assert (first.image.max(), second.image.min()) == (0, 255)
