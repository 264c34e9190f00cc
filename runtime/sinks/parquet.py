"""Embeddings, labels and boxes as Parquet, for whoever searches or trains on them later."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foldcam.runtime.model.frame_results import FrameResults
from foldcam.runtime.model.record import Boxes, box_document, capture_time, shown_source
from foldcam.runtime.model.result import Result
from foldcam.runtime.model.vote import Vote
from foldcam.runtime.sinks.base import Part, PendingFile, refuse_input
from foldcam.runtime.sources.base import Frame
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import refuse_special, user_errors_for

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA_VERSION = "1"
_GROUP_BYTES = 8 << 20
_MOST_ROWS = 4096


class ParquetSink(Part):
    """One row per region of a frame; the file has its name when it is complete.

    Rows wait in memory until a row group is full: at most 4096 of them, and at most 8 MiB of
    embeddings.

    Args:
        flush_rows: rows of a group; chosen by D unless given.
        another: gives another name if the name is taken at the end; None replaces the file.
    """

    name = "parquet"

    def __init__(
        self,
        path: Path,
        embedding_size: int,
        flush_rows: int | None = None,
        another: Callable[[], Path] | None = None,
        boxes: Boxes | None = None,
    ) -> None:
        import pyarrow.parquet as pq

        self._path, self._size, self._boxes = path, embedding_size, boxes or {}
        most = max(1, min(_MOST_ROWS, _GROUP_BYTES // (4 * embedding_size)))
        self._embeddings = np.empty((flush_rows or most, embedding_size), np.float32)
        self._rows: list[dict[str, Any]] = []
        _check_replaceable(path)
        self._file = PendingFile(path, another)
        self.output = str(path)
        self._schema = schema(embedding_size)
        try:
            with user_errors_for(path):
                self._writer = pq.ParquetWriter(
                    self._file.temporary, self._schema, compression="zstd"
                )
        except FoldcamError:
            self._file.abandon()
            raise

    @property
    def size(self) -> int:
        """Bytes that reached the file, and those of the embeddings that wait."""
        return self._file.size + 4 * self._size * len(self._rows)

    def close(self, failed: bool) -> None:
        """Write what waits and give the file its name, or remove it after a failure."""
        try:
            with suppress(OSError) if failed else user_errors_for(self._path):
                if not failed:
                    self._flush()
                self._close()
                if not failed:
                    self._file.finish()
        finally:
            self._file.abandon()

    def rescue(self) -> None:
        """Finish the file with the rows that were written and, if there is room, the others."""
        with suppress(OSError, FoldcamError):
            self._flush()
        with suppress(OSError, FoldcamError):
            self._close()
            self._file.finish()
        self._file.abandon()

    def write(self, item: FrameResults) -> None:
        """Add a row per region; a frame without regions has none."""
        refuse_input(self._path, item.frame.source)
        for result in item.results:
            if result.embedding.shape != (self._size,):
                raise FoldcamError(
                    f"{self._path}: an embedding has {result.embedding.size} numbers where the "
                    f"file has {self._size}: write another file for another model."
                )
            # Copied: the array may be the backend's own, written over by the next frame.
            self._embeddings[len(self._rows)] = result.embedding
            self._rows.append(_row(item.frame, result, self._boxes))
            if len(self._rows) == len(self._embeddings):
                with user_errors_for(self._path):
                    self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        rows, self._rows = self._rows, []
        if not rows:
            return
        values = pa.array(self._embeddings[: len(rows)].reshape(-1))
        columns = {
            name: pa.array([row[name] for row in rows], self._schema.field(name).type)
            for name in rows[0]
        }
        columns["embedding"] = pa.FixedSizeListArray.from_arrays(values, self._size)
        table = pa.table([columns[name] for name in self._schema.names], schema=self._schema)
        self._writer.write_table(table, row_group_size=len(rows))

    def _close(self) -> None:
        if self._writer.is_open:
            self._writer.close()


def schema(embedding_size: int) -> pa.Schema:
    """The columns.

    Args:
        embedding_size: D; also in the metadata as `embedding_size`, beside the version of this
            schema, `foldcam_schema`.
    """
    import pyarrow as pa

    box = pa.struct([pa.field(name, pa.int32()) for name in ("x", "y", "width", "height")])
    vote = pa.struct(
        [
            pa.field("label", pa.string()),
            pa.field("support", pa.float32(), nullable=False),
            pa.field("frames", pa.int32(), nullable=False),
            pa.field("since", pa.float64(), nullable=False),
        ]
    )
    share = pa.struct(
        [
            pa.field("box", pa.string(), nullable=False),
            pa.field("evidence_for", pa.float32()),
            pa.field("evidence_against", pa.float32()),
        ]
    )
    return pa.schema(
        [
            pa.field("source", pa.string(), nullable=False),
            pa.field("stream", pa.int32(), nullable=False),
            pa.field("frame", pa.int64(), nullable=False),
            pa.field("timestamp", pa.float64(), nullable=False),
            pa.field("time", pa.timestamp("us", "UTC"), nullable=False),
            pa.field("box", box),
            pa.field("labels", pa.list_(pa.string()), nullable=False),
            pa.field("neighbors", pa.list_(pa.int32()), nullable=False),
            pa.field("similarities", pa.list_(pa.float32()), nullable=False),
            pa.field("estimate", pa.float32()),
            pa.field("error", pa.string()),
            pa.field("evidence_for", pa.float32()),
            pa.field("evidence_against", pa.float32()),
            pa.field("shares", pa.list_(share), nullable=False),
            pa.field("runner_up", pa.int32()),
            pa.field("runner_up_label", pa.string()),
            pa.field("runner_up_similarity", pa.float32()),
            pa.field("unknown", pa.bool_()),
            pa.field("known_score", pa.float32()),
            pa.field("vote", vote),
            pa.field("embedding", pa.list_(pa.float32(), embedding_size), nullable=False),
        ],
        metadata={"foldcam_schema": SCHEMA_VERSION, "embedding_size": str(embedding_size)},
    )


def _check_replaceable(path: Path) -> None:
    try:
        refuse_special(path)  # to open a pipe waits for somebody who writes
        with path.open("rb") as stream:
            start = stream.read(4) if path.is_file() else b""
    except OSError:
        return  # not there, or not readable: writing says so
    if start not in (b"", b"PAR1"):
        raise FoldcamError(
            f"{path} exists and is no Parquet file: choose another name, or remove it first."
        )


def is_whole_parquet(path: Path) -> bool:
    """Whether a file is whole: the index of a Parquet file is at its end, and none is made."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        pq.ParquetFile(path).close()
    except (OSError, pa.ArrowException):
        return False
    return True


def _row(frame: Frame, result: Result, boxes: Boxes) -> dict[str, Any]:
    box, runner_up = result.box, result.runner_up_label
    return {
        "source": _utf8(shown_source(frame)),
        "stream": frame.stream,
        "frame": frame.index,
        "timestamp": frame.timestamp,
        "time": capture_time(frame),
        "box": None if box is None else box_document(box),
        "labels": [_utf8(label) for label in result.labels],
        "neighbors": result.neighbors.tolist(),
        "similarities": result.similarities.tolist(),
        "estimate": result.estimate,
        "error": result.error,
        "evidence_for": result.evidence_for,
        "evidence_against": result.evidence_against,
        "shares": [{"box": name, **asdict(result.share(box))} for name, box in boxes.items()],
        "runner_up": result.runner_up,
        "runner_up_label": None if runner_up is None else _utf8(runner_up),
        "runner_up_similarity": result.runner_up_similarity,
        "unknown": result.unknown,
        "known_score": result.known_score,
        "vote": None if result.vote is None else _vote(result.vote),
    }


def _vote(vote: Vote) -> dict[str, Any]:
    label = None if vote.label is None else _utf8(vote.label)
    return {**asdict(vote), "label": label}


def _utf8(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
