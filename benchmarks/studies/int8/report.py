"""The tables of docs/int8.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from foldcam.benchmarks.evaluation import markdown
from foldcam.benchmarks.studies.int8.subjects import SUBJECTS
from foldcam.calibrate.report import roundings
from foldcam.runtime.system.text import aligned

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
