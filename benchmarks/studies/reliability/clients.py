"""What viewers cost the run: fifty of them, five of whom read nothing, and none without a token.

Runs with and without viewers take turns, and the ratio is taken of neighbours, so that a
machine that slows down in between does not count. The viewers are a process of their own on
the same processors: what they use of them is part of the ratio, and is reported beside it.
"""

from __future__ import annotations

import http.client
import json
import statistics
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from starlette.routing import Route, WebSocketRoute

from foldcam.benchmarks.evaluation.documents import Progress
from foldcam.benchmarks.studies.demo_model import demo_model
from foldcam.benchmarks.studies.reliability.film_server import write_film
from foldcam.benchmarks.studies.reliability.http_cases import still_page
from foldcam.runtime.model.folded_model import FoldedModel
from foldcam.runtime.model.frame_results import FrameResults
from foldcam.runtime.pipeline.run import run
from foldcam.runtime.sinks import Sink
from foldcam.runtime.sources import open_source
from foldcam.runtime.sources.options import ServeOptions
from foldcam.runtime.system.monitor import Monitor
from foldcam.runtime.web import LivePage

VIEWERS = 50
STALLED = 5
LEAST_RATIO = 0.9
_PAIRS = {False: 2, True: 9}
_SCENES = {False: 9, True: 24}
_TOKEN = "a-token-for-this-check-alone"
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def check(full: bool, folder: Path, progress: Progress) -> dict[str, Any]:
    """Measure both, and ask every route without a token."""
    model = demo_model(folder.parent / "model", "224")
    labels = ["cat", "coffee", "astronaut", "motorcycle", "rocket", "coins", "horse", "cameraman"]
    film = write_film(folder / "film.avi", (labels * 3)[: _SCENES[full]])
    pairs, viewers = [], []
    with FoldedModel.load(model, "cpu", 1) as folded:
        _fps(folded, film, None)  # warm
        for number in range(_PAIRS[full]):
            progress("pairs of runs", number, _PAIRS[full])
            # Either may be first, in turn.
            turns = [False, True] if number % 2 == 0 else [True, False]
            fps: dict[bool, float] = {}
            for watched in turns:
                if watched:
                    fps[watched], got = _watched_fps(folded, film)
                    viewers.append(got)
                else:
                    fps[watched] = _unwatched_fps(folded, film)
            pairs.append((fps[False], fps[True]))
        progress("pairs of runs", _PAIRS[full], _PAIRS[full])
    ratios = [watched / alone for alone, watched in pairs]
    ratio = statistics.median(ratios)
    refused = unauthenticated()
    served = all(got["least_per_viewer_second"] > 0 and not got["lost"] for got in viewers)
    return {
        "passed": ratio >= LEAST_RATIO and served and not refused["answered"],
        "settings": {
            "viewers": VIEWERS, "stalled": STALLED, "pairs": len(pairs),
            "network": "EfficientNet-Lite0, input 224, one thread",
        },
        "ratio": {
            "median": round(ratio, 4), "low": round(min(ratios), 4), "high": round(max(ratios), 4),
        },
        "fps_without": round(statistics.median(alone for alone, _ in pairs), 2),
        "fps_with": round(statistics.median(watched for _, watched in pairs), 2),
        "pictures_per_viewer_second": _median(viewers, "pictures_per_viewer_second"),
        "least_per_viewer_second": min(got["least_per_viewer_second"] for got in viewers),
        "megabytes_per_second": _median(viewers, "megabytes_per_second"),
        "viewers_processor_share": _median(viewers, "processor_share"),
        "unauthenticated": refused,
    }  # fmt: skip


def rows(document: dict[str, Any]) -> list[tuple[str, str]]:
    """For the docs."""
    settings, ratio, refused = (document[key] for key in ("settings", "ratio", "unauthenticated"))
    return [
        (
            f"frames per second with {settings['viewers']} viewers, {settings['stalled']} of them "
            f"stalled, over without (median of {settings['pairs']} pairs; lowest to highest)",
            f"{ratio['median']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})",
        ),
        (
            "frames per second without, with",
            f"{document['fps_without']:.1f}, {document['fps_with']:.1f}",
        ),
        (
            "pictures per second to each viewer that reads (median; least)",
            f"{document['pictures_per_viewer_second']:.1f}; "
            f"{document['least_per_viewer_second']:.1f}",
        ),
        (
            "processors that the viewers themselves used, on the same machine",
            f"{document['viewers_processor_share']:.2f}",
        ),
        (
            "requests without a token to an address that is not loopback: routes x methods, "
            "answered with anything but 401",
            f"{refused['routes']} x {refused['methods']}, {len(refused['answered'])}",
        ),
    ]


def unauthenticated() -> dict[str, Any]:
    """Ask every route of the application, and some that there are not, without a token.

    Returns:
        `routes`, `methods`, and `answered`: those that got another status than 401.
    """
    answered: list[str] = []
    with still_page(ServeOptions(host="0.0.0.0", port=0, token=_TOKEN)) as page:
        port = int(page.url.rstrip("/").rpartition(":")[2])
        routes = page.routes()
        paths = [route.path for route in routes if isinstance(route, (Route, WebSocketRoute))]
        paths += ["/login", "/logout", "/nothing", "/../etc/passwd"]
        for path in paths:
            for method in _METHODS:
                status = _ask(port, method, path, {})
                if status != 401:
                    answered.append(f"{method} {path}: {status}")
            upgrade = {
                "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
                "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
            }  # fmt: skip
            status = _ask(port, "GET", path, upgrade)
            if status != 401:
                answered.append(f"WebSocket {path}: {status}")
    return {"routes": len(paths), "methods": len(_METHODS) + 1, "answered": answered}


def _ask(port: int, method: str, path: str, headers: dict[str, str]) -> int:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        client.request(method, path, headers=headers)
        return client.getresponse().status
    finally:
        client.close()


class _Lent(Sink):
    """A page as a sink that stays open when the run ends."""

    name = "live page"
    may_skip = True
    output: str | None = None

    def __init__(self, page: LivePage) -> None:
        self._page = page

    def __enter__(self) -> _Lent:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def write(self, seen: FrameResults) -> None:
        self._page.write(seen)


def _fps(model: FoldedModel, film: Path, page: LivePage | None) -> float:
    """Frames per second of a recorded film, all of whose frames go through the network."""
    sinks = [] if page is None else [_Lent(page)]
    return run(open_source(file=str(film)), model, sinks).fps


def _unwatched_fps(model: FoldedModel, film: Path) -> float:
    with LivePage(ServeOptions(port=0, clients=VIEWERS), Monitor(), model.contract) as page:
        return _fps(model, film, page)


def _watched_fps(model: FoldedModel, film: Path) -> tuple[float, dict[str, Any]]:
    options = ServeOptions(port=0, clients=VIEWERS)
    with LivePage(options, Monitor(), model.contract) as page:
        port = page.url.rstrip("/").rpartition(":")[2]
        command = [
            sys.executable, "-m", "foldcam.benchmarks.studies.reliability.viewers",
            "127.0.0.1", port,
            "--watching", str(VIEWERS - STALLED), "--stalled", str(STALLED),
        ]  # fmt: skip
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as viewers:
            try:
                assert viewers.stdout is not None
                if viewers.stdout.readline() != "ready\n":
                    raise RuntimeError("the viewers did not connect")
                fps = _fps(model, film, page)
                viewers.terminate()
                got: dict[str, Any] = json.loads(viewers.stdout.readline())
            finally:
                viewers.kill()
    return fps, got


def _median(viewers: list[dict[str, Any]], key: str) -> float:
    return round(statistics.median(float(got[key]) for got in viewers), 3)
