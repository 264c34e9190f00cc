"""`foldcam bench gpu` as one call: parity and time of folded graphs on a GPU."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from foldcam.benchmarks.cost.gpu.gradcam import gradcam_runs
from foldcam.benchmarks.cost.gpu.sessions import BoundSession, Device, check_cuda
from foldcam.benchmarks.evaluation.documents import Progress, write_json
from foldcam.benchmarks.evaluation.graphs import plain_graph
from foldcam.benchmarks.evaluation.interleaved import Run, Timed, interleaved_runs, median_ratio
from foldcam.export.banks.bank import Bank, label_runs
from foldcam.export.grafting.fold import FoldOptions, fold
from foldcam.export.grafting.versions import tool_versions
from foldcam.export.models.trained_file import ProjectedNetwork
from foldcam.export.networks.torch_cut import TorchNetwork
from foldcam.export.onnx_graphs.precision import to_float16
from foldcam.runtime.contract.schema import Origin, Precision
from foldcam.runtime.images.preprocess import Preprocessing

RESULT = "gpu.json"
_SIZE = 128
_LABELS = 50
_WARM_UP = 20


@dataclass(frozen=True)
class GpuOptions:
    """What is measured."""

    device: Device = "cuda"  # `cuda`, or `cpu` to try the program where there is no GPU
    networks: tuple[str, ...] = ("EfficientNet-Lite0", "ResNet-50")  # of `NETWORKS`
    # sizes of the banks, of random unit vectors: what a search costs, not what it finds
    rows: tuple[int, ...] = (300, 10_000, 100_000)
    batches: tuple[int, ...] = (1, 8)  # images per pass
    precisions: tuple[Precision, ...] = ("fp32", "fp16")  # of the network
    rounds: int = 200  # timed runs of each
    size: int = 224  # of the square input in pixels
    seed: int = 0  # of images, banks and draws
    peers: bool = False  # whether Grad-CAM in torch also runs channels last and compiled


def _efficientnet() -> nn.Module:
    from foldcam.export.models.demo import pooled_features

    return pooled_features()


def _resnet() -> nn.Module:
    from transformers import ResNetConfig, ResNetModel

    class Pooled(nn.Module):
        """Image -> `[N, 2048]`."""

        def __init__(self) -> None:
            super().__init__()
            self.network = ResNetModel(ResNetConfig())

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            pooled: torch.Tensor = self.network(image).pooler_output.flatten(1)
            return pooled

    return Pooled()


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "EfficientNet-Lite0": (_efficientnet, 1280),
    "ResNet-50": (_resnet, 2048),
}
"""Builder and size of the pooled features. ResNet-50 has random weights."""


def run_gpu(out: Path, options: GpuOptions, progress: Progress) -> dict[str, Any]:
    """Parity and time on a device, for each network, batch and precision.

    Args:
        out: folder of `gpu.json`, which is written after each network and batch.

    Returns:
        The document: under `cases` for each network, precision and batch the median
        milliseconds, the ratio to the plain graph with its interval, and the greatest
        difference of each output to the CPU's.
    """
    if options.device == "cuda":
        check_cuda()
    document: dict[str, Any] = {
        "device": _device_facts(options.device),
        "settings": {key: value for key, value in vars(options).items() if key != "device"},
        "versions": tool_versions(),
        "cases": [],
    }
    total = len(options.networks) * len(options.batches)
    done = 0
    for name in options.networks:
        build, features = NETWORKS[name]
        torch.manual_seed(options.seed)
        recipe = Preprocessing(options.size, options.size)
        module = ProjectedNetwork(build(), features, _SIZE, recipe).eval()
        network = TorchNetwork(module, (options.size, options.size))
        with tempfile.TemporaryDirectory() as folder:
            graphs = _graphs(network, recipe, Path(folder), options)
            for batch in options.batches:
                progress(f"{name}, batch {batch}", done, total)
                document["cases"] += _cases(name, network, graphs, batch, options)
                write_json(out / RESULT, document)
                done += 1
    progress("done", total, total)
    return document


def _graphs(
    network: TorchNetwork, recipe: Preprocessing, folder: Path, options: GpuOptions
) -> dict[Precision, dict[str, Path]]:
    """The plain and the folded graphs, by precision and name."""
    exported = network.to_onnx()
    found: dict[Precision, dict[str, Path]] = {}
    for precision in options.precisions:
        plain = plain_graph(to_float16(exported) if precision == "fp16" else exported)
        paths = {"plain": folder / f"plain-{precision}.onnx"}
        onnx.save(plain, paths["plain"])
        for rows in options.rows:
            bank = random_bank(network, rows, options.seed)
            folded = fold(
                exported,
                bank,
                preprocessing=recipe,
                layer=network.layer,
                origin=Origin("bench", "", network.sha256(), "random", "all", ""),
                versions=tool_versions(),
                options=FoldOptions(precision=precision),
            )
            paths[f"folded_{rows}"] = folder / f"folded-{rows}-{precision}.onnx"
            onnx.save(folded, paths[f"folded_{rows}"])
        found[precision] = paths
    return found


def random_bank(network: TorchNetwork, rows: int, seed: int) -> Bank:
    """Random unit vectors of 50 labels: what a search costs, not what it finds."""
    generator = np.random.default_rng(seed)
    embeddings = generator.normal(size=(rows, network.embedding_size)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    labels = sorted(f"label {number % _LABELS:02d}" for number in range(rows))
    names, classes = np.unique(labels, return_inverse=True)
    weights = generator.normal(size=(len(names), network.feature_map_shape[0]))
    return Bank(
        embeddings=embeddings,
        grad_weights=weights.astype(np.float32),
        grad_index=classes.astype(np.int32),
        labels=label_runs(labels),
        objective="random",
        network_sha256=network.sha256(),
        summands=network.summands,
    )


def _cases(
    name: str,
    network: TorchNetwork,
    graphs: dict[Precision, dict[str, Path]],
    batch: int,
    options: GpuOptions,
) -> list[dict[str, Any]]:
    generator = np.random.default_rng(options.seed)
    shape = (batch, 3, options.size, options.size)
    images = generator.normal(size=shape).astype(np.float32)
    captures = (False, True) if options.device == "cuda" else (False,)
    cases = []
    for precision, paths in graphs.items():
        for capture in captures:
            notes: list[str] = []
            sessions = {
                key: BoundSession(path, options.device, images, capture)
                for key, path in paths.items()
            }
            runs = {key: session.run for key, session in sessions.items()}
            if precision == "fp32" and not capture:
                given = torch.from_numpy(images)
                further, notes = gradcam_runs(network, given, options.device, options.peers)
                runs.update(further)
            seconds = interleaved_runs(
                {key: _repeated(run) for key, run in runs.items()},
                options.rounds,
                options.seed,
                _WARM_UP,
            )
            cases.append(
                {
                    "network": name,
                    "batch": batch,
                    "precision": precision,
                    "cuda_graph": capture,
                    "notes": notes,
                    "milliseconds": {
                        key: round(1e3 * float(np.median(times.wall)), 4)
                        for key, times in seconds.items()
                    },
                    "ratio_to_plain": {
                        key: _ratio(times, seconds["plain"], options.seed)
                        for key, times in seconds.items()
                        if key != "plain"
                    },
                    "worst_difference_to_cpu": {
                        key: _differences(session) for key, session in sessions.items()
                    },
                    "samples_milliseconds": {
                        key: [round(1e3 * value, 4) for value in times.wall.tolist()]
                        for key, times in seconds.items()
                    },
                }
            )
    return cases


def _ratio(ours: Timed, plain: Timed, seed: int) -> dict[str, float]:
    found = median_ratio(ours.wall, plain.wall, 1000, seed)
    return {"ratio": found.mean, "low": found.low, "high": found.high}


def _repeated(run: Callable[[], None]) -> Run:
    return lambda _: run()


def _differences(session: BoundSession) -> dict[str, float]:
    session.run()
    return {
        name: float(np.abs(value.astype(np.float64) - session.expected[name]).max())
        for name, value in session.outputs().items()
    }


def _device_facts(device: Device) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "kind": device,
        "machine": platform.machine(),
        "onnxruntime": onnxruntime.__version__,
        "torch_cuda": torch.version.cuda,
    }
    if device == "cuda" and torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        facts["name"] = properties.name
        facts["compute_capability"] = f"{properties.major}.{properties.minor}"
        facts["memory_bytes"] = properties.total_memory
    return facts


def text_table(document: dict[str, Any]) -> str:
    """One block of lines per network, batch and precision."""
    device = document["device"]
    lines = [f"{device.get('name', device['kind'])}, onnxruntime {device['onnxruntime']}"]
    for case in document["cases"]:
        graph = ", CUDA graph" if case["cuda_graph"] else ""
        lines.append("")
        lines.append(f"{case['network']}, batch {case['batch']}, {case['precision']}{graph}")
        for name, milliseconds in case["milliseconds"].items():
            ratio = case["ratio_to_plain"].get(name)
            against = ""
            if ratio is not None:
                against = f"  {ratio['ratio']:6.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})"
            off = case["worst_difference_to_cpu"].get(name)
            worst = "" if off is None else f"  off the CPU by {max(off.values()):.1g}"
            lines.append(f"  {name:<32}{milliseconds:10.3f} ms{against}{worst}")
        lines += [f"  {note}" for note in case["notes"]]
    return "\n".join(lines)
