"""What the routes answer about the run."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import time
from urllib.parse import quote

import cv2
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from foldcam.runtime.contract.gallery import Gallery
from foldcam.runtime.system.monitor import Cause, Monitor, State
from foldcam.runtime.web import health
from foldcam.runtime.web import history as history_module
from foldcam.runtime.web.health import Health
from foldcam.runtime.web.history import History


def test_latest_is_the_newest_result_of_every_stream(serve, make_item):
    served = serve(streams=2)
    assert json.loads(served.get("/api/latest").content) == {"streams": []}
    served.feed(make_item(3, stream=1), make_item(4, stream=1))
    (only,) = json.loads(served.get("/api/latest").content)["streams"]
    assert (only["stream"], only["name"], only["frame"]) == (1, "camera-1", 4)
    assert only["results"][0]["neighbors"][0]["label"] == "red"
    assert only["age_ms"] >= 0


def test_status_is_the_monitors_snapshot(serve, make_item):
    served = serve()
    served.feed(make_item(), make_item(1))
    served.monitor.dropped(0, Cause.overtaken, 3)
    status = json.loads(served.get("/api/status").content)
    assert status["frames"] == 2
    assert status["healthy"] is True
    assert status["streams"][0]["drops"] == {"overtaken": 3}


def test_a_snapshot_is_the_drawn_picture_in_full_size(serve, make_item):
    served = serve()
    assert served.get("/api/snapshot.jpg").status == 404
    item = make_item(size=(1600, 900))
    served.feed(item)
    answer = served.get("/api/snapshot.jpg?stream=0")
    assert answer.getheader("content-type") == "image/jpeg"
    drawn = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert drawn.shape == item.image.shape
    assert drawn.shape[1] == 1600
    assert abs(drawn[::9, ::9].astype(int) - item.image[::9, ::9]).mean() < 3


@pytest.mark.parametrize("stream", ["1", "-1", "x", "", "0x0", "²", "99999999999999999999"])
def test_a_stream_that_is_not_there_has_no_snapshot(serve, make_item, stream):
    served = serve()
    served.feed(make_item())
    assert served.get(f"/api/snapshot.jpg?stream={quote(stream)}").status == 404


def families(served):
    text = served.get("/metrics").content.decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def test_metrics_are_what_prometheus_reads(serve, make_item):
    served = serve(streams=2)
    served.feed(make_item(), make_item(1), make_item(stream=1))
    served.monitor.dropped(0, Cause.overtaken, 2)
    served.monitor.lost(served.monitor.add_sink("video"), Cause.sink_behind)
    served.monitor.state(1, State.backoff, "refused")
    found = families(served)
    processed = found["foldcam_frames_processed"]
    assert processed.type == "counter"
    assert {sample.name for sample in processed.samples} == {"foldcam_frames_processed_total"}
    assert [sample.value for sample in processed.samples] == [2, 1]
    dropped = found["foldcam_frames_dropped"].samples
    assert dropped[0].labels == {"stream": "0", "source": "camera-0", "cause": "overtaken"}
    assert dropped[0].value == 2
    assert found["foldcam_results_lost"].samples[0].labels["cause"] == "sink behind"
    states = {
        sample.labels["state"]: sample.value
        for sample in found["foldcam_source_state"].samples
        if sample.labels["stream"] == "1"
    }
    assert states == {
        "connecting": 0, "streaming": 0, "stalled": 0, "backoff": 1, "stopped": 0,
    }  # fmt: skip
    latency = found["foldcam_frame_latency_seconds"]
    assert latency.type == "histogram"
    counts = [sample for sample in latency.samples if sample.name.endswith("_count")]
    assert {sample.labels["stream"]: sample.value for sample in counts} == {"0": 2, "1": 1}
    assert found["foldcam_up"].samples[0].value == 1


def test_names_of_metrics_tell_their_units(serve, make_item):
    served = serve()
    served.feed(make_item())
    units = re.compile(
        r"(seconds|hertz|bytes|info|up|clients|state|captured|processed|dropped|thinned|unanswered|"
        r"unknown|reconnects|restarts|written|lost|fds|created)$"
    )
    assert [name for name in families(served) if not units.search(name)] == []


def test_counters_only_grow(serve, make_item):
    served = serve()
    before = -1.0
    for index in range(3):
        served.feed(make_item(index))
        now = families(served)["foldcam_frames_processed"].samples[0].value
        assert now > before
        before = now


def test_healthz_is_503_with_a_reason_unless_frames_get_through(serve, make_item):
    served = serve()
    answer = served.get("/healthz")
    assert answer.status == 503
    assert answer.content == b"camera-0: no frame has been processed yet\n"
    served.feed(make_item())
    assert served.get("/healthz").status == 200
    served.monitor.state(0, State.stalled, "nothing came for 10 s")
    answer = served.get("/healthz")
    assert answer.status == 503
    assert answer.content == b"camera-0: stalled (nothing came for 10 s)\n"


def test_one_stream_that_works_is_enough():
    monitor = Monitor()
    for name in ("a", "b"):
        monitor.state(monitor.add_stream(name, live=True), State.streaming)
    monitor.processed(0, 1.0, {})
    monitor.state(1, State.backoff, "refused")
    assert not Health(monitor).trouble()
    monitor.state(0, State.connecting)
    assert Health(monitor).trouble() == "a: connecting; b: backoff (refused)"


def test_a_camera_that_streams_without_a_result_is_not_healthy(monkeypatch):
    monkeypatch.setattr(health, "LIVE_PATIENCE", 0.05)
    monitor = Monitor()
    monitor.state(monitor.add_stream("camera-0", live=True), State.streaming)
    monitor.processed(0, 1.0, {})
    judge = Health(monitor)
    assert not judge.trouble()
    time.sleep(0.1)
    assert "no frame was processed for" in judge.trouble()
    monitor.processed(0, 1.0, {})
    assert not judge.trouble()


def test_a_recorded_run_is_healthy_while_it_works():
    monitor = Monitor()
    judge = Health(monitor)
    assert judge.trouble() == "no source is open yet"
    monitor.state(monitor.add_stream("film.mp4", live=False), State.streaming)
    assert not judge.trouble()
    monitor.state(0, State.stopped)
    assert judge.trouble() == "film.mp4: stopped"


def test_history_has_one_point_per_second_and_per_minute():
    monitor, history = Monitor(), History()
    monitor.add_stream("a", live=True)

    def at(seconds):
        return dataclasses.replace(monitor.snapshot(), seconds=seconds)

    for milliseconds in (10, 20, 30, 40):
        history.saw(milliseconds)
    monitor.dropped(0, Cause.overtaken, 5)
    assert history.sample(at(0.3)) is None
    point = history.sample(at(1.0))
    assert point["fps"] == 4.0
    assert point["p50"] == pytest.approx(20, rel=0.01)
    assert point["p99"] == pytest.approx(40, rel=0.01)
    assert point["drops"] == {"overtaken": 5}
    monitor.dropped(0, Cause.overtaken, 2)
    assert history.sample(at(2.0))["drops"] == {"overtaken": 2}
    assert history.sample(at(3.0)) == {
        "at": 3.0, "fps": 0.0, "p50": 0.0, "p90": 0.0, "p99": 0.0, "max": 0.0, "drops": {},
    }  # fmt: skip
    for second in range(4, 61):
        history.sample(at(float(second)))
    (minute,) = history.to_dict()["minutes"]
    assert minute["drops"] == {"overtaken": 7}
    assert minute["max"] == 40


def test_history_does_not_grow(monkeypatch):
    monkeypatch.setattr(history_module, "SECONDS", 30)
    monkeypatch.setattr(history_module, "MINUTES", 4)
    history, snapshot = History(), Monitor().snapshot()
    for second in range(1, 60 * 8):
        history.sample(dataclasses.replace(snapshot, seconds=float(second)))
    kept = history.to_dict()
    assert (len(kept["seconds"]), len(kept["minutes"])) == (30, 4)
    assert kept["minutes"][-1]["at"] == 420.0


def test_each_row_has_its_own_picture_with_its_own_heat(serve, gallery_of, contract_with):
    with Gallery(gallery_of(), contract_with()) as gallery:
        served = serve(gallery=gallery)

        def picture(row):
            answer = served.get(f"/api/match.jpg?row={row}")
            if answer.status == 404:
                return None
            decoded = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)
            return decoded[..., ::-1].astype(int)

        # Hot at the lower left alone, and red elsewhere.
        assert abs(picture(2)[5, 75] - [210, 40, 20]).max() < 12
        assert picture(2)[55, 5, 0] < 180
        assert abs(picture(1)[55, 5] - [30, 200, 40]).max() < 12
        for none in ("3", "-1", "", "x", "%00", "\u00b2", "99999999999999999999", "1.0"):
            assert picture(quote(none, safe="%")) is None
        with served.watch() as client:
            assert json.loads(client.recv(5))["gallery"] == contract_with().bank.sha256[:16]


def test_without_a_gallery_no_row_has_a_picture(serve):
    served = serve()
    assert served.get("/api/match.jpg?row=0").status == 404
    with served.watch() as client:
        assert json.loads(client.recv(5))["gallery"] is None


def test_an_unchanged_file_is_not_sent_again(serve):
    served = serve()
    first = served.get("/main.js")
    again = served.get("/main.js", If_None_Match=first.getheader("etag"))
    assert (again.status, again.content) == (304, b"")
    assert io.BytesIO(first.content).read(2) == b"//"
