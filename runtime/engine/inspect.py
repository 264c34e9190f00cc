"""What a folded model file says of itself, read without ONNX Runtime."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from foldcam.runtime.contract.explanation import (
    coarse_text,
    explanation_text,
    is_coarse,
    scores_text,
)
from foldcam.runtime.contract.gallery import gallery_beside
from foldcam.runtime.contract.onnx_file import TensorInfo, read_contract, read_header
from foldcam.runtime.contract.schema import Contract, ScoreKind
from foldcam.runtime.contract.tensors import check_tensors, describe
from foldcam.runtime.engine import ENGINE_SUFFIXES
from foldcam.runtime.engine.manifest import Manifest, manifest_path, read_manifest, tensor_record
from foldcam.runtime.engine.offer import duration_text
from foldcam.runtime.engine.options import MIB, Profile
from foldcam.runtime.engine.preflight import check_engine
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.text import number_text, printable, quantity, shorten

SHOWN_LABELS = 10
_SHOWN_LAYERS = 5


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
        `engine_report`.

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
        "inputs": [tensor_record(tensor) for tensor in header.inputs],
        "outputs": [tensor_record(tensor) for tensor in header.outputs],
        **_contract_facts(contract),
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


def _contract_facts(contract: Contract) -> dict[str, Any]:
    """What both reports say of the metadata in words; None where there is nothing to say."""
    made, bank, scores = contract.explanation, contract.bank, contract.scores
    return {
        "label_count": len({run.name for run in contract.labels}),
        "storage": None if bank.storage is None else bank.storage.sentence(),
        "explanation": None if made is None else explanation_text(made, scores),
        "coarse": coarse_text(contract) if is_coarse(contract) else None,
        "unknown_rule": None if contract.unknown is None else contract.unknown.sentence(),
    }


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


def engine_report(path: Path) -> dict[str, Any]:
    """Everything known about an engine, as JSON values.

    Returns:
        `file`, `bytes`, `manifest` (its path), `inputs`, `outputs`, what the manifest
        records, `label_count`, `storage`, `explanation`, `coarse` and `contract` as of the
        model's own file, and `problem`: why the files would be refused on any machine, or
        None.
    """
    if not path.is_file():
        raise FoldcamError(f"{path} does not exist.")
    manifest = read_manifest(path)
    try:
        check_engine(path, None)
        problem = None
    except FoldcamError as error:
        problem = str(error)
    contract = manifest.contract(str(manifest_path(path)))
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "manifest": str(manifest_path(path)),
        **manifest_record(manifest),
        **_contract_facts(contract),
        "contract": manifest.metadata,
        "problem": problem,
    }


def manifest_record(manifest: Manifest) -> dict[str, Any]:
    """A manifest without the model's metadata, as JSON values."""
    options = manifest.options
    return {
        "flavour": manifest.flavour,
        "version": manifest.version,
        "precision": manifest.precision,
        "typing": manifest.typing,
        "compute_capabilities": list(manifest.target.compute_capabilities),
        "and_later": manifest.target.and_later,
        "device": manifest.target.device,
        "platform": asdict(manifest.platform),
        "profiles": [
            {"min": each.low, "opt": each.best, "max": each.high} for each in manifest.profiles
        ],
        "workspace_mib": options.workspace and options.workspace // MIB,
        "dla_core": options.dla_core,
        "dla_fallback": list(manifest.dla_fallback),
        "build_seconds": manifest.build_seconds,
        "foldcam": manifest.foldcam,
        "model": asdict(manifest.model),
        "plan": asdict(manifest.plan),
        "inputs": [tensor_record(tensor) for tensor in manifest.inputs],
        "outputs": [tensor_record(tensor) for tensor in manifest.outputs],
    }


def engine_rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    """The engine's own lines of the printed report: a name and a value each."""
    platform, model = report["platform"], report["model"]
    where = f"{platform['system']} {platform['machine']}"
    if platform["l4t"]:
        where += f", Jetson Linux {platform['l4t']}"
    later = " and later" if report["and_later"] else ""
    title = "TensorRT-RTX" if report["flavour"] == "tensorrt_rtx" else "TensorRT"
    return [
        ("engine", f"{title} {report['version']}, {report['precision']}, {report['typing']} types"),
        ("GPU", f"compute capability {', '.join(report['compute_capabilities'])}{later}"),
        ("device", report["device"]),
        ("platform", where),
        ("batch", profiles_text([Profile(*each.values()) for each in report["profiles"]])),
        ("DLA", dla_text(report["dla_core"], report["dla_fallback"])),
        ("built from", f"{model['name']} ({model['bytes'] / 1e6:.1f} MB)"),
        ("built in", duration_text(report["build_seconds"])),
    ]


def profiles_text(profiles: list[Profile]) -> str:
    """Batch sizes to read, such as `1, 2 to 4`."""
    return ", ".join(_profile_text(profile) for profile in profiles)


def dla_text(core: int | None, fallback: list[str]) -> str:
    """The DLA core and the layers that it cannot run; empty without one."""
    if core is None:
        return ""
    if not fallback:
        return f"core {core}, every layer"
    shown = ", ".join(fallback[:_SHOWN_LAYERS])
    more = f" and {len(fallback) - _SHOWN_LAYERS} more" if len(fallback) > _SHOWN_LAYERS else ""
    return f"core {core}; on the GPU: {shown}{more}"


def _profile_text(profile: Profile) -> str:
    if profile.fixed:
        return str(profile.low)
    best = "" if profile.best == profile.high else f" (fastest at {profile.best})"
    return f"{profile.low} to {profile.high}{best}"
