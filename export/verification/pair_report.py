"""The figures of one folded model against the reference, its limits, and its verdict.

The limits of float16 come from measuring: the demo network on 120 photographs of birds and
120 of houses gave, at worst, an embedding cosine of 0.99993, a similarity off by 0.0017, a
pixel of a heatmap off by 0.017, an estimate off by 0.0003 of the range, and the same nearest
row for every image. Those of int8 are first guesses.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import onnx
from onnx import TensorProto

from foldcam.export.onnx_graphs.writing import PREFIX
from foldcam.runtime.measurement.comparison.figures import Agreement

Precision = Literal["fp32", "fp16", "int8"]

_QUANTIZERS = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}
_HALF = {TensorProto.FLOAT16, TensorProto.BFLOAT16}


@dataclass(frozen=True)
class Limits:
    """What passes.

    Attributes:
        cosine_mean, cosine_worst: at least, between embeddings.
        label_agreement: at least, share of images whose nearest rows have one label.
        tie: at most, by which the similarities of two rows may differ for one of them to
            be taken in the other's place.
        similarity_difference: at most, of a reported similarity.
        heatmap_correlation_mean: at least.
        heatmap_difference: at most, of the worst pixel.
        estimate_difference: at most, as a share of the range of the bank's values.
    """

    cosine_mean: float
    cosine_worst: float
    label_agreement: float
    tie: float
    similarity_difference: float
    heatmap_correlation_mean: float
    heatmap_difference: float
    estimate_difference: float


# An exact model agrees to the rounding of float32. A rounded one may choose between rows
# that are as near as its rounding is coarse; what counts then are labels and maps on average.
LIMITS: dict[Precision, Limits] = {
    "fp32": Limits(0.9999, 0.9999, 0.0, 1e-5, 1e-4, 0.0, 1e-3, 1e-3),
    "fp16": Limits(0.9995, 0.9995, 0.98, 5e-3, 5e-3, 0.999, 5e-2, 1e-2),
    "int8": Limits(0.98, 0.9, 0.9, 0.1, 0.1, 0.98, 1.0, 0.1),
}


def precision_of(model: onnx.ModelProto, *, with_bank: bool) -> Precision:
    """The coarsest precision that a folded model's numbers have.

    Args:
        with_bank: whether the bank's storage counts as well, as it does where the model
            is compared with a bank of full precision.
    """
    graph = model.graph
    nodes = [node for node in graph.node if with_bank or not node.name.startswith(PREFIX)]
    if any(node.op_type in _QUANTIZERS for node in nodes):
        return "int8"
    names = {name for node in nodes for name in node.input}
    stored = [tensor for tensor in graph.initializer if tensor.name in names]
    inline = [a.t for node in nodes for a in node.attribute if a.HasField("t")]
    return "fp16" if any(tensor.data_type in _HALF for tensor in [*stored, *inline]) else "fp32"


@dataclass(frozen=True)
class PairReport(Agreement):
    """A folded model against the reference.

    Attributes:
        name: the model's file name.
        library: what ran it.
        precision: the precision of its numbers, which chose the limits.
        bank: `model's`, or `its own` where its bank holds other rows than the model's.
        images: the number of images compared.
        same_neighbor: share of images for which both choose the same rows to transfer.
        label_agreement: share of images whose nearest rows have one label; None for a
            continuous outcome.
        neighbor_similarity_difference_worst: between the similarities of the two
            rows, where they differ.
        similarity_difference_worst: greatest difference between a reported
            similarity and the reference's for that row.
        heatmap_difference_mean, heatmap_difference_worst: greatest absolute difference per
            image, over those that are compared; NaN where none can be. For a continuous outcome
            both heatmaps are compared.
        heatmaps_vary: whether different images got different heatmaps.
        finite: whether all outputs are finite.
        rows_exist: whether every neighbor is a row of the bank.
        bank_intact: whether the bank in the graph is the one that the metadata describe; None
            where the file's graph cannot be read.
        estimate_difference_worst: greatest difference between estimates of a continuous
            outcome, as a share of the range of the bank's values (of their logarithms where
            the kernel averages those); None for a model of labels.
        contribution_difference_worst: greatest difference of a cell of `contribution`, as a share
            of the greatest magnitude in the reference's map; None where it is not returned.
        contrast_difference_worst: the same of `contrast`, as a share of the greatest contribution,
            over images with the same runner-up.
        worst_image: the name of the image on which they differ most.
        limits: what passes.
        failures: what is outside the limits, one sentence each.
        not_finite: names of the images for which an output is not finite.
    """

    name: str
    library: str
    precision: Precision
    bank: str
    images: int
    same_neighbor: float
    label_agreement: float | None
    neighbor_similarity_difference_worst: float
    similarity_difference_worst: float
    heatmap_difference_mean: float
    heatmap_difference_worst: float
    heatmaps_vary: bool
    finite: bool
    rows_exist: bool
    bank_intact: bool | None
    estimate_difference_worst: float | None
    contribution_difference_worst: float | None
    contrast_difference_worst: float | None
    worst_image: str
    limits: Limits
    failures: tuple[str, ...] = ()
    not_finite: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every limit holds."""
        return not self.failures

    def document(self) -> dict[str, Any]:
        """For `--json`."""
        return {**asdict(self), "failures": list(self.failures), "passed": self.passed}


def failures_of(report: PairReport) -> list[str]:
    """What of a pair is outside its limits, one sentence each."""
    limits, failures = report.limits, []

    def at_least(what: str, value: float | None, limit: float) -> None:
        # Written so that a NaN fails.
        if value is not None and not value >= limit:
            failures.append(f"{what} is {value:.6f}, below {limit:g}")

    def at_most(what: str, value: float | None, limit: float) -> None:
        if value is not None and not value <= limit:
            failures.append(f"{what} {value:.2g}, above {limit:g}")

    at_least("the worst embedding cosine", report.embedding_cosine_worst, limits.cosine_worst)
    at_least("the mean embedding cosine", report.embedding_cosine_mean, limits.cosine_mean)
    if report.heatmaps_compared == 0:
        failures.append(
            "no image got the grad-weights of the reference's rows, so that no heatmap could be "
            "compared"
        )
    else:
        at_most(
            "the worst heatmap difference is",
            report.heatmap_difference_worst,
            limits.heatmap_difference,
        )
        at_least(
            "the mean heatmap correlation",
            report.heatmap_correlation_mean,
            limits.heatmap_correlation_mean,
        )
    at_most(
        "the worst difference between contributions, as a share of the greatest, is",
        report.contribution_difference_worst,
        limits.heatmap_difference,
    )
    at_most(
        "the worst difference between contrasts, as a share of the greatest contribution, is",
        report.contrast_difference_worst,
        limits.heatmap_difference,
    )
    at_least("the share of images with the same label", report.label_agreement,
             limits.label_agreement)  # fmt: skip
    at_most(
        "another neighbor was chosen though its similarity differs by",
        report.neighbor_similarity_difference_worst,
        limits.tie,
    )
    at_most(
        "a reported similarity is off by",
        report.similarity_difference_worst,
        limits.similarity_difference,
    )
    worst = report.estimate_difference_worst
    if worst is not None and not worst <= limits.estimate_difference:
        failures.append(
            f"an estimate is off by {worst:.2g} of the values' range, above "
            f"{limits.estimate_difference:g}"
        )
    if report.bank_intact is False:
        failures.append("the bank in the graph is not the one that the metadata describe")
    if not report.rows_exist:
        failures.append("a neighbor is no row of the bank")
    if not report.heatmaps_vary:
        failures.append("all images got the same heatmap: it is frozen")
    if not report.finite:
        more = len(report.not_finite) - 3
        failures.append(
            "the folded model returned values that are not finite for "
            f"{', '.join(report.not_finite[:3])}{f' and {more} more images' if more > 0 else ''}"
        )
    return failures
