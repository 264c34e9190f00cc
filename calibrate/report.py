"""The evidence beside an INT8 model: one JSON document and one page to read."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from foldcam.calibrate.calibrator import Outcome
from foldcam.calibrate.ladder import Rung
from foldcam.calibrate.quality import Gate
from foldcam.export.verification.comparison import ImagePair
from foldcam.export.verification.picture import picture_of
from foldcam.runtime.measurement.comparison.figures import compared_text
from foldcam.runtime.system.files import atomic_path
from foldcam.runtime.system.strict_json import finite

_WORST = 4
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse}td,th{padding:.2rem .8rem;border-bottom:1px solid #ddd;"
    "text-align:right}td:first-child,th:first-child{text-align:left}img{max-width:100%}"
)


def document(outcome: Outcome) -> dict[str, Any]:
    """Everything that was found.

    Returns:
        `report`, which equal inputs repeat to the byte and whose hash, `report_sha256`, is in
        the model's metadata; beside it what differs from run to run (`speed`) and the verdict.
    """
    calibration = outcome.contract.calibration
    assert calibration is not None
    return {
        "passed": outcome.passed,
        "failures": list(outcome.failures),
        "speed": None if outcome.speed is None else outcome.speed.document(),
        "ladder_speeds": [speed.ratio for speed in outcome.speeds],
        "report_sha256": calibration.report_sha256,
        "report": outcome.report,
    }


def write_json(path: Path, outcome: Outcome) -> None:
    """Write the document, whole or not at all."""
    text = json.dumps(finite(document(outcome)), indent=1) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_page(path: Path, outcome: Outcome, name: str) -> None:
    """Write one HTML page, which needs no other file.

    Args:
        outcome: what is reported.
    """
    verdict = "passed" if outcome.passed else "FAILED: " + "; ".join(outcome.failures)
    rows = "".join(
        f"<tr><td>{html.escape(what)}</td><td>{html.escape(value)}</td></tr>"
        for what, value in figure_lines(outcome)
    )
    ladder = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>"
        for line in ladder_lines(outcome)
    )
    head = "".join(f"<th>{title}</th>" for title in LADDER_HEAD)
    picture = base64.b64encode(_png(worst_images(outcome, name))).decode()
    kept = ", ".join(outcome.chosen.kept) or "none"
    text = (
        f"<!doctype html><meta charset=utf-8><title>{html.escape(name)}</title>"
        f"<style>{_STYLE}</style><h1>{html.escape(name)}</h1>"
        f"<p><b>{html.escape(verdict)}</b></p><table>{rows}</table>"
        f"<h2>Layers kept in float</h2><p>{html.escape(kept)}</p>"
        f"<p>{html.escape(ladder_note(outcome))}</p>"
        f"<table><tr>{head}</tr>{ladder}</table>"
        "<h2>The worst images</h2><p>Image, float model, INT8 model, difference.</p>"
        f'<img alt="worst images" src="data:image/png;base64,{picture}">\n'
    )
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def figure_lines(outcome: Outcome) -> list[tuple[str, str]]:
    """What is measured and its value, for printing."""
    figures = outcome.figures
    lines = [
        ("images", f"{figures.images}, on which nothing was calibrated or chosen"),
        ("embedding cosine", f"{figures.embedding_cosine_mean:.5f} mean, "
                             f"{figures.embedding_cosine_worst:.5f} worst"),
        ("same neighbor", f"{figures.neighbor_agreement:.1%}"),
    ]  # fmt: skip
    if figures.recall is not None and figures.recall_reference is not None:
        low, high = figures.recall_lost_low or 0.0, figures.recall_lost_high or 0.0
        lines.append(
            (
                "recall@1",
                f"{figures.recall:.2%} on these images (float {figures.recall_reference:.2%}; "
                f"lost, 95 % interval: {100 * low:.1f} to {100 * high:.1f} points)",
            )
        )
    if figures.estimate_error is not None and figures.estimate_error_reference is not None:
        lines.append(("estimate's error", f"{figures.estimate_error:.4f} of the range "
                      f"(float {figures.estimate_error_reference:.4f})"))  # fmt: skip
    lines += [
        ("heatmap correlation", f"{figures.heatmap_correlation_mean:.5f} mean, "
         f"{figures.heatmap_correlation_p5:.5f} at 5%, {figures.heatmap_correlation_worst:.5f} "
         f"worst ({compared_text(figures.heatmaps_compared, figures.heatmaps_blank)})"),
        ("heat in the same places", f"{figures.heat_shared_mean:.1%} mean, "
         f"{figures.heat_shared_worst:.1%} worst"),
    ]  # fmt: skip
    if figures.contribution_correlation_mean is not None:
        lines.append(("contribution correlation",
                      f"{figures.contribution_correlation_mean:.5f} mean, "
                      f"{figures.contribution_correlation_p5:.5f} at 5%, "
                      f"{figures.contribution_correlation_worst:.5f} worst"))  # fmt: skip
    if figures.heat_in_box is not None and figures.heat_in_box_reference is not None:
        lines.append(("heat in the box", f"{figures.heat_in_box:.1%} "
                      f"(float {figures.heat_in_box_reference:.1%})"))  # fmt: skip
    clipped = [item["clipped"] for item in outcome.report["activations"]]
    lines.append(("values clipped", f"{max(clipped):.3%} of the worst activation"))
    lines += [("tried", text) for text in tried_lines(outcome.report)]
    speed = outcome.speed
    measured = "not measured; the device is not at hand"
    if speed is not None:
        measured = (
            f"{speed.ratio:.2f} times the float model's, {speed.low:.2f} to {speed.high:.2f} "
            "(ONNX Runtime, CPU, one thread)"
        )
    lines.append(("speed", measured))
    return lines


def tried_lines(report: Mapping[str, Any]) -> list[str]:
    """What was tried on the network, and whether it was kept: by the damage to the answers."""
    lines = [f"{name}: damage {value}" for name, value in roundings(report["damage"])]
    if report["settings"]["float_type"] == "fp16":
        lines.append(f"float16: {report['float16_steps']} steps")
    return lines


_ROUNDINGS = {
    "as_rounded": "weights to the nearest level",
    "gptq": "weights by GPTQ",
    "bias_corrected": "nearest level, biases corrected",
    "gptq_bias_corrected": "GPTQ, biases corrected",
}


def roundings(damage: Mapping[str, float]) -> list[tuple[str, str]]:
    """Ways of rounding the weights that were tried, with the damage of each."""
    least = min(damage, key=lambda name: damage[name])
    return [
        (title, f"{damage[name]:.5f}" + (", kept" if name == least else ""))
        for name, title in _ROUNDINGS.items()
        if name in damage
    ]


LADDER_HEAD = ("layers in float", "MB", "recall@1", "heatmap mean", "5%", "speed", "verdict")


def ladder_note(outcome: Outcome) -> str:
    """Of which images the figures of the ladder are."""
    report = outcome.report
    return (
        f"The figures of this table are of the {report['choice_images']} images to choose by, "
        "within half of the limits; those above are of the "
        f"{report['gate_images']} other images that judge, on which only the model that was taken "
        "was compared."
    )


def ladder_lines(outcome: Outcome) -> list[tuple[str, ...]]:
    """Cells under `LADDER_HEAD` of each candidate and of the float model; see `ladder_note`."""
    reference = outcome.chosen.figures.recall_reference
    speeds = [f"{speed.ratio:.2f}" for speed in outcome.speeds] or ["-"] * len(outcome.ladder)
    lines = [
        _line(rung, rung is outcome.chosen, speed)
        for rung, speed in zip(outcome.ladder, speeds, strict=True)
    ]
    lines.append(
        (
            "all (float model)",
            f"{outcome.report['float_bytes'] / 1e6:.2f}",
            "-" if reference is None else f"{reference:.2%}",
            "1",
            "1",
            "1" if outcome.speeds else "-",
            "",
        )
    )
    return lines


def worst_images(outcome: Outcome, name: str) -> list[tuple[str, ImagePair]]:
    """The images that lost most, worst first."""
    gate, quantized = outcome.gate, outcome.answers
    pairs = []
    for place in outcome.each.worst(_WORST):
        expected, got = gate.reference.heatmap[place], quantized.heatmap[place]
        pair = ImagePair(
            name=gate.pictures.samples[place].path.name,
            image=gate.pictures.resized[place],
            expected=expected,
            got=got,
            cosine=float(outcome.each.cosine[place]),
            difference=float(np.abs(got - expected).max()),
            labels=_labels(outcome, gate, place),
        )
        pairs.append((name, pair))
    return pairs


def _labels(outcome: Outcome, gate: Gate, place: int) -> tuple[str, str]:
    contract = outcome.contract
    if contract.outcome is not None:
        return "", ""
    rows = gate.reference.row[place], outcome.answers.row[place]
    return contract.label_of(int(rows[0])), contract.label_of(int(rows[1]))


def _line(rung: Rung, taken: bool, speed: str) -> tuple[str, ...]:
    figures = rung.figures
    return (
        str(len(rung.kept)),
        f"{rung.bytes / 1e6:.2f}",
        "-" if figures.recall is None else f"{figures.recall:.2%}",
        f"{figures.heatmap_correlation_mean:.4f}",
        f"{figures.heatmap_correlation_p5:.4f}",
        speed,
        ("failed" if rung.failures else "passed") + (", taken" if taken else ""),
    )


def _png(pairs: list[tuple[str, ImagePair]]) -> bytes:
    done, data = cv2.imencode(".png", picture_of(pairs)[..., ::-1])
    assert done
    return bytes(data.tobytes())
