"""A source of your own: the frames of a NumPy file.

    python examples/source.py model.onnx frames.npy

with `uint8 [frames, height, width, 3]` RGB in the file.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path, PurePath

import numpy as np

from foldcam import FoldcamError, FoldedModel
from foldcam.runtime.pipeline.run import run
from foldcam.runtime.sinks.table import TableSink
from foldcam.runtime.sources import Frame, Source


class ArraySource(Source):
    """Frames of an array on disk, which is read as they are asked for.

    Args:
        path: a `.npy` file.
        fps: the rate that the frames were taken at, in frames per second.

    Raises:
        FoldcamError: it cannot be read, or holds something else.
    """

    def __init__(self, path: Path, fps: float = 25.0) -> None:
        super().__init__(str(path))
        try:
            self._array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise FoldcamError(f"{path} cannot be read as a .npy file: {error}.") from error
        if self._array.dtype != np.uint8 or self._array.ndim != 4 or self._array.shape[3] != 3:
            raise FoldcamError(f"{path} holds no uint8 array [frames, height, width, 3].")
        self.frames, self.fps = len(self._array), fps
        self._seconds = 1.0 / fps

    def __iter__(self) -> Iterator[Frame]:
        for index, image in enumerate(self._array):
            if self._stopped.is_set():
                return
            yield Frame(
                image=np.array(image),
                index=index,
                source=self.name,
                name=PurePath(self.stem),
                timestamp=index * self._seconds,
                captured=time.monotonic(),
            )


def main(model: Path, frames: Path) -> None:
    """Print the answer for each frame."""
    table = TableSink()
    with FoldedModel.load(model) as loaded:
        summary = run(ArraySource(frames), loaded, [table])
    print(table)
    print(f"{summary.frames} frames")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
