"""Addresses with credentials go through every output, and nothing of the secret comes out."""

from __future__ import annotations

import io
import json
import logging
import subprocess

import pyarrow.parquet as pq
import pytest

from foldcam.runtime.pipeline.sink_thread import Outcome
from foldcam.runtime.pipeline.status import status_text
from foldcam.runtime.pipeline.summary import Progress, Tally, summarized
from foldcam.runtime.sinks import NotWritten, open_outputs
from foldcam.runtime.sinks.event_rules import EventRule
from foldcam.runtime.sinks.options import OutputOptions
from foldcam.runtime.sources.address import parse_address
from foldcam.runtime.system.logs import configure, log
from foldcam.runtime.system.monitor import Cause, Monitor, State
from foldcam.runtime.system.systemd import status_of as systemd_status
from foldcam.runtime.web.health import Health
from foldcam.runtime.web.metrics import Metrics
from foldcam.runtime.web.packet import answers

SECRET = "Zx7'q\"<k>h"
PARTS = ("Zx7", "k>h", "Zx7%27")
ADDRESSES = [
    f"rtsp://me:{SECRET}@cam:554/live",
    "rtsp://me:Zx7 k>h@cam:554/live",
    f"rtsp://cam/user=me&password={SECRET}&channel=1",
    f"rtsp://cam/user=me_password={SECRET}_channel=1.sdp",
    f"http://cam/video?token={SECRET}",
    f"http://cam/video?auth={SECRET}&fps=3",
    f"http://cam/video?apikey={SECRET}",
    f"rtsp://cam/me:{SECRET}@live",
    "rtsp://me:Zx7%27q%22%3Ck%3Eh@cam/live",
    f"http://proxy/?url=rtsp://me:{SECRET}@cam",
]


def assert_silent(text: str) -> None:
    assert not [part for part in PARTS if part in text], text


@pytest.mark.parametrize("address", ADDRESSES)
def test_no_output_of_a_run_has_it(
    address, tmp_path, make_item, make_result, make_source, contract_with
):
    spoken = "Zx7 k>h" if "Zx7 k>h" in address else SECRET
    name = parse_address(address).name
    assert_silent(name)
    # A user's own source names its frames as it likes.
    source = make_source(name=address, stem="cam")
    log_stream = io.StringIO()
    configure("json", "debug", log_stream)
    options = OutputOptions(
        jsonl=str(tmp_path / "r.jsonl"), parquet=str(tmp_path / "r.parquet"),
        events=str(tmp_path / "events"), images=str(tmp_path / "pictures"),
    )  # fmt: skip
    contract = contract_with()
    rules = [EventRule("any", similarity_below=1)]
    size = contract.bank.embedding_size
    item = make_item(0, make_result(embedding=[1.0] * size), source=address)
    try:
        monitor = Monitor()
        stream = monitor.add_stream(address, True)
        for sink in open_outputs([source], options, events=rules, contract=contract):
            with sink:
                number = monitor.add_sink(sink.name)
                sink.write(item)
                monitor.lost(number, Cause.sink_failed, f"{address} is gone, as is {spoken}")
        monitor.state(stream, State.backoff, f"cannot open '{address}'")
        log.warning("%s failed: %s", address, NotWritten(f"login {spoken}"))
    finally:
        for handler in list(log.handlers):
            log.removeHandler(handler)
        log.setLevel(logging.NOTSET)
    progress = Progress(None, monitor)
    summary = summarized(
        Tally(progress), monitor, [source],
        outcomes=[Outcome(address, f"lost {address}", True)],
        interrupted=False, seconds=1.0, empty_boxes=0, broken=None,
    )  # fmt: skip
    health = Health(monitor)
    texts = {
        "jsonl": (tmp_path / "r.jsonl").read_text(),
        "parquet": str(pq.read_table(tmp_path / "r.parquet").to_pylist()),
        "events": (tmp_path / "events" / "events.jsonl").read_text(),
        "log": log_stream.getvalue(),
        "summary": json.dumps(summary.to_dict(), ensure_ascii=False),
        "status": status_text(progress),
        "health": health.trouble(),
        "metrics": Metrics(monitor, lambda: 0, lambda: True).text().decode(),
        "live page": json.dumps(answers(item)) + json.dumps(monitor.snapshot().to_dict()),
        "systemd": systemd_status(monitor.snapshot()),
        "names": " ".join(str(path) for path in tmp_path.rglob("*")),
    }
    for text in texts.values():
        assert text
        assert_silent(text)
    assert "cam" in texts["jsonl"] or "proxy" in texts["jsonl"]


@pytest.mark.parametrize("address", [ADDRESSES[0], ADDRESSES[2], ADDRESSES[7]])
def test_no_message_of_the_programs_has_it(address, runtime, tiny_model, tmp_path):
    def said(*arguments: object) -> str:
        done: subprocess.CompletedProcess[str] = runtime(*arguments)
        return done.stdout + done.stderr

    config = tmp_path / "run.toml"
    quoted = json.dumps(address)
    config.write_text(f"[[source]]\nuri = {quoted}\n[output]\nmqtt = {quoted}\n")
    bad = tmp_path / "bad.toml"
    bad.write_text(f"[[source]]\nuri = {quoted}\nfile = {quoted}\n")
    rest = address.partition("://")[2]
    texts = [
        said("run", tiny_model, "--source", f"gopher://{rest}"),
        said("run", tiny_model, "--file", address),
        said("run", tiny_model, "--camera", address),  # usage: typer quotes what it does not take
        said("run", tiny_model, "--source", "test://?frames=1", address),
        said("run", tiny_model, "--source", "test://?frames=1", "--mqtt", address),
        said("run", tiny_model, "--source", "test://?frames=1", "--mqtt", f"mqtt://{rest}#"),
        said("config", "check", config, "--json"),
        said("config", "check", bad),
        said("run", tiny_model, "--config", bad),
        said("inspect", address),
        said("doctor", address, "--json"),
    ]
    for text in texts:
        assert text
        assert_silent(text)
