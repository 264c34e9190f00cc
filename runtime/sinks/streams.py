"""A sink for one of several sources."""

from __future__ import annotations

from types import TracebackType

from foldcam.runtime.drawing.frame_results import FrameResults
from foldcam.runtime.sinks.base import Loses, Reopens, Sink


class OfStream:
    """Gives a sink the frames of one source, and no others.

    Args:
        sink: such as a video, which can show one source only.
        stream: `Frame.stream` of the source.
    """

    def __init__(self, sink: Sink, stream: int) -> None:
        self._sink, self._stream = sink, stream
        self.name = f"{sink.name} {stream}"
        self.may_skip = sink.may_skip

    @property
    def output(self) -> str | None:
        """Of the sink."""
        return self._sink.output

    def __enter__(self) -> OfStream:
        self._sink.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._sink.__exit__(kind, error, trace)

    def losses(self) -> tuple[int, str]:
        """Of the sink, if it finds out."""
        return self._sink.losses() if isinstance(self._sink, Loses) else (0, "")

    def reopen(self) -> None:
        """Of the sink, if it can.

        Raises:
            FoldcamError: it cannot be opened again yet.
        """
        if isinstance(self._sink, Reopens):
            self._sink.reopen()

    def write(self, item: FrameResults) -> None:
        """Pass a frame on, if it is of the source."""
        if item.frame.stream == self._stream:
            self._sink.write(item)
