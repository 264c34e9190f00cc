"""Many viewers of one live page, in a process of their own; some read nothing any more.

python -m foldcam.benchmarks.studies.reliability.viewers 127.0.0.1 8080 --watching 45 --stalled 5

They receive pictures and answer that they have shown them; none is decoded, since the
browsers of a real page do that on other machines. Prints `ready` when all are connected, and
on SIGTERM one JSON line of what they got.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import signal
import socket
import statistics
import time
from dataclasses import dataclass

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

_WATCH = '{"watch": 0}'
_SHOWN = '{"shown": true}'
_HANDSHAKE = (
    "GET /stream HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


@dataclass
class Viewer:
    """One that watches."""

    # pictures, bytes: received
    pictures: int = 0
    bytes: int = 0
    lost: bool = False  # whether the server ended it

    async def watch(self, client: ClientConnection) -> None:
        """Take what comes until cancelled."""
        await client.send(_WATCH)
        try:
            async for said in client:
                if isinstance(said, bytes):
                    self.pictures += 1
                    self.bytes += len(said)
                    await client.send(_SHOWN)
        except ConnectionClosed:
            pass
        self.lost = True


def stall(host: str, port: int) -> socket.socket:
    """One that asks for pictures and never reads."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect((host, port))
    payload = _WATCH.encode()
    frame = bytes([0x81, 0x80 | len(payload), 0, 0, 0, 0]) + payload
    client.sendall(_HANDSHAKE.encode() + frame)
    return client


async def _run(host: str, port: int, watching: int, stalled: int) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    stuck = [stall(host, port) for _ in range(stalled)]
    clients = [
        await connect(f"ws://{host}:{port}/stream", compression=None, max_size=None)
        for _ in range(watching)
    ]
    viewers = [Viewer() for _ in clients]
    tasks = [
        asyncio.ensure_future(viewer.watch(client))
        for viewer, client in zip(viewers, clients, strict=True)
    ]
    begun, before = time.monotonic(), _processor_seconds()
    print("ready", flush=True)
    await stop.wait()
    spent = time.monotonic() - begun
    counts = [viewer.pictures for viewer in viewers]
    document = {
        "seconds": round(spent, 2),
        "pictures": sum(counts),
        "pictures_per_viewer_second": round(statistics.median(counts) / spent, 2),
        "least_per_viewer_second": round(min(counts) / spent, 2),
        "megabytes_per_second": round(sum(v.bytes for v in viewers) / spent / 1e6, 2),
        "lost": sum(viewer.lost for viewer in viewers),
        "processor_share": round((_processor_seconds() - before) / spent, 3),
    }
    print(json.dumps(document), flush=True)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for one in stuck:
        one.close()
    for client in clients:
        client.transport.abort()


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """What the check of clients starts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--watching", type=int, default=45)
    parser.add_argument("--stalled", type=int, default=5)
    given = parser.parse_args()
    asyncio.run(_run(given.host, given.port, given.watching, given.stalled))


if __name__ == "__main__":
    main()
