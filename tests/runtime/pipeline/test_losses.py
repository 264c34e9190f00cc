"""What a sink lost is counted, said, and decides whether a run did what it was asked."""

from __future__ import annotations

import json
import socket
import time

import pytest
from pipeline_parts import Given, Kept, Reopened

from foldcam.runtime.model.folded_model import FoldedModel
from foldcam.runtime.pipeline.run import run
from foldcam.runtime.sinks import NotWritten
from foldcam.runtime.sinks.mqtt import parse_broker
from foldcam.runtime.sinks.table import RememberedResults
from foldcam.runtime.sources.options import FlowOptions
from foldcam.runtime.system.errors import FoldcamError


@pytest.fixture
def model(tiny_model):
    with FoldedModel.load(tiny_model, "cpu", 1) as loaded:
        yield loaded


def pause(index: int) -> None:
    time.sleep(0.02)


def refuse(item) -> None:
    raise NotWritten("nobody is there")


def refuse_odd(item) -> None:
    if item.frame.index % 2:
        raise NotWritten("it was busy")


class Late(Kept):
    """It takes everything and finds out at the end that some of it did not arrive."""

    lost = 0

    def __exit__(self, *given) -> None:
        super().__exit__(*given)
        self.lost = 3

    def losses(self) -> tuple[int, str]:
        return self.lost, "the disk failed"


def named(kept: Kept, output: str = "x.out") -> Kept:
    kept.output = output
    return kept


def test_a_sink_that_lost_everything_wrote_nothing(model):
    for live in (False, True):
        summary = run(Given(6, live, before=pause), model, [named(Kept(refuse))])
        (sink,) = summary.sinks
        lost = sink["drops"]["sink failed"]
        assert (sink["written"], lost) == (0, summary.frames)
        assert summary.outputs == []
        assert summary.failures == [
            f"kept lost {lost} of {lost} result{'s' * (lost > 1)}: nobody is there"
        ]


def test_part_of_a_recorded_source_is_a_failure_and_of_a_live_one_is_only_said(model):
    summary = run(Given(6), model, [named(Kept(refuse_odd))])
    assert summary.failures == ["kept lost 3 of 6 results: it was busy"]
    assert summary.outputs == ["x.out"]
    source = Given(40, live=True, before=pause)
    live = run(source, model, [named(Kept(refuse_odd))], flow=FlowOptions(keep="newest"))
    assert live.failures == []
    assert "it was busy" in live.losses[0]
    assert live.outputs == ["x.out"]


def test_what_may_be_skipped_is_no_loss(model):
    summary = run(Given(6), model, [Kept(refuse_odd, may_skip=True)])
    assert summary.losses == summary.failures == []


def test_what_is_found_out_at_the_end_counts(model):
    summary = run(Given(6), model, [named(Late())])
    assert summary.sinks[0]["written"] == 3
    assert summary.sinks[0]["drops"] == {"sink failed": 3}
    assert summary.failures == ["kept lost 3 of 6 results: the disk failed"]
    assert json.dumps(summary.to_dict())


def test_a_sink_that_failed_and_did_not_come_back_is_a_failure(model):
    def fail(item):
        if item.frame.index == 2:
            raise FoldcamError("No space left on the disk of out: free some, or write elsewhere.")

    flow = FlowOptions(keep="newest", backoff_seconds=60.0, backoff_most_seconds=60.0)
    summary = run(Given(3), model, [named(Reopened(fail)), Kept()], flow=flow)
    assert len(summary.failures) == 1
    assert "No space left" in summary.failures[0]


def closed_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def test_the_program_says_what_a_broker_that_is_not_there_lost(
    runtime, tiny_model, video, tmp_path, monkeypatch
):
    monkeypatch.setattr("foldcam.runtime.sinks.mqtt._PATIENCE_S", 0.2)
    monkeypatch.setattr("foldcam.runtime.sinks.mqtt._FAREWELL_S", 0.2)
    arguments = [
        "run", tiny_model, "--file", video(frames=8), "--jsonl", tmp_path / "r.jsonl",
        "--mqtt", f"mqtt://127.0.0.1:{closed_port()}/cameras", "--quiet",
    ]  # fmt: skip
    done = runtime(*arguments)
    assert done.returncode == 1
    (error,) = done.stderr.splitlines()
    assert error.startswith("error: Not everything was written: mqtt lost 8 of 8 results: mqtt://")
    assert "wrote mqtt" not in done.stdout
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 8
    done = runtime(*arguments, "--json")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert document["sinks"][-1]["drops"] == {"sink failed": 8}
    assert document["outputs"] == [str(tmp_path / "r.jsonl")]
    assert "mqtt lost 8 of 8" in document["failures"][0]


@pytest.mark.parametrize(
    "uri",
    [
        "mqtt://:0", "mqtt://:0/t", "mqtt://host:0/t", "mqtt://a..b", "mqtt://a..b/t",
        "mqtt://.a/t", "mqtt://a b/t", "mqtt://host:99999/t", "mqtt://host:x/t", "mqtt://host:-1/t",
        "mqtt://host", "mqtt://host/", "mqtt://host//", "mqtt://host/%20", "mqtt://host/%2F",
        "mqtt://host/a%00b", "mqtt://host/a%FFb", "mqtt://host/a%0Ab", "mqtt://host/$SYS/x",
        "mqtt://host/a+b", "mqtt://[::1/t", "mqtt://[zz]/t", "mqtt://" + "a" * 64 + "/t",
        "mqtt://" + "a." * 200 + "b/t", "mqtt:///t", "mqtt://u%00:p@host/t", "mqtt://host/t?x=1",
        "mqtt://host/t?client_id=a%00b", "mqtt://" + "u" * 70_000 + "@host/t", "mqtts://host/t?ca=",
        "http://host/t", "mqtt:host/t", "://", "", "mqtt://\udcff/t", "mqtt://host/\udcff",
    ],
)  # fmt: skip
def test_malformed_addresses_of_a_broker_are_one_sentence(uri):
    from foldcam.runtime.sinks.mqtt import MqttSink

    if uri == "mqtts://host/t?ca=":
        parse_broker(uri)  # an empty option is none
        return
    with pytest.raises(FoldcamError) as caught:
        MqttSink(uri)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "uri", ["mqtt://a_b.local:1883/t", "mqtt://münchen.example/t", "mqtt://[::1]/a/b",
            "mqtt://[fe80::1%25eth0]/t", "mqtt://host./t"],
)  # fmt: skip
def test_and_sound_ones_are_none_of_these(uri):
    parse_broker(uri)


def test_who_only_remembers_keeps_no_run_going(model):
    def fail(item):
        raise FoldcamError("the disk is full")

    source = Given(10**9, live=True, before=lambda index: time.sleep(0.002))
    with pytest.raises(FoldcamError, match="the disk is full"):
        run(source, model, [RememberedResults(), Kept(fail)])
