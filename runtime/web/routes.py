"""What can be asked for, and the answers."""

from __future__ import annotations

import hashlib
import threading
import time
from concurrent.futures import Executor
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route, Router, WebSocketRoute
from starlette.websockets import WebSocket

from foldcam.runtime.contract.gallery import Gallery
from foldcam.runtime.contract.schema import Contract
from foldcam.runtime.images.small import encode_jpeg
from foldcam.runtime.model.drawing.overlay import COLD, COLORMAPS, WARM, palette
from foldcam.runtime.model.drawing.style import Style
from foldcam.runtime.model.match import row_picture
from foldcam.runtime.system.monitor import Monitor
from foldcam.runtime.system.strict_json import strict_json
from foldcam.runtime.system.version import version
from foldcam.runtime.web.broadcast import Broadcast, Latest
from foldcam.runtime.web.explain import explain_routes
from foldcam.runtime.web.explainer import Explainer
from foldcam.runtime.web.health import Health
from foldcam.runtime.web.history import History
from foldcam.runtime.web.metrics import CONTENT_TYPE, Metrics
from foldcam.runtime.web.naming import aside, naming_routes, number_of
from foldcam.runtime.web.offers import Offers
from foldcam.runtime.web.packet import answers
from foldcam.runtime.web.stream import serve_stream

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_SNAPSHOT_QUALITY = 92
_MATCH_QUALITY = 82


@dataclass(frozen=True)
class Shown:
    """Everything that the routes read; none of them changes the run.

    Attributes:
        gallery: the pictures of the bank's rows, if the model has them.
        offers: what may be named from the page; None where nothing can be learned.
    """

    monitor: Monitor
    latest: Latest
    history: History
    health: Health
    metrics: Metrics
    gallery: Gallery | None
    contract: Contract
    style: Style
    offers: Offers | None
    clients: int
    needs_token: bool
    snapshots: dict[int, tuple[int, bytes]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


def make_app(
    shown: Shown,
    broadcast: Broadcast,
    executor: Executor,
    explainer: tuple[Explainer, Executor] | None = None,
) -> Router:
    """The application, without its `Guard`."""
    files = _static_files()
    build = hashlib.sha256(b"".join(data for _, data in sorted(files.items()))).hexdigest()[:16]

    async def stream(socket: WebSocket) -> None:
        await serve_stream(socket, broadcast, shown.clients, lambda: _greeting(shown, build))

    async def status(_: Request) -> Response:
        return _json(status_document(shown, len(broadcast.clients)))

    async def latest(_: Request) -> Response:
        return _json(_latest(shown))

    async def history(_: Request) -> Response:
        return _json(shown.history.to_dict())

    async def healthz(_: Request) -> Response:
        trouble = shown.health.trouble()
        return PlainTextResponse(f"{trouble or 'ok'}\n", 503 if trouble else 200)

    async def metrics(_: Request) -> Response:
        return Response(shown.metrics.text(), headers={"content-type": CONTENT_TYPE})

    async def snapshot(request: Request) -> Response:
        number = number_of(request.query_params.get("stream", "0"), 5)
        newest = None if number is None else shown.latest.of(number)
        if newest is None:
            return PlainTextResponse("There is no picture of this stream.\n", 404)
        data = await aside(executor, _snapshot, shown, number)
        name = f"foldcam-{number}-{newest.item.frame.index}.jpg"
        return Response(
            data, media_type="image/jpeg",
            headers={"content-disposition": f'inline; filename="{name}"'},
        )  # fmt: skip

    async def match(request: Request) -> Response:
        row = number_of(request.query_params.get("row", ""), 10)
        data = None if row is None else await aside(executor, _match, shown, row)
        if data is None:
            return PlainTextResponse("There is no picture of this row.\n", 404)
        headers = {"cache-control": "private, max-age=3600"}
        return Response(data, media_type="image/jpeg", headers=headers)

    routes: list[BaseRoute] = [
        WebSocketRoute("/stream", stream),
        Route("/api/status", status),
        Route("/api/latest", latest),
        Route("/api/history", history),
        Route("/api/snapshot.jpg", snapshot),
        Route("/api/match.jpg", match),
        Route("/healthz", healthz),
        Route("/metrics", metrics),
        *([] if shown.offers is None else naming_routes(shown.offers, executor)),
        *([] if explainer is None else explain_routes(*explainer)),
        *(_file_route(name, data) for name, data in files.items()),
    ]
    # Not an application with its own answers to errors: those are the guard's.
    return Router(routes=routes)


def status_document(shown: Shown, clients: int) -> dict[str, Any]:
    """The monitor's snapshot with what the page alone knows, as JSON values."""
    snapshot = shown.monitor.snapshot()
    trouble = shown.health.trouble(snapshot)
    return {
        "now": time.monotonic(),
        "healthy": not trouble,
        "reason": trouble,
        "clients": clients,
        "unnamed": None if shown.offers is None else shown.offers.document(),
        **snapshot.to_dict(),
    }


def _greeting(shown: Shown, build: str) -> str:
    outcome = shown.contract.outcome
    return strict_json(
        {
            "kind": "hello",
            "build": build,
            "version": version(),
            "continuous": outcome is not None,
            "outcome": None
            if outcome is None
            else {"low": outcome.low, "median": outcome.median, "high": outcome.high},
            "rows": shown.contract.bank.rows,
            "labels": len(shown.contract.labels),
            # In the addresses of the rows' pictures, since browsers keep these.
            "gallery": None if shown.gallery is None else shown.contract.bank.sha256[:16],
            "layer": shown.contract.layer,
            "opacity": shown.style.opacity,
            "colormap": shown.style.colormap,
            # 256 colours as hexadecimal digits, `RRGGBB` each.
            "palettes": {name: palette(name).tobytes().hex() for name in COLORMAPS},
            "warm": WARM,
            "cold": COLD,
            "login": shown.needs_token,
        }
    )


def _latest(shown: Shown) -> dict[str, Any]:
    now = time.monotonic()
    names = [stream.name for stream in shown.monitor.snapshot().streams]
    return {
        "streams": [
            {
                "stream": newest.item.frame.stream,
                "name": dict(enumerate(names)).get(newest.item.frame.stream),
                "frame": newest.item.frame.index,
                "age_ms": round(1e3 * (now - newest.item.frame.captured), 3),
                "results": answers(newest.item),
            }
            for newest in shown.latest.all()
        ]
    }


def _snapshot(shown: Shown, stream: int) -> bytes:
    """The drawn picture; drawn once, however often it is asked for."""
    with shown.lock:
        newest = shown.latest.of(stream)
        assert newest is not None
        kept = shown.snapshots.get(stream)
        if kept is None or kept[0] != newest.count:
            kept = (newest.count, encode_jpeg(newest.item.image, _SNAPSHOT_QUALITY))
            shown.snapshots[stream] = kept
        return kept[1]


def _match(shown: Shown, row: int) -> bytes | None:
    """A bank row's own picture with its own heat."""
    if shown.gallery is None or row >= shown.contract.bank.rows:
        return None
    picture = row_picture(shown.gallery, row, shown.style)
    return None if picture is None else encode_jpeg(picture, _MATCH_QUALITY)


def _json(document: dict[str, Any]) -> Response:
    return Response(strict_json(document) + "\n", media_type="application/json")


def _static_files() -> dict[str, bytes]:
    """The page's own files, read once: no request ever becomes a path."""
    folder = resources.files("foldcam.runtime.web") / "static"
    return {
        item.name: item.read_bytes()
        for item in sorted(folder.iterdir(), key=lambda item: item.name)
        if item.name.rpartition(".")[2] in _TYPES
    }


def _file_route(name: str, data: bytes) -> Route:
    tag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
    headers = {
        "content-type": _TYPES[name.rpartition(".")[2]],
        "cache-control": "private, no-cache",
        "etag": tag,
    }

    async def answer(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(b"", 304, headers)
        return Response(data, 200, headers)

    return Route("/" if name == "index.html" else f"/{name}", answer)
