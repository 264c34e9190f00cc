"""From the newest frames to the clients: encoded once, and only while somebody waits.

Everything here runs in the server's event loop, but for the encoding, which has a thread.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field

from foldcam.runtime.model.frame_results import FrameResults
from foldcam.runtime.web.packet import encode_packet

CREDIT = 2
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Newest:
    """The newest frame of one stream."""

    item: FrameResults
    arrived: float
    count: int


class Latest:
    """Keeps one frame per stream; `put` never waits for a reader."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._newest: dict[int, Newest] = {}
        self._on_change: Callable[[], None] | None = None

    def put(self, item: FrameResults) -> float:
        """Replace a stream's newest frame; returns its age in milliseconds."""
        now = time.monotonic()
        stream = item.frame.stream
        with self._lock:
            before = self._newest.get(stream)
            self._newest[stream] = Newest(item, now, before.count + 1 if before else 1)
            on_change, self._on_change = self._on_change, None
        if on_change is not None:
            on_change()
        return 1e3 * (now - item.frame.captured)

    def of(self, stream: int) -> Newest | None:
        """The newest frame of a stream; None if there was none."""
        with self._lock:
            return self._newest.get(stream)

    def all(self) -> list[Newest]:
        """The newest frame of every stream that has had one, by number."""
        with self._lock:
            return [self._newest[stream] for stream in sorted(self._newest)]

    def call_at_next(self, on_change: Callable[[], None] | None) -> None:
        """Have the next `put` call this once, in its thread; None: no longer."""
        with self._lock:
            self._on_change = on_change


@dataclass(frozen=True)
class Packet:
    """An encoded frame; `count` is `Newest.count`."""

    count: int
    data: bytes


@dataclass(eq=False)
class Client:
    """A browser.

    Attributes:
        stream: that it watches; None while its page is hidden.
        credit: pictures that it may be sent before it has shown those it has. A client
            that shows none is sent none, wherever the pictures would pile up otherwise:
            in our memory, in a proxy's, or on a slow link.
        sent: `Packet.count` of the last picture sent.
        text: a message that waits to be sent; a newer one replaces it.
        acknowledged: `time.monotonic()` when it last showed a picture, or was sent one
            while it owed nothing.
        wake: set when there may be something to send.
    """

    stream: int | None = None
    credit: int = CREDIT
    sent: int = 0
    text: str | None = None
    acknowledged: float = field(default_factory=time.monotonic)
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    def watch(self, stream: int | None) -> None:
        """Show another stream from now on."""
        self.stream, self.sent = stream, 0

    def owes(self) -> None:
        """It is being sent a picture."""
        if self.credit == CREDIT:
            self.acknowledged = time.monotonic()
        self.credit -= 1

    def shown(self) -> None:
        """It has shown a picture."""
        self.credit = min(CREDIT, self.credit + 1)
        self.acknowledged = time.monotonic()

    def silent_for(self) -> float:
        """Seconds for which it has owed an answer."""
        return 0.0 if self.credit == CREDIT else time.monotonic() - self.acknowledged


class Broadcast:
    """Encodes what is watched, at most `fps` times a second, and wakes the clients."""

    def __init__(self, latest: Latest, executor: Executor, fps: float) -> None:
        self.clients: set[Client] = set()
        self._latest = latest
        self._executor = executor
        self._interval = 1.0 / fps
        self._packets: dict[int, Packet] = {}
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Encode until cancelled."""
        loop = asyncio.get_running_loop()

        def changed() -> None:
            loop.call_soon_threadsafe(self._wake.set)

        try:
            while True:
                # Armed before looking: a frame that comes in between is not overlooked.
                self._wake.clear()
                self._latest.call_at_next(changed if self._waited_for() else None)
                begun = loop.time()
                if await self._encode_due():
                    await asyncio.sleep(max(0.0, begun + self._interval - loop.time()))
                else:
                    await self._wake.wait()
        finally:
            self._latest.call_at_next(None)

    def look_again(self) -> None:
        """A client came, watches something else, or has shown its picture."""
        self._wake.set()

    def packet_for(self, client: Client) -> Packet | None:
        """What a client is to be sent now; None if nothing."""
        if client.stream is None or client.credit <= 0:
            return None
        packet = self._packets.get(client.stream)
        return None if packet is None or packet.count == client.sent else packet

    def tell(self, text: str) -> None:
        """Send a text to all clients; one that is slow gets only the newest."""
        for client in self.clients:
            client.text = text
            client.wake.set()

    def _waited_for(self) -> set[int]:
        return {
            client.stream
            for client in self.clients
            if client.stream is not None and client.credit > 0
        }

    async def _encode_due(self) -> bool:
        encoded = False
        for stream in sorted(self._waited_for()):
            newest = self._latest.of(stream)
            before = self._packets.get(stream)
            if newest is None or (before is not None and before.count == newest.count):
                continue
            loop = asyncio.get_running_loop()
            try:
                data = await loop.run_in_executor(self._executor, encode_packet, newest.item)
            except Exception as error:
                # Whatever is wrong with one frame, the next one may be shown; said once.
                if before is None or before.data:
                    said = (newest.item.frame.index, stream, type(error).__name__, error)
                    _log.warning("frame %d of stream %d is not shown: %s: %s", *said)
                data = b""
            encoded = True
            self._packets[stream] = Packet(newest.count, data)
            for client in self.clients:
                if client.stream == stream:
                    client.wake.set()
        return encoded
