"""A folded model as a function: photograph in, embedding, heatmap and neighbors out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from foldcam.runtime.backends import Array, Backend, Library, Provider, open_backend
from foldcam.runtime.batch import Batch, Row
from foldcam.runtime.contract.schema import (
    EMBEDDING,
    ESTIMATE,
    HEATMAP,
    HEATMAP_LOWER,
    NEIGHBOR,
    SIMILARITY,
    Contract,
)
from foldcam.runtime.contract.tensors import expected_tensors
from foldcam.runtime.errors import FoldcamError
from foldcam.runtime.images.preprocess import Affine, Image
from foldcam.runtime.system.text import number_text
from foldcam.runtime.unanswered import reasons


@dataclass(frozen=True)
class Timings:
    """Milliseconds spent on one image; a batch's inference is divided by its images."""

    preprocess_ms: float
    inference_ms: float


@dataclass(frozen=True, eq=False)
class Result:
    """What one forward pass says of one image.

    Where the network returned numbers that are no answer (NaN, infinity, an embedding of zeros),
    `error` says so and `valid` is false: there are no neighbors, similarities, labels and no
    estimate, the heatmaps are zeros, and only the embedding is as it was returned.

    Attributes:
        embedding: `float32 [D]`, the network's own output.
        heatmap: `float32 [h', w']` in [0, 1], over the network's input.
        neighbors: `int32 [k]`, bank rows, nearest first.
        similarities: `float32 [k]`, cosine to those rows, in [-1, 1].
        labels: their `k` labels; empty for a continuous outcome.
        affine: maps pixels of the network's input to pixels of the frame.
        input_wh: width and height of the network's input in pixels.
        frame_wh: width and height of the image in pixels.
        timings: what it took.
        box: the region `(x, y, width, height)` of the frame, in its pixels, that the network
            was shown; None for the whole frame.
        estimate: the estimate of a continuous outcome, in its own unit; None for a model of labels.
        heatmap_lower: `float32 [h', w']` in [0, 1], what lowers the estimate, as `heatmap`
            is what raises it; both are shares of one maximum. None for a model of labels.
        error: why there is no answer, as a clause such as `the network returned NaN`; None
            where there is one.
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
    error: str | None = None

    @property
    def valid(self) -> bool:
        """Whether there is an answer; `error` says why not."""
        return self.error is None

    @property
    def answer(self) -> str:
        """The nearest row's label, or the estimate in digits; `no answer` where there is none."""
        if self.error is not None:
            return "no answer"
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
        # In a letterbox the centre of a cell may lie in the padding beside the region.
        left, top, width, height = self.box or (0, 0, *self.frame_wh)
        return (
            float(min(max(x + self.affine.offset_x, left), left + width)),
            float(min(max(y + self.affine.offset_y, top), top + height)),
        )


def judged(result: Result) -> Result:
    """A result whose numbers are an answer, or one that says why they are none."""
    others = [result.heatmap, result.heatmap_lower, result.estimate]
    (reason,) = reasons(
        result.embedding[None],
        result.similarities[None],
        [np.asarray(each, np.float32)[None] for each in others if each is not None],
    )
    return result if reason is None else _without_answer(result, reason)


def _without_answer(result: Result, reason: str) -> Result:
    lower = result.heatmap_lower
    return replace(
        result,
        heatmap=np.zeros_like(result.heatmap),
        heatmap_lower=None if lower is None else np.zeros_like(lower),
        neighbors=result.neighbors[:0],
        similarities=result.similarities[:0],
        labels=[],
        estimate=None,
        error=reason,
    )


@dataclass(frozen=True, eq=False)
class ForwardPass:
    """What the backend returned for a batch.

    Attributes:
        rows: the rows of the batch.
        outputs: every output by name, batch first.
        milliseconds: that it took.
    """

    rows: Sequence[Row]
    outputs: dict[str, Array]
    milliseconds: float


class FoldedModel:
    """A folded model, loaded.

    Args:
        backend: opened.
        again: opens it again after a failure; without it a failure is final.

    Example:
        >>> from foldcam import FoldedModel, read_image
        >>> with FoldedModel.load("model.onnx") as model:
        ...     result = model(read_image("photo.png"))
        >>> result.heatmap.shape, result.labels
        ((12, 12), ['red'])
    """

    def __init__(self, backend: Backend, again: Callable[[], Backend] | None = None) -> None:
        self._backend = backend
        self._again = again
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
            threads: the number of CPU threads; None leaves it to the library.
            library: None takes TensorRT for an engine and ONNX Runtime for an `.onnx`.
            cuda_graph: whether runs on a GPU are captured; None does so in TensorRT alone.

        Raises:
            FoldcamError: as `runtime.backends.open_backend`, which describes all
                arguments.
        """

        def again() -> Backend:
            return open_backend(path, provider, threads, library=library, cuda_graph=cuda_graph)

        return cls(again(), again)

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
        batch = Batch(self.contract, len(images))
        for image in images:
            batch.add(image)
        return self.infer(batch)

    def infer(self, batch: Batch) -> list[Result]:
        """One forward pass over what was preprocessed elsewhere, such as in another thread.

        Args:
            batch: the batch of this model's contract; it may be used again as soon as this returns.

        Returns:
            One result per row.

        Raises:
            FoldcamError: the backend failed, or the model returned something other than
                it promises.
        """
        return self.results(self.forward(batch))

    def forward(self, batch: Batch) -> ForwardPass:
        """The forward pass alone, for whoever reads its outputs while the next one runs.

        Raises:
            FoldcamError: the backend failed.
        """
        rows = batch.rows
        start = time.perf_counter()
        outputs = self._backend.run(batch.images) if rows else {}
        return ForwardPass(rows, outputs, 1e3 * (time.perf_counter() - start))

    def results(self, done: ForwardPass) -> list[Result]:
        """What a forward pass says, one result per row; `Result.error` where that is nothing.

        Raises:
            FoldcamError: the model returned something other than it promises.
        """
        rows, outputs = done.rows, done.outputs
        if not rows:
            return []
        inference_ms = done.milliseconds / len(rows)
        self._check_outputs(outputs, len(rows))
        recipe = self.contract.preprocessing
        continuous = self.contract.outcome is not None
        wrong = _wrong_rows(outputs, continuous)
        self._check_neighbors(outputs[NEIGHBOR], wrong)
        # Rounding may go beyond what a cosine can be.
        similarities = np.clip(outputs[SIMILARITY], -1.0, 1.0)
        results = [
            Result(
                embedding=outputs[EMBEDDING][index],
                heatmap=outputs[HEATMAP][index, 0],
                neighbors=outputs[NEIGHBOR][index],
                similarities=similarities[index],
                labels=[]
                if continuous or wrong[index] is not None
                else [self.contract.label_of(int(row)) for row in outputs[NEIGHBOR][index]],
                affine=row.affine,
                input_wh=(recipe.width, recipe.height),
                frame_wh=row.frame_wh,
                timings=Timings(row.preprocess_ms, inference_ms),
                estimate=float(outputs[ESTIMATE][index]) if continuous else None,
                heatmap_lower=outputs[HEATMAP_LOWER][index, 0] if continuous else None,
                box=row.box,
            )
            for index, row in enumerate(rows)
        ]
        return [
            result if reason is None else _without_answer(result, reason)
            for result, reason in zip(results, wrong, strict=True)
        ]

    @property
    def can_reopen(self) -> bool:
        """Whether `reopen` knows how."""
        return self._again is not None

    def reopen(self) -> None:
        """Close the backend and open it again after it failed.

        Raises:
            FoldcamError: it cannot be opened; `reopen` may be called again.
        """
        if self._again is None:
            raise FoldcamError("This model was made without a way to open its backend again.")
        self._backend.close()
        self._backend = self._again()
        if self._backend.contract != self.contract:
            raise FoldcamError("The model's file was replaced by another one: start again.")

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

    def _check_neighbors(self, neighbors: Array, wrong: Sequence[str | None]) -> None:
        """Where the numbers are no answer, a library may return any row."""
        known = self.contract.bank.rows
        rows = neighbors[[reason is None for reason in wrong]]
        outside = rows[(rows < 0) | (rows >= known)]
        if outside.size:
            raise FoldcamError(
                f"The model returned bank row {int(outside.max())} and its metadata describe a "
                f"bank of {known}: graph and metadata disagree, so export it again."
            )


def _wrong_rows(outputs: dict[str, Array], continuous: bool) -> list[str | None]:
    names = (HEATMAP, HEATMAP_LOWER, ESTIMATE) if continuous else (HEATMAP,)
    return reasons(outputs[EMBEDDING], outputs[SIMILARITY], [outputs[name] for name in names])
