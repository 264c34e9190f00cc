"""Requests that no browser sends, by the thousand: from a seed, always the same ones.

python -m foldcam.benchmarks.studies.reliability.http_cases --count 2000 --seed 0

The live page that is asked has one frame, whose results are written by hand: no network is needed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import random
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import PurePath
from typing import Any

import numpy as np

from foldcam.runtime.contract.schema import BankSummary, Contract, LabelRun, Origin
from foldcam.runtime.images.preprocess import Affine, Preprocessing
from foldcam.runtime.model.folded_model import Result, Timings
from foldcam.runtime.model.frame_results import FrameResults
from foldcam.runtime.sources import Frame
from foldcam.runtime.sources.options import ServeOptions
from foldcam.runtime.system.monitor import Monitor, State
from foldcam.runtime.web import LivePage

_NOTHING = "0" * 64


@contextmanager
def still_page(options: ServeOptions) -> Iterator[LivePage]:
    """Serve one frame of one stream while entered."""
    monitor = Monitor()
    monitor.state(monitor.add_stream("still", live=True), State.streaming)
    with LivePage(options, monitor, _contract()) as page:
        monitor.captured(0, 1.0)
        monitor.processed(0, 1.0, {})
        page.write(_seen())
        yield page


def _contract() -> Contract:
    return Contract(
        preprocessing=Preprocessing(64, 64),
        input_type="float32",
        layer="features",
        feature_map=(8, 4, 4),
        normalized=True,
        heatmap_size=(4, 4),
        transfer=1,
        neighbors=2,
        bank=BankSummary(2, 4, 8, 2, "all-triplets", "all", "none", _NOTHING),
        labels=(LabelRun("cat", 1), LabelRun("owl", 1)),
        origin=Origin("still", "", _NOTHING, "still", "train", _NOTHING),
    )


def _seen() -> FrameResults:
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (240, 320, 3), np.uint8)
    result = Result(
        embedding=np.ones(4, np.float32),
        heatmap=generator.random((4, 4), np.float32),
        neighbors=np.array([1, 0], np.int32),
        similarities=np.array([0.8, 0.3], np.float32),
        labels=["owl", "cat"],
        affine=Affine(5.0, 3.75, 0.0, 0.0),
        input_wh=(64, 64),
        frame_wh=(320, 240),
        timings=Timings(1.0, 1.0),
    )
    frame = Frame(image, 0, "still", PurePath("still"), 0.0, time.monotonic())
    return FrameResults(frame, [result])


_HOST = b"Host: 127.0.0.1\r\n"
_UPGRADE = (
    b"GET /stream HTTP/1.1\r\n" + _HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
_PATHS = (
    "/", "/main.js", "/api/status", "/api/latest", "/api/history", "/api/snapshot.jpg?stream=0",
    "/api/match.jpg?row=0", "/healthz", "/metrics", "/login", "/logout", "/stream",
)  # fmt: skip
_METHODS = ("GET", "HEAD", "POST", "PUT", "OPTIONS", "TRACE", "CONNECT", "get", "G\0T", "PRI")
_TOKENS = (
    b"\r\n", b"\n", b"\r", b"\0", b"\xff\xfe", b" ", b"\t", b":", b"%00", b"%2e%2e%2f", b"../",
    b"%", b"?", b"#", b"=", b"&", b";", b"\"", b"<script>", b"{}", b"A" * 4096, b"-1", b"1e309",
    b"99999999999999999999", b"\xe2\x80\xae", b"HTTP/1.1", b"HTTP/9.9", b"http://evil.example/",
)  # fmt: skip
_HEADERS = (
    b"Content-Length: 0\r\n", b"Content-Length: -1\r\n", b"Content-Length: 99999999999999\r\n",
    b"Content-Length: 5\r\nContent-Length: 6\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n", b"Expect: 100-continue\r\n", b"Host: evil.example\r\n",
    b"Host:\r\n", b"Authorization: Bearer \r\n", b"Authorization: Bearer " + b"x" * 3000 + b"\r\n",
    b"Cookie: foldcam=\r\n", b"Cookie: " + b"foldcam=1; " * 500 + b"\r\n", b"Origin: null\r\n",
    b"Range: bytes=0-\r\n", b"If-None-Match: *\r\n", b"Connection: Upgrade, HTTP2-Settings\r\n",
    b"Upgrade: h2c\r\n", b"Upgrade: websocket\r\n", b": nameless\r\n", b" folded: line\r\n",
    b"X" * 20000 + b": y\r\n", b"Sec-WebSocket-Key: short\r\n", b"Accept: text/html\r\n",
)  # fmt: skip
_SAID = (b'{"watch": 0}', b'{"shown": true}', b'{"watch": null}', b'{"watch": 1e999}', b"[", b"")


def http_cases(seed: int) -> Iterator[bytes]:
    """Mutated requests without end: HTTP of all kinds, and WebSockets with wild frames.

    Args:
        seed: the same one yields the same bytes on every machine.
    """
    generator = random.Random(seed)
    while True:
        kind = generator.random()
        if kind < 0.25:
            case = _UPGRADE + b"".join(_frame(generator) for _ in range(generator.randint(1, 6)))
        else:
            case = _request(generator)
            if kind > 0.9:
                case += _request(generator)  # one after the other, without waiting
        for _ in range(generator.choice((0, 1, 1, 2, 4))):
            case = _mutated(generator, case)
        yield case


def _request(generator: random.Random) -> bytes:
    method = generator.choice(_METHODS) if generator.random() < 0.4 else "GET"
    path = generator.choice(_PATHS)
    lines = f"{method} {path} HTTP/1.1\r\n".encode() + _HOST
    for _ in range(generator.choice((0, 0, 1, 2, 5))):
        lines += generator.choice(_HEADERS)
    body = b""
    if generator.random() < 0.3:
        body = generator.choice(
            (
                b"token=wrong",
                b"0\r\n\r\n",
                b"5\r\nhello\r\n0\r\n\r\n",
                b"ffffffffff\r\n",
                b"x" * 9000,
            )
        )
    return lines + b"\r\n" + body


def _frame(generator: random.Random) -> bytes:
    """A client's WebSocket frame; every part of it may be wrong."""
    payload = generator.choice((*_SAID, generator.randbytes(generator.randint(0, 200))))
    first = generator.choice((0x81, 0x81, 0x82, 0x88, 0x89, 0x8A, 0x01, 0x80, 0x00, 0xF1, 0x83))
    length = len(payload) if generator.random() < 0.8 else generator.randint(0, 125)
    masked = 0x80 if generator.random() < 0.9 else 0
    if generator.random() < 0.1:
        head = bytes([first, masked | 127]) + generator.randbytes(8)
    elif length < 126:
        head = bytes([first, masked | length])
    else:
        head = bytes([first, masked | 126]) + length.to_bytes(2, "big")
    mask = generator.randbytes(4) if masked else b"\0\0\0\0"
    body = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
    return head + (mask if masked else b"") + body


def _mutated(generator: random.Random, case: bytes) -> bytes:
    at = generator.randrange(len(case) + 1)
    to = min(len(case), at + generator.randint(1, 40))
    way = generator.randrange(6)
    if way == 0:
        return case[:at] + generator.choice(_TOKENS) + case[at:]
    if way == 1:
        return case[:at] + case[to:]
    if way == 2:
        return case[:at]
    if way == 3:
        return case[:to] + case[at:to] * generator.randint(1, 20) + case[to:]
    if way == 4 and case:
        at = min(at, len(case) - 1)
        return case[:at] + bytes([case[at] ^ (1 << generator.randrange(8))]) + case[at + 1 :]
    return case[:at] + generator.randbytes(generator.randint(1, 60)) + case[at:]


@dataclass
class Outcome:
    """What became of the requests."""

    sent: int = 0  # of them
    # answers by status; `silent` if none came before the connection ended or `_PATIENCE` was over
    # (an unfinished request has none), `closed` if it was ended
    by_status: Counter[str] = field(default_factory=Counter)
    # requests that were answered with a status of 500, as they were sent
    faults: list[str] = field(default_factory=list)
    unanswered_probes: int = 0  # ordinary requests in between that got no answer in time
    slowest_probe_ms: float = 0.0  # of those that did

    @property
    def passed(self) -> bool:
        """Whether nothing failed inside and the server went on answering."""
        return self.sent > 0 and not self.faults and not self.unanswered_probes

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {"passed": self.passed, **asdict(self), "by_status": dict(self.by_status)}


_PATIENCE = 0.25
_PROBE_SECONDS = 5.0
_AT_ONCE = 12
_PROBE_EVERY = 50


def run_http_cases(host: str, port: int, cases: Iterable[bytes], seconds: float) -> Outcome:
    """Send requests to a live page, some at once, with an ordinary one in between.

    Args:
        cases: a finite number of them.
    """
    return asyncio.run(_run(host, port, iter(cases), time.monotonic() + seconds))


async def _run(host: str, port: int, cases: Iterator[bytes], until: float) -> Outcome:
    outcome = Outcome()

    async def worker() -> None:
        for case in cases:
            if time.monotonic() > until:
                return
            outcome.sent = number = outcome.sent + 1
            status = await _status(host, port, case, _PATIENCE)
            outcome.by_status[status] += 1
            if status == "500":
                outcome.faults.append(repr(case[:400]))
            if number % _PROBE_EVERY == 0:
                begun = time.monotonic()
                ordinary = b"GET /healthz HTTP/1.1\r\n" + _HOST + b"Connection: close\r\n\r\n"
                if await _status(host, port, ordinary, _PROBE_SECONDS) != "200":
                    outcome.unanswered_probes += 1
                spent = 1e3 * (time.monotonic() - begun)
                outcome.slowest_probe_ms = max(outcome.slowest_probe_ms, spent)

    await asyncio.gather(*(worker() for _ in range(_AT_ONCE)))
    return outcome


async def _status(host: str, port: int, case: bytes, patience: float) -> str:
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(host, port), _PROBE_SECONDS)
    except (OSError, asyncio.TimeoutError):
        return "refused"
    try:
        writer.write(case)
        answer = await asyncio.wait_for(reader.read(4096), patience)
        found = re.match(rb"HTTP/1\.[01] (\d{3})", answer)
        return found.group(1).decode() if found else "closed"
    except asyncio.TimeoutError:
        return "silent"
    except OSError:
        return "closed"
    finally:
        transport = writer.transport
        transport.abort()


def fuzz(seed: int, count: int, seconds: float = 300.0) -> dict[str, Any]:
    """Serve a page in this process and send it `count` cases.

    Returns:
        As `Outcome.to_dict`, with `logged`: what the server had to say of faults of its own.
    """
    logged: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            logged.append(record.getMessage())

    handler = Keep(logging.WARNING)
    logging.getLogger("foldcam.runtime.web").addHandler(handler)
    try:
        with still_page(ServeOptions(port=0)) as page:
            port = int(page.url.rstrip("/").rpartition(":")[2])
            cases = islice(http_cases(seed), count)
            outcome = run_http_cases("127.0.0.1", port, cases, seconds)
    finally:
        logging.getLogger("foldcam.runtime.web").removeHandler(handler)
    document = outcome.to_dict()
    document["passed"] = outcome.passed and not logged and outcome.sent == count
    return {**document, "seed": seed, "logged": logged[:20]}


def main() -> None:
    """Fuzz a page and print what became of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=2000)
    given = parser.parse_args()
    print(json.dumps(fuzz(given.seed, given.count), indent=2))


if __name__ == "__main__":
    main()
