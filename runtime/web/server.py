"""The server: uvicorn in a thread of its own, with an event loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.web.address import BACKLOG
from foldcam.runtime.web.connections import abort_all, bounded_protocol, end_the_stuck
from foldcam.runtime.web.guard import MAX_HEADERS
from foldcam.runtime.web.stream import MAX_MESSAGE

_START_SECONDS = 20.0
_STOP_SECONDS = 5.0
_GRACE_SECONDS = 0.3
_AT_ONCE = 2
_log = logging.getLogger(__name__)
Task = Callable[[], Coroutine[Any, Any, None]]


class ServerThread:
    """Serves an application until it is stopped.

    Args:
        make: builds the application and the tasks that run beside it; called in the
            server's event loop.
        connections: at most; see `runtime.web.connections`.
    """

    def __init__(self, make: Callable[[], tuple[ASGIApp, list[Task]]], connections: int) -> None:
        self._make = make
        self._connections = connections
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._server: uvicorn.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.failure = ""
        """Why it no longer serves, as a clause; empty while it does."""

    def start(self, listener: socket.socket) -> None:
        """Serve on a listening socket, which is closed at the end."""
        self._thread = threading.Thread(
            target=self._run, args=(listener,), name="live-page", daemon=True
        )
        self._thread.start()
        if not self._ready.wait(_START_SECONDS) or self.failure:
            reason = self.failure or "it did not come up"
            self.stop()
            raise FoldcamError(f"The live page cannot be served: {reason}.")

    def stop(self) -> None:
        """End every connection, however slow its client is, and the thread."""
        thread, self._thread = self._thread, None
        if self._server is not None:
            self._server.should_exit = True
        if thread is not None:
            thread.join(_STOP_SECONDS)
            if thread.is_alive() and self._loop is not None:
                with contextlib.suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(self._loop.stop)

    def _run(self, listener: socket.socket) -> None:
        try:
            asyncio.run(self._serve(listener))
        except BaseException as error:
            # It must not be silent, and must not end the run: `LivePage.write` says it.
            self.failure = f"{type(error).__name__}: {error}"
        else:
            self.failure = "the server has ended"
        finally:
            listener.close()
            self._ready.set()

    async def _serve(self, listener: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(_quietly)
        app, jobs = self._make()
        # Its loggers would print a traceback for a client that breaks off.
        config = uvicorn.Config(
            app,
            http=bounded_protocol(self._connections),
            ws=WebSocketsSansIOProtocol,
            ws_max_size=MAX_MESSAGE,
            ws_per_message_deflate=False,
            h11_max_incomplete_event_size=MAX_HEADERS,
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level=logging.CRITICAL + 1,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=10,
            timeout_graceful_shutdown=2,
            # So many are accepted before the first of them can give way to another.
            backlog=_AT_ONCE,
        )
        self._server = server = uvicorn.Server(config)
        tasks = [asyncio.ensure_future(job()) for job in jobs]
        tasks.append(asyncio.ensure_future(end_the_stuck(server.server_state)))
        tasks.append(asyncio.ensure_future(self._tell_when_up(server, listener)))
        tasks.append(asyncio.ensure_future(_abort_at_end(server)))
        serving = asyncio.ensure_future(server.serve(sockets=[listener]))
        try:
            done, _ = await asyncio.wait([serving, *tasks], return_when=asyncio.FIRST_COMPLETED)
            while serving not in done and not any(_failed(task) for task in done):
                tasks = [task for task in tasks if not task.done()]
                done, _ = await asyncio.wait([serving, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            server.should_exit = True
            for task in tasks:
                task.cancel()
            await asyncio.gather(serving, *tasks, return_exceptions=True)

    async def _tell_when_up(self, server: uvicorn.Server, listener: socket.socket) -> None:
        while not server.started:
            await asyncio.sleep(0.005)
        # asyncio gave the kernel its number of those that wait to be accepted: far too few.
        listener.listen(BACKLOG)
        self._ready.set()


async def _abort_at_end(server: uvicorn.Server) -> None:
    """Give the clients a moment to read the farewell, then go without them."""
    while not server.should_exit:
        await asyncio.sleep(0.05)
    await asyncio.sleep(_GRACE_SECONDS)
    while True:
        abort_all(server.server_state)
        await asyncio.sleep(0.05)


def _failed(task: asyncio.Future[Any]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is not None


def _quietly(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:  # noqa: ARG001
    _log.debug("%s: %r", context.get("message"), context.get("exception"))
