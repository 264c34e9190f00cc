"""What a folded model promises: its tensors, and the JSON document `foldcam` in its metadata.

The document travels in the ONNX file's `metadata_props`, so that stock tools read
the file unchanged and the device needs no second file.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct, to_builtins

from foldcam.runtime.contract.bank_storage import BankStorage
from foldcam.runtime.contract.canary import PROBES_VERSION, Canary
from foldcam.runtime.contract.unknown import UnknownRule
from foldcam.runtime.images.preprocess import Preprocessing, Side
from foldcam.runtime.system.documents import Finite, KeyProblem, Natural, Positive, within
from foldcam.runtime.system.errors import FoldcamError

METADATA_KEY = "foldcam"
SCHEMA_VERSION = 1
MAX_METADATA_BYTES = 64 << 20
MAX_LABEL_RUNS = 1 << 19
# Numbers of an embedding, or channels of a feature map: arrays are made of that size.
_Size = Annotated[int, Meta(ge=1, le=1 << 20)]
# Counted in int32 in the graph.
_Rows = Annotated[int, Meta(ge=1, le=(1 << 31) - 1)]
# Commas, colons and brackets: a label has three.
_MAX_VALUES = 1 << 21
# JSON writes any text, but a file's text is UTF-8, which has no lone surrogates.
_SURROGATE = re.compile("[\ud800-\udfff]")

IMAGE = "image"
EMBEDDING = "embedding"
HEATMAP = "heatmap"
NEIGHBOR = "neighbor"
SIMILARITY = "similarity"
HEATMAP_LOWER = "heatmap_lower"
ESTIMATE = "estimate"
CONTRIBUTION = "contribution"
CONTRAST = "contrast"
RUNNER_UP = "runner_up"
RUNNER_UP_SIMILARITY = "runner_up_similarity"
KNOWN_SCORE = "known_score"
BANK_EMBEDDING = "bank_embedding"
BANK_DIRECTION = "bank_direction"
BANK_LABEL = "bank_label"
QUERY = "query"
OPTIONAL_OUTPUTS = (CONTRIBUTION, CONTRAST)
"""What a file has beside the outputs of every folded model; with `contrast` come the others."""

SummandKind = Literal["pool", "depthwise", "linear", "attention", "none"]
SUMMAND_KINDS: tuple[SummandKind, ...] = get_args(SummandKind)
Baseline = Literal["mean", "none"]
BASELINES: tuple[Baseline, ...] = get_args(Baseline)
GradWeightsRule = Literal["transferred", "own"]
GRAD_WEIGHTS_RULES: tuple[GradWeightsRule, ...] = get_args(GradWeightsRule)
InputType = Literal["float32", "uint8"]
INPUT_TYPES: tuple[InputType, ...] = get_args(InputType)
Precision = Literal["fp32", "fp16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
ScoreKind = Literal["logits", "softmax", "log-softmax", "sigmoid"]
Transform = Literal["none", "log"]


@dataclass(frozen=True)
class BankSummary:
    """What the folded bank holds.

    Attributes:
        rows: number of training images, `N`.
        embedding_size: `D`.
        channels: `K`, channels of the feature map.
        grad_weight_rows: distinct rows of grad-weights (at most `rows`).
        objective: what the directions came from, as on the command line.
        channel_rule: which channels are kept (`all`, `positive`).
        compression: `none`, or what was done to make the bank smaller.
        sha256: of the bank's arrays and labels, before they were stored.
        storage: how the graph stores and searches it; None for float32 rows, all searched.
    """

    rows: _Rows
    embedding_size: _Size
    channels: _Size
    grad_weight_rows: Positive
    objective: str
    channel_rule: str
    compression: str
    sha256: str
    storage: BankStorage | None = None


@dataclass(frozen=True)
class Origin:
    """Where the model came from: enough to verify it, and no path of the exporting machine.

    Attributes:
        network: MODEL as on the command line, file names without their folder.
        weights: file name of the weights, empty if there was none.
        network_sha256: of the network's parameters and buffers.
        data: name of the data set's folder or file.
        split: which part of it is the bank.
        data_sha256: of the images' bytes and labels.
    """

    network: str
    weights: str
    network_sha256: str
    data: str
    split: str
    data_sha256: str


class LabelRun(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """`count` consecutive bank rows carry the label `name` (rows are sorted by label)."""

    name: str
    count: Positive


LabelRuns = Annotated[tuple[LabelRun, ...], Meta(max_length=MAX_LABEL_RUNS)]


@dataclass(frozen=True)
class Outcome:
    """A continuous outcome, such as a price, in place of labels.

    `estimate` is the mean of the bank's values, weighted by
    `softmax(similarity / tau)` over all rows.

    Attributes:
        tau: temperature of the kernel, in units of cosine.
        transform: what is averaged: the values (`none`), or their logarithms
            (`log`), whose mean is then exponentiated.
        low, median, high: the lowest, median and highest of the bank's values, in their own unit.

    Raises:
        FoldcamError: they are not in order, or have no logarithm that is needed.
    """

    tau: Annotated[float, Meta(gt=0, le=1e300)]
    transform: Transform
    low: Finite
    median: Finite
    high: Finite

    def __post_init__(self) -> None:
        if not self.low <= self.median <= self.high:
            reason = f"is {self.median:g}, which does not lie between low and high"
            raise KeyProblem("median", reason)
        if self.transform == "log" and self.low <= 0:
            raise KeyProblem("low", f"is {self.low:g}, which has no logarithm")


@dataclass(frozen=True)
class Calibration:
    """How a quantized model came about.

    Attributes:
        key: hash of network, images, preprocessing, method and versions.
        report_sha256: of the gate's report, as canonical JSON.
        kept_float: layers that were left in float.
        target: whose form the quantized steps have, `tensorrt` or `cpu`.
    """

    key: str
    report_sha256: str
    kept_float: Natural
    target: str


@dataclass(frozen=True)
class Explanation:
    """What the numbers of a map are made of.

    Attributes:
        summands: the sum over positions that the embedding depends on; `none` where there is
            none, and the map is the last spatial activation's.
        baseline: what a position's summand is compared with: its `mean` over the training
            images, or `none`.
        grad_weights: `transferred` from the nearest training image, or the image's `own`, which
            the graph computes.
        query: of an attention, the token that the embedding reads, such as the class token.
    """

    summands: SummandKind
    baseline: Baseline
    grad_weights: GradWeightsRule
    query: Annotated[int, Meta(ge=0, le=1 << 20)] = 0


@dataclass(frozen=True)
class BankInput:
    """A bank that is given to the model at each pass, in place of constants of its graph.

    Attributes:
        most_rows: rows that the bank may have at most, for which engines are built.
    """

    most_rows: _Rows


@dataclass(frozen=True, repr=False)
class Contract:
    """Everything that the device must know about a folded model.

    Attributes:
        preprocessing: how a frame becomes `image`.
        input_type: dtype of `image`: `float32 [N,3,H,W]` or `uint8 [N,H,W,3]` RGB, with H and W as
            in `image_size`.
        layer: the feature map's name in the network.
        feature_map: `(K, h, w)`.
        normalized: whether the network itself ends in an L2 normalisation.
        heatmap_size: `(height, width)` of the output `heatmap` (and `heatmap_lower`).
        transfer: number of rows whose grad-weights are used.
        neighbors: number of rows reported in `neighbor` and `similarity`.
        bank: summary of the bank.
        labels: runs of bank rows with one label, in row order; empty for a continuous
            outcome.
        origin: network and data.
        versions: tool -> version that took part in the export.
        outcome: the continuous outcome, None for a model of labels. With it the model
            has the outputs `heatmap_lower` and `estimate`.
        precision: precision of the network's own steps; inputs and outputs are always float32.
        calibration: the calibration of a quantized model, else None.
        explanation: what the maps are made of; None in files of before there was a choice.
        optional_outputs: which of `OPTIONAL_OUTPUTS` the file has.
        unknown: the rule by which an image is unknown; None where none was chosen.
        bank_input: where the bank is an input, else None. The file's own contract has no labels
            then: `with_bank` adds those of the bank that it runs with.
        query: whether the model has the input `query`, a direction in place of the bank's.
        scores: of a classifier, whose rows are its classes, what `embedding` and `similarity`
            are: `logits`, or what was made of them. None where similarities are cosines.
        frame: `(width, height)` of the whole frames that `image` takes as `uint8`, of which the
            graph makes the network's input as `preprocessing` says. None where it takes the
            network's input.
        canary: what the float model answered to probe pictures; None in files of before there
            were any.
    """

    preprocessing: Preprocessing
    input_type: InputType
    layer: str
    feature_map: tuple[_Size, _Size, _Size]
    normalized: bool
    heatmap_size: tuple[Side, Side]
    transfer: Positive
    neighbors: Positive
    bank: BankSummary
    labels: LabelRuns
    origin: Origin
    versions: Annotated[dict[str, str], Meta(max_length=1000)] = field(default_factory=dict)
    outcome: Outcome | None = None
    precision: Precision = "fp32"
    calibration: Calibration | None = None
    explanation: Explanation | None = None
    optional_outputs: Annotated[tuple[str, ...], Meta(max_length=64)] = ()
    unknown: UnknownRule | None = None
    bank_input: BankInput | None = None
    query: bool = False
    scores: ScoreKind | None = None
    frame: tuple[Side, Side] | None = None
    canary: Canary | None = None

    def __post_init__(self) -> None:
        ends = np.cumsum([run.count for run in self.labels], dtype=np.int64)
        object.__setattr__(self, "_label_ends", ends)

    def check(self) -> None:
        """Hold its parts against each other.

        Raises:
            KeyProblem: two of them do not agree.
        """
        rows, rule = self.bank.rows, self.unknown
        continuous, given = self.outcome is not None, self.bank_input is not None
        counted = sum(run.count for run in self.labels)
        if self.labels and (continuous or given):
            why = "the outcome is continuous" if continuous else "the bank is an input"
            raise KeyProblem("labels", f"are not empty although {why}")
        if not (continuous or given) and counted != rows:
            raise KeyProblem("labels", f"count {counted} rows and bank.rows says {rows}")
        for key, number in (
            ("transfer", self.transfer), ("neighbors", self.neighbors),
            ("bank.grad_weight_rows", self.bank.grad_weight_rows),
        ):  # fmt: skip
            if number > rows:
                raise KeyProblem(key, f"is {number}, outside 1 to {rows}")
        if self.frame is not None and self.input_type != "uint8":
            raise KeyProblem("frame", "is given although input_type is not uint8")
        if self.bank.storage is not None:
            with within("bank.storage"):
                self.bank.storage.check(rows, self.bank.channels)
        if self.canary is not None:
            with within("canary"):
                self.canary.check(self.bank.embedding_size, self.heatmap_size)
        if rule is not None and continuous:
            raise KeyProblem("unknown", "is given although the outcome is continuous")
        if rule is not None and rule.bank_sha256 != self.bank.sha256:
            raise KeyProblem(
                "unknown.bank_sha256",
                "is that of another bank, for which the threshold was chosen: choose it again with "
                "`foldcam threshold`",
            )
        margin = rule is not None and rule.score == "similarity_and_margin"
        if margin and CONTRAST not in self.optional_outputs:
            reason = f"needs the output {RUNNER_UP_SIMILARITY!r}, which the file has not"
            raise KeyProblem("unknown", reason)

    def __repr__(self) -> str:
        return f"<Contract of {self.summary()}>"

    @property
    def image_size(self) -> tuple[int, int]:
        """`(width, height)` of what `image` takes: the frame's, or the network's own."""
        return self.frame or (self.preprocessing.width, self.preprocessing.height)

    def summary(self) -> str:
        """The model in a few words: network, input, bank and map."""
        recipe, rows, columns = self.preprocessing, *self.heatmap_size
        known = f"{self.bank.rows} rows"
        if self.outcome is not None:
            known += " with an outcome"
        elif self.labels:
            known += f" of {len({run.name for run in self.labels})} labels"
        frames = "" if self.frame is None else f" of frames {self.frame[0]} x {self.frame[1]}"
        return (
            f"{self.origin.network}: input {recipe.width} x {recipe.height}{frames}, bank of "
            f"{known}, "
            f"map {rows} x {columns}"
        )

    def label_of(self, row: int) -> str:
        """The label of bank row `row`.

        Raises:
            IndexError: the bank has no such row, or its rows have no labels.
        """
        if not 0 <= row < self.bank.rows or not self.labels:
            raise IndexError(f"bank row {row} of {self.bank.rows}")
        ends: npt.NDArray[np.int64] = cast(Any, self)._label_ends
        return self.labels[int(np.searchsorted(ends, row, side="right"))].name

    def with_bank(self, labels: tuple[LabelRun, ...], sha256: str) -> Contract:
        """The contract of a model whose bank is an input, with a bank.

        Args:
            labels: runs of its rows with one label.
            sha256: of its arrays and labels.
        """
        rows = sum(run.count for run in labels)
        bank = replace(self.bank, rows=rows, grad_weight_rows=len(labels), sha256=sha256)
        return replace(self, bank=bank, labels=labels)

    def of_file(self) -> Contract:
        """As it stands in the file: without the labels of a bank that is an input."""
        if self.bank_input is None:
            return self
        least = max(self.transfer, self.neighbors)
        nothing = replace(self.bank, rows=least, grad_weight_rows=1, sha256="")
        return replace(self, bank=nothing, labels=())

    def to_json(self) -> str:
        """The metadata document, deterministic for equal contracts.

        Raises:
            FoldcamError: it would be too large to be read again, or holds a number that
                JSON has not.
        """
        document = {
            name: value
            for name, value in to_builtins(self, enc_hook=_plain).items()
            # What older files do not have is left out where it says nothing.
            if value is not None and not (name == "query" and not value)
        }
        document["schema_version"] = SCHEMA_VERSION
        if self.bank.storage is None:
            document["bank"].pop("storage", None)
        if self.explanation is None:
            del document["optional_outputs"]
        if self.canary is not None:
            document["canary"]["version"] = PROBES_VERSION
        try:
            text = json.dumps(
                document, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
            )
        except ValueError as error:
            raise FoldcamError(f"The foldcam metadata cannot be written: {error}.") from None
        text = _SURROGATE.sub(lambda match: f"\\u{ord(match.group()):04x}", text)
        check_size(text, len(self.labels), "The model to be written")
        return text


def check_size(text: str, runs: int, where: str) -> None:
    """Refuse a document that would take too long to read.

    Args:
        text: the document.
        runs: how many labels it is known to have.
        where: the file, for the message.

    Raises:
        FoldcamError: it is too large.
    """
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_METADATA_BYTES:
        raise FoldcamError(
            f"{where}: its foldcam metadata is {size >> 20} MiB, more than the "
            f"{MAX_METADATA_BYTES >> 20} MiB allowed: use fewer or shorter labels."
        )
    # Counted in the text, because parsing a hostile one takes the time that this saves.
    if runs > MAX_LABEL_RUNS or sum(map(text.count, ",:[{")) > _MAX_VALUES:
        raise FoldcamError(
            f"{where}: its foldcam metadata has more than {MAX_LABEL_RUNS} labels, or as many "
            "other values: use fewer labels."
        )


def _plain(value: object) -> object:
    """NumPy's numbers and texts as those of Python, which they inherit from."""
    for kind in (float, str):
        if isinstance(value, kind):
            return kind(value)
    raise TypeError(f"{type(value).__name__} is no value of JSON")
