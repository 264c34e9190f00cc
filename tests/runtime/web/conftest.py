"""A live page on a free port, fed with frames whose results are written by hand."""

from __future__ import annotations

import dataclasses
import http.client
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pytest

from foldcam.runtime.contract.bank.bank_file import write_bank
from foldcam.runtime.contract.bank.live_bank import LiveBank
from foldcam.runtime.contract.gallery import Gallery
from foldcam.runtime.contract.schema import BankInput, Contract, LabelRun
from foldcam.runtime.images.preprocess import Affine
from foldcam.runtime.model.folded_model import FoldedModel, Result, Timings
from foldcam.runtime.model.frame_results import FrameResults
from foldcam.runtime.sources import Frame
from foldcam.runtime.sources.options import ServeOptions
from foldcam.runtime.system.monitor import Monitor, State
from foldcam.runtime.web import LivePage


def make_item(
    index: int = 0,
    *,
    stream: int = 0,
    size: tuple[int, int] = (64, 48),
    colour: tuple[int, int, int] = (40, 80, 120),
    **changes: Any,
) -> FrameResults:
    """A frame of one colour with heat at its upper left."""
    width, height = size
    image = np.full((height, width, 3), colour, np.uint8)
    result = Result(
        embedding=np.array([1, 0, 0], np.float32),
        heatmap=np.array([[1.0, 0.5], [0.0, 0.25]], np.float32),
        neighbors=np.array([2, 1], np.int32),
        similarities=np.array([0.9, 0.4], np.float32),
        labels=["red", "green"],
        affine=Affine(width / 8, height / 8, 0.0, 0.0),
        input_wh=(8, 8),
        frame_wh=size,
        timings=Timings(1.0, 2.0),
    )
    frame = Frame(
        image, index, "camera-0", PurePath("camera-0"), 0.04 * index, time.monotonic(), stream
    )
    return FrameResults(frame, [dataclasses.replace(result, **changes)])


class Served:
    """A page that is entered, its monitor, and a client for it."""

    def __init__(self, page: LivePage, monitor: Monitor) -> None:
        self.page = page
        self.monitor = monitor
        host, _, port = page.url.removeprefix("http://").rstrip("/").rpartition(":")
        self.host, self.port = "127.0.0.1", int(port)
        self.authority = f"{host}:{port}"

    def feed(self, *items: FrameResults) -> None:
        for one in items:
            self.monitor.captured(one.frame.stream, 1.0)
            self.monitor.processed(one.frame.stream, 5.0, {"inference": 4.0})
            self.page.write(one)

    def get(self, path: str, method: str = "GET", body: str | None = None, **headers: str) -> Any:
        """The answer, with `body` read; names of headers with `_` for `-`."""
        client = http.client.HTTPConnection(self.host, self.port, timeout=10)
        try:
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            client.request(method, path, body, sent)
            answer = client.getresponse()
            answer.content = answer.read()  # type: ignore[attr-defined]
            return answer
        finally:
            client.close()

    def watch(self, **options: Any) -> Any:
        """A WebSocket of the stream, connected."""
        from websockets.sync.client import connect

        return connect(
            f"ws://{self.host}:{self.port}/stream", open_timeout=10, compression=None, **options
        )


@pytest.fixture(scope="module")
def closing() -> Iterator[Callable[[LivePage], None]]:
    """`closing(page)`: close a page, which takes a while, beside the next tests."""
    with ThreadPoolExecutor() as pool:
        running: list[Future[None]] = []
        yield lambda page: running.append(pool.submit(page.__exit__, None, None, None))
        for each in running:
            each.result()


@pytest.fixture
def serve(
    contract_with: Callable[..., Contract], closing: Callable[[LivePage], None]
) -> Iterator[Callable[..., Served]]:
    """`serve(token=...)`: a page on a free port, with one live stream that delivers."""
    opened: list[LivePage] = []

    def start(
        contract: Contract | None = None,
        streams: int = 1,
        gallery: Gallery | None = None,
        bank: Path | None = None,
        model: FoldedModel | None = None,
        **options: Any,
    ) -> Served:
        monitor = Monitor()
        for number in range(streams):
            monitor.state(monitor.add_stream(f"camera-{number}", live=True), State.streaming)
        page = LivePage(
            ServeOptions(port=0, **options), monitor, contract or contract_with(), gallery=gallery,
            bank=bank, model=model,
        )  # fmt: skip
        page.__enter__()
        opened.append(page)
        return Served(page, monitor)

    yield start
    for page in opened:
        closing(page)


@pytest.fixture(scope="module")
def lasting(tiny_model: Path) -> Iterator[Served]:
    """A page with a model, that serves all examples of one test."""
    with FoldedModel.load(tiny_model, "cpu", 1) as model:
        monitor = Monitor()
        with LivePage(ServeOptions(port=0), monitor, model.contract, model=model) as page:
            yield Served(page, monitor)


@pytest.fixture
def living(contract_with: Callable[..., Contract], tmp_path: Path) -> tuple[Contract, Path]:
    """The contract of a model whose bank is an input, and its bank of two labels."""
    contract = dataclasses.replace(contract_with(), bank_input=BankInput(100), labels=())
    path = tmp_path / "model.bank"
    bank = LiveBank(
        embeddings=np.eye(3, dtype=np.float32)[:2],
        labels=(LabelRun("green", 1), LabelRun("red", 1)),
        names=("g.png", "r.png"),
        image_hashes=np.zeros((2, 32), np.uint8),
        about={"network_sha256": contract.origin.network_sha256},
    )
    write_bank(bank, path)
    return contract, path


@pytest.fixture(name="make_item")
def _make_item() -> Callable[..., FrameResults]:
    """`make_item(7, stream=1, size=(64, 48))`: a frame with results written by hand."""
    return make_item


@pytest.fixture
def token() -> str:
    """One that is long enough."""
    return "a-token-of-thirty-letters-or-so"
