"""Results that are kept for the JSON document at the end of a run."""

from __future__ import annotations

from typing import Any

from foldcam.runtime.model.frame_results import FrameResults
from foldcam.runtime.model.record import Boxes, record
from foldcam.runtime.model.result import Result
from foldcam.runtime.sinks.base import Sink
from foldcam.runtime.sources.base import Frame

MOST_RESULTS = 1000


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
