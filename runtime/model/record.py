"""One result as a JSON object, for files, brokers and events."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from foldcam.runtime.model.evidence import Share
from foldcam.runtime.model.result import Result
from foldcam.runtime.model.vote import Vote
from foldcam.runtime.sources.base import Frame
from foldcam.runtime.system.redaction import redacted_value

Boxes = Mapping[str, tuple[int, int, int, int]]
"""Boxes `(x, y, width, height)` of a frame, by the names of their rules for events."""


def record(
    frame: Frame, result: Result, embedding: bool = True, boxes: Boxes | None = None
) -> dict[str, Any]:
    """One result as a JSON object; a number that is not finite becomes null.

    `hottest_region` is the box around the cells of the heatmap that are at least half as hot as its
    maximum and touch it, in pixels of the frame, with the `share` of the evidence for the answer
    that lies in it; null if nothing is hot.

    A continuous outcome has `estimate` and `hottest_lower`, and its neighbors no label. Where
    the network gave no answer, `error` says why, `neighbors` is empty and `embedding` is null.

    A model with contributions gives `evidence_for` and `evidence_against`, the magnitudes of the
    sums of its positive and negative contributions in units of cosine; one with a contrast gives
    the `runner_up`. All are null without an answer. A run with votes gives the `vote` once a
    frame has voted; its `label` is null where the vote is for unknown.

    A model with a rule for unknown images gives `unknown`, and as `known_score` what the rule
    compares with its threshold; both are missing without a rule and without an answer.

    Of a classifier `row` is the number of a class, `score` stands in place of `similarity`, and
    evidence is in units of the logit.

    Args:
        boxes: of which `shares` say how much of the region's evidence lies in them.
    """
    return {**place_of(frame), **answer_record(result, embedding, boxes)}


def answer_record(
    result: Result, embedding: bool = True, boxes: Boxes | None = None
) -> dict[str, Any]:
    """What `record` says of a result, without where and when its frame stands."""
    labels: list[dict[str, str]] = [{"label": label} for label in result.labels]
    if result.estimate is not None:
        labels = [{} for _ in result.neighbors]
    number = _number_name(result)
    document: dict[str, Any] = {
        "width": result.frame_wh[0],
        "height": result.frame_wh[1],
        "neighbors": [
            {"row": int(row), **label, number: _number(similarity)}
            for row, label, similarity in zip(
                result.neighbors, labels, result.similarities, strict=True
            )
        ],
        "hottest": _place(result.hottest()),
        "hottest_region": region_document(result),
        "timings_ms": {
            "preprocess": round(result.timings.preprocess_ms, 3),
            "inference": round(result.timings.inference_ms, 3),
        },
    }
    if result.box is not None:
        document["box"] = box_document(result.box)
    if result.estimate is not None:
        document["estimate"] = _number(result.estimate)
        document["hottest_lower"] = _place(result.hottest_lower())
    if result.contribution is not None:
        document["evidence_for"] = _optional(result.evidence_for)
        document["evidence_against"] = _optional(result.evidence_against)
    if result.contrast is not None:
        document["runner_up"] = _runner_up(result)
    if result.unknown is not None:
        document["unknown"] = result.unknown
        document["known_score"] = _optional(result.known_score)
    if boxes:
        document["shares"] = {name: _share(result.share(box)) for name, box in boxes.items()}
    if result.vote is not None:
        document["vote"] = _vote(result.vote)
    if result.error is not None:
        document["error"] = result.error
    if embedding and result.error is not None:
        document["embedding"] = None
    elif embedding:
        document["embedding"] = [_number(value) for value in result.embedding.tolist()]
    return document


def place_of(frame: Frame) -> dict[str, Any]:
    """Where and when a frame stands among all others.

    `time` is the moment of its capture by the clock on the wall, UTC, and `age_ms` how long ago
    that is, by a clock that never jumps.
    """
    age = max(0.0, time.monotonic() - frame.captured)
    return {
        "source": shown_source(frame),
        "frame": frame.index,
        "timestamp": round(frame.timestamp, 6),
        "stream": frame.stream,
        "time": capture_time(frame).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "age_ms": round(1e3 * age, 3),
    }


def shown_source(frame: Frame) -> str:
    """The file or address that a frame came from, without credentials, also of a user's source."""
    shown: str = redacted_value(frame.source)
    return shown


def capture_time(frame: Frame) -> datetime:
    """When a frame was captured, in UTC: the present by the wall's clock, less the frame's age."""
    age = max(0.0, time.monotonic() - frame.captured)
    return datetime.fromtimestamp(time.time() - age, timezone.utc)


def _place(place: tuple[float, float] | None) -> dict[str, float | None] | None:
    return None if place is None else {"x": _number(place[0]), "y": _number(place[1])}


def box_document(box: tuple[int, int, int, int]) -> dict[str, int]:
    """A box by the names of its numbers."""
    return dict(zip(("x", "y", "width", "height"), box, strict=True))


def region_document(result: Result) -> dict[str, Any] | None:
    """The box of `Result.hottest_region`, and the `share` of the evidence for the answer in it."""
    box = result.hottest_region()
    if box is None:
        return None
    return {**box_document(box), "share": _optional(result.share(box).evidence_for)}


def _runner_up(result: Result) -> dict[str, Any] | None:
    if result.runner_up is None:
        return None
    return {
        "row": result.runner_up,
        "label": result.runner_up_label,
        _number_name(result): _optional(result.runner_up_similarity),
    }


def _number_name(result: Result) -> str:
    return "similarity" if result.scores is None else "score"


def _vote(vote: Vote) -> dict[str, Any]:
    return {
        "label": vote.label,
        "unknown": vote.unknown,
        "support": round(vote.support, 6),
        "frames": vote.frames,
        "since": round(vote.since, 6),
    }


def _share(share: Share) -> dict[str, float | None]:
    return {
        "evidence_for": _optional(share.evidence_for),
        "evidence_against": _optional(share.evidence_against),
    }


def _optional(value: float | None) -> float | None:
    return None if value is None else _number(value)


def _number(value: float) -> float | None:
    # Nine significant digits give every float32 back exactly.
    return float(f"{float(value):.9g}") if math.isfinite(value) else None
