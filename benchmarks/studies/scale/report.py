"""The curves of `foldcam bench scale` in tables and one plot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foldcam.benchmarks.evaluation import markdown
from foldcam.benchmarks.evaluation.figure import new_figure, save_figure

_PLAIN = "plain_milliseconds"
_COUNTS = ("exhaustive_rows", "embedding_sizes", "heatmap_sizes", "batches")


def by_number(table: Mapping[str, Any]) -> list[tuple[int, Any]]:
    """Stored results are sorted by name, and 10000 comes before 300 there."""
    return sorted((int(key), row) for key, row in table.items() if key != _PLAIN)


def rows_table(document: Mapping[str, Any]) -> str:
    """One line per bank size."""
    heads = ("bank rows", "of them real", "search", "time / plain graph ↓", "added µs ↓",
             "least µs by roofline", "MB added ↓", "storing s")  # fmt: skip
    lines = [
        (
            f"{count:,}",
            f"{row['real_rows']:,}",
            f"{row['search']}, {row['embeddings']}",
            f"{row['ratio']:.3f} ({row['low']:.3f} to {row['high']:.3f})",
            f"{row['added_microseconds']:,.0f}",
            f"{sum(row['least_microseconds'].values()):,.0f}",
            f"{row['bytes_added'] / 1e6:.1f}",
            f"{row['storing_seconds']:,.1f}",
        )
        for count, row in by_number(document["rows"])
    ]
    return markdown.table(heads, lines)


def where_table(document: Mapping[str, Any]) -> str:
    """Where the time of an image goes: the least by bytes and operations, and what is left.

    What is left is what the model does not hold: the library's dispatch of some dozen small
    operators, rows that lie apart in memory, and the noise of a difference of milliseconds.
    """
    lines = []
    for count, row in by_number(document["rows"]):
        parts = row["least_microseconds"]
        measured = row["added_microseconds"]
        lines.append(
            (
                f"{count:,}",
                *(f"{parts[name]:,.1f}" for name in ("search", "transfer", "heatmap")),
                f"{measured:,.0f}",
                f"{measured - sum(parts.values()):,.0f}",
            )
        )
    heads = ("bank rows", "search, least µs", "transfer, least µs", "heatmap, least µs",
             "measured µs", "not in the model µs")  # fmt: skip
    return markdown.table(heads, lines)


def curves_table(document: Mapping[str, Any]) -> str:
    """What else grows: the microseconds that folding adds on a bare network."""
    titles = {
        "exhaustive_rows": "bank rows, exhaustive",
        "embedding_sizes": "embedding size D",
        "heatmap_sizes": "heatmap side (0: the feature map's)",
        "batches": "images in a pass",
    }
    lines = []
    for curve in _COUNTS:
        for value, row in by_number(document[curve]):
            lines.append(
                (
                    titles[curve],
                    f"{value:,}",
                    f"{row['microseconds']:,.0f} ({row['low']:,.0f} to {row['high']:,.0f})",
                    f"{row['plain_microseconds']:,.0f}",
                    f"{row['bytes_added'] / 1e6:.2f}",
                )
            )
    heads = ("what grows", "value", "added µs (quartiles)", "plain graph µs", "MB added")
    return markdown.table(heads, lines)


def exponents_table(document: Mapping[str, Any]) -> str:
    """The fitted power laws."""
    lines = [
        (name, f"{law['exponent']:.2f}", f"{law['r2']:.3f}", str(law["points"]))
        for name, law in document["exponents"].items()
    ]
    return markdown.table(("y ~ x ^ exponent", "exponent", "R² of the logarithms", "points"), lines)


def predictions_table(document: Mapping[str, Any]) -> str:
    """The least time that a device's data sheet allows; nothing of it is measured."""
    names = list(document["data_sheets"])
    lines = [
        (
            f"{count:,}",
            *(f"{sum(row['predicted'][name].values()):,.1f}" for name in names),
        )
        for count, row in by_number(document["rows"])
    ]
    heads = (
        "bank rows",
        *(
            f"PREDICTED least µs, {name} ({document['data_sheets'][name]['memory_gigabytes']:g} "
            "GB/s)"
            for name in names
        ),
    )
    return markdown.table(heads, lines)


def cameras_table(document: Mapping[str, Any]) -> str:
    """Cameras that share one model."""
    heads = ("cameras", "frames a second, a thread each ↑", "p50 ms", "p99 ms",
             "frames a second, one pass for all ↑", "ms of that pass")  # fmt: skip
    lines = [
        (
            str(number),
            f"{row['frames_per_second']:.1f}",
            f"{row['p50']:.1f}",
            f"{row['p99']:.1f}",
            f"{row['batched_frames_per_second']:.1f}",
            f"{row['batched_p50']:.1f}",
        )
        for number, row in by_number(document["cameras"])
    ]
    return markdown.table(heads, lines)


def building_table(document: Mapping[str, Any]) -> str:
    """Bank building against one embedding pass."""
    lines = [
        (
            str(number),
            f"{row['pass_seconds']:.2f}",
            f"{row['bank_seconds']:.2f}",
            f"{row['bank_seconds'] / row['pass_seconds']:.2f}",
        )
        for number, row in by_number(document["bank_building"])
    ]
    return markdown.table(("images", "embedding pass s", "bank building s", "ratio"), lines)


def setting(document: Mapping[str, Any]) -> str:
    """What was measured, on what, when, and by which command."""
    device, roof = document["device"], document["roofline"]
    width, height = document["input"]
    return (
        f"{document['network']}, input {width} x {height}, D = {document['embedding_size']}, plain "
        f"graph {document['rows'][_PLAIN]:.2f} ms; {document['rounds']} interleaved rounds on one "
        f"thread of {device['processor']}{' (virtual machine)' if device.get('virtual') else ''}: "
        f"{roof['gigaflops']:.0f} Gflop/s, {roof['memory_gigabytes']:.1f} GB/s from memory and "
        f"{roof['cache_gigabytes']:.1f} GB/s from the cache, measured; {document['date']}, "
        f"{document['minutes']} minutes: `{document['command']}`"
    )


def text(document: Mapping[str, Any]) -> str:
    """Everything, for a terminal."""
    tables = (rows_table, where_table, curves_table, exponents_table, cameras_table, building_table)
    parts = [setting(document), *(table(document) for table in tables)]
    return "\n\n".join([*parts, predictions_table(document)])


def plot(document: Mapping[str, Any], path: Path, source: str = "") -> None:
    """Six panels of curves."""
    figure, axes = new_figure(2, 3, figsize=(14, 8))
    _plot_rows(axes[0][0], document)
    _plot_file(axes[0][1], document)
    _plot_cameras(axes[0][2], document)
    for axis, curve, title in (
        (axes[1][0], "embedding_sizes", "embedding size D"),
        (axes[1][1], "heatmap_sizes", "side of the heatmap"),
        (axes[1][2], "batches", "images in a pass"),
    ):
        points = by_number(document[curve])
        x = [value or row["heatmap_side"] for value, row in points]
        middle = [row["microseconds"] for _, row in points]
        error = [
            [row["microseconds"] - row["low"] for _, row in points],
            [row["high"] - row["microseconds"] for _, row in points],
        ]
        axis.errorbar(x, middle, yerr=error, fmt="o-", color="#d1495b", capsize=2)
        axis.set(xscale="log", xlabel=title, ylabel="µs added to a pass", ylim=(0, None))
        axis.set_xticks(x, [str(value) for value in x])
        axis.minorticks_off()
    for axis in axes.flat:
        axis.grid(alpha=0.25)
    figure.suptitle(
        f"{document['device']['processor']}, one thread, {document['date']}", fontsize=10
    )
    save_figure(figure, path, source, 100)


def _plot_rows(axis: Any, document: Mapping[str, Any]) -> None:
    points = by_number(document["rows"])
    x = [count for count, _ in points]
    axis.plot(x, [row["added_microseconds"] for _, row in points], "o-", color="#d1495b",
              label="foldcam, as exported")  # fmt: skip
    axis.plot(x, [sum(row["least_microseconds"].values()) for _, row in points], "--",
              color="#d1495b", alpha=0.6, label="least by this roofline")  # fmt: skip
    other = by_number(document["exhaustive_rows"])
    axis.plot([count for count, _ in other], [row["microseconds"] for _, row in other], "s-",
              color="#8d99ae", label="exhaustive search")  # fmt: skip
    for name, style in zip(document["data_sheets"], (":", "-."), strict=False):
        axis.plot(x, [sum(row["predicted"][name].values()) for _, row in points], style,
                  color="#2a9d8f", label=f"PREDICTED least, {name}")  # fmt: skip
    axis.set(xscale="log", yscale="log", xlabel="bank rows", ylabel="µs added to an image")
    axis.legend(fontsize=7)


def _plot_file(axis: Any, document: Mapping[str, Any]) -> None:
    points = by_number(document["rows"])
    x = [count for count, _ in points]
    axis.plot(x, [row["bytes_added"] / 1e6 for _, row in points], "o-", color="#30638e",
              label="MB added to the file")  # fmt: skip
    axis.plot(x, [row["storing_seconds"] for _, row in points], "s-", color="#edae49",
              label="seconds to store the bank")  # fmt: skip
    built = by_number(document["bank_building"])
    axis.plot([count for count, _ in built], [row["bank_seconds"] for _, row in built], "^-",
              color="#8d99ae", label="seconds to build it from so many images")  # fmt: skip
    axis.set(xscale="log", yscale="log", xlabel="bank rows, or images")
    axis.legend(fontsize=7)


def _plot_cameras(axis: Any, document: Mapping[str, Any]) -> None:
    points = by_number(document["cameras"])
    x = [number for number, _ in points]
    axis.plot(x, [row["frames_per_second"] for _, row in points], "o-", color="#d1495b",
              label="a thread each")  # fmt: skip
    axis.plot(x, [row["batched_frames_per_second"] for _, row in points], "s-", color="#30638e",
              label="one pass for all, one thread")  # fmt: skip
    axis.set(xlabel="cameras", ylabel="frames a second in all", ylim=(0, None), xticks=x)
    axis.legend(fontsize=7)
