"""A lock that is had in the order in which it was asked for."""

from __future__ import annotations

import threading
import time

import numpy as np

from foldcam.runtime.system.turns import Turns


def waiting(turns: Turns, count: int) -> None:
    deadline = time.monotonic() + 10
    while len(turns._waiting) < count:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_who_asked_first_is_first():
    turns, order = Turns(), []

    def take(number: int) -> None:
        with turns:
            order.append(number)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(6)]
    with turns:
        for number, thread in enumerate(threads):
            thread.start()
            waiting(turns, number + 1)
        assert order == []
    for thread in threads:
        thread.join(10)
    assert order == [*range(6)]


def test_who_comes_back_at_once_stands_behind_those_that_wait():
    turns, order = Turns(), []

    def take() -> None:
        with turns:
            order.append("other")

    thread = threading.Thread(target=take)
    with turns:
        thread.start()
        waiting(turns, 1)
    with turns:
        order.append("first again")
    thread.join(10)
    assert order == ["other", "first again"]


def test_a_failure_within_gives_the_turn_on():
    turns = Turns()
    for _ in range(2):
        try:
            with turns:
                raise ValueError
        except ValueError:
            pass
    assert not turns._taken


def test_passes_of_a_shared_model_never_overlap(load):
    model = load(None)
    model.share()
    inside, most, run = [], [], model._backend.run

    def watched(images):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.001)
        outputs = run(images)
        inside.pop()
        return outputs

    model._backend.run = watched
    picture = np.zeros((8, 8, 3), np.uint8)
    threads = [
        threading.Thread(target=lambda: [model(picture) for _ in range(10)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert set(most) == {1}
    assert len(most) == 40
