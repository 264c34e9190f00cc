"""What a folded model file says of itself, read without ONNX Runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from foldcam.runtime.contract.explanation import explanation_facts, scores_text
from foldcam.runtime.contract.gallery.gallery import gallery_beside
from foldcam.runtime.contract.onnx_file import TensorInfo, read_contract, read_header
from foldcam.runtime.contract.schema import ScoreKind
from foldcam.runtime.contract.tensors import check_tensors, describe
from foldcam.runtime.engine import ENGINE_SUFFIXES
from foldcam.runtime.engine.report import engine_report, engine_rows
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.text import number_text, printable, quantity, shorten

SHOWN_LABELS = 10


def inspect_model(path: Path | str) -> dict[str, Any]:
    """Everything known about a folded model or an engine, as JSON values.

    The file is read without ONNX Runtime, onnx and TensorRT, and nothing in it is run.

    Args:
        path: a folded `.onnx`, or an engine with its manifest beside it.

    Returns:
        `file`, `bytes`, `opset`, `producer`, `inputs`, `outputs`, `label_count` (distinct
        labels), `storage` (how a bank that is not plain rows is stored, in words, or None),
        `explanation` (what the maps are made of, in words; None in files of before there was a
        choice), `coarse` (one sentence where the feature map has few cells, or None),
        `unknown_rule` (by which an image is unknown, in words; None without one), `gallery` (the
        `file` beside the model and the `problem` that keeps it from being the model's, or None;
        None where there is none),
        `contract` (the metadata document), and `problem`: why the tensors are not those
        that the metadata promise, or None. For an engine as
        `foldcam.runtime.engine.report.engine_report`.

    Raises:
        FoldcamError: missing, not ONNX, or not folded; an engine without its manifest.

    Example:
        >>> from foldcam import inspect_model
        >>> report = inspect_model("model.onnx")
        >>> report["opset"], report["label_count"], report["problem"]
        (18, 3, None)
        >>> report["inputs"][0]["name"], report["contract"]["bank"]["rows"]
        ('image', 24)
    """
    path = Path(path)
    if path.suffix.lower() in ENGINE_SUFFIXES:
        return engine_report(path)
    contract = read_contract(path)
    beside = gallery_beside(path, contract)
    header = read_header(path)
    try:
        check_tensors(contract, header.inputs, header.outputs, str(path))
        problem = None
    except FoldcamError as error:
        problem = str(error)
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "opset": header.opset,
        "producer": header.producer,
        "inputs": [_tensor(tensor) for tensor in header.inputs],
        "outputs": [_tensor(tensor) for tensor in header.outputs],
        "label_count": len({run.name for run in contract.labels}),
        "storage": None if contract.bank.storage is None else contract.bank.storage.sentence(),
        **explanation_facts(contract),
        "unknown_rule": None if contract.unknown is None else contract.unknown.sentence(),
        "gallery": None if beside is None else {"file": str(beside[0]), "problem": beside[1]},
        "contract": json.loads(contract.to_json()),
        "problem": problem,
    }


def inspection_text(report: dict[str, Any]) -> str:
    """The report of `inspect_model` as lines to read."""
    contract = report["contract"]
    recipe, bank, origin = contract["preprocessing"], contract["bank"], contract["origin"]
    map_channels, map_height, map_width = contract["feature_map"]
    classifies = contract.get("scores") is not None
    opset = f", opset {report['opset']}" if "opset" in report else ""
    rows = [
        ("file", f"{report['file']} ({report['bytes'] / 1e6:.1f} MB{opset})"),
        *(engine_rows(report) if "flavour" in report else ()),
        *(("input", _tensor_text(tensor)) for tensor in report["inputs"]),
        *(("output", _tensor_text(tensor)) for tensor in report["outputs"]),
        (
            "preprocessing",
            f"{recipe['width']} x {recipe['height']}, {recipe['resize']}, "
            f"{recipe['color'].upper()}, mean {_numbers(recipe['mean'])}, "
            f"std {_numbers(recipe['std'])}",
        ),
        ("frames", _frame_text(contract.get("frame"))),
        ("feature map", f"{contract['layer']}: {map_channels} x {map_height} x {map_width}"),
        ("coarse", report["coarse"] or ""),
        ("maps", report["explanation"] or ""),
        ("optional", ", ".join(contract.get("optional_outputs", ()))),
        ("scores", _scores_text(contract.get("scores"))),
        ("bank", _bank_text(contract)),
        (
            "method",
            f"objective {bank['objective']}, channels {bank['channel_rule']}, "
            f"compression {bank['compression']}, transfer {contract['transfer']}, "
            f"neighbors {contract['neighbors']}, precision {contract['precision']}",
        ),
        ("quantized", _calibration_text(contract.get("calibration"))),
        ("storage", report["storage"] or ""),
        (
            "classes" if classifies else "labels",
            _labels_text(contract["labels"], report["label_count"], classes=classifies),
        ),
        ("unknown", report["unknown_rule"] or ""),
        ("probes", _probes_text(contract.get("canary"))),
        ("gallery", _gallery_text(report.get("gallery"))),
        ("outcome", _outcome_text(contract.get("outcome"))),
        ("network", f"{origin['network']} {origin['weights']}".rstrip()),
        ("data", f"{origin['data']} ({origin['split']})" if origin["split"] else origin["data"]),
        ("made with", ", ".join(f"{tool} {v}" for tool, v in contract["versions"].items())),
    ]
    if report["problem"]:
        rows.append(("PROBLEM", report["problem"]))
    return "\n".join(f"{name:14}{printable(value)}" for name, value in rows if value)


def _probes_text(canary: dict[str, Any] | None) -> str:
    # Those of a later foldcam may say something else.
    count = len((canary or {}).get("answers", ()))
    return f"{quantity(count, 'picture')} with the float model's answers" if count else ""


def _tensor(tensor: TensorInfo) -> dict[str, Any]:
    return {"name": tensor.name, "dtype": tensor.dtype, "shape": list(tensor.shape)}


def _tensor_text(tensor: dict[str, Any]) -> str:
    info = TensorInfo(tensor["name"], tensor["dtype"], tuple(tensor["shape"]))
    return f"{info.name}: {describe(info)}"


def _frame_text(frame: list[int] | None) -> str:
    if frame is None:
        return ""
    return f"taken whole, {frame[0]} x {frame[1]}; the graph preprocesses them"


def _scores_text(scores: ScoreKind | None) -> str:
    return "" if scores is None else f"embedding and similarity are {scores_text(scores)}"


def _bank_text(contract: dict[str, Any]) -> str:
    bank, given = contract["bank"], contract.get("bank_input")
    if contract.get("scores") is not None:
        return f"the classifier's last layers: {bank['rows']} classes, K = {bank['channels']}"
    if given is not None:
        return (
            f"an input of up to {given['most_rows']:,} rows, D = {bank['embedding_size']}, from "
            "the .bank file beside the model: see runtime bank list"
        )
    return (
        f"{bank['rows']} rows, D = {bank['embedding_size']}, K = {bank['channels']}, "
        f"{bank['grad_weight_rows']} distinct rows of grad-weights"
    )


def _gallery_text(gallery: dict[str, Any] | None) -> str:
    if gallery is None:
        return ""
    return gallery["problem"] or f"{gallery['file']}, which is of this bank"


def _outcome_text(outcome: dict[str, Any] | None) -> str:
    if outcome is None:
        return ""
    low, median, high = (number_text(outcome[name]) for name in ("low", "median", "high"))
    what = "values" if outcome["transform"] == "none" else "logarithms of the values"
    return f"{low} to {high}, median {median}; kernel over {what}, tau {outcome['tau']:g}"


def _calibration_text(calibration: dict[str, Any] | None) -> str:
    if calibration is None:
        return ""
    kept = calibration["kept_float"]
    return (
        f"int8 for {calibration['target']}, {quantity(kept, 'layer')} in float, "
        f"report {calibration['report_sha256'][:16]}..."
    )


def _labels_text(labels: list[list[Any]], distinct: int, *, classes: bool) -> str:
    if not labels:
        return ""
    shown = ", ".join(
        shorten(name, 40) + ("" if classes else f" ({count})")
        for name, count in labels[:SHOWN_LABELS]
    )
    more = f", and {len(labels) - SHOWN_LABELS} more" if len(labels) > SHOWN_LABELS else ""
    return f"{distinct}: {shown}{more}"


def _numbers(values: list[float]) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"
