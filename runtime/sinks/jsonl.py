"""One JSON line per frame, or per region of it."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from runtime.errors import FoldcamError
from runtime.files import write_failure
from runtime.model import Result
from runtime.seen import Seen
from runtime.sinks.base import PendingFile, refuse_input
from runtime.sources import Frame

STDOUT = "-"


class JsonlSink:
    """Results as JSON lines, each flushed; the file has its name when it is complete.

    Args:
        target: a path, or `-` for standard output. A device or a named pipe is written
            directly.
        embedding: whether each line carries the embedding.

    Raises:
        FoldcamError: the folder cannot be written.
    """

    name = "jsonl"
    may_skip = False

    def __init__(self, target: str, embedding: bool = True) -> None:
        self._embedding = embedding
        self._path = Path(target)
        self._file: PendingFile | None = None
        self._stream: IO[str]
        self.output: str | None = None if target == STDOUT else target
        try:
            if target == STDOUT:
                self._stream = sys.stdout
            elif self._path.exists() and not self._path.is_file() and not self._path.is_dir():
                self._stream = self._path.open("w", encoding="utf-8")
            else:
                self._file = PendingFile(self._path)
                self._stream = self._file.temporary.open("w", encoding="utf-8")
        except OSError as error:
            raise FoldcamError(write_failure(self._path, error)) from error

    def __enter__(self) -> JsonlSink:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._stream is not sys.stdout:
                self._stream.close()
            if kind is None and self._file is not None:
                self._file.finish()
        except OSError as failure:
            if kind is None:
                raise FoldcamError(write_failure(self._path, failure)) from failure
        finally:
            if self._file is not None:
                self._file.abandon()

    def write(self, seen: Seen) -> None:
        """Append one line per result; a frame without regions has a line, too."""
        if self._file is not None:
            refuse_input(self._path, seen.frame.source)
        lines = [
            json.dumps(record(seen.frame, result, self._embedding), allow_nan=False)
            for result in seen.results
        ] or [json.dumps({**_place_of(seen.frame), "regions": 0})]
        try:
            self._stream.write("\n".join(lines) + "\n")
            self._stream.flush()
        except BrokenPipeError:
            raise  # whoever read our output has seen enough
        except OSError as error:
            raise FoldcamError(write_failure(self._path, error)) from error


def record(frame: Frame, result: Result, embedding: bool = True) -> dict[str, Any]:
    """One result as a JSON object; a number that is not finite becomes null.

    A continuous outcome has `estimate` and `hottest_lower`, and its neighbors no label.
    """
    labels: list[dict[str, str]] = [{"label": label} for label in result.labels]
    if result.estimate is not None:
        labels = [{} for _ in result.neighbors]
    document: dict[str, Any] = {
        **_place_of(frame),
        "width": result.frame_wh[0],
        "height": result.frame_wh[1],
        "neighbors": [
            {"row": int(row), **label, "similarity": _number(similarity)}
            for row, label, similarity in zip(
                result.neighbors, labels, result.similarities, strict=True
            )
        ],
        "hottest": _place(result.hottest()),
        "timings_ms": {
            "preprocess": round(result.timings.preprocess_ms, 3),
            "inference": round(result.timings.inference_ms, 3),
        },
    }
    if result.box is not None:
        document["box"] = dict(zip(("x", "y", "width", "height"), result.box, strict=True))
    if result.estimate is not None:
        document["estimate"] = _number(result.estimate)
        document["hottest_lower"] = _place(result.hottest_lower())
    if embedding:
        document["embedding"] = [_number(value) for value in result.embedding.tolist()]
    return document


def _place_of(frame: Frame) -> dict[str, Any]:
    """Where a frame stands among all others."""
    return {
        "source": frame.source,
        "frame": frame.index,
        "timestamp": round(frame.timestamp, 6),
    }


def _place(place: tuple[float, float] | None) -> dict[str, float | None] | None:
    return None if place is None else {"x": _number(place[0]), "y": _number(place[1])}


def _number(value: float) -> float | None:
    # Nine significant digits give every float32 back exactly.
    return float(f"{float(value):.9g}") if math.isfinite(value) else None
