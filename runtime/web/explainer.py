"""One picture that somebody sent: read, put through the model of the run, and answered."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt

from foldcam.runtime.contract.schema import Contract
from foldcam.runtime.images.files import decode_image
from foldcam.runtime.images.preprocess import Image, scaled
from foldcam.runtime.images.small import fitted
from foldcam.runtime.model.drawing.maps import check_map
from foldcam.runtime.model.drawing.picture import draw_picture
from foldcam.runtime.model.drawing.style import MapName, Style
from foldcam.runtime.model.folded_model import FoldedModel
from foldcam.runtime.model.model_input import Batch
from foldcam.runtime.model.record import answer_record
from foldcam.runtime.model.result import Result
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.strict_json import strict_json

SIDE = 1600
"""Pixels of a drawn picture's longer side, at most."""
Kind = Literal["json", "png"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MEDIA_TYPES: dict[Kind, str] = {"json": "application/json", "png": "image/png"}
# Fast: the picture is sent once, and is not kept.
_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1]
_DECIMALS = 6


class PictureError(Exception):
    """The picture, or what is asked of it, is at fault; the text is a sentence for who sent it."""


@dataclass(frozen=True)
class Question:
    """What is asked of a picture.

    Attributes:
        kind: numbers as JSON, or the picture with its heat as PNG.
    """

    kind: Kind = "json"
    map: MapName = "heatmap"
    embedding: bool = False


@dataclass(frozen=True)
class Explained:
    """An answer.

    Attributes:
        milliseconds: spent on each part of it: `wait` for the worker, then to `read` the picture
            and preprocess it, `network` with the turn that was waited for, and to `write` the
            answer.
    """

    body: bytes
    media_type: str
    milliseconds: dict[str, float] = field(default_factory=dict)


class Explainer:
    """Answers for single pictures by the model of a run, one at a time, between its passes.

    Args:
        model: shared with the run; see `FoldedModel.share`.
    """

    def __init__(self, model: FoldedModel, style: Style) -> None:
        self._model = model
        self._style = replace(style, beside=False, caption=True)
        self._batch = Batch(model.contract, 1)
        self._resting = threading.Event()
        self._resting.set()
        self.usual_ms = 0.0
        """Milliseconds that a picture takes, of late."""

    @property
    def contract(self) -> Contract:
        """What the model promises."""
        return self._model.contract

    def answer(self, data: bytes, question: Question, since: float) -> Explained:
        """Explain one picture.

        Args:
            data: the bytes of a file that `read_image` reads.
            since: `time.perf_counter()` when it began to wait.
        """
        self._resting.clear()
        try:
            return self._answer(data, question, since)
        finally:
            self._resting.set()

    def wait(self, seconds: float) -> None:
        """Until no picture is worked on, for so long at most."""
        self._resting.wait(seconds)

    def _answer(self, data: bytes, question: Question, since: float) -> Explained:
        times = [since, time.perf_counter()]
        try:
            check_map(question.map, self.contract)
            image = decode_image(data, "The picture")
        except FoldcamError as error:
            raise PictureError(str(error)) from error
        self._batch.clear()
        self._batch.add(image)
        times.append(time.perf_counter())
        done = self._model.forward(self._batch)
        times.append(time.perf_counter())
        result = self._model.results(done)[0]
        if question.kind == "png":
            body = _png(image, result, replace(self._style, map=question.map))
        else:
            body = _json(result, question)
        times.append(time.perf_counter())
        spent = [1e3 * (after - before) for before, after in pairwise(times)]
        worked = sum(spent[1:])
        self.usual_ms = 0.8 * self.usual_ms + 0.2 * worked if self.usual_ms else worked
        parts = dict(zip(("wait", "read", "network", "write"), spent, strict=True))
        return Explained(body, MEDIA_TYPES[question.kind], parts)


def _json(result: Result, question: Question) -> bytes:
    document = {
        "answer": result.answer,
        **answer_record(result, question.embedding),
        "map": _map_document(result, question.map),
    }
    return f"{strict_json(document)}\n".encode()


def _map_document(result: Result, name: MapName) -> dict[str, Any]:
    """The map's numbers, and where it lies on the picture, in pixels of it."""
    signed = {"contribution": result.contribution, "contrast": result.contrast}
    values = result.heatmap if name == "heatmap" else signed[name]
    assert values is not None  # asked of the contract before
    affine, (width, height) = result.affine, result.input_wh
    document: dict[str, Any] = {
        "name": name,
        "values": _numbers(values),
        "place": {
            "x": affine.offset_x,
            "y": affine.offset_y,
            "width": affine.scale_x * width,
            "height": affine.scale_y * height,
        },
    }
    if name == "heatmap" and result.heatmap_lower is not None:
        document["lower"] = _numbers(result.heatmap_lower)
    return document


def _numbers(values: npt.NDArray[np.float32]) -> Any:
    return np.round(values.astype(np.float64), _DECIMALS).tolist()


def _png(image: Image, result: Result, style: Style) -> bytes:
    """The picture with its heat and its answer; a large one is made smaller before."""
    small = fitted(image, SIDE, SIDE)
    if small is not image:
        size = small.shape[1], small.shape[0]
        across, down = (new / old for new, old in zip(size, result.frame_wh, strict=True))
        result = replace(result, affine=scaled(result.affine, across, down), frame_wh=size)
    drawn = draw_picture(small, [result], style)
    done, data = cv2.imencode(".png", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR), _PNG)
    if not done:
        raise FoldcamError("The drawn picture cannot be encoded as PNG.")
    return bytes(data)
