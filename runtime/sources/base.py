"""What every source gives and every sink gets."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath
from types import TracebackType
from typing import Protocol, TypeVar, runtime_checkable

from foldcam.runtime.images.listing import LeftOut
from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.system.monitor import Cause, Monitor, State
from foldcam.runtime.system.text import quantity


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture on its way through the pipeline.

    Attributes:
        image: `uint8 [H, W, 3]` RGB.
        index: number within its source, from 0, counting captured frames: a gap is a drop.
        source: file or URI it came from, without credentials.
        name: relative path that names it in outputs, such as `owls/3.jpg` or `camera-0`.
        timestamp: seconds: a video's presentation time, a live source's time since its
            first frame, 0.0 for a photograph.
        captured: `time.monotonic()` when it was decoded, in seconds.
        stream: which of several sources of one run it came from, from 0.
        connection: how often a live source had been opened when it came; a change is a gap.
    """

    image: Image
    index: int
    source: str
    name: PurePath
    timestamp: float
    captured: float
    stream: int = 0
    connection: int = 0


@dataclass(frozen=True)
class Skip:
    """Something that a source could not deliver, and why (without a full stop)."""

    path: str
    reason: str


def undecodable(count: int) -> str:
    """The clause for frames of a film or camera that were left out."""
    return (
        f"{quantity(count, 'frame')} of it cannot be decoded and "
        f"{'was' if count == 1 else 'were'} left out"
    )


class Link:
    """How a source reports to the run that it is part of; without a monitor nobody listens."""

    def __init__(self, monitor: Monitor | None = None, stream: int = 0) -> None:
        self._monitor = monitor
        self._stream = stream

    def state(self, state: State, reason: str = "") -> None:
        """It does something else from now on; `reason` is a clause without credentials."""
        if self._monitor is not None:
            self._monitor.state(self._stream, state, reason)

    def dropped(self, cause: Cause, count: int = 1) -> None:
        """Frames were lost before the iteration gave them."""
        if self._monitor is not None:
            self._monitor.dropped(self._stream, cause, count, early=True)


class Source(ABC):
    """Frames, given once and in order. A subclass needs one method: `__iter__`.

    A source is a context manager: it is entered before the iteration and left after it.

    Args:
        name: file, folder, pattern or URI, without credentials.
        stem: a file name without suffix that names its outputs; the last part of `name` without
            its suffix unless given.

    Attributes:
        stills: whether every frame is a photograph of its own, not part of a sequence.
        live: whether frames come at their own pace and cannot be asked for again.
        frames: how many are expected; None if that cannot be known.
        fps: frames per second of a sequence; None if there is none, or none yet.
        skipped: what could not be delivered; complete once the iteration has ended.
        left_out: what was there and is not given.
    """

    stills: bool = False
    live: bool = False
    frames: int | None = None
    fps: float | None = None

    def __init__(self, name: str, stem: str | None = None) -> None:
        self.name = name
        self.stem = PurePath(name).stem if stem is None else stem
        self.skipped: list[Skip] = []
        self.left_out: list[LeftOut] = []
        self._link = Link()
        self._stopped = threading.Event()

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]:
        """Give every frame; end soon after `stop`, which is when `_stopped` is set."""

    def close(self) -> None:  # noqa: B027  (most sources have nothing to close)
        """Let go of what was opened; called once, after the iteration."""

    def attach(self, link: Link) -> None:
        """Report to a run from now on; called before the iteration."""
        self._link = link

    def stop(self) -> None:
        """End the iteration, from any thread, even while it connects or waits."""
        self._stopped.set()

    def __enter__(self: _SourceType) -> _SourceType:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


_SourceType = TypeVar("_SourceType", bound=Source)


def left_out_of(source: Source) -> list[LeftOut]:
    """What a source found and left out; none of a user's source that inherits nothing."""
    return getattr(source, "left_out", [])


@runtime_checkable
class Attached(Protocol):
    """What can be attached and stopped, as every `Source` can.

    A user's source that inherits nothing may do without: it is then asked frame by frame.
    """

    def attach(self, link: Link) -> None:
        """See `Source.attach`."""

    def stop(self) -> None:
        """See `Source.stop`."""
