"""`foldcam bench int8` as one call: train, export, quantize in several ways, judge, time."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from foldcam.benchmarks.evaluation import markdown
from foldcam.benchmarks.evaluation.documents import Progress, write_json
from foldcam.benchmarks.studies.int8.subjects import (
    SUBJECTS,
    Prepared,
    Subject,
    prepare,
    quantize_naively,
)
from foldcam.calibrate.calibrator import CalibrationOptions, calibrate, compare_speed
from foldcam.calibrate.quality import Gate
from foldcam.calibrate.report import roundings
from foldcam.calibrate.selection import read_pictures, select
from foldcam.calibrate.source import read_source
from foldcam.calibrate.statistics import Store, key_of, tools
from foldcam.export.grafting.versions import tool_versions
from foldcam.export.onnx_graphs.message import load_message
from foldcam.export.verification.check.checker import check_model
from foldcam.export.verification.check.targets import TARGETS
from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.measurement.comparison.self_test import clouds
from foldcam.runtime.measurement.comparison.verdict import failures_of
from foldcam.runtime.system.files import atomic_path, sha256_of_file
from foldcam.runtime.system.strict_json import finite
from foldcam.runtime.system.text import aligned

RESULT = "int8.json"
_NAIVE, _CPU, _TENSORRT = "naive", "cpu", "tensorrt"
# Opset 18 is for JetPack 6.1 and later.
_SINCE = (10, 3)


@dataclass(frozen=True)
class Int8Options:
    """What is measured."""

    subjects: tuple[Subject, ...] = SUBJECTS  # networks and data
    # count, choice_count, gate_count, seed: as `calibrate.calibrator.CalibrationOptions`
    count: int = 128
    choice_count: int = 128
    gate_count: int = 256
    seed: int = 0
    rounds: int = 60  # timed runs of each model


def run_int8(root: Path, out: Path, options: Int8Options, progress: Progress) -> dict[str, Any]:
    """Quantize every subject naively and with foldcam, and write what it cost.

    Networks, models and figures of each subject are kept in `out`, from which a later call
    goes on; the times are measured again each time, at the end.

    Args:
        out: folder of results: `int8.json`, and one folder per subject.
    """
    rows = []
    for subject in options.subjects:
        folder = out / subject.slug
        folder.mkdir(parents=True, exist_ok=True)
        prepared = prepare(subject, root, folder, progress)
        rows.append(_row(prepared, folder, options, progress))
    for done, row in enumerate(rows):
        progress("timing", done, len(rows))
        row["speed"] = _timed(out / row["folder"], options.rounds)
    progress("timing", len(rows), len(rows))
    document = {
        "subjects": rows,
        "images": {
            name: getattr(options, name) for name in ("count", "choice_count", "gate_count")
        },
        "rounds": options.rounds,
        "versions": {**tool_versions(), **tools()},
    }
    write_json(out / RESULT, finite(document))
    return document


def _row(
    prepared: Prepared, folder: Path, options: Int8Options, progress: Progress
) -> dict[str, Any]:
    settings = {name: value for name, value in asdict(options).items() if name != "subjects"}
    key = key_of(
        model=sha256_of_file(prepared.model), settings={**settings, "rounds": 0}, tools=tools()
    )
    kept = _kept(folder / "row.json", key)
    if kept is not None:
        return kept
    subject = prepared.subject

    def report(stage: str, done: int, total: int) -> None:
        progress(f"{subject.slug}: {stage}", done, total)

    def calibrated(name: str, **changes: Any) -> dict[str, Any]:
        chosen = replace(_calibration(options), **changes)
        return _calibrated(prepared, folder, name, chosen, report)

    tensorrt = calibrated(_TENSORRT)
    row: dict[str, Any] = {
        "network": subject.network,
        "weights": "ImageNet" if subject.pretrained else "front ImageNet, body random",
        "data": subject.data,
        "folder": folder.name,
        "input": _input(prepared.model),
        "float_bytes": prepared.model.stat().st_size,
        _NAIVE: _naive(prepared, folder, options),
        _TENSORRT: tensorrt,
        _CPU: calibrated(_CPU, target=_CPU),
        # Convolutions that are all quantized leave nothing that could be float16.
        "float16": calibrated("float16", float_type="fp16")
        if subject.network == "ViT" or tensorrt["kept"]
        else None,
    }
    write_json(folder / "row.json", {"key": key, "row": finite(row)})
    return row


def _calibration(options: Int8Options) -> CalibrationOptions:
    return CalibrationOptions(
        count=options.count,
        choice_count=options.choice_count,
        gate_count=options.gate_count,
        seed=options.seed,
    )


def _calibrated(
    prepared: Prepared,
    folder: Path,
    name: str,
    options: CalibrationOptions,
    progress: Progress,
) -> dict[str, Any]:
    """One calibration as `foldcam calibrate` does it, and what it came to."""
    store = Store(folder / "calibration")
    outcome = calibrate(
        prepared.model,
        prepared.images,
        options,
        store=store,
        progress=lambda stage, done, of: progress(f"{name}, {stage}", done, of),
    )
    path = folder / f"{name}.onnx"
    _save(outcome.model, path)
    report = outcome.report
    document = {
        "figures": outcome.figures.document(),
        # Speed, which is timed apart, is not among them.
        "failures": report["gate"]["failures"],
        "kept": report["kept_float"],
        "quantized": report["quantized_layers"],
        "bytes": path.stat().st_size,
        "ladder": report["ladder"],
        "damage": report["damage"],
        "images": {
            name: report[name] for name in ("calibration_images", "choice_images", "gate_images")
        },
        "float16_steps": report["float16_steps"],
        "methods": _counted(report["activations"]),
    }
    if options.target == _TENSORRT:
        document |= _accepted(path)
    return document


def _naive(prepared: Prepared, folder: Path, options: Int8Options) -> dict[str, Any]:
    model, contract = read_source(prepared.model)
    parts = select(
        prepared.images, options.count, options.choice_count, options.gate_count, options.seed,
        continuous=contract.outcome is not None,
    )  # fmt: skip
    pictures = read_pictures(parts.calibration, contract.preprocessing)
    judges = read_pictures(parts.gate, contract.preprocessing)
    naive = quantize_naively(model, contract, pictures)
    path = folder / f"{_NAIVE}.onnx"
    _save(naive, path)
    figures, _, _ = Gate(model, contract, judges).figures(naive, kernels=True)
    return {
        "figures": figures.document(),
        "failures": failures_of(figures, CalibrationOptions().limits),
        "bytes": path.stat().st_size,
        **_accepted(path),
    }


def _accepted(path: Path) -> dict[str, Any]:
    """What foldcam's checker and TensorRT-RTX's real parser and builder say of a file."""
    targets = [target for target in TARGETS if target.version >= _SINCE]
    checked = check_model(path, targets)
    error = None
    tried = importlib.util.find_spec("tensorrt_rtx") is not None
    if tried:
        from foldcam.benchmarks.studies.architectures.study import build_error

        error = build_error(path.read_bytes())
    return {
        "checked": checked.passed,
        "tensorrt_rtx": (error is None) if tried else None,
        "tensorrt_rtx_error": error,
    }


def _timed(folder: Path, rounds: int) -> dict[str, Any]:
    """Times of the float model over those of the others in ONNX Runtime, one thread."""
    contract = read_contract(folder / "model.onnx")
    names = (_NAIVE, _CPU, _TENSORRT)
    models = [load_message(folder / f"{name}.onnx") for name in names]
    # What is on the images does not change how long they take.
    images = clouds(contract.preprocessing, 8, 0)
    found = compare_speed(load_message(folder / "model.onnx"), models, contract, images, rounds)
    return {name: each.document() for name, each in zip(names, found, strict=True)}


def _counted(activations: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for each in activations:
        counts[each["method"]] = counts.get(each["method"], 0) + 1
    return dict(sorted(counts.items()))


def _input(model: Path) -> list[int]:
    recipe = read_contract(model).preprocessing
    return [recipe.width, recipe.height]


def _kept(path: Path, key: str) -> dict[str, Any] | None:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document["row"] if document.get("key") == key else None


def _save(model: onnx.ModelProto, path: Path) -> None:
    with atomic_path(path) as temporary:
        onnx.save(model, temporary)


_WAYS = (
    ("naive", "ONNX Runtime's defaults"),
    ("tensorrt", "foldcam, for TensorRT"),
    ("cpu", "foldcam, for CPUs"),
)
_HEADINGS = (
    *("network, data", "model", "recall@1, or error", "cosine mean, worst"),
    *("heatmap mean, 5 %", "layers in float", "MB", "speed on a CPU", "TensorRT-RTX", "gate"),
)
_LADDER = (
    *("network, data", "form", "layers in float", "MB", "recall@1, or error"),
    *("heatmap mean, 5 %", "chosen by"),
)


def markdown_table(document: Mapping[str, Any]) -> str:
    """Every subject in float, quantized naively, and by foldcam in both forms."""
    return markdown.table(_HEADINGS, _rows(document))


def markdown_ladder(document: Mapping[str, Any]) -> str:
    """Every candidate that was tried, and what the taken one came to where it is judged."""
    return markdown.table(_LADDER, _ladders(document))


def markdown_tried(document: Mapping[str, Any]) -> str:
    """Ways of rounding the weights, and float16."""
    head = ("network, data", "weights rounded", "steps in float16, gate")
    return markdown.table(head, _tried(document))


def setting(document: Mapping[str, Any]) -> str:
    """What was measured, in one sentence."""
    first = document["subjects"][0]["tensorrt"]["images"]
    measured = {(row["network"], row["data"]) for row in document["subjects"]}
    missing = [
        f"{subject.network} on {subject.data}"
        for subject in SUBJECTS
        if (subject.network, subject.data) not in measured
    ]
    return (
        f"On the birds {first['calibration_images']} images calibrate, {first['choice_images']} "
        f"choose, and {first['gate_images']} others judge; ONNX Runtime "
        f"{document['versions']['onnxruntime']}, one thread, {document['rounds']} interleaved runs "
        "of each model." + (f" **Not measured yet:** {', '.join(missing)}." if missing else "")
    )


def text_table(document: Mapping[str, Any]) -> str:
    """The first table for a terminal."""
    return "\n".join(aligned([_HEADINGS, *_rows(document)]))


def _rows(document: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for row in document["subjects"]:
        figures = row["tensorrt"]["figures"]
        yield (
            f"**{_name(row)}**", "float32", _answer(figures, "_reference"), "1, 1", "1, 1", "all",
            f"{row['float_bytes'] / 1e6:.1f}", "1", "builds", "",
        )  # fmt: skip
        for way, title in _WAYS:
            found = row[way]
            speed = row["speed"][way]
            yield (
                "",
                title,
                _answer(found["figures"]),
                f"{found['figures']['embedding_cosine_mean']:.4f}, "
                f"{found['figures']['embedding_cosine_worst']:.3f}",
                _heat(found["figures"]),
                str(len(found["kept"])) if "kept" in found else "none",
                f"{found['bytes'] / 1e6:.1f}",
                f"{speed['ratio']:.2f} ({speed['low']:.2f} to {speed['high']:.2f})",
                _built(found),
                "passes" if not found["failures"] else "**fails**",
            )


def _ladders(document: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for row in document["subjects"]:
        name = f"**{_name(row)}**"
        for way, form in (("tensorrt", "TensorRT"), ("cpu", "CPU")):
            found = row[way]
            for rung in found["ladder"]:
                yield (
                    name, form, str(len(rung["kept"])), f"{rung['bytes'] / 1e6:.1f}",
                    _answer(rung["figures"]), _heat(rung["figures"]),
                    "chosen" if rung["kept"] == found["kept"] else "too much lost",
                )  # fmt: skip
                name = form = ""
            yield (
                name, form, str(len(found["kept"])), f"{found['bytes'] / 1e6:.1f}",
                _answer(found["figures"]), _heat(found["figures"]),
                "**judged: " + ("passes" if not found["failures"] else "fails") + "**",
            )  # fmt: skip


def _tried(document: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for row in document["subjects"]:
        found, half = row["tensorrt"], row["float16"]
        float16 = "nothing left for it"
        if half is not None:
            gate = "passes" if not half["failures"] else "fails"
            float16 = f"{half['float16_steps']}, {gate}, {_built(half)}"
        yield (
            _name(row),
            "; ".join(f"{title} {value}" for title, value in roundings(found["damage"])),
            float16,
        )


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['network']}, {row['data']}"


def _answer(figures: Mapping[str, Any], which: str = "") -> str:
    """recall@1; of a continuous outcome the mean error as a share of the values' range."""
    recall, error = figures[f"recall{which}"], figures[f"estimate_error{which}"]
    return f"error {error:.4f}" if recall is None else f"{recall:.2%}"


def _heat(figures: Mapping[str, Any]) -> str:
    mean, low = figures["heatmap_correlation_mean"], figures["heatmap_correlation_p5"]
    return "none comparable" if mean is None else f"{mean:.4f}, {low:.4f}"


def _built(found: Mapping[str, Any]) -> str:
    if "tensorrt_rtx" not in found:
        return "-"
    return {True: "builds", False: "refused", None: "not tried"}[found["tensorrt_rtx"]]
