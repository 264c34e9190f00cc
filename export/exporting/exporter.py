"""The whole export as one call: MODEL + DATA -> folded model, bank, report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

import onnx

from foldcam.export.banks.bank import BankSource, alike_notes
from foldcam.export.banks.builder import BankReport, build_bank
from foldcam.export.banks.embedding_pass import KeptPictures
from foldcam.export.banks.fitted_network import fit_head
from foldcam.export.banks.grad_weights import ChannelRule
from foldcam.export.banks.objectives.directions import DEFAULT_OBJECTIVE, Objective, parse_objective
from foldcam.export.banks.objectives.kernel import DEFAULT_KERNEL, KernelObjective, parse_kernel
from foldcam.export.banks.steps import StageProgress, stage_of
from foldcam.export.datasets import Dataset
from foldcam.export.exporting.gallery import GalleryReport, make_gallery
from foldcam.export.exporting.trials import blank_notes, coarse_notes, tried_images, wide_values
from foldcam.export.grafting.bank_input import bank_beside, with_directions
from foldcam.export.grafting.fidelity import Fidelity, measure_fidelity
from foldcam.export.grafting.fold import FoldOptions, fold
from foldcam.export.grafting.frame import frame_notes
from foldcam.export.grafting.in_graph import stored_bank_of
from foldcam.export.grafting.own import chosen_grad_weights
from foldcam.export.grafting.probes import probed
from foldcam.export.grafting.versions import tool_versions
from foldcam.export.models.spec import LoadedModel
from foldcam.export.networks.cut import Network
from foldcam.export.networks.feature_map import describe
from foldcam.export.onnx_graphs.embedding_model import OLDEST_OPSET
from foldcam.export.onnx_graphs.file import OnnxFile
from foldcam.export.onnx_graphs.message import check_file_size, weight_bytes
from foldcam.export.onnx_graphs.own_normalization import own_normalization
from foldcam.runtime.contract.gallery import stale_gallery
from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.contract.schema import Contract, GradWeightsRule, Origin
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import atomic_path, hidden_beside

HeadRule = Literal["exact", "fitted"]
HEAD_RULES: tuple[HeadRule, ...] = get_args(HeadRule)


@dataclass(frozen=True)
class ExportReport:
    """What an export did.

    Attributes:
        path: the folded model.
        contract: its contract.
        bank: how the bank came about.
        notes: what the user should know, one sentence each.
        fidelity: what storing the bank smaller cost; None where it is stored as it is.
        gallery: the gallery that was asked for, else None.
    """

    path: Path
    contract: Contract
    bank: BankReport
    notes: list[str] = field(default_factory=list)
    fidelity: Fidelity | None = None
    gallery: GalleryReport | None = None


def export_model(
    loaded: LoadedModel,
    dataset: Dataset,
    out: Path | str,
    objective: Objective | KernelObjective | None = None,
    *,
    preprocessing: Preprocessing | None = None,
    layer: str | None = None,
    head_rule: HeadRule = "exact",
    channel_rule: ChannelRule = "all",
    grad_weights: GradWeightsRule | None = None,
    options: FoldOptions | None = None,
    opset: int = 18,
    batch_size: int = 16,
    bank_out: Path | None = None,
    gallery: bool = False,
    progress: StageProgress | None = None,
) -> ExportReport:
    """Export the network, build the bank of its training images, fold, and write the model.

    The grad-weights of each training image are the gradient of `v . z` with respect to the sum of
    the summands, for the direction `v` of the objective, as docs/method.md derives from "Adapting
    Grad-CAM for Embedding Networks" (arXiv 2001.06538).

    Args:
        loaded: the network (image `float32 [N, 3, H, W]` -> embedding `[N, D]`) with its own
            preprocessing, from `load_model` or `wrap_module`.
        dataset: the training images; a kernel objective needs their values.
        out: the folded model's file, replaced only when everything succeeded.
        objective: what the directions come from; None is all triplets of their labels, or
            the kernel estimate of their values.
        preprocessing: overrides the network's own.
        layer: the feature map's name, or None to find it.
        head_rule: `exact`, or `fitted` for a head that cannot be differentiated, see
            `foldcam.export.banks.fitted_network`.
        channel_rule: `all` or `positive`.
        grad_weights: `transferred` from the nearest training image, or the image's `own`; None
            chooses by the kind of head, see `chosen_grad_weights`.
        options: how the bank is folded.
        opset: ONNX operator set.
        batch_size: images per pass.
        bank_out: where to keep the bank as well.
        gallery: whether the training images' thumbnails and maps are written beside the model.
        progress: called after each batch with `(stage, done, total)`.

    Raises:
        FoldcamError: anything about network, data or output that cannot be used.

    Example:
        >>> from foldcam import FoldOptions, export_model, load_dataset, load_model
        >>> network = load_model("my_network:make_network")
        >>> options = FoldOptions(neighbors=3)
        >>> report = export_model(network, load_dataset("photos"), "my.onnx", options=options)
        >>> report.contract.bank.rows, report.contract.neighbors
        (24, 3)
    """
    out = Path(out)
    objective = objective or default_objective(dataset)
    options = options or FoldOptions()
    refuse_file(out, opset)
    preprocessing = preprocessing or loaded.preprocessing
    # First what can fail at once, then the long pass over the images.
    with atomic_path(out) as temporary:
        size = (preprocessing.height, preprocessing.width)
        network = loaded.network(layer, size, exact=head_rule == "exact")
        model = network.to_onnx(opset)
        rule = chosen_grad_weights(network, grad_weights)
        coarse = coarse_notes(loaded, network, exact=head_rule == "exact")
        _check_size(model, network, len(dataset.samples), options)
        tried = tried_images(dataset.samples)
        kept = KeptPictures(to_the_end=tried, twice=head_rule == "fitted")
        if head_rule == "fitted":
            network = fit_head(
                network,
                preprocessing,
                dataset.samples,
                batch_size=batch_size,
                kept=kept,
                progress=stage_of(progress, "fitting the head"),
            )
        report = build_bank(
            network,
            preprocessing,
            dataset.samples,
            objective,
            channel_rule=channel_rule,
            rule=rule,
            batch_size=batch_size,
            resume_folder=hidden_beside(out, "resume"),
            kept=kept,
            progress=progress,
        )
        source = source_of(report, loaded, dataset, network, preprocessing)
        report = replace(report, bank=replace(report.bank, source=source))
        wide, half = wide_values(
            model, options.precision, preprocessing, tried, kept, loaded.device
        )

        def folding(chosen: FoldOptions) -> onnx.ModelProto:
            return fold(
                model,
                report.bank,
                preprocessing=preprocessing,
                layer=network.layer,
                origin=source.origin,
                versions=tool_versions(),
                options=chosen,
                wide=wide,
            )

        folded = probed(folding, options, model)
        onnx.save(folded, temporary)
        live = with_directions(report.bank, model, options.storage) if options.bank_input else None
        with bank_beside(temporary, out, live):
            blank = blank_notes(temporary, tried, kept)
    if bank_out is not None:
        report.bank.save(bank_out)
    notes = [
        *normalization_notes(loaded, preprocessing, model.graph),
        *coarse,
        *half,
        *blank,
        *bank_notes(network, report),
    ]
    contract = read_contract(out)
    notes += frame_notes(contract)
    fidelity = None
    if contract.bank.storage is not None:
        fidelity = measure_fidelity(report.bank, stored_bank_of(folded, contract))
    shown = None
    if gallery:
        shown = make_gallery(
            out, dataset, bank=report.bank, batch_size=batch_size,
            progress=stage_of(progress, "gallery"),
        )  # fmt: skip
        notes += shown.notes()
    else:
        notes += stale_gallery(out, contract)
    return ExportReport(out, contract, report, notes, fidelity, shown)


def refuse_file(out: Path, opset: int) -> None:
    """Refuse what no folded model can be written to or in."""
    if out.suffix != ".onnx":
        raise FoldcamError(f"--out {out}: a folded model is an .onnx file.")
    if opset < OLDEST_OPSET:
        raise FoldcamError(
            f"--opset {opset}: a folded model needs ONNX opset {OLDEST_OPSET} (TensorRT 8.6) or "
            "later; leave it out for 18."
        )


def default_objective(dataset: Dataset) -> Objective | KernelObjective:
    """All triplets for images with labels, the kernel estimate for images with values."""
    if all(sample.value is not None for sample in dataset.samples):
        return parse_kernel(DEFAULT_KERNEL)
    return parse_objective(DEFAULT_OBJECTIVE)


def source_of(
    report: BankReport,
    loaded: LoadedModel,
    dataset: Dataset,
    network: Network,
    preprocessing: Preprocessing,
) -> BankSource:
    """Where a newly built bank comes from."""
    origin = Origin(
        network=loaded.name,
        weights=loaded.weights,
        network_sha256=report.bank.network_sha256,
        data=dataset.name,
        split=dataset.split,
        data_sha256=report.data_sha256,
    )
    return BankSource(origin, network.layer, preprocessing)


def skipped_lines(report: BankReport, most: int = 10) -> Sequence[str]:
    """The skipped files, named, for the end of a command's output."""
    lines = [f"skipped {item.path}: {item.reason}" for item in report.skipped[:most]]
    if len(report.skipped) > most:
        lines.append(f"skipped {len(report.skipped) - most} more files")
    return lines


def _check_size(model: onnx.ModelProto, network: Network, rows: int, options: FoldOptions) -> None:
    """Whether the folded model can fit: embeddings of all images, one row of grad-weights."""
    network_bytes = weight_bytes(model)
    if options.precision == "fp16":
        network_bytes //= 2
    sizes = {"float32": 4, "float16": 2}
    # What is left to foldcam takes one byte per number in a large bank.
    number = sizes.get(options.storage.precision, 1)
    least = number * rows * network.embedding_size + 4 * network.feature_map_shape[0]
    check_file_size(network_bytes, least, rows)


def normalization_notes(
    loaded: LoadedModel, preprocessing: Preprocessing, graph: onnx.GraphProto | None = None
) -> list[str]:
    """What is known of how a network's images are normalised, which nobody would notice.

    Args:
        graph: the network in ONNX; None takes the file that it came from, if any.
    """
    if graph is None and isinstance(loaded.source, OnnxFile):
        graph = loaded.source.model.graph
    own = None if graph is None else own_normalization(graph)
    if own is not None:
        if own.fits(preprocessing):
            return [
                f"The network normalises its images itself ({own.text}): that is what it is given "
                f"({own.flags})."
            ]
        return [
            f"WARNING: the network normalises its images itself ({own.text}), and another "
            f"normalisation comes before it: pass {own.flags}."
        ]
    usual = Preprocessing()
    chosen = (preprocessing.mean, preprocessing.std) != (usual.mean, usual.std)
    if chosen or not isinstance(loaded.source, OnnxFile):
        return []
    return [
        "An ONNX file does not say how its images are normalised: ImageNet's mean and standard "
        "deviation in RGB were taken; if its authors say otherwise, use --mean, --std and --color."
    ]


def bank_notes(network: Network, report: BankReport) -> list[str]:
    """What the user should know about how a bank came about, one sentence each."""
    notes = [*alike_notes(report.bank), *report.remarks, *network.notes]
    if not network.head_before_normalization:
        notes.append(
            "The embedding is normalised but the place was not found: directions went through "
            "the normalisation, which weakens the heatmaps."
        )
    if network.pooled:
        notes.append(
            f"Several feature maps lead to the embedding ({describe(network.pooled)}): "
            f"{network.layer}, which all of them come from, was taken; --layer chooses another."
        )
    if report.head.positional:
        notes.append(
            "The head weights positions differently (flatten, global depthwise, attention): "
            "grad-weights average over positions and lose that."
        )
    if not report.head.linear and report.bank.rule == "transferred":
        notes.append(
            "The head is not linear: the transferred grad-weights are those of the nearest "
            "training image, which approximate the new image's own."
        )
    if report.fallback_rows:
        notes.append(
            f"{report.fallback_rows} of {report.bank.rows} rows had no gradient of their own and "
            "took the all-triplets direction."
        )
    if report.zero_rows:
        notes.append(f"{report.zero_rows} of {report.bank.rows} rows have no grad-weights at all.")
    return notes
