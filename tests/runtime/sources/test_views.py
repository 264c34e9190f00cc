"""Rotation, crop and thinning: exact pixels, and numbers that stay the capture's."""

from __future__ import annotations

import numpy as np
import pytest

from foldcam.runtime.sources import Attached, Link, open_source
from foldcam.runtime.sources.options import SourceOptions
from foldcam.runtime.sources.pattern import number_in
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.monitor import Monitor

#   1 2 3
#   4 5 6
SMALL = np.repeat(np.arange(1, 7, dtype=np.uint8).reshape(2, 3, 1), 3, axis=2)


@pytest.fixture
def numbered(tmp_path):
    """`numbered(n)`: a folder of n pictures of 3 x 2 pixels, numbered 1 to 6 plus 10 each."""
    from foldcam.runtime.images.files import write_image

    def write(count: int = 1):
        for number in range(count):
            write_image(tmp_path / "in" / f"{number}.png", SMALL + 10 * number)
        return str(tmp_path / "in")

    return write


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (SourceOptions(rotate=90), [[4, 1], [5, 2], [6, 3]]),
        (SourceOptions(rotate=180), [[6, 5, 4], [3, 2, 1]]),
        (SourceOptions(rotate=270), [[3, 6], [2, 5], [1, 4]]),
        (SourceOptions(crop=(1, 0, 2, 1)), [[2, 3]]),
        (SourceOptions(crop=(1, 1, 9, 9)), [[5, 6]]),
        (SourceOptions(crop=(-2, -2, 4, 3)), [[1, 2]]),
        (SourceOptions(rotate=90, crop=(0, 1, 2, 2)), [[5, 2], [6, 3]]),
    ],
)
def test_turned_and_then_cut(numbered, options, expected):
    with open_source(numbered(), options) as source:
        (frame,) = source
    assert frame.image[..., 0].tolist() == expected


def test_of_every_three_frames_one_with_its_own_number(numbered):
    monitor = Monitor()
    monitor.add_stream("in", False)
    source = open_source(numbered(7), SourceOptions(every=3))
    source.attach(Link(monitor, 0))
    with source:
        frames = list(source)
    assert [frame.index for frame in frames] == [0, 3, 6]
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [1, 31, 61]
    assert source.frames == 3
    (stream,) = monitor.snapshot().streams
    # On purpose, which is no loss.
    assert (stream.thinned, stream.drops, stream.captured) == (4, {}, 4)


def test_a_thinned_film_is_slower(video):
    with open_source(str(video(frames=10)), SourceOptions(every=2)) as source:
        assert source.fps == pytest.approx(10)


def test_a_view_passes_on_what_it_is_told(numbered):
    source = open_source("test://?size=64x48", SourceOptions(rotate=90, every=2))
    assert isinstance(source, Attached)
    numbers = []
    with source:
        for frame in source:
            numbers.append(frame.index)
            if len(numbers) == 3:
                source.stop()
    assert numbers == [0, 2, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (SourceOptions(rotate=45), "45 degrees"),
        (SourceOptions(every=0), "at least 1"),
        (SourceOptions(crop=(0, 0, 0, 5)), "0,0,0,5 has no area"),
    ],
)
def test_views_that_cannot_be(numbered, options, message):
    with pytest.raises(FoldcamError, match=message):
        open_source(numbered(), options)


def test_a_crop_beside_the_frame_is_named_with_the_frame(numbered):
    with (
        open_source(numbered(), SourceOptions(crop=(3, 0, 5, 5))) as source,
        pytest.raises(FoldcamError, match=r"3,0,5,5 lies outside of .* 3 x 2"),
    ):
        list(source)


def test_the_pattern_carries_its_number_moves_and_repeats_by_its_seed():
    def pictures(uri: str) -> list:
        with open_source(uri) as source:
            assert (source.live, source.frames) == (False, 5)
            return [frame.image for frame in source]

    first = pictures("test://?size=64x32&frames=5&seed=1")
    assert [number_in(image) for image in first] == list(range(5))
    assert first[0].shape == (32, 64, 3)
    assert (first[0][1:] != first[1][1:]).mean() > 0.2
    again = pictures("test://?size=64x32&frames=5&seed=1")
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, pictures("test://?size=64x32&frames=5&seed=2"))


def test_the_pattern_numbers_reach_beyond_a_month():
    source = open_source("test://?size=64x32")
    assert number_in(source.picture(2**40 + 5)) == 2**40 + 5


def test_a_pattern_with_a_rate_is_live():
    with open_source("test://?size=64x32&frames=3&rate=100") as source:
        assert (source.live, source.fps) == (True, 100.0)
        frames = list(source)
    assert [frame.timestamp for frame in frames] == pytest.approx([0, 0.01, 0.02])
    assert frames[2].captured - frames[0].captured > 0.015


def test_a_pattern_too_narrow_for_its_number():
    with pytest.raises(FoldcamError, match="at least 48 x 2"):
        open_source("test://?size=40x40")
