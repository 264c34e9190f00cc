"""A folded model as a function: photograph in, embedding, heatmap and neighbors out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from runtime.backends import Array, Backend, Library, Provider, dtype_of, open_backend
from runtime.backends.tensors import expected_tensors
from runtime.contract import (
    EMBEDDING,
    ESTIMATE,
    HEATMAP,
    HEATMAP_LOWER,
    NEIGHBOR,
    SIMILARITY,
    Contract,
)
from runtime.errors import FoldcamError
from runtime.preprocess import Affine, Image
from runtime.text import number_text


@dataclass(frozen=True)
class Timings:
    """Milliseconds spent on one image; a batch's inference is divided by its images."""

    preprocess_ms: float
    inference_ms: float


@dataclass(frozen=True, eq=False)
class Result:
    """What one forward pass says of one image.

    Attributes:
        embedding: `float32 [D]`, the network's own output.
        heatmap: `float32 [h', w']` in [0, 1], over the network's input.
        neighbors: `int32 [k]`, bank rows, nearest first.
        similarities: `float32 [k]`, cosine to those rows.
        labels: their `k` labels; empty for a continuous outcome.
        affine: maps pixels of the network's input to pixels of the frame.
        input_wh: width and height of the network's input in pixels.
        frame_wh: width and height of the image in pixels.
        timings: what it took.
        box: the region `(x, y, width, height)` of the frame, in its pixels, that the network
            was shown; None for the whole frame.
        estimate: of a continuous outcome, in its own unit; None for a model of labels.
        heatmap_lower: `float32 [h', w']` in [0, 1], what lowers the estimate, as `heatmap`
            is what raises it; both are shares of one maximum. None for a model of labels.
    """

    embedding: npt.NDArray[np.float32]
    heatmap: npt.NDArray[np.float32]
    neighbors: npt.NDArray[np.int32]
    similarities: npt.NDArray[np.float32]
    labels: list[str]
    affine: Affine
    input_wh: tuple[int, int]
    frame_wh: tuple[int, int]
    timings: Timings
    estimate: float | None = None
    heatmap_lower: npt.NDArray[np.float32] | None = None
    box: tuple[int, int, int, int] | None = None

    @property
    def answer(self) -> str:
        """The nearest row's label, or the estimate in digits."""
        return self.labels[0] if self.estimate is None else number_text(self.estimate)

    def hottest(self) -> tuple[float, float] | None:
        """Centre `(x, y)` in frame pixels of the heatmap's maximum; None if nothing is hot."""
        return self._hottest_of(self.heatmap)

    def hottest_lower(self) -> tuple[float, float] | None:
        """As `hottest`, of `heatmap_lower`; None for a model of labels, too."""
        return None if self.heatmap_lower is None else self._hottest_of(self.heatmap_lower)

    def _hottest_of(self, heatmap: npt.NDArray[np.float32]) -> tuple[float, float] | None:
        if heatmap.size == 0 or not heatmap.max() > 0.0:
            return None
        rows, columns = heatmap.shape
        row, column = divmod(int(heatmap.argmax()), columns)
        x = self.affine.scale_x * (column + 0.5) * self.input_wh[0] / columns
        y = self.affine.scale_y * (row + 0.5) * self.input_wh[1] / rows
        # In a letterbox the centre of a cell may lie in the padding beside the frame.
        return (
            min(max(x + self.affine.offset_x, 0.0), float(self.frame_wh[0])),
            min(max(y + self.affine.offset_y, 0.0), float(self.frame_wh[1])),
        )


class FoldedModel:
    """A folded model, loaded.

    Example:
        >>> from runtime import FoldedModel, read_image
        >>> with FoldedModel.load("model.onnx") as model:
        ...     result = model(read_image("photo.png"))
        >>> result.heatmap.shape, result.labels
        ((12, 12), ['red'])
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.contract: Contract = backend.contract
        """What the model promises."""

    @classmethod
    def load(
        cls,
        path: Path | str,
        provider: Provider = "auto",
        threads: int | None = None,
        *,
        library: Library | None = None,
        cuda_graph: bool | None = None,
    ) -> FoldedModel:
        """Load a folded `.onnx`, or an engine.

        Args:
            path: the file.
            provider: what ONNX Runtime computes on.
            threads: on the CPU; None leaves it to the library.
            library: None takes TensorRT for an engine and ONNX Runtime for an `.onnx`.
            cuda_graph: whether runs on a GPU are captured; None does so in TensorRT alone.

        Raises:
            FoldcamError: as `runtime.backends.open_backend`, where the arguments are
                told in full.
        """
        return cls(open_backend(path, provider, threads, library=library, cuda_graph=cuda_graph))

    @property
    def backend(self) -> str:
        """Library and device in words, such as `onnxruntime 1.22 on cpu`."""
        return f"{self._backend.name} on {self._backend.device}"

    def __call__(self, image: Image) -> Result:
        """One image.

        Args:
            image: `uint8 [H, W, 3]` RGB of any size.

        Raises:
            FoldcamError: as `run_batch`.
        """
        return self.run_batch([image])[0]

    def run_batch(self, images: Sequence[Image]) -> list[Result]:
        """Several images in one forward pass.

        Args:
            images: each `uint8 [H, W, 3]` RGB; their sizes may differ.

        Raises:
            FoldcamError: an image is not such an array, the backend failed, or the
                model returned something other than it promises.
        """
        if not images:
            return []
        recipe = self.contract.preprocessing
        batch = np.empty(self._batch_shape(len(images)), dtype_of(self.contract))
        affines: list[Affine] = []
        spent: list[float] = []
        for index, image in enumerate(images):
            _check_image(image, index)
            start = time.perf_counter()
            resized, affine = recipe.resized(image)
            uint8 = self.contract.input_type == "uint8"
            batch[index] = resized if uint8 else recipe.normalized(resized)
            affines.append(affine)
            spent.append(1e3 * (time.perf_counter() - start))
        start = time.perf_counter()
        outputs = self._backend.run(batch)
        inference_ms = 1e3 * (time.perf_counter() - start) / len(images)
        self._check_outputs(outputs, len(images))
        continuous = self.contract.outcome is not None
        return [
            Result(
                embedding=outputs[EMBEDDING][index],
                heatmap=outputs[HEATMAP][index, 0],
                neighbors=outputs[NEIGHBOR][index],
                similarities=outputs[SIMILARITY][index],
                labels=[]
                if continuous
                else [self.contract.label_of(int(row)) for row in outputs[NEIGHBOR][index]],
                affine=affines[index],
                input_wh=(recipe.width, recipe.height),
                frame_wh=(image.shape[1], image.shape[0]),
                timings=Timings(spent[index], inference_ms),
                estimate=float(outputs[ESTIMATE][index]) if continuous else None,
                heatmap_lower=outputs[HEATMAP_LOWER][index, 0] if continuous else None,
            )
            for index, image in enumerate(images)
        ]

    def close(self) -> None:
        """Give memory and device back."""
        self._backend.close()

    def __enter__(self) -> FoldedModel:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _batch_shape(self, count: int) -> tuple[int, int, int, int]:
        height, width = self.contract.preprocessing.height, self.contract.preprocessing.width
        if self.contract.input_type == "uint8":
            return count, height, width, 3
        return count, 3, height, width

    def _check_outputs(self, outputs: dict[str, Array], count: int) -> None:
        """The graph's declared shapes may be open: only now is it known what it returns."""
        contract = self.contract
        for tensor in expected_tensors(contract)[1]:
            name, shape = tensor.name, (count, *tensor.shape[1:])
            if outputs[name].shape != shape:
                raise FoldcamError(
                    f"The model returned {name!r} of shape {list(outputs[name].shape)} where its "
                    f"metadata promise {list(shape)}: export it again."
                )
        rows = outputs[NEIGHBOR]
        if rows.min() < 0 or rows.max() >= contract.bank.rows:
            raise FoldcamError(
                f"The model returned bank row {int(rows.max())} and its metadata describe a bank "
                f"of {contract.bank.rows}: graph and metadata disagree, so export it again."
            )


def _check_image(image: Image, index: int) -> None:
    shape, dtype = getattr(image, "shape", None), getattr(image, "dtype", None)
    good = isinstance(image, np.ndarray) and dtype == np.uint8 and image.ndim == 3
    if not good or image.shape[2] != 3 or 0 in image.shape:
        raise FoldcamError(
            f"Image {index} has shape {shape} and dtype {dtype}: give uint8 [H, W, 3] RGB."
        )
