"""A backend that fails: opened again with patience, and three times in a row is enough."""

from __future__ import annotations

import threading
import time

import pytest
from pipeline_parts import Flaky, Given, Kept

from foldcam.runtime.backends import open_backend
from foldcam.runtime.pipeline.run import run
from foldcam.runtime.sources.options import FlowOptions
from foldcam.runtime.system.errors import FoldcamError

QUICK = FlowOptions(backoff_seconds=0.01, backoff_most_seconds=0.02)
LOST = FoldcamError("m.onnx failed in flaky on cpu: out of memory.")


@pytest.fixture
def flaky(tiny_model):
    def make(*failures, opens=None) -> Flaky:
        return Flaky(open_backend(tiny_model, "cpu", 1), list(failures), opens)

    return make


@pytest.mark.parametrize("failure", [LOST, MemoryError()])
def test_a_recorded_source_loses_nothing(flaky, failure):
    backend, kept = flaky(None, failure, None, failure, failure), Kept()
    summary = run(Given(12), backend.model(), [kept], flow=QUICK)
    assert kept.indices == list(range(12))
    assert (summary.restarts, backend.opened, backend.closed) == (3, 3, 3)
    assert summary.streams[0]["drops"] == {}


def test_frames_of_a_camera_are_old_by_then_and_are_counted(flaky):
    backend, kept = flaky(None, LOST), Kept()
    source = Given(60, live=True, before=lambda index: time.sleep(0.005))
    summary = run(source, backend.model(), [kept], flow=QUICK)
    assert summary.streams[0]["drops"]["failed"] == 1
    assert kept.indices[-1] == 59
    assert summary.restarts == 1


@pytest.mark.parametrize("live", [False, True])
def test_three_failures_in_a_row_end_the_run_in_one_sentence(flaky, live):
    backend, kept = flaky(None, LOST, LOST, LOST, LOST), Kept()
    source = Given(10**9, live=live, before=lambda index: time.sleep(0.001))
    with pytest.raises(FoldcamError) as caught:
        run(source, backend.model(), [kept], flow=QUICK)
    assert str(caught.value) == (
        "The model failed 3 times in a row, the last time because: m.onnx failed in flaky on cpu: "
        "out of memory."
    )
    assert backend.opened == 2
    assert kept.left == [FoldcamError]


def test_a_backend_that_cannot_be_opened_counts_as_a_failure(flaky):
    gone = FoldcamError("no CUDA device.")
    backend = flaky(LOST, opens=[gone, gone])
    with pytest.raises(FoldcamError, match=r"3 times in a row.*no CUDA device"):
        run(Given(5), backend.model(), flow=QUICK)
    backend = flaky(LOST, opens=[gone])
    kept = Kept()
    assert run(Given(5), backend.model(), [kept], flow=QUICK).restarts == 1
    assert kept.indices == list(range(5))


def test_who_cannot_be_opened_again_fails_at_once(flaky):
    backend = flaky(LOST)
    with pytest.raises(FoldcamError, match=r"^m\.onnx failed"):
        run(Given(5), backend.model(again=False), flow=QUICK)
    assert backend.runs == 1


def test_nobody_waits_for_a_photograph(flaky, photo):
    from foldcam.runtime.sources import open_source

    backend = flaky(LOST)
    with pytest.raises(FoldcamError, match=r"^m\.onnx failed"):
        run(open_source(str(photo("a.png"))), backend.model(), flow=QUICK)
    assert backend.opened == 0


def test_it_stops_at_once_while_it_waits_to_open_the_backend(flaky):
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    slow = FlowOptions(backoff_seconds=60, backoff_most_seconds=60)
    begun = time.monotonic()
    summary = run(Given(5), flaky(LOST).model(), flow=slow, stop=stop)
    assert time.monotonic() - begun < 10
    assert (summary.interrupted, summary.frames) == (True, 0)


def test_a_file_that_was_replaced_meanwhile_is_refused(flaky, make_model, contract_with):
    backend = flaky(LOST)
    model = backend.model()
    other = open_backend(make_model(contract=contract_with(neighbors=1)), "cpu", 1)
    model._again = lambda: other
    with pytest.raises(FoldcamError, match="replaced by another one"):
        run(Given(5), model, flow=FlowOptions(backoff_seconds=0.01, failures=2))
