"""Frames without an answer: counted by cause, and a model that gives only such is broken."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from pipeline_parts import Given, Kept

from foldcam.runtime.model.unanswered import NAN, ZERO
from foldcam.runtime.pipeline.conductor import FRAMES_IN_A_ROW, Answers
from foldcam.runtime.pipeline.run import run

BLACK = np.zeros((16, 16, 3), np.uint8)


def test_a_film_with_black_frames_is_read_to_its_end_and_they_are_counted(load, without_epsilon):
    class Dark(Given):
        def __iter__(self):
            for frame in super().__iter__():
                yield replace(frame, image=BLACK) if frame.index < FRAMES_IN_A_ROW + 5 else frame

    kept = Kept()
    summary = run(Dark(50), load(without_epsilon), [kept])
    assert summary.frames == len(kept.items) == 50
    assert summary.unanswered == {NAN: FRAMES_IN_A_ROW + 5}
    assert summary.streams[0]["unanswered"] == summary.unanswered
    assert sum(summary.labels.values()) == 50 - FRAMES_IN_A_ROW - 5
    assert summary.broken is None


def test_a_live_run_ends_when_the_model_answers_no_longer(load, scaled):
    kept = Kept()
    summary = run(Given(10**9, live=True), load(scaled(np.nan)), [kept])
    assert summary.broken.startswith("The model is broken, or its pictures are: 30 frames in a row")
    assert not summary.interrupted
    assert kept.left == [None]


def test_frames_without_regions_say_nothing_of_the_model():
    watch = Answers(live=True)
    for _ in range(FRAMES_IN_A_ROW):
        watch.add([])
    watch.end()
    assert watch.broken is None


def test_a_result_of_a_users_own_function_is_judged_too(load, without_epsilon):
    good, kept = load(without_epsilon), Kept()

    def own(image):
        return replace(good(image), similarities=np.array([np.nan, 0.5], np.float32))

    summary = run(Given(3), own, [kept])
    assert summary.unanswered == {NAN: 3}
    assert summary.broken is not None
    assert kept.items[0].result.labels == []


def test_black_pictures_break_no_sound_model(load, scaled):
    summary = run(Given(3), load(scaled(0.0)))
    assert summary.unanswered == {ZERO: 3}
    assert summary.labels == {}
    assert summary.broken is None
