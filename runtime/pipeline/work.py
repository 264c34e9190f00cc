"""What travels from the preparer to the inference: a batch, and the frames that it completes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.model.folded_model import FoldedModel, ForwardPass
from foldcam.runtime.model.model_input import Batch
from foldcam.runtime.model.result import Result, judged
from foldcam.runtime.sources import Frame
from foldcam.runtime.sources.options import Box
from foldcam.runtime.system.errors import FoldcamError

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Pending:
    """A frame of which some regions may still be under way."""

    frame: Frame
    waited_ms: float
    prepared_ms: float = 0.0
    results: list[Result] = field(default_factory=list)
    lost: bool = False


@dataclass(frozen=True)
class Part:
    """Some rows of a batch that belong to one frame; `last` completes it."""

    pending: Pending
    rows: int
    last: bool


@dataclass(eq=False)
class Work:
    """One forward pass to be made, in a buffer that comes back afterwards."""

    load: Batch | _Photographs
    parts: list[Part] = field(default_factory=list)

    def clear(self) -> None:
        """Make it ready for the next rows."""
        self.load.clear()
        self.parts = []


class ModelRunner:
    """A `FoldedModel`: rows are preprocessed beside the forward pass before them."""

    def __init__(self, model: FoldedModel) -> None:
        self._model = model

    @property
    def can_reopen(self) -> bool:
        """Whether a failure may pass: as the model's."""
        return self._model.can_reopen

    def new_load(self, capacity: int) -> Batch:
        """Memory for up to so many rows."""
        return Batch(self._model.contract, capacity)

    def forward(self, load: Batch | _Photographs) -> ForwardPass:
        """One forward pass, by the bank as it is now; the rows may be used again afterwards."""
        assert isinstance(load, Batch)
        try:
            if self._model.take_up_bank():
                rows, labels = self._model.contract.bank.rows, len(self._model.contract.labels)
                _log.info("The bank was changed: %d rows of %d labels.", rows, labels)
        except FoldcamError as error:
            _log.warning("The changed bank is not taken up: %s", error)
        return self._model.forward(load)

    def results(self, done: Any) -> list[Result]:
        """What it says, one result per row."""
        return self._model.results(done)

    def reopen(self) -> None:
        """Open the backend again."""
        self._model.reopen()


class _Photographs:
    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self.regions: list[tuple[Image, Box | None]] = []

    @property
    def full(self) -> bool:
        return len(self.regions) == self._capacity

    def add(self, image: Image, box: Box | None = None) -> None:
        self.regions.append((image, box))

    def clear(self) -> None:
        self.regions = []


class FunctionRunner:
    """Any function from a photograph to a result, called region by region."""

    can_reopen = False

    def __init__(self, function: Callable[[Image], Result]) -> None:
        self._function = function

    def new_load(self, capacity: int) -> _Photographs:
        """The photographs themselves."""
        return _Photographs(capacity)

    def forward(self, load: Batch | _Photographs) -> list[Result]:
        """One call per region."""
        assert isinstance(load, _Photographs)
        return [self._result(image, box) for image, box in load.regions]

    def results(self, done: Any) -> list[Result]:
        """They are there already."""
        found: list[Result] = done
        return found

    def reopen(self) -> None:
        """Never called: `can_reopen` is false."""

    def _result(self, image: Image, box: Box | None) -> Result:
        if box is None:
            return judged(self._function(image))
        x, y, width, height = box
        result = judged(self._function(image[y : y + height, x : x + width]))
        frame_wh = (image.shape[1], image.shape[0])
        return replace(result, affine=result.affine.shifted(x, y), frame_wh=frame_wh, box=box)


Runner = ModelRunner | FunctionRunner
"""A model as the pipeline sees it."""


def runner_of(model: FoldedModel | Callable[[Image], Result]) -> Runner:
    """The model as the pipeline sees it."""
    return ModelRunner(model) if isinstance(model, FoldedModel) else FunctionRunner(model)
