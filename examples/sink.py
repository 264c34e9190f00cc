"""A sink of your own: how often each label was the nearest, written when the run has ended.

cd examples && runtime run model.onnx --file photos/ --sink sink:make
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from foldcam.runtime.model.frame_results import FrameResults
from foldcam.runtime.sinks import Sink
from foldcam.runtime.sources import Source


class CountingSink(Sink):
    """Counts answers.

    Args:
        path: of the file, which is replaced when the run has succeeded.
    """

    name = "counts"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._counts: Counter[str] = Counter()
        self.output = str(path)

    def write(self, item: FrameResults) -> None:
        """Count one frame's answers, one per region."""
        self._counts.update(result.answer for result in item.results)

    def close(self, failed: bool) -> None:
        """Write the counts, unless the run failed."""
        if not failed:
            lines = [f"{label} {count}\n" for label, count in sorted(self._counts.items())]
            self._path.write_text("".join(lines), encoding="utf-8")


def make(sources: Sequence[Source]) -> Sink:  # noqa: ARG001  (every factory gets the sources)
    """What `--sink` calls."""
    return CountingSink(Path("counts.txt"))
