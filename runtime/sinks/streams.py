"""A sink for one of several sources."""

from __future__ import annotations

from foldcam.runtime.model.frame_results import FrameResults
from foldcam.runtime.sinks.base import Reopens, Sink


class OfStream(Sink):
    """Gives a sink the frames of one source, and no others.

    Args:
        stream: `Frame.stream` of the source.
    """

    def __init__(self, sink: Sink, stream: int) -> None:
        self._sink, self._stream = sink, stream
        self.name = f"{sink.name} {stream}"
        self.may_skip, self.output = sink.may_skip, sink.output

    def close(self, failed: bool) -> None:
        """End the sink."""
        try:
            self._sink.close(failed)
        finally:
            self.output = self._sink.output

    def losses(self) -> tuple[int, str]:
        """Those of the sink."""
        return self._sink.losses()

    def reopen(self) -> None:
        """Open the sink again, if it can be."""
        if isinstance(self._sink, Reopens):
            self._sink.reopen()

    def write(self, item: FrameResults) -> None:
        """Pass a frame on, if it is of the source."""
        if item.frame.stream == self._stream:
            self._sink.write(item)
            self.output = self._sink.output
