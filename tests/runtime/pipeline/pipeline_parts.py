"""Sources, sinks and models that the tests hold in their hands."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import PurePath

import numpy as np

from foldcam.runtime.model.folded_model import FoldedModel, ForwardPass
from foldcam.runtime.sources import Frame
from foldcam.runtime.system.errors import FoldcamError

COLORS = {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200)}


class Given:
    """A source of pictures of one colour.

    Args:
        count: of frames.
        live: whether it is.
        color: of all pictures.
        before: called with the number of each frame before it is delivered.
    """

    stem, stills, fps = "given", False, 25.0

    def __init__(
        self,
        count: int = 10,
        live: bool = False,
        color: str = "red",
        before: Callable[[int], object] = lambda index: None,
        name: str = "given",
    ) -> None:
        self.frames = None if live else count
        self.live = live
        self.name = name
        self.skipped: list = []
        self.delivered = 0
        self.closed = False
        self._count = count
        self._image = np.full((16, 16, 3), COLORS[color], np.uint8)
        self._before = before

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.closed = True

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self._count):
            self._before(index)
            self.delivered += 1
            yield Frame(self._image, index, self.name, PurePath("x"), index / 25, time.monotonic())


class Kept:
    """A sink that keeps what it gets, and may be slow, hang or fail.

    Args:
        act: called with every `FrameResults` before it is kept.
        may_skip: as of a window.
    """

    output = None

    def __init__(
        self, act: Callable[[object], object] = lambda item: None, may_skip: bool = False,
        name: str = "kept",
    ) -> None:  # fmt: skip
        self.name = name
        self.may_skip = may_skip
        self.items: list = []
        self.left: list = []
        self._act = act

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.left.append(kind)

    def write(self, item) -> None:
        self._act(item)
        self.items.append(item)

    @property
    def indices(self) -> list[int]:
        return [item.frame.index for item in self.items]


class Reopened(Kept):
    """One that can begin again."""

    def __init__(self, *given, refusals: int = 0, **more) -> None:
        super().__init__(*given, **more)
        self.refusals = refusals
        self.reopened = 0

    def reopen(self) -> None:
        if self.refusals:
            self.refusals -= 1
            raise FoldcamError("still no room")
        self.reopened += 1


class Flaky:
    """A backend that fails when it is told to.

    Args:
        backend: does the work.
        failures: what is raised by the next runs, one each; None lets one pass.
        opens: likewise by `open`.
    """

    def __init__(self, backend, failures: list, opens: list | None = None) -> None:
        self.backend = backend
        self.name, self.device, self.contract = "flaky", "cpu", backend.contract
        self.failures = failures
        self.opens = opens or []
        self.opened = 0
        self.closed = 0
        self.runs = 0

    def run(self, images):
        self.runs += 1
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure
        return self.backend.run(images)

    def close(self) -> None:
        self.closed += 1

    def again(self):
        failure = self.opens.pop(0) if self.opens else None
        if failure is not None:
            raise failure
        self.opened += 1
        return self

    def model(self, again: bool = True) -> FoldedModel:
        return FoldedModel(self, self.again if again else None)


class Sized(FoldedModel):
    """A model that notes how many rows its passes had, and may be slow."""

    def __init__(self, backend, pause: Callable[[], object] = lambda: None) -> None:
        super().__init__(backend)
        self.rows: list[int] = []
        self._pause = pause

    def forward(self, batch) -> ForwardPass:
        self.rows.append(len(batch.rows))
        self._pause()
        return super().forward(batch)


def until(ready: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait for something that another thread does; fail the test if it does not."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def foldcam_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("foldcam")}
