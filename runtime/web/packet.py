"""One frame as the bytes that a browser gets: picture and heat apart, blended over there.

A packet is, in this order: the length of the header as little-endian `uint32`; the header as
JSON; the picture as JPEG; the heatmaps, row by row, one byte per cell. The header has
`picture` (bytes of the JPEG) and `maps`, each with `rows`, `columns`, `lower` (whether it
speaks against the answer), `unknown` (whether its region is, and its heat without a colour),
`place` (where the whole map lies) and `clip` (the part of the frame that it may colour), both
`[x, y, width, height]` in shares of the frame's size.
"""

from __future__ import annotations

import math
import struct
import time
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from foldcam.runtime.images.small import encode_jpeg, fitted
from foldcam.runtime.model.frame_results import FrameResults
from foldcam.runtime.model.result import Result
from foldcam.runtime.sinks.jsonl import record
from foldcam.runtime.system.strict_json import strict_json

LONGEST_SIDE = 960
QUALITY = 80
_MAX_CELLS = 1 << 16
_MAX_RESULTS = 64


def encode_packet(item: FrameResults) -> bytes:
    """Encode a frame and its results.

    The picture is made smaller, so that its longer side has at most `LONGEST_SIDE` pixels.
    """
    results = item.results[:_MAX_RESULTS]
    picture = encode_jpeg(fitted(item.frame.image, LONGEST_SIDE, LONGEST_SIDE), QUALITY)
    maps = [
        (result, lower, cells)
        for result, pair in zip(results, item.maps[:_MAX_RESULTS], strict=True)
        for lower, cells in zip((False, True), pair, strict=True)
        if cells is not None and cells.size
    ]
    most = math.isqrt(_MAX_CELLS // max(1, len(maps)))
    cells = [_as_bytes(heat, most) for _, _, heat in maps]
    header = {
        "stream": item.frame.stream,
        "number": item.frame.index,
        "captured": item.frame.captured,
        "encoded": time.monotonic(),
        "picture": len(picture),
        "results": answers(item),
        "more": len(item.results) - len(results),
        "maps": [
            {
                "rows": heat.shape[0],
                "columns": heat.shape[1],
                "lower": lower,
                "unknown": bool(result.unknown),
                "place": _place(result),
                "clip": _clip(result),
            }
            for (result, lower, _), heat in zip(maps, cells, strict=True)
        ],
    }
    head = strict_json(header).encode()
    return b"".join(
        [struct.pack("<I", len(head)), head, picture, *(heat.tobytes() for heat in cells)]
    )


def answers(item: FrameResults) -> list[dict[str, Any]]:
    """The results as JSON values, without embeddings; `answer` is what a reader wants first."""
    return [
        {"answer": (result.vote or result).answer, **record(item.frame, result, embedding=False)}
        for result in item.results[:_MAX_RESULTS]
    ]


def _as_bytes(heat: npt.NDArray[np.float32], most: int) -> npt.NDArray[np.uint8]:
    rows, columns = heat.shape
    finite = np.nan_to_num(heat, nan=0.0, posinf=1.0, neginf=0.0)
    if max(rows, columns) > most:
        size = (min(columns, most), min(rows, most))
        finite = np.asarray(cv2.resize(finite, size, interpolation=cv2.INTER_AREA), np.float32)
    cells: npt.NDArray[np.uint8] = np.rint(np.clip(finite, 0.0, 1.0) * 255.0).astype(np.uint8)
    return cells


def _place(result: Result) -> list[float]:
    """Where the network's input lies on the frame."""
    affine, (across, down) = result.affine, result.input_wh
    box = affine.offset_x, affine.offset_y, affine.scale_x * across, affine.scale_y * down
    return _shares(box, *result.frame_wh)


def _clip(result: Result) -> list[float]:
    width, height = result.frame_wh
    return _shares(result.box or (0, 0, width, height), width, height)


def _shares(box: tuple[float, float, float, float], width: int, height: int) -> list[float]:
    x, y, across, down = box
    return [round(value, 6) for value in (x / width, y / height, across / width, down / height)]
