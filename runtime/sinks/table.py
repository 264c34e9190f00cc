"""Results that are kept for a table at the end."""

from __future__ import annotations

from dataclasses import dataclass

from foldcam.runtime.model.frame_results import FrameResults
from foldcam.runtime.sinks.base import Sink
from foldcam.runtime.system.text import printable, shorten

MAX_ROWS = 10_000


@dataclass(frozen=True)
class Row:
    """One photograph."""

    name: str
    answer: str
    similarity: float | None
    milliseconds: float


class TableSink(Sink):
    """Remembers the first `MAX_ROWS` frames, so that its memory stays bounded."""

    name = "table"

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._heading, self._number = "nearest label", "similarity"

    def write(self, item: FrameResults) -> None:
        """Remember one frame."""
        result = item.result
        if result is not None and len(self.rows) < MAX_ROWS:
            spent = result.timings.preprocess_ms + result.timings.inference_ms
            similarity = float(result.similarities[0]) if result.valid else None
            answer = result.answer if result.error is None else f"no answer: {result.error}"
            self.rows.append(Row(str(item.frame.name), answer, similarity, spent))
            if result.valid:
                self._heading = "nearest label" if result.estimate is None else "estimate"
                if result.scores is not None:
                    self._heading, self._number = "best class", "score"

    def __str__(self) -> str:
        names = [shorten(printable(row.name), 48) for row in self.rows]
        answers = [shorten(printable(row.answer), 40) for row in self.rows]
        wide = max(map(len, ["image", *names]))
        broad = max(map(len, [self._heading, *answers]))
        lines = [f"{'image':{wide}}  {self._heading:{broad}}  {self._number:>10}      ms"]
        for name, answer, row in zip(names, answers, self.rows, strict=True):
            similarity = "-" if row.similarity is None else f"{row.similarity:.3f}"
            lines.append(
                f"{name:{wide}}  {answer:{broad}}  {similarity:>10}  {row.milliseconds:6.1f}"
            )
        return "\n".join(lines)
