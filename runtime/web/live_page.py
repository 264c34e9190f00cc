"""The live page as a sink."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from foldcam.runtime.contract.gallery import Gallery
from foldcam.runtime.contract.schema import Contract
from foldcam.runtime.model.drawing.style import Style
from foldcam.runtime.model.folded_model import FoldedModel
from foldcam.runtime.model.frame_results import FrameResults
from foldcam.runtime.sinks import Sink
from foldcam.runtime.sources.options import ServeOptions
from foldcam.runtime.system.command import missing_extra
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.monitor import Monitor
from foldcam.runtime.system.strict_json import strict_json
from foldcam.runtime.web.access import Access
from foldcam.runtime.web.address import HostNames, bind, is_loopback, resolve, url_host
from foldcam.runtime.web.broadcast import Latest
from foldcam.runtime.web.descriptors import budget
from foldcam.runtime.web.explainer import Explainer
from foldcam.runtime.web.health import Health
from foldcam.runtime.web.history import History
from foldcam.runtime.web.offers import Offers

if TYPE_CHECKING:
    from starlette.routing import BaseRoute
    from starlette.types import ASGIApp

    from foldcam.runtime.web.routes import Shown
    from foldcam.runtime.web.server import ServerThread, Task

_log = logging.getLogger(__name__)
MIN_FPS, MAX_FPS = 0.1, 120.0
MAX_CLIENTS = 1000
_EXPLAIN_SECONDS = 5.0


class LivePage(Sink):
    """Serves a page with the newest frames while it is entered.

    `write` stores a reference and returns: whatever the clients do, the run does not wait.

    Args:
        gallery: of the model; without one the nearest rows have no pictures.
        bank: the file of the bank, of a model whose bank is an input: with it and a token, unknown
            regions are offered for a name, and learned.
        model: that runs, which is shared with `POST /explain` from then on; None leaves it out.

    Example:
        >>> with LivePage(ServeOptions(port=0), Monitor(), model.contract) as page:
        ...     print(page.url)
        http://127.0.0.1:41753/
    """

    name = "live page"
    may_skip = True
    output: str | None = None

    def __init__(
        self,
        options: ServeOptions,
        monitor: Monitor,
        contract: Contract,
        *,
        style: Style | None = None,
        gallery: Gallery | None = None,
        bank: Path | None = None,
        model: FoldedModel | None = None,
    ) -> None:
        _check_limits(options)
        self._options = options
        self._family, self._place = resolve(options.host, options.port)
        self._access = Access(options.token, is_loopback(self._place[0]))
        self._hosts = HostNames(options.host, options.names)
        self._budget = budget(options.clients)
        self._latest = Latest()
        self._history = History()
        self._server: ServerThread | None = None
        # The pictures that are watched do not wait for a row's picture from a slow disk.
        self._executors: list[ThreadPoolExecutor] = []
        self._viewers = 0
        self._routes: list[BaseRoute] = []
        self._explainer: Explainer | None = None
        if model is not None:
            model.share()
            self._explainer = Explainer(model, style or Style())
        learns = self._access.needs_token and contract.outcome is None and contract.scores is None
        self._offers = Offers(bank, contract) if bank is not None and learns else None
        self._shown = _shown(self, monitor, contract, style or Style(), gallery)

    @property
    def url(self) -> str:
        """Where the page is; while it is entered, with the port that was bound."""
        host, port = self._place
        if host in ("0.0.0.0", "::"):
            host = socket.gethostname()
        return f"http://{url_host(host)}:{port}/"

    def __enter__(self) -> LivePage:
        """Bind the port and serve."""
        from foldcam.runtime.web.server import ServerThread

        listener = bind(self._family, self._place)
        self._place = (self._place[0], int(listener.getsockname()[1]))
        self._executors = [
            ThreadPoolExecutor(1, thread_name_prefix=f"live-page-{work}")
            for work in ("pictures", "answers", "explain")
        ]
        self._server = ServerThread(self._make, self._budget.connections)
        try:
            self._server.start(listener)
        except BaseException:
            self._close()
            raise
        _log.info("the live page is at %s", self.url)
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def reopen(self) -> None:
        """Serve again on the same port, after `write` has raised."""
        self._close()
        self.__enter__()

    def write(self, item: FrameResults) -> None:
        """Make a frame its stream's newest."""
        milliseconds = self._latest.put(item)
        self._history.saw(milliseconds)
        if self._offers is not None:
            self._offers.look(item)
        self._shown.metrics.saw(item.frame.stream, milliseconds)
        if self._server is not None and self._server.failure:
            raise FoldcamError(f"The live page is no longer served: {self._server.failure}.")

    def routes(self) -> list[BaseRoute]:
        """What can be asked for, while it is entered: for those who check that all are guarded."""
        return list(self._routes)

    def _close(self) -> None:
        if self._server is not None:
            self._server.stop()
        for executor in self._executors:
            executor.shutdown(wait=False, cancel_futures=True)
        # The model is closed after this, which may not happen in the midst of a pass.
        if self._explainer is not None:
            self._explainer.wait(_EXPLAIN_SECONDS)
        self._server, self._executors = None, []

    def _make(self) -> tuple[ASGIApp, list[Task]]:
        from foldcam.runtime.web.broadcast import Broadcast
        from foldcam.runtime.web.guard import Guard
        from foldcam.runtime.web.routes import make_app, status_document

        pictures, others, explain = self._executors
        broadcast = Broadcast(self._latest, pictures, self._options.fps)
        shown = self._shown

        async def tick() -> None:
            while True:
                begun = time.monotonic()
                point = self._history.sample(shown.monitor.snapshot())
                self._viewers = len(broadcast.clients)
                document = status_document(shown, self._viewers)
                if broadcast.clients:
                    broadcast.tell(strict_json({"kind": "status", "point": point, **document}))
                await asyncio.sleep(max(0.1, 1.0 - (time.monotonic() - begun)))

        explainer = None if self._explainer is None else (self._explainer, explain)
        app = make_app(shown, broadcast, others, explainer)
        self._routes = app.routes
        return Guard(app, self._access, self._hosts), [broadcast.run, tick]


def _shown(
    page: LivePage, monitor: Monitor, contract: Contract, style: Style, gallery: Gallery | None
) -> Shown:
    try:
        # Found out now, not when the first browser comes.
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
        import websockets  # noqa: F401

        from foldcam.runtime.web.metrics import Metrics
        from foldcam.runtime.web.routes import Shown
    except ImportError as error:
        raise FoldcamError(missing_extra(error) or f"The live page needs {error.name}.") from error
    health = Health(monitor)
    return Shown(
        monitor=monitor,
        latest=page._latest,
        history=page._history,
        health=health,
        metrics=Metrics(monitor, lambda: page._viewers, lambda: not health.trouble()),
        gallery=gallery,
        contract=contract,
        style=style,
        offers=page._offers,
        clients=page._budget.viewers,
        needs_token=page._access.needs_token,
    )


def _check_limits(options: ServeOptions) -> None:
    if not 0 <= options.port <= 65535:
        raise FoldcamError(f"The live page's port is {options.port}: give one from 0 to 65535.")
    if not 1 <= options.clients <= MAX_CLIENTS:
        raise FoldcamError(
            f"The live page's clients are {options.clients}: give 1 to {MAX_CLIENTS}."
        )
    if not MIN_FPS <= options.fps <= MAX_FPS:
        raise FoldcamError(
            f"The live page's fps is {options.fps:g}: give {MIN_FPS:g} to {MAX_FPS:g}."
        )
