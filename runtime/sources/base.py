"""What every source gives and every sink gets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath
from types import TracebackType
from typing import Protocol, runtime_checkable

from foldcam.runtime.images.listing import LeftOut
from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.system.monitor import Cause, Monitor, State


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
    """

    image: Image
    index: int
    source: str
    name: PurePath
    timestamp: float
    captured: float
    stream: int = 0


@dataclass(frozen=True)
class Skip:
    """Something that a source could not deliver, and why (without a full stop)."""

    path: str
    reason: str


def undecodable(count: int) -> str:
    """The clause for frames of a film or camera that were left out."""
    return (
        f"{count} frame{'' if count == 1 else 's'} of it cannot be decoded and "
        f"{'was' if count == 1 else 'were'} left out"
    )


class Source(Protocol):
    """A context manager that iterates over frames once."""

    @property
    def name(self) -> str:
        """File, folder, pattern or URI, without credentials."""
        ...

    @property
    def stem(self) -> str:
        """A file name without suffix that names its outputs."""
        ...

    @property
    def stills(self) -> bool:
        """Whether every frame is a photograph of its own, not part of a sequence."""
        ...

    @property
    def live(self) -> bool:
        """Whether frames come at their own pace and cannot be asked for again."""
        ...

    @property
    def frames(self) -> int | None:
        """How many are expected, None if that cannot be known."""
        ...

    @property
    def fps(self) -> float | None:
        """Frames per second of a sequence, None if there is none."""
        ...

    @property
    def skipped(self) -> list[Skip]:
        """What could not be delivered; complete once the iteration has ended."""
        ...

    def __enter__(self) -> Source: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
    def __iter__(self) -> Iterator[Frame]: ...


class Link:
    """What a source tells the run that it is part of; without a monitor nobody listens.

    Args:
        monitor: of the run.
        stream: the source's number there.
    """

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


@runtime_checkable
class Selective(Protocol):
    """A source that chose among what it found."""

    @property
    def left_out(self) -> list[LeftOut]:
        """What was there and is not given."""
        ...


def left_out_of(source: Source) -> list[LeftOut]:
    """What a source found and left out; none where it had no choice."""
    return source.left_out if isinstance(source, Selective) else []


@runtime_checkable
class Attached(Protocol):
    """A source that says what it is doing, and whose iteration ends at once when asked to.

    Sources that are always ready (files) need neither.
    """

    def attach(self, link: Link) -> None:
        """Report to a run; called before the iteration."""
        ...

    def stop(self) -> None:
        """End the iteration, from any thread, even while it connects or waits."""
        ...
