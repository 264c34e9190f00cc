"""What uvicorn leaves open: how many connections there may be, and for how long each.

A client costs a descriptor of the whole run, without which no camera can be opened again.
So their number is bounded, and one that neither asks nor reads is ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable
from typing import Any, cast

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

REQUEST_SECONDS = 10.0
ANSWER_SECONDS = 30.0
STUCK_SECONDS = 15.0
SWEEP_SECONDS = 2.0
# An answer that takes longer gives way to whoever has not been answered at all.
PATIENT_SECONDS = 5.0
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 10\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: 26\r\n\r\n"
    b"Too many are connected.\r\n\r\n"
)[:-1]
_log = logging.getLogger(__name__)


def bounded_protocol(most: int) -> type[H11Protocol]:
    """uvicorn's HTTP with so many connections at most.

    One that is too many takes the place of one that waits, so that whoever opens connections
    and asks for nothing keeps nobody else out.
    """

    class BoundedProtocol(H11Protocol):
        """Makes room for itself, or refuses."""

        # Since when it has waited for a request, or has answered one.
        since = 0.0

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.since = self.loop.time()
            if len(self.connections) <= most:
                return
            given_way = _idlest(self.connections, self, self.since)
            if given_way is not None:
                given_way.transport.abort()
                # It leaves by itself, but only after those that come now were counted.
                self.connections.discard(given_way)
                return
            transport.write(_FULL)
            transport.close()

        def data_received(self, data: bytes) -> None:
            if not self.transport.is_closing():
                before = self.cycle
                super().data_received(data)
                if self.cycle is not before:
                    self.since = self.loop.time()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self.since = self.loop.time()

    return BoundedProtocol


def _idlest(connections: Iterable[object], new: object, now: float) -> H11Protocol | None:
    """Which connection gives way to a new one; None if all are being answered.

    One that asks for nothing before one that takes its answer slowly; of these one of the
    address that has the most; of these the one that has waited longest. WebSockets never: their
    number has a bound of its own.
    """
    waiting = [
        each
        for each in connections
        if isinstance(each, H11Protocol)
        and each is not new
        and (not _answering(each) or now - cast(Any, each).since > PATIENT_SECONDS)
    ]
    of_address = Counter(_address(each) for each in waiting)
    return min(
        waiting,
        key=lambda each: (
            _answering(each), -of_address[_address(each)], cast(Any, each).since
        ),
        default=None,
    )  # fmt: skip


def _address(connection: H11Protocol) -> str:
    return connection.client[0] if connection.client else ""


async def end_the_stuck(state: ServerState) -> None:
    """End connections that have made no progress for too long, until cancelled."""
    loop = asyncio.get_running_loop()
    unread: dict[int, tuple[int, float]] = {}
    while True:
        now = loop.time()
        still: dict[int, tuple[int, float]] = {}
        for connection in list(state.connections):
            transport = connection.transport
            if transport is None:
                continue
            waiting = transport.get_write_buffer_size()
            before, since = unread.get(id(connection), (0, now))
            if waiting:
                still[id(connection)] = (waiting, since if waiting == before else now)
            stuck = waiting > 0 and waiting == before and now - since > STUCK_SECONDS
            if stuck or _overdue(connection, now):
                transport.abort()
        unread = still
        await asyncio.sleep(SWEEP_SECONDS)


def abort_all(state: ServerState) -> None:
    """Drop every connection that is left, with whatever was not read of it."""
    for connection in list(state.connections):
        if connection.transport is not None:
            connection.transport.abort()


def _overdue(connection: object, now: float) -> bool:
    """Whether an HTTP request, or the answer to one, takes too long; a WebSocket may."""
    if not isinstance(connection, H11Protocol):
        return False
    since = cast(Any, connection).since
    return bool(now - since > (ANSWER_SECONDS if _answering(connection) else REQUEST_SECONDS))


def _answering(connection: H11Protocol) -> bool:
    return connection.cycle is not None and not connection.cycle.response_complete
