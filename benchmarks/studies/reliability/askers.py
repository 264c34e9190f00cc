"""Many clients of `POST /explain`, each asking again as soon as it was answered.

python -m foldcam.benchmarks.studies.reliability.askers PORT PICTURE

A line on standard input says how many clients ask how often each; the answer is one JSON line of
the milliseconds of every request, with what the server says that it spent on it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path


async def _ask(port: int, request: bytes, count: int) -> list[dict[str, float]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    times = []
    for _ in range(count):
        begun = time.perf_counter()
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        lines = dict(line.partition(": ")[::2] for line in head.split("\r\n")[1:])
        await reader.readexactly(int(lines["content-length"]))
        took = 1e3 * (time.perf_counter() - begun)
        if not head.startswith("http/1.1 200"):
            raise RuntimeError(head.partition("\r\n")[0])
        parts = (part.partition(";dur=")[::2] for part in lines["server-timing"].split(", "))
        times.append({**{name: float(spent) for name, spent in parts}, "took": took})
    writer.close()
    return times


async def _round(port: int, request: bytes, clients: int, count: int) -> list[dict[str, float]]:
    done = await asyncio.gather(*(_ask(port, request, count) for _ in range(clients)))
    return [each for times in done for each in times]


def main() -> None:
    """What the check of explained pictures starts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("port", type=int)
    parser.add_argument("picture", type=Path)
    given = parser.parse_args()
    picture = given.picture.read_bytes()
    head = f"POST /explain HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(picture)}\r\n\r\n"
    for line in sys.stdin:
        clients, count = map(int, line.split())
        times = asyncio.run(_round(given.port, head.encode() + picture, clients, count))
        print(json.dumps(times), flush=True)


if __name__ == "__main__":
    main()
