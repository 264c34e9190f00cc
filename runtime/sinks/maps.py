"""Maps as data: one file per frame, for whoever computes with them."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from foldcam.runtime.model.frame_results import FrameResults
from foldcam.runtime.model.record import shown_source
from foldcam.runtime.sinks.guard import DiskGuard
from foldcam.runtime.sinks.options import MapsFormat
from foldcam.runtime.sinks.pictures import PicturesSink
from foldcam.runtime.sources.base import Source
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import atomic_path

MAPS = ("heatmap", "heatmap_lower", "contribution", "contrast")
"""The maps of a result, by their names in the contract and in the file."""


class MapsSink(PicturesSink):
    """Maps of frames, each file complete before it has its name.

    Names are those of `PicturesSink` with `.npz` or `.png` behind them: `owls/3.jpg.npz` of a
    photograph, `film-000000042.npz` of a recorded source.

    Args:
        form: `npz` writes what `arrays_of` describes; `png` writes the heatmap at the frame's
            size with 16 bits of grey, where 65535 is 1.
    """

    name = "maps"
    takes_one_name = False

    def __init__(
        self,
        target: Path,
        sources: Sequence[Source],
        form: MapsFormat = "npz",
        keep_bytes: float | None = None,
        guard: DiskGuard | None = None,
    ) -> None:
        self.suffix = f".{form}"
        super().__init__(target, sources, keep_bytes=keep_bytes, guard=guard)

    def write_one(self, item: FrameResults, path: Path, another: Callable[[], Path] | None) -> None:
        """Write the maps of one frame."""
        if path.parent.resolve() == Path(item.frame.source).parent.resolve():
            raise FoldcamError(
                f"--maps {path.parent} is the folder of the input, whose files it could replace: "
                "give another folder."
            )
        data = _png(item) if self.suffix == ".png" else _npz(item)
        with atomic_path(path, another) as temporary:
            temporary.write_bytes(data)

    def renamed(self, path: Path) -> Path:
        """Two photographs `a.jpg` and `a.png` keep apart."""
        return path.with_name(f"{path.name}{self.suffix}")


def arrays_of(item: FrameResults) -> dict[str, npt.NDArray[Any]]:
    """What a file of maps holds, for n regions of the frame; a whole frame is one region.

    Returns:
        - `heatmap`, and `heatmap_lower`, `contribution`, `contrast` if the model has them:
          `float32 [n, h, w]` at the size at which the network returns them.
        - `affine`: `float64 [n, 4]`, scale_x, scale_y, offset_x, offset_y from pixels of the
          network's input to pixels of the frame: `x_frame = scale_x * x_input + offset_x`. Column c
          of a map begins at `x_input = c * input_wh[0] / w`.
        - `input_wh`, `frame_wh`: `int32 [2]`, width and height in pixels.
        - `box`: `int32 [n, 4]`, x, y, width, height of each region in the frame.
        - `answer`: text `[n]`, see `Result.answer`; `similarity`: `float32 [n]`, NaN without one.
        - `source`: text; `frame`: `int64`, the frame's number; `timestamp`: `float64`, seconds.
    """
    results, height, width = item.results, *item.frame.image.shape[:2]
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name in MAPS:
        maps = [getattr(result, name) for result in results]
        if name == "heatmap" or (maps and all(each is not None for each in maps)):
            shape = results[0].heatmap.shape if results else (0, 0)
            arrays[name] = np.array(maps, np.float32).reshape(len(maps), *shape)
    boxes = [result.box or (0, 0, width, height) for result in results]
    nearest = [result.similarities[0] if result.valid else np.nan for result in results]
    places = [
        (place.scale_x, place.scale_y, place.offset_x, place.offset_y)
        for place in (result.affine for result in results)
    ]
    return arrays | {
        "affine": np.array(places, np.float64).reshape(-1, 4),
        "input_wh": np.array(results[0].input_wh if results else (0, 0), np.int32),
        "frame_wh": np.array((width, height), np.int32),
        "box": np.array(boxes, np.int32).reshape(-1, 4),
        "answer": np.array([result.answer for result in results], np.str_),
        "similarity": np.array(nearest, np.float32),
        "source": np.array(shown_source(item.frame)),
        "frame": np.array(item.frame.index, np.int64),
        "timestamp": np.array(item.frame.timestamp, np.float64),
    }


def _npz(item: FrameResults) -> bytes:
    stream = io.BytesIO()
    arrays: dict[str, Any] = arrays_of(item)
    np.savez(stream, **arrays)
    return stream.getvalue()


def _png(item: FrameResults) -> bytes:
    heat = np.clip(np.nan_to_num(item.heat, nan=0.0), 0.0, 1.0)
    done, encoded = cv2.imencode(".png", np.rint(65535.0 * heat).astype(np.uint16))
    if not done:
        height, width = heat.shape
        raise FoldcamError(f"A map of {width} x {height} cannot be encoded as PNG.")
    return encoded.tobytes()
