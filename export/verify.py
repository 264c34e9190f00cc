"""Verify: the folded model in ONNX Runtime against the torch network it came from."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch

from export.bank import Bank, BankOutcome
from export.datasets import Dataset
from export.kernel import kernel_estimates
from export.network import Network
from export.stored_bank import StoredBank, bank_of, is_intact, stored_bank_of
from export.torch_network import TorchNetwork
from runtime.backends import Array, open_backend
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
from runtime.images import read_image
from runtime.onnx_file import read_contract
from runtime.preprocess import Image

Floats = npt.NDArray[np.float32]

MIN_COSINE = 0.9999
MAX_HEATMAP_DIFFERENCE = 1e-3
MAX_TIE = 1e-5
MAX_SIMILARITY_DIFFERENCE = 1e-4
MAX_ESTIMATE_DIFFERENCE = 1e-3


@dataclass(frozen=True)
class VerifyReport:
    """Both sides on the same images.

    Attributes:
        images: how many.
        embedding_cosine_mean, embedding_cosine_worst: between the embeddings.
        same_neighbor: share of images for which both choose the same row.
        neighbor_similarity_difference_worst: between the similarities of the two
            rows, where they differ.
        heatmap_difference_mean, heatmap_difference_worst: greatest absolute
            difference per image, over images with the same row. Of a continuous
            outcome both heatmaps are compared.
        heatmaps_vary: whether different images got different heatmaps.
        finite: whether all of the folded model's outputs are finite.
        similarity_difference_worst: greatest difference between a reported
            similarity and the reference's for that row.
        bank_intact: whether the bank in the graph is the one that the metadata
            describe.
        estimate_difference_worst: greatest difference between estimates of a continuous
            outcome, as a share of the range of the bank's values (of their logarithms where
            the kernel averages those); None for a model of labels.
        failures: what is outside the limits, one sentence each.
    """

    images: int
    embedding_cosine_mean: float
    embedding_cosine_worst: float
    same_neighbor: float
    neighbor_similarity_difference_worst: float
    heatmap_difference_mean: float
    heatmap_difference_worst: float
    heatmaps_vary: bool
    finite: bool
    similarity_difference_worst: float
    bank_intact: bool
    estimate_difference_worst: float | None
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether every limit holds."""
        return not self.failures

    def document(self) -> dict[str, Any]:
        """For `--json`."""
        return {**asdict(self), "passed": self.passed}


@dataclass(frozen=True)
class _Outputs:
    """One batch. `heatmap` is `[N, 2, h', w']` for a continuous outcome: raising, lowering.

    `estimate` is on the kernel's scale, as a share of the range of the bank's values.
    """

    embedding: Floats
    heatmap: Floats
    neighbor: npt.NDArray[np.int32]
    similarities: Floats
    estimate: npt.NDArray[np.float64] | None = None


def verify(
    model_path: Path,
    module: torch.nn.Module,
    images: Sequence[Image],
    *,
    batch_size: int = 8,
) -> VerifyReport:
    """Compare the folded model with the network and the bank it holds.

    The reference is computed in torch and numpy, with the formulas and not the
    folded graph: embedding and feature map from the network, cosine to every bank
    row, grad-weights of the nearest rows, `relu(sum_k a_k A_k)` over its maximum. For a
    continuous outcome: both signs of that sum over its greatest magnitude, and the
    kernel estimate.

    Args:
        model_path: the folded model.
        module: the network it came from.
        images: `uint8 [H, W, 3]` RGB, any sizes, at least one.
        batch_size: images per pass.

    Raises:
        FoldcamError: the network is another one than the model's, or cannot run.
    """
    contract = read_contract(model_path)
    size = (contract.preprocessing.height, contract.preprocessing.width)
    network = TorchNetwork(module, size, contract.layer)
    if network.sha256() != contract.origin.network_sha256:
        raise FoldcamError(
            f"{model_path} was made from another network: its metadata names "
            f"{contract.origin.network_sha256[:12]}... and this one is {network.sha256()[:12]}... "
            f"(MODEL {contract.origin.network}, weights {contract.origin.weights or 'none'})."
        )
    model = onnx.load(model_path)
    bank, stored = bank_of(model, contract), stored_bank_of(model, contract)
    resized = np.stack([contract.preprocessing.resized(image)[0] for image in images])
    with closing(open_backend(model_path, provider="cpu")) as backend:
        parts = []
        for start in range(0, len(resized), batch_size):
            block = resized[start : start + batch_size]
            given = block if contract.input_type == "uint8" else _floats(contract, block)
            outputs = backend.run(given)
            reference = _reference(network, bank, stored, contract, _floats(contract, block))
            parts.append((_folded(outputs, bank), reference))
    distinct = len({image.tobytes() for image in resized})
    return _compared(parts, distinct, is_intact(model, contract))


def images_to_verify(dataset: Dataset | None, contract: Contract, most: int) -> list[Image]:
    """The first readable images of a data set spread over its labels, or seeded noise without one.

    Raises:
        FoldcamError: none of the images can be read.
    """
    if dataset is None:
        generator = np.random.default_rng(0)
        shape = (16, contract.preprocessing.height // 8 + 1, contract.preprocessing.width // 8 + 1)
        return list(generator.integers(0, 256, (*shape, 3), np.uint8))
    step = max(1, len(dataset.samples) // most)
    images: list[Image] = []
    reason = ""
    for sample in dataset.samples[::step][:most]:
        try:
            images.append(read_image(sample.path))
        except FoldcamError as error:
            reason = str(error)
    if not images:
        raise FoldcamError(f"None of the images could be read: {reason}")
    return images


def _floats(contract: Contract, resized: npt.NDArray[np.uint8]) -> Floats:
    return contract.preprocessing.normalized(resized)


def _folded(outputs: dict[str, Array], bank: Bank) -> _Outputs:
    heatmap, estimate = outputs[HEATMAP], None
    if bank.outcome is not None:
        heatmap = np.concatenate([heatmap, outputs[HEATMAP_LOWER]], axis=1)
        exact = outputs[ESTIMATE].astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            estimate = np.log(exact) if bank.outcome.transform == "log" else exact
        estimate = estimate / _range(bank.outcome)
    return _Outputs(outputs[EMBEDDING], heatmap, outputs[NEIGHBOR], outputs[SIMILARITY], estimate)


def _range(outcome: BankOutcome) -> float:
    return max(float(outcome.values.max()) - float(outcome.values.min()), 1e-30)


def _reference(
    network: Network, bank: Bank, stored: StoredBank, contract: Contract, images: Floats
) -> _Outputs:
    activations = network.forward(torch.from_numpy(images))
    embedding = activations.embedding.numpy()
    norms = np.maximum(np.linalg.norm(embedding, axis=1, keepdims=True), 1e-12)
    unit = embedding / norms
    similarities = unit @ bank.embeddings.T
    order, _ = stored.nearest(unit, max(contract.transfer, contract.neighbors))
    used, nearest = order[:, : contract.transfer], order[:, : contract.neighbors]
    grad_weights = bank.grad_weights[bank.grad_index[used]].mean(axis=1)
    feature_map = activations.feature_map.numpy()
    signed = np.einsum("nk,nkhw->nhw", grad_weights, feature_map)[:, None]
    estimate = None
    if bank.outcome is not None:
        # What raises the estimate, and what lowers it.
        signed = np.concatenate([signed, -signed], axis=1)
        values, tau = bank.outcome.values, bank.outcome.tau
        estimate = kernel_estimates(unit, bank.embeddings, values, tau) / _range(bank.outcome)
    heat = np.maximum(signed, 0)
    greatest = heat.max(axis=(1, 2, 3), keepdims=True)
    heatmap = np.divide(heat, greatest, out=np.zeros_like(heat), where=greatest > 0)
    if heatmap.shape[2:] != contract.heatmap_size:
        heatmap = torch.nn.functional.interpolate(
            torch.from_numpy(heatmap), contract.heatmap_size, mode="bilinear", align_corners=False
        ).numpy()
    return _Outputs(embedding, heatmap, nearest, similarities, estimate)


def _compared(
    parts: list[tuple[_Outputs, _Outputs]], distinct: int, bank_intact: bool
) -> VerifyReport:
    cosines, differences, gaps, same, heatmaps = [], [], [], [], []
    estimates: list[float] = []
    off = [0.0]
    finite = True
    for folded, reference in parts:
        for row in range(len(folded.embedding)):
            cosines.append(_cosine(folded.embedding[row], reference.embedding[row]))
            ours, theirs = folded.neighbor[row], reference.neighbor[row]
            scores = reference.similarities[row]
            off.append(float(np.abs(folded.similarities[row] - scores[ours]).max()))
            gaps.append(float(np.abs(scores[ours] - scores[theirs]).max()))
            same.append(bool(ours[0] == theirs[0]))
            if same[-1]:
                gap = np.abs(folded.heatmap[row] - reference.heatmap[row])
                differences.append(float(gap.max()))
            heatmaps.append(folded.heatmap[row].tobytes())
        arrays: list[npt.NDArray[Any]] = [
            folded.embedding,
            folded.heatmap,
            folded.similarities,
        ]
        if folded.estimate is not None and reference.estimate is not None:
            arrays.append(folded.estimate)
            estimates.append(float(np.abs(folded.estimate - reference.estimate).max()))
        finite = finite and all(bool(np.isfinite(array).all()) for array in arrays)
    report = VerifyReport(
        images=len(cosines),
        embedding_cosine_mean=float(np.mean(cosines)),
        embedding_cosine_worst=float(np.min(cosines)),
        same_neighbor=float(np.mean(same)),
        neighbor_similarity_difference_worst=max(gaps, default=0.0),
        heatmap_difference_mean=float(np.mean(differences)) if differences else 0.0,
        heatmap_difference_worst=max(differences, default=0.0),
        # The same image twice may have the same heatmap twice.
        heatmaps_vary=distinct == 1 or len(set(heatmaps)) > 1,
        finite=finite,
        similarity_difference_worst=float(np.max(off)),
        bank_intact=bank_intact,
        estimate_difference_worst=float(np.max(estimates)) if estimates else None,
        failures=(),
    )
    return VerifyReport(**{**asdict(report), "failures": tuple(_failures(report))})


def _failures(report: VerifyReport) -> list[str]:
    failures = []
    # Written so that a NaN fails.
    if not report.embedding_cosine_worst >= MIN_COSINE:
        failures.append(
            f"the worst embedding cosine is {report.embedding_cosine_worst:.6f}, below {MIN_COSINE}"
        )
    if not report.heatmap_difference_worst <= MAX_HEATMAP_DIFFERENCE:
        failures.append(
            f"the worst heatmap difference is {report.heatmap_difference_worst:.2g}, "
            f"above {MAX_HEATMAP_DIFFERENCE}"
        )
    if not report.neighbor_similarity_difference_worst <= MAX_TIE:
        failures.append(
            "another neighbor was chosen though its similarity differs by "
            f"{report.neighbor_similarity_difference_worst:.2g}, above {MAX_TIE}"
        )
    if not report.similarity_difference_worst <= MAX_SIMILARITY_DIFFERENCE:
        failures.append(
            "a reported similarity is off by "
            f"{report.similarity_difference_worst:.2g}, above {MAX_SIMILARITY_DIFFERENCE}"
        )
    worst = report.estimate_difference_worst
    if worst is not None and not worst <= MAX_ESTIMATE_DIFFERENCE:
        failures.append(
            f"an estimate is off by {worst:.2g} of the values' range, above "
            f"{MAX_ESTIMATE_DIFFERENCE}"
        )
    if not report.bank_intact:
        failures.append("the bank in the graph is not the one that the metadata describe")
    if not report.heatmaps_vary:
        failures.append("all images got the same heatmap: it is frozen")
    if not report.finite:
        failures.append("the folded model returned values that are not finite")
    return failures


def _cosine(a: Floats, b: Floats) -> float:
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a64) * np.linalg.norm(b64)
    return float(a64 @ b64 / norms) if norms > 0 else float(np.array_equal(a64, b64))
