"""The WebSocket of one browser: pictures and status out, requests in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

from starlette.responses import PlainTextResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

from foldcam.runtime.web.broadcast import Broadcast, Client

MAX_MESSAGE = 1024
PATIENCE = 20.0
_TOO_SLOW = 4008
_NO_SENSE = 1008


async def serve_stream(
    socket: WebSocket, broadcast: Broadcast, most: int, greeting: Callable[[], str]
) -> None:
    """Serve one client until it goes, or owes an answer for `PATIENCE` seconds.

    It sends JSON objects: `{"watch": 0}` or `{"watch": null}` says which stream it shows,
    `{"shown": true}` that it has shown a picture. It gets packets (`runtime.web.packet`) as
    binary messages, and as text the greeting and whatever `Broadcast.tell` is given.

    Args:
        broadcast: what to send.
        most: clients; one more is refused with status 503.
    """
    if len(broadcast.clients) >= most:
        await socket.send_denial_response(
            PlainTextResponse("Too many viewers: close another page.\n", 503, {"retry-after": "10"})
        )
        return
    client = Client()
    # Counted before anything is awaited, or two could take the last place.
    broadcast.clients.add(client)
    tasks: list[asyncio.Task[int]] = []
    try:
        await socket.accept()
        # Not by `client.text`, in which a status could take its place.
        await asyncio.wait_for(socket.send_text(greeting()), PATIENCE)
        client.wake.set()
        tasks = [
            asyncio.ensure_future(_send(socket, broadcast, client)),
            asyncio.ensure_future(_receive(socket, broadcast, client)),
            asyncio.ensure_future(_watchdog(client)),
        ]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        code = max(task.result() for task in done)
        if code:
            # A client that takes nothing takes no close either; the sweep ends it then.
            await asyncio.wait_for(socket.close(code), 1.0)
    except (WebSocketDisconnect, asyncio.TimeoutError, RuntimeError):
        pass  # it went while something was being said to it
    finally:
        broadcast.clients.discard(client)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _send(socket: WebSocket, broadcast: Broadcast, client: Client) -> int:
    while True:
        await client.wake.wait()
        client.wake.clear()
        text, client.text = client.text, None
        if text is not None:
            await socket.send_text(text)
        packet = broadcast.packet_for(client)
        if packet is not None:
            client.sent = packet.count
            if packet.data:
                client.owes()
                await socket.send_bytes(packet.data)


async def _receive(socket: WebSocket, broadcast: Broadcast, client: Client) -> int:
    """Returns the code to close with; 0 if the client has gone."""
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return 0
        try:
            said = json.loads(message.get("text") or "")
            if not isinstance(said, dict):
                return _NO_SENSE
            if "watch" in said:
                stream = said["watch"]
                if stream is not None and (type(stream) is not int or not 0 <= stream < 1 << 16):
                    return _NO_SENSE
                client.watch(stream)
            if said.get("shown") is True:
                client.shown()
        except (ValueError, RecursionError):
            return _NO_SENSE
        client.wake.set()
        broadcast.look_again()


async def _watchdog(client: Client) -> int:
    while client.silent_for() < PATIENCE:
        await asyncio.sleep(1.0)
    return _TOO_SLOW
