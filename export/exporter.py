"""The whole export as one call: MODEL + DATA -> folded model, bank, report."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from export.bank_builder import BankReport, StageProgress, build_bank
from export.datasets import Dataset
from export.fidelity import Fidelity, measure_fidelity
from export.fold import FoldOptions, fold
from export.grad_weights import ChannelRule
from export.kernel import KernelObjective
from export.model_spec import LoadedModel
from export.network import Network
from export.objectives import Objective
from export.stored_bank import stored_bank_of
from runtime.contract import Contract, Origin
from runtime.errors import FoldcamError
from runtime.files import atomic_path
from runtime.onnx_file import read_contract
from runtime.preprocess import Preprocessing

_TOOLS = ("foldcam", "torch", "onnx", "onnxscript", "numpy")


@dataclass(frozen=True)
class ExportReport:
    """What an export did.

    Attributes:
        path: the folded model.
        contract: its contract.
        bank: how the bank came about.
        notes: what the user should know, one sentence each.
        fidelity: what storing the bank smaller cost; None where it is stored as it is.
    """

    path: Path
    contract: Contract
    bank: BankReport
    notes: list[str] = field(default_factory=list)
    fidelity: Fidelity | None = None


def export_model(
    loaded: LoadedModel,
    dataset: Dataset,
    out: Path,
    objective: Objective | KernelObjective,
    *,
    preprocessing: Preprocessing | None = None,
    layer: str | None = None,
    channel_rule: ChannelRule = "all",
    options: FoldOptions | None = None,
    opset: int = 18,
    batch_size: int = 16,
    bank_out: Path | None = None,
    progress: StageProgress | None = None,
) -> ExportReport:
    """Export, build the bank, fold, and write the folded model.

    Args:
        loaded: the network with its own preprocessing.
        dataset: the training images; a kernel objective needs their values.
        out: the folded model's file, replaced only when everything succeeded.
        objective: what the directions come from.
        preprocessing: overrides the network's own.
        layer: the feature map's name, or None to find it.
        channel_rule: `all` or `positive`.
        options: how the bank is folded.
        opset: ONNX operator set.
        batch_size: images per pass.
        bank_out: where to keep the bank as well.
        progress: told after each batch.

    Raises:
        FoldcamError: anything about network, data or output that cannot be used.
    """
    if out.suffix != ".onnx":
        raise FoldcamError(f"--out {out}: a folded model is an .onnx file.")
    preprocessing = preprocessing or loaded.preprocessing
    # First what can fail at once, then the long pass over the images.
    with atomic_path(out) as temporary:
        network = loaded.network(layer, (preprocessing.height, preprocessing.width))
        model = network.to_onnx(opset)
        report = build_bank(
            network,
            preprocessing,
            dataset.samples,
            objective,
            channel_rule=channel_rule,
            batch_size=batch_size,
            resume_folder=out.with_name(f".{out.name}.resume"),
            progress=progress,
        )
        origin = Origin(
            network=loaded.name,
            weights=loaded.weights,
            network_sha256=report.bank.network_sha256,
            data=dataset.name,
            split=dataset.split,
            data_sha256=report.data_sha256,
        )
        folded = fold(
            model,
            report.bank,
            preprocessing=preprocessing,
            layer=network.layer,
            origin=origin,
            versions=tool_versions(),
            options=options,
        )
        onnx.save(folded, temporary)
    if bank_out is not None:
        report.bank.save(bank_out)
    contract = read_contract(out)
    fidelity = None
    if contract.bank.storage is not None:
        fidelity = measure_fidelity(report.bank, stored_bank_of(folded, contract))
    return ExportReport(out, contract, report, _notes(network, report), fidelity)


def tool_versions() -> dict[str, str]:
    """Versions of what takes part in an export."""
    versions = {"python": platform.python_version()}
    for tool in _TOOLS:
        try:
            versions[tool] = importlib.metadata.version(tool)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def skipped_lines(report: BankReport, most: int = 10) -> Sequence[str]:
    """The skipped files, named, for the end of a command's output."""
    lines = [f"skipped {item.path}: {item.reason}" for item in report.skipped[:most]]
    if len(report.skipped) > most:
        lines.append(f"skipped {len(report.skipped) - most} more files")
    return lines


def _notes(network: Network, report: BankReport) -> list[str]:
    notes = []
    if not network.head_before_normalization:
        notes.append(
            "The embedding is normalised but the place was not found: directions went through "
            "the normalisation, which weakens the heatmaps."
        )
    if report.head.positional:
        notes.append(
            "The head weights positions differently (flatten or global depthwise): grad-weights "
            "average over positions and lose that."
        )
    if not report.head.linear:
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
