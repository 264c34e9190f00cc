"""What is reported of known against unknown: tables, and the curves as a plot."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from foldcam.benchmarks.evaluation.documents import write_json, write_text
from foldcam.benchmarks.evaluation.figure import new_figure, save_figure
from foldcam.benchmarks.evaluation.markdown import interval, table
from foldcam.export.banks.unknown.rows import DEVICE_SCORES

# Shares of a DET curve's axes.
_TICKS = (0.01, 0.05, 0.1, 0.2, 0.5, 0.8, 0.95)
_DRAWN = 6


def write_results(out: Path, document: Mapping[str, Any]) -> None:
    """Write openset.json, openset.md and openset.png into a folder."""
    write_json(out / "openset.json", document)
    write_text(out / "openset.md", markdown(document))
    source = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    _plot(out / "openset.png", document, source)


def ordered(document: Mapping[str, Any]) -> list[str]:
    """The scores, the best by AUROC first."""
    scores = document["scores"]
    return sorted(scores, key=lambda name: -scores[name]["auroc"]["mean"])


def text_table(document: Mapping[str, Any]) -> str:
    """For a terminal."""
    accept = document["accept"]
    lines = [
        _what(document),
        "",
        f"{'score':<23} {'AUROC':>20} {f'unknown at {accept:.0%} known':>25} {'equal error':>12}",
    ]
    for name in ordered(document):
        found = document["scores"][name]
        lines.append(
            f"{name:<23} {interval(found['auroc']):>20} "
            f"{interval(found['unknown_accepted'], '.1%'):>25} {found['equal_error']:>12.1%}"
        )
    return "\n".join([*lines, "", *_reached_lines(document)])


def markdown(document: Mapping[str, Any]) -> str:
    """The tables as a page."""
    accept = document["accept"]
    lines = [
        "# Known against unknown",
        "",
        f"`{document['command']}`" if "command" in document else "",
        "",
        f"{_what(document)} Intervals: 95 %, bootstrap over images. "
        "A folded model can have a rule by the scores marked so.",
        "",
    ]
    heads = [
        "score", "AUROC", f"unknown accepted at {accept:.0%} of known",
        "less than by similarity", "equal error",
    ]  # fmt: skip
    rows = []
    for name in ordered(document):
        found = document["scores"][name]
        less = found["difference"]["unknown_accepted"]
        rows.append([
            f"{name}{' (rule)' if name in DEVICE_SCORES else ''}",
            interval(found["auroc"]),
            interval(found["unknown_accepted"], ".1%"),
            "" if less is None else interval(less, "+.1%"),
            f"{found['equal_error']:.1%}",
        ])  # fmt: skip
    lines += [
        table(heads, rows),
        "",
        "## A threshold on images that had no part in choosing it",
        "",
    ]
    lines += [f"- {line}" for line in _reached_lines(document)]
    best = document["best_on_device"]
    rows = []
    for label, found in document["scores"][best]["per_label"].items():
        shares = [found.get(f"{kind}_accepted") for kind in ("known", "unknown")]
        cells = ["" if share is None else f"{share:.1%}" for share in shares]
        rows.append([label, str(found["images"]), *cells])
    heads = ["label", "images", "accepted where known", "accepted where unknown"]
    lines += ["", f"## Per label, by `{best}`", "", table(heads, rows)]
    lines += ["", *(f"- {note}" for note in document["notes"])]
    return "\n".join(lines).rstrip() + "\n"


def _what(document: Mapping[str, Any]) -> str:
    known, unknown = document["known_images"], document["unknown_images"]
    if document["unknown_source"] == "images":
        return f"{known} known images and {unknown} unknown ones."
    trained = ", and the network trained without them" if document.get("retrained") else ""
    return (
        f"{unknown} images, each unknown once: in {document['settings']} folds its label is left "
        f"out of the bank{trained}."
    )


def _reached_lines(document: Mapping[str, Any]) -> list[str]:
    lines = []
    for name in (each for each in ordered(document) if each in DEVICE_SCORES):
        reached = document["scores"][name]["reached"]
        halves = reached["held_out_halves"]
        line = (
            f"{name}: chosen for {document['accept']:.0%} on half of the known images, it accepts "
            f"{interval(halves['known_accepted'], '.1%')} of the other half and "
            f"{interval(halves['unknown_accepted'], '.1%')} of the unknown ones"
        )
        rows = reached.get("bank_rows_left_out")
        if rows is not None:
            line += (
                f"; chosen by leaving rows of the bank out, {rows['known_accepted']:.1%} and "
                f"{rows['unknown_accepted']:.1%}"
            )
        lines.append(line + ".")
    return lines


def _plot(path: Path, document: Mapping[str, Any], source: str) -> None:
    """ROC and DET curves of the best scores, the similarity among them."""
    from scipy.stats import norm

    names = ordered(document)[:_DRAWN]
    if "similarity" not in names:
        names[-1] = "similarity"
    figure, (left, right) = new_figure(1, 2, figsize=(10, 4.6))
    for name in names:
        drawn = document["scores"][name]["curve"]
        rejected = np.asarray(drawn["false_reject"])
        accepted = np.asarray(drawn["false_accept"])
        label = f"{name} ({document['scores'][name]['auroc']['mean']:.3f})"
        left.plot(accepted, 1.0 - rejected, label=label)
        inside = [np.clip(values, 1e-3, 1.0 - 1e-3) for values in (accepted, rejected)]
        right.plot(*(norm.ppf(values) for values in inside), label=label)
    left.set(xlabel="unknown images accepted", ylabel="known images accepted", title="ROC")
    left.axhline(document["accept"], color="grey", linewidth=0.8, linestyle=":")
    left.legend(title="AUROC", fontsize=8)
    places = norm.ppf(_TICKS)
    shown = [f"{tick:.0%}" for tick in _TICKS]
    right.set_xticks(places, shown)
    right.set_yticks(places, shown)
    right.set(xlabel="unknown images accepted", ylabel="known images rejected", title="DET")
    right.axhline(norm.ppf(1.0 - document["accept"]), color="grey", linewidth=0.8, linestyle=":")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    save_figure(figure, path, source)
