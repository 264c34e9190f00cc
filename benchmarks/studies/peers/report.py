"""The peers in a table, and in one plot of cost against quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foldcam.benchmarks.evaluation import markdown
from foldcam.benchmarks.evaluation.figure import new_figure, save_figure
from foldcam.benchmarks.studies.peers.peer import FOLDCAM, PLAIN
from foldcam.runtime.system.text import aligned

_HEADINGS = (
    "method",
    "ms ↓",
    "time / plain graph ↓",
    "grid 2x2 ↑",
    "pixel AP ↑",
    "memory MB ↓",
)
# Times the plain graph: what is slower would leave no room for the others.
_FAR = 100.0
SHORT = ("plain", "foldcam", "gradcam_full", "gradcam_map", "gradcam_head", "torch_plain")
"""What the README shows, besides the fastest Grad-CAM and the other tools."""


def markdown_table(document: Mapping[str, Any], names: Sequence[str] | None = None) -> str:
    """One line per method, the fastest first."""
    return markdown.table(_HEADINGS, _cells(document, names))


def readme_table(document: Mapping[str, Any]) -> str:
    """The methods that a reader asks for first."""
    methods = document["methods"]
    others = [name for name in methods if not name.startswith(("gradcam", "torch_plain"))]
    own = [name for name in methods if name.startswith("gradcam_torchcam")]
    own += [name for name in methods if name.startswith("gradcam_pytorch_grad_cam")]
    fastest = document["summary"].get("fastest_gradcam")
    chosen = {*others, *own, *SHORT, *([fastest] if fastest else [])}
    return markdown_table(document, [name for name in methods if name in chosen])


def text_table(document: Mapping[str, Any]) -> str:
    """The same for a terminal, with the notes."""
    lines = aligned([_HEADINGS, *_cells(document, None)])
    lines += ["", summary(document)]
    lines += [f"note: {note}" for note in document["notes"]]
    return "\n".join(lines)


def titles(document: Mapping[str, Any]) -> str:
    """What each name stands for."""
    return markdown.table(
        ["name", "what it is", "library"],
        [[name, row["title"], row["library"]] for name, row in document["methods"].items()],
    )


def notes(document: Mapping[str, Any]) -> str:
    """What was not measured, and why."""
    if not document["notes"]:
        return "Everything that the command knows was measured."
    return "\n".join(f"- {note}" for note in document["notes"])


def differences_table(document: Mapping[str, Any]) -> str:
    """foldcam minus each other on the same images, paired; bold where it excludes zero."""
    rows = []
    for name, row in document["against_foldcam"].items():
        if "same_maps_as" in document["methods"][name]:
            continue
        cells = [markdown.difference(row[metric]) for metric in ("grid_pointing", "pixel_ap")]
        rows.append([name, *cells, str(document["methods"][name]["images"])])
    return markdown.table(["foldcam minus", "grid 2x2", "pixel AP", "images"], rows)


def summary(document: Mapping[str, Any]) -> str:
    """How foldcam compares with Grad-CAM in torch, in sentences that say what came out."""
    found = document["summary"]
    if not found:
        return "No Grad-CAM in torch ran here."
    fastest, speed = found["fastest_gradcam"], found["speedup"]
    full = found["speedup_over_full"]
    beside = f" and {_times(full)} as the full backward" if full else ""
    text = (
        f"foldcam is {_times(speed)} as fast as the fastest Grad-CAM in torch ({fastest}){beside}."
    )
    versus = document["against_foldcam"].get(fastest)
    if versus:
        grid, pixels = versus["grid_pointing"], versus["pixel_ap"]
        text += (
            f" Against its maps on the same images: grid pointing {_signed(grid)}, pixel AP "
            f"{_signed(pixels)}."
        )
    return text


def setting(document: Mapping[str, Any]) -> str:
    """What was measured, on what, when, and by which command."""
    width, height = document["input"]
    device = document["device"]
    epochs = document["training_epochs"]
    trained = f" ({epochs} epochs)" if epochs else ""
    return (
        f"{document['network']}{trained}, input {width} x {height}, D = "
        f"{document['embedding_size']}, {document['images']['train']} bank rows, "
        f"{document['images']['explained']} test photographs explained; "
        f"{document['rounds']} interleaved rounds on one thread of {device['processor']}"
        f"{' (virtual machine)' if device.get('virtual') else ''}, {document['date']}, "
        f"{document['minutes']} minutes: `{document['command']}`"
    )


def plot(document: Mapping[str, Any], path: Path, source: str = "") -> None:
    """Cost against quality: both metrics over the time of one image."""
    methods = document["methods"]
    figure, axes = new_figure(1, 2, figsize=(13, 5.6), sharex=True)
    for axis, metric, title in zip(
        axes, ("grid_pointing", "pixel_ap"), ("grid pointing, 2 x 2", "pixel AP"), strict=True
    ):
        scored = [(name, row) for name, row in methods.items() if row[metric] is not None]
        limit = _FAR * methods[PLAIN]["milliseconds"]
        shown = [(name, row) for name, row in scored if row["milliseconds"] <= limit]
        far = [(name, row) for name, row in scored if row["milliseconds"] > limit]
        for name, row in shown:
            interval = row["intervals"][metric]
            error = [[row[metric] - interval["low"]], [interval["high"] - row[metric]]]
            color, size = _style(name)
            axis.errorbar(
                row["milliseconds"], row[metric], yerr=error, fmt="o", color=color,
                markersize=size, elinewidth=0.8, alpha=0.9, zorder=3 if name == FOLDCAM else 2,
            )  # fmt: skip
        _labels(axis, _groups(shown, metric))
        axis.axvline(methods[PLAIN]["milliseconds"], color="#444444", linestyle=":", linewidth=1)
        axis.annotate(
            "plain graph", (methods[PLAIN]["milliseconds"], 0.02), rotation=90, fontsize=7,
            xycoords=("data", "axes fraction"), xytext=(-9, 0), textcoords="offset points",
        )  # fmt: skip
        beyond = "\n".join(
            f"far to the right: {name}, {row['milliseconds']:,.0f} ms, {row[metric]:.2f} "
            f"({row['images']} images)"
            for name, row in far
        )
        axis.text(0.98, 0.02, beyond, transform=axis.transAxes, fontsize=7.5, ha="right")
        axis.set(xscale="log", xlabel="milliseconds per image, one thread", title=title)
        axis.margins(x=0.32, y=0.12)
        axis.grid(alpha=0.25)
    device = document["device"]["processor"]
    figure.suptitle(f"Cost against quality on {device}, {document['date']}", fontsize=10)
    save_figure(figure, path, source, 110)


def _groups(
    shown: Sequence[tuple[str, Mapping[str, Any]]], metric: str
) -> list[tuple[str, float, float]]:
    """Label, milliseconds and value; Grad-CAMs of one answer share the label of the fastest."""
    found: dict[float, tuple[str, float, float]] = {}
    for name, row in sorted(shown, key=lambda item: float(item[1]["milliseconds"])):
        value = float(row[metric])
        like = row.get("same_maps_as")
        if value not in found or (like is None and not found[value][0].startswith("gradcam")):
            found.setdefault(value, (name, float(row["milliseconds"]), value))
    return list(found.values())


def _labels(axis: Any, points: list[tuple[str, float, float]]) -> None:
    """Names beside the points, moved apart where they would lie on each other."""
    taken: list[float] = []
    low, high = axis.get_ylim()
    step = (high - low) / 26
    left, right = axis.get_xlim()
    for name, x, y in sorted(points, key=lambda point: point[2]):
        place = y
        while any(abs(place - other) < step for other in taken):
            place += step
        taken.append(place)
        # From two thirds of the (logarithmic) axis on a name would leave the panel.
        outer = x > left * (right / left) ** (2 / 3)
        axis.annotate(
            name, (x, y), xytext=(x / 1.08 if outer else x * 1.08, place), textcoords="data",
            fontsize=7.5, va="center", ha="right" if outer else "left",
            fontweight="bold" if name == FOLDCAM else "normal",
            arrowprops={"arrowstyle": "-", "lw": 0.4, "color": "#888888"},
        )  # fmt: skip


def _style(name: str) -> tuple[str, int]:
    if name == FOLDCAM:
        return "#d1495b", 12
    if name.startswith("openvino"):
        return "#2a9d8f", 7
    return ("#30638e", 7) if "gradcam" in name else ("#8d99ae", 7)


def _cells(document: Mapping[str, Any], names: Sequence[str] | None) -> list[tuple[str, ...]]:
    methods = document["methods"]
    chosen = sorted(names or methods, key=lambda name: float(methods[name]["milliseconds"]))
    return [
        (
            _named(document, name, bold=name == FOLDCAM and names is not None),
            f"{methods[name]['milliseconds']:,.1f}",
            _ratio(methods[name]),
            _metric(methods[name], "grid_pointing"),
            _metric(methods[name], "pixel_ap"),
            f"{methods[name]['peak_megabytes']:.0f}" if "peak_megabytes" in methods[name] else "",
        )
        for name in chosen
    ]


def _named(document: Mapping[str, Any], name: str, *, bold: bool) -> str:
    """The name, and how many images were scored where that is not all of them."""
    count = document["methods"][name].get("images")
    if count is not None and count < document["images"]["explained"]:
        return f"{name} ({count} images)"
    return f"**{name}**" if bold else name


def _ratio(row: Mapping[str, Any]) -> str:
    found = row["intervals"].get("ratio_to_plain")
    if found is None:
        return f"{row['ratio_to_plain']:,.0f}"
    return markdown.interval(found)


def _metric(row: Mapping[str, Any], metric: str) -> str:
    if row[metric] is None:
        return ""
    interval = row["intervals"][metric]
    return f"{row[metric]:.3f} ({interval['low']:.3f} to {interval['high']:.3f})"


def _times(interval: Mapping[str, float]) -> str:
    return f"{interval['mean']:.1f} times ({interval['low']:.1f} to {interval['high']:.1f})"


def _signed(interval: Mapping[str, float]) -> str:
    return f"{interval['mean']:+.3f} ({interval['low']:+.3f} to {interval['high']:+.3f})"
