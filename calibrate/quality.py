"""What quantizing does to a model's answers: a number to search by, and the gate's figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import onnx

from foldcam.calibrate.graph import Batches, Values, with_outputs
from foldcam.calibrate.selection import Pictures
from foldcam.calibrate.session import Floats, Images, Outputs, Prefix, Runner
from foldcam.export.datasets import Sample
from foldcam.export.grafting.in_graph import bank_of, stored_bank_of
from foldcam.export.onnx_graphs.device import CPU, Device
from foldcam.export.onnx_graphs.embedding_model import FEATURE_MAP
from foldcam.export.verification.formulas import scaled_estimate
from foldcam.runtime.contract.schema import (
    CONTRIBUTION,
    EMBEDDING,
    ESTIMATE,
    HEATMAP,
    HEATMAP_LOWER,
    Contract,
)
from foldcam.runtime.images.preprocess import Affine
from foldcam.runtime.measurement.comparison.figures import (
    Answered,
    GateFigures,
    PerImage,
    compare_answers,
    cosines,
    map_correlations,
    nearest_other,
    own_rows,
    same_rows,
)

Progress = Callable[[int, int], None]

_TINY = 1e-12


class Damage:
    """How far a candidate's embedding and heat are from the float model's, on a few images.

    The heat is that of the float model's grad-weights on both feature maps, so that a change of
    neighbors does not hide what happened to the map. Where the graph computes the image's own
    grad-weights, it is the graph's contributions.

    Args:
        model: folded, float32.
        images: `uint8 [n, height, width, 3]` RGB at the input size.
        device: where the models run.
    """

    def __init__(
        self, model: onnx.ModelProto, contract: Contract, images: Images, device: Device = CPU
    ) -> None:
        self._contract, self._device = contract, device
        bank, explained = bank_of(model, contract), contract.explanation
        self._map = FEATURE_MAP
        if explained is not None and explained.grad_weights == "own":
            self._map = CONTRIBUTION
        self._asked = [EMBEDDING, self._map]
        self._prefix = Prefix(model, self._asked, contract, images, device)
        runner = Runner(with_outputs(model, self._asked), contract, device=device)
        found = self._found(runner, self._prefix.reach(-1), {})
        self._embedding = _unit(found[EMBEDDING])
        rows, _ = stored_bank_of(model, contract).nearest(self._embedding, contract.transfer)
        self._weights = bank.grad_weights[bank.grad_index[rows]].mean(axis=1)
        self._usual: Floats | float = 0.0
        if bank.mean_summands is not None:
            self._usual = bank.mean_summands.reshape(len(bank.mean_summands), -1)
        self._heat = self._heat_of(found[self._map])

    def of(self, model: onnx.ModelProto, place: int = -1) -> float:
        """Mean over the images of `(1 - cosine) + (1 - correlation)`; infinite for NaN.

        Args:
            model: a candidate.
            place: of the last node of the float model before which, and at which, the candidate
                computes what that does; -1 for none.
        """
        return self.each(model, [{}], place)[0]

    def each(
        self, model: onnx.ModelProto, settings: Sequence[Values], place: int = -1
    ) -> list[float]:
        """See `of`; for a candidate with inputs of its own, under each of several settings."""
        known = self._prefix.reach(place)
        part = with_outputs(model, self._asked, known)
        runner = Runner(part, self._contract, device=self._device)
        return [self._lost(runner, known, setting) for setting in settings]

    def _lost(self, runner: Runner, known: Batches, setting: Values) -> float:
        found = self._found(runner, known, setting)
        cosine = cosines(self._embedding, found[EMBEDDING])
        # This heat is of any scale, so that only maps without any heat are blank.
        correlation, _ = map_correlations(self._heat, self._heat_of(found[self._map]), same=0)
        lost = float(np.mean((1 - cosine) + (1 - correlation)))
        return lost if np.isfinite(lost) else float("inf")

    def _found(self, runner: Runner, known: Batches, setting: Values) -> Outputs:
        parts = [{**values, **runner.run({**values, **setting})} for values in known]
        return {name: np.concatenate([part[name] for part in parts]) for name in self._asked}

    def _heat_of(self, feature_map: Floats) -> Floats:
        flat = feature_map.reshape(*feature_map.shape[:2], -1)
        signed = flat[:, 0]
        if self._map == FEATURE_MAP:
            signed = np.einsum("nk,nkp->np", self._weights, flat - self._usual)
        heat = signed if self._contract.outcome is not None else np.maximum(signed, 0)
        return np.asarray(heat, np.float32)


class Gate:
    """The float model's answers on the gate's images, with which candidates are compared.

    Args:
        model: folded, float32.
        pictures: which were not used for calibration.
        device: where the models run; int8 kernels are those of the processor.
        progress: called after each batch of images, with how many are done and how many there are.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        contract: Contract,
        pictures: Pictures,
        device: Device = CPU,
        progress: Progress | None = None,
    ) -> None:
        self._contract, self.pictures, self._device = contract, pictures, device
        self._own: npt.NDArray[np.int64] | None = None
        self._boxes = _boxes(pictures.samples, pictures.affines, contract)
        self.reference, self._rows = self._answers(model, progress, kernels=False)
        self._grad_index = bank_of(model, contract).grad_index

    def figures(
        self, candidate: onnx.ModelProto, *, kernels: bool = False, progress: Progress | None = None
    ) -> tuple[GateFigures, PerImage, Answered]:
        """Compare a candidate.

        Args:
            candidate: made from the reference.
            kernels: see `session.Runner`.
            progress: as for the class.
        """
        answered, rows = self._answers(candidate, progress, kernels=kernels)
        same = same_rows(self._grad_index[rows], self._grad_index[self._rows])
        figures, each = compare_answers(self.reference, answered, same, self._boxes)
        return figures, each, answered

    def _answers(
        self, model: onnx.ModelProto, progress: Progress | None, *, kernels: bool
    ) -> tuple[Answered, npt.NDArray[np.int32]]:
        contract, outcome = self._contract, self._contract.outcome
        names = [EMBEDDING, HEATMAP] + ([HEATMAP_LOWER, ESTIMATE] if outcome else [])
        signed = CONTRIBUTION in contract.optional_outputs
        names += [CONTRIBUTION] if signed else []
        device = CPU if kernels else self._device
        runner = Runner(with_outputs(model, names), contract, kernels=kernels, device=device)
        parts = []
        for _, outputs in runner.batches(self.pictures.resized):
            parts.append(outputs)
            if progress is not None:
                done = sum(len(part[EMBEDDING]) for part in parts)
                progress(done, len(self.pictures.resized))
        found = {name: np.concatenate([part[name] for part in parts]) for name in names}
        unit = _unit(found[EMBEDDING])
        stored = stored_bank_of(model, contract)
        most = min(contract.transfer + 1, stored.most_neighbors())
        rows, similarity = stored.nearest(unit, most)
        if self._own is None:
            self._own = own_rows(rows, similarity)
        row = nearest_other(rows, self._own)
        heat, hit, error = found[HEATMAP], None, None
        if outcome is None:
            labels = [sample.label for sample in self.pictures.samples]
            hit = np.array(
                [contract.label_of(int(r)) == name for r, name in zip(row, labels, strict=True)]
            )
        else:
            heat = np.concatenate([heat, found[HEATMAP_LOWER]], axis=1)
            error = _estimate_errors(found[ESTIMATE], self.pictures.samples, model, contract)
        contribution = found[CONTRIBUTION][:, 0] if signed else None
        answered = Answered(found[EMBEDDING], heat, row, hit, error, contribution)
        return answered, rows[:, : contract.transfer]


def _estimate_errors(
    estimates: Floats, samples: Sequence[Sample], model: onnx.ModelProto, contract: Contract
) -> npt.NDArray[np.float64]:
    outcome = bank_of(model, contract).outcome
    assert outcome is not None
    values = np.array([sample.value for sample in samples], np.float32)
    given, wanted = scaled_estimate(estimates, outcome), scaled_estimate(values, outcome)
    return np.asarray(np.abs(given - wanted), np.float64)


def _unit(embedding: Floats) -> Floats:
    norms = np.linalg.norm(embedding, axis=1, keepdims=True)
    return np.asarray(embedding / np.maximum(norms, _TINY), np.float32)


def _boxes(
    samples: Sequence[Sample], affines: Sequence[Affine], contract: Contract
) -> npt.NDArray[np.bool_] | None:
    """`[n, h', w']`: cells of the heatmap whose centre lies in the object's box."""
    if any(sample.box is None for sample in samples):
        return None
    height, width = contract.heatmap_size
    recipe = contract.preprocessing
    x = (np.arange(width) + 0.5) * recipe.width / width
    y = (np.arange(height) + 0.5) * recipe.height / height
    masks = []
    for sample, affine in zip(samples, affines, strict=True):
        box = sample.box
        assert box is not None
        in_x = x * affine.scale_x + affine.offset_x
        in_y = y * affine.scale_y + affine.offset_y
        across = (in_x >= box.x) & (in_x < box.x + box.width)
        down = (in_y >= box.y) & (in_y < box.y + box.height)
        masks.append(down[:, None] & across[None])
    return np.stack(masks)
