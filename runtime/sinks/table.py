"""Results that are kept in memory for the end of a run: as a table, and as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from foldcam.runtime.model.frame_results import FrameResults
from foldcam.runtime.model.record import Boxes, record
from foldcam.runtime.model.result import Result
from foldcam.runtime.sinks.base import Sink
from foldcam.runtime.sources.base import Frame
from foldcam.runtime.system.text import printable, shorten

MAX_ROWS = 10_000
MOST_RESULTS = 1000


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


class RememberedResults(Sink):
    """Keeps the records of the first `MOST_RESULTS` results, and counts the others."""

    name = "results"
    passive = True

    def __init__(self, boxes: Boxes | None = None) -> None:
        self._boxes = boxes or {}
        self._records: list[dict[str, Any]] = []
        self.left_out = 0
        """Results that are not kept."""

    def write(self, item: FrameResults) -> None:
        """Keep the results of one frame, as far as there is room."""
        for result in item.results:
            if len(self._records) < MOST_RESULTS:
                self._records.append(_document(item.frame, result, self._boxes))
            else:
                self.left_out += 1

    def document(self) -> dict[str, Any]:
        """The keys of the JSON document: `results`, and `results_left_out`, a number."""
        return {"results": self._records, "results_left_out": self.left_out}

    @property
    def note(self) -> str:
        """What is left out, and where all results can be had."""
        total = self.left_out + len(self._records)
        return (
            f"the JSON document has the first {len(self._records)} of {total} results: "
            "--jsonl FILE writes all of them."
        )


def _document(frame: Frame, result: Result, boxes: Boxes) -> dict[str, Any]:
    """The record of a JSON line, and before it what a reader wants first."""
    document = record(frame, result, embedding=False, boxes=boxes)
    nearest = document["neighbors"][0] if document["neighbors"] else {}
    return {
        "answer": (result.vote or result).answer,
        "label": nearest.get("label"),
        "similarity": nearest.get("similarity"),
        "unknown": result.unknown,
        **document,
    }
