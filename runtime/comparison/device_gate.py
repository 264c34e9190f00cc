"""What a model of another precision costs on this device, in the engine that was built here.

The float32 model in ONNX Runtime on the CPU is the reference. Candidates are compared with it
on photographs, and timed alternately with the float model in the same library. Needs neither
torch nor onnx.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from foldcam.runtime.backends import Array, Backend, dtype_of
from foldcam.runtime.comparison.figures import (
    Answered,
    Booleans,
    Doubles,
    GateFigures,
    PerImage,
    compare_answers,
    nearest_other,
    own_rows,
    same_rows,
)
from foldcam.runtime.comparison.images import GateImages
from foldcam.runtime.comparison.interleaved import Ratio, ratio_of, seconds_interleaved
from foldcam.runtime.comparison.verdict import GateLimits, failures_of
from foldcam.runtime.contract.schema import (
    EMBEDDING,
    ESTIMATE,
    HEATMAP,
    HEATMAP_LOWER,
    NEIGHBOR,
    SIMILARITY,
    Contract,
)
from foldcam.runtime.errors import FoldcamError
from foldcam.runtime.images.preprocess import Image

Progress = Callable[[str, int, int], None]

_TIMED_IMAGES = 16


@dataclass(frozen=True, eq=False)
class DeviceVerdict:
    """What one candidate costs on this device.

    Attributes:
        figures: the candidate against the reference.
        each: the same per image.
        speed: the rival's time over the candidate's; None without a rival.
        failures: what is outside the limits.
        in_bank: images that are bank rows themselves and whose next row is not known, because
            the model reports one neighbor: they are left out of recall.
    """

    figures: GateFigures
    each: PerImage
    speed: Ratio | None
    failures: tuple[str, ...]
    in_bank: int

    @property
    def passed(self) -> bool:
        """Whether it may be used here."""
        return not self.failures


class DeviceGate:
    """The reference's answers, asked once, with which candidates are compared.

    Args:
        reference: the float32 model, on the CPU.
        images: were read with its contract.
        progress: called with `(stage, done, total)`.
    """

    def __init__(self, reference: Backend, images: GateImages, progress: Progress) -> None:
        self._contract, self._images, self._progress = reference.contract, images, progress
        self._expected = self._ask("reference", reference)
        self._own = own_rows(self._expected[NEIGHBOR], self._expected[SIMILARITY])

    def judge(
        self,
        candidate: Backend,
        rival: Backend | None,
        limits: GateLimits,
        name: str = "candidate",
        rounds: int = 50,
    ) -> DeviceVerdict:
        """Compare and time one candidate.

        Args:
            candidate: was made from the reference.
            rival: what it has to be faster than; None leaves speed unmeasured.
            limits: what passes.
            name: what the progress calls it.
            rounds: timed pairs of runs.

        Raises:
            FoldcamError: it is not of the same network, or a backend failed.
        """
        check_pair(self._contract, candidate.contract)
        found = self._ask(name, candidate)
        unknown = (self._own >= 0) & (self._expected[NEIGHBOR].shape[1] == 1)
        figures, each = compare_answers(
            self._answered(self._expected, ~unknown),
            self._answered(found, ~unknown),
            self._same_weights(found),
        )
        speed = ratio = None
        if rival is not None:
            seconds = self.seconds((rival, candidate), f"{name}, speed", rounds)
            speed = ratio_of(seconds[:, 0], seconds[:, 1])
            ratio = speed.ratio
        failures = tuple(failures_of(figures, limits, ratio))
        return DeviceVerdict(figures, each, speed, failures, int(unknown.sum()))

    def seconds(self, backends: Sequence[Backend], stage: str, rounds: int) -> Doubles:
        """Seconds of each backend for single images, run alternately: `[rounds, backends]`."""
        batches = [_ready(image, self._contract) for image in self._images.images[:_TIMED_IMAGES]]

        def run_of(backend: Backend) -> Callable[[int], object]:
            return lambda turn: backend.run(batches[turn % len(batches)])

        self._progress(stage, 0, rounds)
        seconds = seconds_interleaved([run_of(backend) for backend in backends], rounds)
        self._progress(stage, rounds, rounds)
        return seconds

    def _ask(self, name: str, backend: Backend) -> dict[str, Array]:
        """Every output for every image, one image per pass as from a camera."""
        parts: list[dict[str, Array]] = []
        images = self._images.images
        for done, image in enumerate(images, 1):
            parts.append(backend.run(_ready(image, self._contract)))
            self._progress(name, done, len(images))
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

    def _answered(self, outputs: dict[str, Array], counted: Booleans) -> Answered:
        contract, rows = self._contract, nearest_other(outputs[NEIGHBOR], self._own)
        heat, hit, error = outputs[HEATMAP], None, None
        if contract.outcome is not None:
            heat = np.concatenate([heat, outputs[HEATMAP_LOWER]], axis=1)
            error = self._estimate_moved(outputs)
        else:
            pairs = zip(rows, self._images.labels, counted, strict=True)
            hits = [contract.label_of(int(r)) == name for r, name, c in pairs if c and name]
            hit = np.array(hits, np.bool_) if hits else None
        return Answered(outputs[EMBEDDING], heat, rows, hit, error)

    def _estimate_moved(self, outputs: dict[str, Array]) -> Doubles:
        """How far the estimate is from the reference's, as a share of the bank's range.

        The true values are not known here. By the triangle inequality the error cannot grow by
        more than this.
        """
        outcome = self._contract.outcome
        assert outcome is not None
        ends = [outcome.low, outcome.high]
        given, wanted = (found[ESTIMATE].astype(np.float64) for found in (outputs, self._expected))
        if outcome.transform == "log":
            ends = [math.log(end) for end in ends]
            with np.errstate(divide="ignore", invalid="ignore"):
                given, wanted = np.log(given), np.log(wanted)
        return np.asarray(np.abs(given - wanted) / max(ends[1] - ends[0], 1e-30), np.float64)

    def _same_weights(self, found: dict[str, Array]) -> Booleans:
        """Whether both answers rest on the same grad-weights, as far as rows are reported."""
        contract = self._contract
        used = min(contract.transfer, contract.neighbors)
        pair = [outputs[NEIGHBOR][:, :used] for outputs in (self._expected, found)]
        names = sorted({run.name for run in contract.labels})
        if names and contract.bank.grad_weight_rows == len(names):
            # One row of grad-weights per label.
            place = {name: number for number, name in enumerate(names)}
            pair = [
                np.array([[place[contract.label_of(int(r))] for r in rows] for rows in found_rows])
                for found_rows in pair
            ]
        return same_rows(*pair)


def _ready(image: Image, contract: Contract) -> Array:
    """An image at the input size as a batch of one, as the contract's `image`."""
    if contract.input_type == "uint8":
        return image[None]
    batch: Array = np.asarray(contract.preprocessing.normalized(image)[None], dtype_of(contract))
    return batch


def check_pair(reference: Contract, candidate: Contract) -> None:
    """Whether two models answer the same question.

    Raises:
        FoldcamError: they do not; the message says in what.
    """
    for what, wanted, got in (
        ("network", reference.origin.network_sha256, candidate.origin.network_sha256),
        ("preprocessing", reference.preprocessing, candidate.preprocessing),
        ("input", reference.input_type, candidate.input_type),
        ("layer", reference.layer, candidate.layer),
        ("heatmap size", reference.heatmap_size, candidate.heatmap_size),
        ("number of neighbors", reference.neighbors, candidate.neighbors),
        ("transfer", reference.transfer, candidate.transfer),
        ("labels", reference.labels, candidate.labels),
        ("outcome", reference.outcome, candidate.outcome),
    ):
        if wanted != got:
            raise FoldcamError(
                f"Reference and quantized model have another {what}: give the float32 model that "
                "the quantized one was calibrated from."
            )
