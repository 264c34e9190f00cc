"""Writes the tables of README and docs from stored result files, between markers.

    python -m foldcam.benchmarks.studies.tables            # rewrite what differs
    python -m foldcam.benchmarks.studies.tables --check    # exit 1 and name what differs

A marker is `<!-- table: NAME -->`, closed by `<!-- /table -->`; NAME is a key of `TABLES`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from foldcam.benchmarks.cost import latency
from foldcam.benchmarks.cost.overhead import study as overhead
from foldcam.benchmarks.evaluation import markdown
from foldcam.benchmarks.evaluation.houses import report as houses
from foldcam.benchmarks.evaluation.localization.report import markdown_differences, markdown_table
from foldcam.benchmarks.studies import (
    audit,
    bank_input,
    classifiers,
    frame,
    gate,
    gpu_proof,
    pipeline,
    voting,
    workflows,
)
from foldcam.benchmarks.studies import ray as scale_out
from foldcam.benchmarks.studies.architectures.study import RESULT as ARCHITECTURES
from foldcam.benchmarks.studies.architectures.study import markdown_table as architectures_table
from foldcam.benchmarks.studies.explanation import report as explanation
from foldcam.benchmarks.studies.int8 import study as int8
from foldcam.benchmarks.studies.peers import report as peers
from foldcam.benchmarks.studies.reliability import __main__ as reliability
from foldcam.benchmarks.studies.scale import report as scale
from foldcam.benchmarks.studies.transfer import baselines
from foldcam.runtime.system.files import atomic_path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
_BLOCK = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- /table -->)", re.DOTALL)

_GRIDS = ("grid_pointing", "grid_pointing_maps", "grid_pointing_3x3", "insertion", "deletion")
_BOXES = (
    *("pixel_ap", "max_box_acc", "max_box_acc_v2"),
    *("max_box_acc_frozen", "max_box_acc_v2_frozen", "pointing", "heat_in_box"),
)
_COST = "Cost against quality of every method"
_UNSEEN = ("grid_pointing", "grid_pointing_maps", "grid_pointing_3x3")


def _reader(place: str) -> Callable[[], dict[str, Any]]:
    """Reads a result that is always stored."""

    def read() -> dict[str, Any]:
        document: dict[str, Any] = json.loads((RESULTS / place).read_text(encoding="utf-8"))
        return document

    return read


_localization = _reader("cub/localization.json")
_audit = _reader("audit/audit.json")
_bank_input = _reader(f"bank-input/{bank_input.RESULT}")
_classifiers = _reader(f"classifiers/{classifiers.RESULT}")
_architectures = _reader(f"architectures/{ARCHITECTURES}")
_transfer = _reader("transfer/transfer.json")
_houses = _reader("houses/house-price.json")
_int8 = _reader("int8/int8.json")
_overhead = _reader("overhead/overhead.json")


def overhead_table(document: Mapping[str, Any]) -> str:
    """What banks of growing size cost, one line per size."""
    return markdown.table(overhead.HEADINGS, overhead.cells(document))


def overhead_setting(document: Mapping[str, Any]) -> str:
    """What was measured, in one sentence."""
    width, height = document["input"]
    views = document["augmentation"]["views_per_image"]
    return (
        f"{document['network']}, input {width} x {height}, D = {document['embedding_size']}, "
        f"{document['images']['train']} training photographs as {views} views of "
        f"{document['augmentation']['regions_per_view']} regions each; "
        f"{document['rounds']} interleaved runs of each graph in ONNX Runtime on one thread, "
        f"plain graph {document['plain_milliseconds']} ms."
    )


def overhead_probes(document: Mapping[str, Any]) -> str:
    """Fidelity by the lists that are searched, for the banks that are searched in lists."""
    heads = ["bank rows", "lists searched", "same row", "same label", "similarity lost"]
    lines = [
        [
            f"{int(count):,}", probes, f"{row['same_row']:.1%}", f"{row['same_label']:.1%}",
            f"{row['similarity_lost_mean']:.5f}",
        ]
        for count, rows in overhead.by_number(document["rows"])
        for probes, row in overhead.by_number(rows["probes"])
    ]  # fmt: skip
    return markdown.table(heads, lines)


def _stability() -> str:
    return markdown.table(
        ["heatmap", "spread of its cells", "spread of its heat in the box"],
        [
            [name, f"{row['map_spread']:.4f}", f"{row['heat_in_box_spread']:.4f}"]
            for name, row in _localization()["stability"].items()
        ],
    )


def _randomization() -> str:
    rows = _localization()["randomization"]
    names = list(next(iter(rows.values())))
    return markdown.table(
        ["weights shuffled", *names],
        [
            [f"{float(share):.0%}", *(f"{row[name]:.2f}" for name in names)]
            for share, row in rows.items()
        ],
    )


def _setting() -> str:
    document = _localization()
    training = document["training"]
    building = document["bank_building"]
    network = (
        f"{document['network']}, input {document['input'][0]} x {document['input'][1]}, feature "
        f"map {' x '.join(map(str, document['feature_map']))}, D = {training['embedding_size']}"
    )
    trained = (
        f"{training['loss']}, {training['epochs']} epochs, {training['views']} views, "
        f"{training['mosaics']} mosaics, seed {training['seed']}"
    )
    images = (
        f"{document['images']['train']} training and {document['images']['test']} test images of "
        f"{document['labels']} species"
    )
    ratio = f"{building['ratio']:.2f} (median of {len(building['pass_seconds'])} interleaved pairs)"
    return markdown.table(
        ["what", "value"],
        [
            ["network", network],
            ["training", trained],
            ["images", images],
            ["recall@1 on the test images", f"{document['recall_at_1']:.3f}"],
            ["bank building / one embedding pass", ratio],
            ["minutes for everything", str(document["minutes"])],
        ],
    )


def _variants() -> str:
    variants = sorted(
        _transfer()["variants"].items(), key=lambda item: item[0] != "nearest row, all channels"
    )
    return markdown.table(
        ["transfer", "grid 2x2", "minus the default"],
        [
            [
                name,
                markdown.interval(row["grid_pointing"]),
                markdown.interval(row["difference"], "+.3f"),
            ]
            for name, row in variants
        ],
    )


def _heads() -> str:
    heads = "head, recall@1, transferred, own gradient, difference, maps, by position"
    rows = [
        [
            name,
            f"{row['recall_at_1']:.3f}",
            markdown.interval(row["transferred"]),
            markdown.interval(row["aggregated_backprop"]),
            markdown.interval(row["difference"], "+.3f"),
            f"{row['map_correlation']:.3f}",
            f"{row['position_correlation']:.3f}",
        ]
        for name, row in _transfer()["heads"].items()
    ]
    return markdown.table(heads.split(", "), rows)


def _measured(
    place: str, command: str, render: Callable[[dict[str, Any]], str]
) -> Callable[[], str]:
    """A table of a result; where that is not stored yet, which command would write it."""

    def table() -> str:
        path = RESULTS / place
        if not path.is_file():
            return f"*Not measured yet: `{command}` writes `benchmarks/results/{place}`.*"
        return render(json.loads(path.read_text(encoding="utf-8")))

    return table


def _peers(render: Callable[[dict[str, Any]], str]) -> Callable[[], str]:
    return _measured("peers/peers.json", "foldcam bench peers", render)


def _scale(render: Callable[[dict[str, Any]], str]) -> Callable[[], str]:
    return _measured("scale/scale.json", "foldcam bench scale", render)


def _walk(render: Callable[[Any], str]) -> Callable[[], str]:
    return _measured(f"workflows/{workflows.RESULT}", "python tools/walk_workflows.py", render)


def _proof(render: Callable[[dict[str, Any]], str]) -> Callable[[], str]:
    return _measured("gate/proof.json", "foldcam bench gate --prove", render)


def _latency(render: Callable[[dict[str, Any]], str]) -> Callable[[], str]:
    return _measured("latency/latency.json", "foldcam bench latency", render)


def _picture(path: str, what: str) -> Callable[[dict[str, Any]], str]:
    """A plot, as `benchmarks.studies.plots` draws it from the same result."""
    return lambda _: f"![{what}]({path})"


def _pipeline(render: Callable[[dict[str, Any]], str]) -> Callable[[], str]:
    return _measured(f"pipeline/{pipeline.RESULT}", "foldcam bench pipeline", render)


def _frame(
    provider: str, render: Callable[[dict[str, Any]], str] = frame.markdown_table
) -> Callable[[], str]:
    command = f"python3 -m foldcam.benchmarks.studies.frame --provider {provider}"
    return _measured(f"frame/{provider}.json", command, render)


def _scale_out(render: Callable[[dict[str, Any]], str]) -> Callable[[], str]:
    return _measured("ray/scaling.json", "foldcam bench ray", render)


def _reliability_table(name: str) -> Callable[[], str]:
    return _measured(
        f"reliability/{name}.json",
        f"make reliability FULL=1 ONLY={name}",
        lambda document: reliability.markdown_table(name, document),
    )


TABLES: dict[str, Callable[[], str]] = {
    "readme-cub": lambda: markdown_table(
        _localization(), ("grid_pointing", "insertion", "deletion", "pixel_ap")
    ),
    "bank-input": lambda: bank_input.markdown_table(_bank_input()),
    "classifiers": lambda: classifiers.markdown_table(_classifiers()),
    "audit": lambda: audit.markdown_table(_audit()),
    "explanation": lambda: explanation.markdown_table(RESULTS),
    "cub-setting": _setting,
    "cub-grids": lambda: markdown_table(_localization(), _GRIDS),
    "cub-boxes": lambda: markdown_table(_localization(), _BOXES),
    "cub-grid-differences": lambda: markdown_differences(_localization(), _GRIDS),
    "cub-box-differences": lambda: markdown_differences(_localization(), _BOXES),
    "cub-unseen": lambda: markdown_table(_localization()["unseen"], _UNSEEN),
    "cub-stability": _stability,
    "cub-randomization": _randomization,
    "architectures": lambda: architectures_table(_architectures()),
    "transfer-variants": _variants,
    "transfer-heads": _heads,
    "transfer-summands": lambda: baselines.markdown_maps(_transfer()["summands"]["heads"]),
    "transfer-summand-differences": lambda: baselines.markdown_differences(
        _transfer()["summands"]["heads"]
    ),
    "int8": lambda: int8.markdown_table(_int8()),
    "int8-ladder": lambda: int8.markdown_ladder(_int8()),
    "int8-setting": lambda: int8.setting(_int8()),
    "int8-tried": lambda: int8.markdown_tried(_int8()),
    "overhead": lambda: overhead_table(_overhead()),
    "overhead-setting": lambda: overhead_setting(_overhead()),
    "overhead-probes": lambda: overhead_probes(_overhead()),
    "pipeline": _pipeline(pipeline.markdown_table),
    "pipeline-setting": _pipeline(pipeline.setting),
    "frame": _frame("cpu"),
    "frame-setting": _frame("cpu", frame.setting),
    "frame-gpu": _frame("cuda"),
    "scale-out": _scale_out(scale_out.markdown_table),
    "scale-out-setting": _scale_out(scale_out.setting),
    "scale-out-predicted": _scale_out(scale_out.predicted),
    **{f"reliability-{name}": _reliability_table(name) for name in reliability.NAMES},
    "peers-readme": _peers(peers.readme_table),
    "peers": _peers(peers.markdown_table),
    "peers-summary": _peers(peers.summary),
    "peers-setting": _peers(peers.setting),
    "peers-titles": _peers(peers.titles),
    "peers-notes": _peers(peers.notes),
    "peers-differences": _peers(peers.differences_table),
    "scale-setting": _scale(scale.setting),
    "scale-rows": _scale(scale.rows_table),
    "scale-where": _scale(scale.where_table),
    "scale-curves": _scale(scale.curves_table),
    "scale-exponents": _scale(scale.exponents_table),
    "scale-cameras": _scale(scale.cameras_table),
    "scale-building": _scale(scale.building_table),
    "scale-predictions": _scale(scale.predictions_table),
    "gate-proof": _proof(gate.proof_table),
    "gate-setting": _proof(gate.proof_setting),
    "gpu-steps": lambda: gpu_proof.steps_table(RESULTS / "gpu"),
    "gpu-times": lambda: gpu_proof.times_table(RESULTS / "gpu"),
    "gpu-peers": lambda: gpu_proof.peers_table(RESULTS / "gpu"),
    "workflows": _walk(workflows.walk_table),
    "workflows-setting": _walk(workflows.walk_setting),
    "voting": _measured(
        "voting/voting.json",
        "python3 -m foldcam.benchmarks.studies.voting",
        voting.markdown_table,
    ),
    "latency": _latency(latency.markdown_table),
    "latency-setting": _latency(latency.setting),
    "peers-plot-readme": _peers(_picture("docs/images/peers.png", _COST)),
    "peers-plot": _peers(_picture("images/peers.png", _COST)),
    "scale-plot": _scale(_picture("images/scale.png", "Curves of what folding costs")),
    "latency-plot": _latency(_picture("images/latency.png", "Every sample of the run")),
    "house-methods": lambda: houses.markdown_methods(_houses()),
    "house-differences": lambda: houses.markdown_differences(_houses()),
    "house-masking": lambda: houses.markdown_masking(_houses()),
    "house-mask-differences": lambda: houses.markdown_mask_differences(_houses()),
}


def rewritten(text: str) -> str:
    """A document with every marked table replaced by what the results say."""
    return _BLOCK.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}\n{found[3]}", text)


def documents() -> list[Path]:
    """The files that may hold tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def main() -> None:
    """Rewrite the documents, or check them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = []
    for path in documents():
        before = path.read_text(encoding="utf-8")
        after = rewritten(before)
        if before != after:
            stale.append(path)
            if not check:
                with atomic_path(path) as temporary:
                    temporary.write_text(after, encoding="utf-8")
    for path in stale:
        print(f"{path.relative_to(ROOT)}: {'differs from the results' if check else 'rewritten'}")
    sys.exit(1 if check and stale else 0)


if __name__ == "__main__":
    main()
