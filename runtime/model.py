"""A folded model as a function: photograph in, embedding, heatmap and neighbors out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from foldcam.runtime.backends import Array, Backend, Library, Provider, open_backend
from foldcam.runtime.batch import Batch, Row
from foldcam.runtime.contract.schema import (
    CONTRAST,
    CONTRIBUTION,
    EMBEDDING,
    ESTIMATE,
    HEATMAP,
    HEATMAP_LOWER,
    NEIGHBOR,
    RUNNER_UP,
    RUNNER_UP_SIMILARITY,
    SIMILARITY,
    Contract,
)
from foldcam.runtime.contract.tensors import expected_tensors
from foldcam.runtime.contract.unknown import UnknownRule
from foldcam.runtime.errors import FoldcamError
from foldcam.runtime.images.given import ImageLike, as_image
from foldcam.runtime.known import decided
from foldcam.runtime.result import Result as Result
from foldcam.runtime.result import Timings as Timings
from foldcam.runtime.result import without_answer
from foldcam.runtime.unanswered import reasons

_COSINES = (SIMILARITY, RUNNER_UP_SIMILARITY)
_JUDGED = (HEATMAP, HEATMAP_LOWER, ESTIMATE, CONTRIBUTION, CONTRAST)
"""Outputs in which a number that is not finite is no answer; beside embedding and similarity."""


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
        >>> from foldcam import FoldedModel
        >>> with FoldedModel.load("model.onnx") as model:
        ...     result = model("photo.png")
        >>> result.heatmap.shape, result.labels
        ((12, 12), ['red'])
    """

    def __init__(self, backend: Backend, again: Callable[[], Backend] | None = None) -> None:
        self._backend = backend
        self._again = again
        self.contract: Contract = backend.contract
        """What the model promises."""
        self.unknown_rule: UnknownRule | None = self.contract.unknown
        """By which an image is unknown, at first the contract's. None answers with the nearest
        label, however far it is."""

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

    def __repr__(self) -> str:
        return f"<FoldedModel of {self.contract.summary()}, {self.backend}>"

    def __call__(self, image: ImageLike) -> Result:
        """One image.

        Args:
            image: `uint8 [H, W, 3]` RGB of any size, the path of a photograph, or a picture of
                Pillow's.

        Raises:
            FoldcamError: as `run_batch`.
        """
        return self.run_batch([image])[0]

    def run_batch(self, images: Sequence[ImageLike]) -> list[Result]:
        """Several images in one forward pass.

        Args:
            images: each as for a single one; their sizes may differ.

        Raises:
            FoldcamError: an image is none of these or cannot be read, the backend failed, or the
                model returned something other than it promises.
        """
        if isinstance(images, (str, Path)):
            raise FoldcamError(f"run_batch takes a list of images: give [{str(images)!r}].")
        if len(images) == 0:
            return []
        batch = Batch(self.contract, len(images))
        for image in images:
            batch.add(as_image(image))
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
        rows = done.rows
        if not rows:
            return []
        inference_ms = done.milliseconds / len(rows)
        outputs = self._promised(done.outputs, len(rows))
        wrong = _wrong_rows(outputs)
        right = [reason is None for reason in wrong]
        self._check_rows(outputs[NEIGHBOR][right])
        if RUNNER_UP in outputs:
            self._check_rows(outputs[RUNNER_UP][right])
        # Rounding may go beyond what a cosine can be.
        outputs = {
            name: np.clip(array, -1.0, 1.0) if name in _COSINES else array
            for name, array in outputs.items()
        }
        results = [
            self._result(outputs, index, row, inference_ms, answered)
            for index, (row, answered) in enumerate(zip(rows, right, strict=True))
        ]
        results = [
            result if reason is None else without_answer(result, reason)
            for result, reason in zip(results, wrong, strict=True)
        ]
        return decided(results, self.unknown_rule, outputs)

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

    def _promised(self, outputs: dict[str, Array], count: int) -> dict[str, Array]:
        """The outputs of the contract. Declared shapes may be open: only now are they known."""
        promised = expected_tensors(self.contract)[1]
        for tensor in promised:
            name, shape = tensor.name, (count, *tensor.shape[1:])
            if outputs[name].shape != shape:
                raise FoldcamError(
                    f"The model returned {name!r} of shape {list(outputs[name].shape)} where its "
                    f"metadata promise {list(shape)}: export it again."
                )
        return {tensor.name: outputs[tensor.name] for tensor in promised}

    def _check_rows(self, rows: Array) -> None:
        """Of right answers alone: where the numbers are none, a library may return any row."""
        known = self.contract.bank.rows
        outside = rows[(rows < 0) | (rows >= known)]
        if outside.size:
            raise FoldcamError(
                f"The model returned bank row {int(outside.max())} and its metadata describe a "
                f"bank of {known}: graph and metadata disagree, so export it again."
            )

    def _result(
        self, outputs: dict[str, Array], index: int, row: Row, inference_ms: float, answered: bool
    ) -> Result:
        """One row of the outputs; without an answer, no row of the bank is looked up."""
        contract = self.contract
        recipe, continuous = contract.preprocessing, contract.outcome is not None
        labelled = answered and not continuous
        runner_up = int(outputs[RUNNER_UP][index]) if RUNNER_UP in outputs else None

        def map_of(name: str) -> npt.NDArray[np.float32] | None:
            return outputs[name][index, 0] if name in outputs else None

        return Result(
            embedding=outputs[EMBEDDING][index],
            heatmap=outputs[HEATMAP][index, 0],
            neighbors=outputs[NEIGHBOR][index],
            similarities=outputs[SIMILARITY][index],
            labels=[contract.label_of(int(each)) for each in outputs[NEIGHBOR][index]]
            if labelled
            else [],
            affine=row.affine,
            input_wh=(recipe.width, recipe.height),
            frame_wh=row.frame_wh,
            timings=Timings(row.preprocess_ms, inference_ms),
            estimate=float(outputs[ESTIMATE][index]) if continuous else None,
            heatmap_lower=map_of(HEATMAP_LOWER),
            box=row.box,
            contribution=map_of(CONTRIBUTION),
            contrast=map_of(CONTRAST),
            runner_up=runner_up,
            runner_up_label=None
            if runner_up is None or not labelled
            else contract.label_of(runner_up),
            runner_up_similarity=float(outputs[RUNNER_UP_SIMILARITY][index])
            if RUNNER_UP_SIMILARITY in outputs
            else None,
        )


def _wrong_rows(outputs: dict[str, Array]) -> list[str | None]:
    similarities = outputs[SIMILARITY]
    if RUNNER_UP_SIMILARITY in outputs:
        similarities = np.concatenate(
            [similarities, outputs[RUNNER_UP_SIMILARITY][:, None]], axis=1
        )
    maps = [outputs[name] for name in _JUDGED if name in outputs]
    return reasons(outputs[EMBEDDING], similarities, maps)
