"""A folded model as a function: photograph in, embedding, heatmap and neighbors out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from foldcam.runtime.backends import (
    Array,
    Backend,
    Library,
    Provider,
    TakesBank,
    open_backend,
    use_bank,
)
from foldcam.runtime.contract.bank.live_bank import LiveBank, bank_path
from foldcam.runtime.contract.schema import Contract
from foldcam.runtime.contract.unknown import UnknownRule
from foldcam.runtime.engine.canary.check import accepted_wrong_of
from foldcam.runtime.images.given import ImageLike, as_image
from foldcam.runtime.model.forward_pass import ForwardPass as ForwardPass
from foldcam.runtime.model.forward_pass import results_of
from foldcam.runtime.model.model_input import Batch
from foldcam.runtime.model.result import Result as Result
from foldcam.runtime.model.result import Timings as Timings
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.turns import Turns


class FoldedModel:
    """A folded model as a function: image in, `Result` out, by one forward pass.

    Make one with `FoldedModel.load`. An image is `uint8 [H, W, 3]` RGB of any size, the path of a
    photograph, or a picture of Pillow's. Call the model with one image, or `run_batch` with a
    list; it is a context manager, whose end gives memory and device back.

    Args:
        backend: the library that runs the model, with the model open in it.
        again: opens it again after a failure; without it a failure is final.

    Raises:
        FoldcamError: from `load`, where the file is no folded model or cannot be run here; from a
            call, where an image cannot be read or the library failed.

    Example:
        >>> from foldcam import FoldedModel
        >>> with FoldedModel.load("model.onnx", threads=1) as model:
        ...     result = model("photo.png")
        ...     both = model.run_batch(["photo.png", "photos/blue/0.png"])
        >>> result.heatmap.shape, result.labels
        ((12, 12), ['red'])
        >>> [each.answer for each in both]
        ['red', 'blue']
    """

    def __init__(self, backend: Backend, again: Callable[[], Backend] | None = None) -> None:
        self._bank_file: Path | None = None
        self._bank_state: tuple[int, int, int] | None = None
        self._backend = backend
        self._again = again
        self.unknown_rule: UnknownRule | None = backend.contract.unknown
        """By which an image is unknown, at first the contract's. None answers with the nearest
        label, however far it is."""
        # A pass and a change of the bank take turns; where it cannot change, passes need not.
        given = backend.contract.bank_input is not None
        self._turn: AbstractContextManager[Any] = threading.Lock() if given else nullcontext()

    @classmethod
    def load(
        cls,
        path: Path | str,
        provider: Provider = "auto",
        threads: int | None = None,
        *,
        library: Library | None = None,
        cuda_graph: bool | None = None,
        accept_wrong: bool = False,
        server: str | None = None,
    ) -> FoldedModel:
        """Load a folded `.onnx`, or an engine.

        Args:
            path: the file.
            provider: what ONNX Runtime computes on.
            threads: the number of CPU threads; None leaves it to the library.
            library: None takes TensorRT for an engine and ONNX Runtime for an `.onnx`.
            cuda_graph: whether runs on a GPU are captured; None does so in TensorRT alone.
            accept_wrong: whether a library that answers the model's probe pictures wrongly is
                used; see `accepted_wrong`.
            server: the address of the model on an inference server that runs it.

        Raises:
            FoldcamError: as `runtime.backends.open_backend`, which describes all
                arguments.
        """

        def again() -> Backend:
            return open_backend(
                path, provider, threads, library=library, cuda_graph=cuda_graph,
                accept_wrong=accept_wrong, server=server,
            )  # fmt: skip

        return cls.of_file(path, again, again)

    @classmethod
    def of_file(
        cls, path: Path | str, first: Callable[[], Backend], again: Callable[[], Backend]
    ) -> FoldedModel:
        """A model whose backend is opened in a way of one's own; it takes up a changed bank.

        Args:
            path: the file.
            first: opens it now.
            again: opens it after a failure.

        Raises:
            FoldcamError: as `first`.
        """
        bank_file = bank_path(Path(path))
        # Looked at first: what is written while it is read is taken up afterwards.
        state = _state_of(bank_file)
        model = cls(first(), again)
        if model.contract.bank_input is not None:
            model._bank_file, model._bank_state = bank_file, state
        return model

    @property
    def contract(self) -> Contract:
        """What the model promises; where its bank is an input, with the labels of that bank."""
        return self._backend.contract

    def share(self) -> None:
        """Let several threads use the model: their passes follow one another, first come first.

        To be called before they begin. A thread that has just had a pass waits for all others
        that ask for one, so that none is starved.
        """
        self._turn = Turns()

    def use_bank(self, bank: LiveBank | Path | str) -> None:
        """Answer by another bank from the next pass on; for a model whose bank is an input.

        Args:
            bank: the bank or its file, of the model's network.

        Raises:
            FoldcamError: the model's bank is no input, or this is not a bank of its network; the
                model answers as before then.
        """
        with self._turn:
            use_bank(self._backend, bank)

    def take_up_bank(self) -> bool:
        """Answer by the bank's file as it is now, if another process has changed it.

        Returns:
            Whether it had changed.

        Raises:
            FoldcamError: it has changed, and cannot be used; the model answers as before, and
                the next call looks again only if the file changes once more.
        """
        if self._bank_file is None:
            return False
        state = _state_of(self._bank_file)
        if state is None or state == self._bank_state:
            return False
        self._bank_state = state
        self.use_bank(self._bank_file)
        return True

    @property
    def backend(self) -> str:
        """Library and device in words, such as `onnxruntime 1.22 on cpu`."""
        return f"{self._backend.name} on {self._backend.device}"

    @property
    def accepted_wrong(self) -> str | None:
        """What of the answers to the probe pictures is wrong and was accepted, else None."""
        return accepted_wrong_of(self._backend)

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

    def explain(
        self,
        image: ImageLike,
        *,
        like: ImageLike | None = None,
        label: str | None = None,
        against: str | None = None,
        direction: npt.NDArray[np.floating] | None = None,
    ) -> Result:
        """What in an image speaks for another answer than the model's own.

        Its maps `heatmap` and `contribution` are those of the direction `v` that was asked for;
        everything else is as of a plain call. Exactly one of `like`, `label` and `direction` says
        what is asked.

        Args:
            image: as of a plain call.
            like: another image: what makes this one like it, `v = e(like) - mean(bank)`.
            label: a label of the bank: `v = mean(label) - mean(others)`.
            against: with `label`, another one: `v = mean(label) - mean(against)`.
            direction: `[D]`, any direction in the space of the embeddings, such as the embedding
                of a text; `contribution` is in units of `v . e`.

        Raises:
            FoldcamError: the model takes no query, nothing or too much was asked, a label is not
                in the bank, a direction is zero, not finite or of another size, or as
                `run_batch`.
        """
        if sum(each is not None for each in (like, label, direction)) != 1:
            raise FoldcamError("explain needs exactly one of like, label and direction.")
        if against is not None and label is None:
            raise FoldcamError("explain: against needs a label.")
        if not self.contract.query or self._bank is None:
            raise FoldcamError(
                "The model answers for its bank alone: export or fold it again with --query."
            )
        if like is not None:
            found = self(like)
            if not found.valid:
                raise FoldcamError(f"explain: of the other image, {found.error}.")
            direction = self._bank.toward(found.embedding)
        elif label is not None:
            direction = self._bank.direction_of(label, against)
        asked = np.asarray(direction, np.float32)
        size = self.contract.bank.embedding_size
        if asked.shape != (size,):
            raise FoldcamError(
                f"explain: the direction has the shape {list(asked.shape)} where [{size}] is "
                "needed."
            )
        if not np.isfinite(asked).all() or not asked.any():
            raise FoldcamError("explain: the direction is zero or not finite.")
        batch = Batch(self.contract, 1)
        batch.add(as_image(image))
        return self.results(self.forward(batch, asked[None]))[0]

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

    def forward(self, batch: Batch, query: npt.NDArray[np.float32] | None = None) -> ForwardPass:
        """The forward pass alone, for whoever reads its outputs while the next one runs.

        Args:
            batch: of this model's contract.
            query: `float32 [N, D]`, of a model that takes it; None asks the bank.

        Raises:
            FoldcamError: the backend failed.
        """
        rows = batch.rows
        with self._turn:
            start = time.perf_counter()
            outputs = self._run(batch.images, query) if rows else {}
            took = 1e3 * (time.perf_counter() - start)
            return ForwardPass(rows, outputs, took, self.contract)

    def results(self, done: ForwardPass) -> list[Result]:
        """What a forward pass says, one result per row; `Result.error` where that is nothing.

        Raises:
            FoldcamError: the model returned something other than it promises.
        """
        return results_of(done, self.unknown_rule)

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
        contract = self.contract
        with self._turn:
            self._backend.close()
            self._backend = self._again()
        # A bank that is an input may have changed meanwhile.
        if self.contract.of_file() != contract.of_file():
            raise FoldcamError("The model's file was replaced by another one: start again.")

    def _run(self, images: Array, query: Array | None) -> dict[str, Array]:
        if query is None:
            return self._backend.run(images)
        assert isinstance(self._backend, TakesBank)
        return self._backend.run_query(images, query)

    @property
    def _bank(self) -> LiveBank | None:
        return self._backend.bank if isinstance(self._backend, TakesBank) else None

    def close(self) -> None:
        """Give memory and device back."""
        self._backend.close()

    def __enter__(self) -> FoldedModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _state_of(path: Path | None) -> tuple[int, int, int] | None:
    """By which a change of a file is known; None where it is not there."""
    if path is None:
        return None
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
