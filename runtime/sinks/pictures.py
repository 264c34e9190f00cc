"""One file per frame: overlays as pictures, and maps as data for whoever computes with them."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from foldcam.runtime.images.files import WRITTEN_SUFFIXES, write_image
from foldcam.runtime.model.frame_results import FrameResults
from foldcam.runtime.model.record import capture_time, shown_source
from foldcam.runtime.sinks.base import NotWritten, PendingFile, Sink, check_writable, refuse_input
from foldcam.runtime.sinks.options import MapsFormat
from foldcam.runtime.sinks.segments import DiskGuard, Segments
from foldcam.runtime.sources.base import Source
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import atomic_path

_KEPT_SUFFIXES = (".jpg", ".jpeg", ".png")
_TRIM_EVERY = 100
MAPS = ("heatmap", "heatmap_lower", "contribution", "contrast")
"""The maps of a result, by their names in the contract and in the file."""


class PicturesSink(Sink):
    """Overlays of frames, each complete before it has its name.

    - One photograph and the name of a picture: that very name.
    - One source of photographs: the folder mirrors the folders of the input. JPEG stays JPEG,
      everything else becomes PNG, and two inputs never share an output.
    - Otherwise JPEG files: `film-000000042.jpg` of a recorded source, by frame, and
      `camera-0-20261126T215914Z-000042.jpg` of a live one, by time and number, which goes on over
      several runs.

    Args:
        sources: of the run; `Frame.stream` says which of them a frame is of.
        keep_bytes: of a live source's pictures the oldest are removed above this; None keeps all.
        guard: of the disk; None for sources whose frames must not be lost.
    """

    name = "pictures"
    takes_one_name = True
    """Whether the target may be the file of a single photograph's output."""
    suffix = ".jpg"
    """Of what is written of a video or camera."""

    def __init__(
        self,
        target: Path,
        sources: Sequence[Source],
        every: int = 1,
        keep_bytes: float | None = None,
        guard: DiskGuard | None = None,
    ) -> None:
        self._target, self._every, self._guard = target, every, guard
        self._single = self.takes_one_name and names_one_picture(target, sources)
        self._mirrors = len(sources) == 1 and sources[0].stills
        self._stems = stems_of(sources)
        self._used: set[Path] = set()
        self._count: Counter[int] = Counter()
        self._written = 0
        self.output = str(target) if self._single else f"{target}/"
        live = {stream for stream, source in enumerate(sources) if source.live}
        if self._single:
            claimed = [target]
        else:
            # Found out now, not after the model was loaded and the first frame computed.
            check_writable(target)
            stems = set(range(len(sources))) - live
            claimed = [target / (self.name if self._mirrors else self._stems[n]) for n in stems]
        # Names that are always the same: two runs at once would mix their pictures.
        self._claims = [PendingFile(path) for path in claimed]
        self._segments = {
            n: Segments(target / f"{self._stems[n]}{self.suffix}", keep_bytes) for n in sorted(live)
        }

    def close(self, failed: bool) -> None:  # noqa: ARG002
        """Let others write; the pictures stay whatever happened."""
        for claim in self._claims:
            claim.abandon()
        for segments in self._segments.values():
            segments.trim()

    def reopen(self) -> None:
        """Go on after a failure."""
        check_writable(self._target.parent if self._single else self._target)

    def write(self, item: FrameResults) -> None:
        """Write one picture, or none if it is not this frame's turn."""
        stream = item.frame.stream
        self._count[stream] += 1
        if (self._count[stream] - 1) % self._every:
            return
        if self._guard is not None and not self._guard.has_room():
            raise NotWritten(self._guard.reason)
        segments = None if self._mirrors else self._segments.get(stream)
        if segments is None:
            path = self._path_of(item)
            refuse_input(path, item.frame.source)
            self.write_one(item, path, None)
            return
        segments.write_file(
            capture_time(item.frame), lambda path, another: self.write_one(item, path, another)
        )
        self._written += 1
        # Listing a folder of a million pictures for each of them would be all that is done.
        if self._written % _TRIM_EVERY == 0:
            segments.trim()

    def write_one(self, item: FrameResults, path: Path, another: Callable[[], Path] | None) -> None:
        """Write what belongs to a frame, whole or not at all."""
        write_image(path, item.image, another=another)

    def renamed(self, path: Path) -> Path:
        """The name of a photograph's output, by that of the photograph in the target folder."""
        kept = path.suffix.lower() in _KEPT_SUFFIXES
        return path if kept else path.with_name(f"{path.name}.png")

    def _path_of(self, item: FrameResults) -> Path:
        if self._single:
            return self._target
        if self._mirrors:
            return self._mirrored(item.frame.name)
        name = f"{self._stems[item.frame.stream]}-{item.frame.index:09d}{self.suffix}"
        return self._target / name

    def _mirrored(self, name: PurePath) -> Path:
        # A pattern may reach above its root; an output never leaves the folder.
        parts = [part for part in name.parts if part not in ("..", name.anchor)]
        path = self.renamed(self._target.joinpath(*parts))
        stem, number = path.stem, 1
        while path in self._used:
            number += 1
            path = path.with_name(f"{stem}-{number}{path.suffix}")
        self._used.add(path)
        return path


def names_one_picture(target: Path, sources: Sequence[Source]) -> bool:
    """Whether the input is one photograph and the target the name of its overlay."""
    return (
        target.suffix.lower() in WRITTEN_SUFFIXES
        and not target.is_dir()
        and [source.frames for source in sources if source.stills] == [1]
        and len(sources) == 1
    )


def stems_of(sources: Sequence[Source]) -> list[str]:
    """A name for each source's outputs; sources of one name are numbered."""
    count = Counter(source.stem for source in sources)
    return [
        source.stem if count[source.stem] == 1 else f"{source.stem}-{stream}"
        for stream, source in enumerate(sources)
    ]


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
