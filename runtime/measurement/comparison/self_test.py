"""`runtime self-test`: are this GPU's answers those of the processor?

The report is made to be pasted into a bug report: everything that decides the answer
is in it, and no path of the machine.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from foldcam.runtime.backends import Array, Backend, open_backend
from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.contract.schema import (
    CONTRAST,
    CONTRIBUTION,
    EMBEDDING,
    ESTIMATE,
    HEATMAP,
    HEATMAP_LOWER,
    KNOWN_SCORE,
    NEIGHBOR,
    RUNNER_UP,
    RUNNER_UP_SIMILARITY,
    SIMILARITY,
    Contract,
)
from foldcam.runtime.contract.tensors import expected_tensors
from foldcam.runtime.engine.device import Gpu, find_gpu, find_host
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.measurement.comparison.figures import cosines, without_evidence
from foldcam.runtime.model.model_input import ModelInput
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import sha256_of_file
from foldcam.runtime.system.text import printable, shorten
from foldcam.runtime.system.version import versions

_MEASURES = {
    EMBEDDING: "1 - cosine", HEATMAP: "absolute", HEATMAP_LOWER: "absolute", SIMILARITY: "absolute",
    NEIGHBOR: "share of other rows", ESTIMATE: "relative",
    CONTRIBUTION: "share of the map's greatest", CONTRAST: "share of the map's greatest",
    RUNNER_UP: "share of other rows", RUNNER_UP_SIMILARITY: "absolute", KNOWN_SCORE: "absolute",
}  # fmt: skip
# Outputs that may differ by as much as another one.
_AS = {
    HEATMAP_LOWER: HEATMAP,
    CONTRIBUTION: HEATMAP,
    CONTRAST: HEATMAP,
    RUNNER_UP_SIMILARITY: SIMILARITY,
    # Whitening makes rounding larger in directions in which embeddings hardly differ.
    KNOWN_SCORE: HEATMAP,
}
# fp32 leaves room for TensorFloat-32, whose mantissa has the 10 bits of fp16.
_ALLOWED = {
    "fp32": {EMBEDDING: 1e-3, HEATMAP: 0.02, SIMILARITY: 2e-3, ESTIMATE: 0.01},
    "fp16": {EMBEDDING: 5e-3, HEATMAP: 0.05, SIMILARITY: 1e-2, ESTIMATE: 0.03},
    "int8": {EMBEDDING: 0.03, HEATMAP: 0.2, SIMILARITY: 0.05, ESTIMATE: 0.2},
}
_TINY = 1e-12

# model, folder for what it builds -> opened backend and its precision
Opener = Callable[[Path, Path], tuple[Backend, str]]


class AbsentError(FoldcamError):
    """A candidate's library is not installed: nothing to test, and nothing wrong."""


@dataclass(frozen=True)
class Difference:
    """One output, over all images."""

    output: str
    measure: str
    worst: float
    allowed: float

    @property
    def good(self) -> bool:
        """Whether it is within what is allowed."""
        return self.worst <= self.allowed


@dataclass(frozen=True)
class Verdict:
    """One way of running the model on the GPU."""

    name: str
    library: str
    precision: str
    differences: list[Difference]
    problem: str
    absent: bool = False

    @property
    def good(self) -> bool:
        """Whether it ran and every output is right."""
        return not self.problem and all(each.good for each in self.differences)

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        differences = [{**asdict(each), "good": each.good} for each in self.differences]
        return {**asdict(self), "good": self.good, "differences": differences}


def self_test(
    model: Path,
    find: Callable[[], Gpu | None] = find_gpu,
    candidates: dict[str, Opener] | None = None,
) -> dict[str, Any]:
    """Build an engine, run it and ONNX Runtime with CUDA, and compare both with the CPU.

    Returns:
        JSON values: `passed`, `versions`, `device`, `model`, and `verdicts`, one for each
        candidate.
    """
    contract = read_contract(model)
    gpu = find()
    if gpu is None:
        raise FoldcamError(
            "The self-test needs an NVIDIA GPU and its driver finds none here: look at "
            "`nvidia-smi` (on a Jetson: /etc/nv_tegra_release), and `runtime doctor` for the rest."
        )
    with closing(open_backend(model, "cpu")) as reference:
        verdicts = [
            _verdict(name, opener, model, reference)
            for name, opener in (candidates or CANDIDATES).items()
        ]
    present = [verdict for verdict in verdicts if not verdict.absent]
    if not present:
        reasons = "; ".join(verdict.problem.rstrip(".") for verdict in verdicts)
        raise FoldcamError(f"Nothing here can run on {gpu.name}: {reasons}.")
    bank = contract.bank
    return {
        "passed": all(verdict.good for verdict in present),
        "versions": _versions(),
        "device": {
            "name": gpu.name,
            "compute_capability": gpu.compute_capability,
            "integrated": gpu.integrated,
        },
        "model": {
            "sha256": sha256_of_file(model),
            "input": contract.input_type,
            "size": list(contract.image_size),
            "bank": [bank.rows, bank.embedding_size, bank.channels],
            "network": contract.origin.network,
        },
        "verdicts": [verdict.document() for verdict in verdicts],
    }


def self_test_text(report: dict[str, Any]) -> str:
    """The report as lines to read and to paste."""
    device, model = report["device"], report["model"]
    rows, dimensions, channels = model["bank"]
    lines = [
        f"foldcam self-test: {'PASSED' if report['passed'] else 'FAILED'}",
        f"device   {device['name']}, compute capability {device['compute_capability']}",
        "versions " + ", ".join(f"{name} {value}" for name, value in report["versions"].items()),
        f"model    {model['network']}, {model['input']} {' x '.join(map(str, model['size']))}, "
        f"bank of {rows} rows, D = {dimensions}, K = {channels}, {model['sha256'][:16]}",
    ]
    for verdict in report["verdicts"]:
        outcome = "right" if verdict["good"] else "WRONG"
        if verdict["problem"]:
            outcome = "not here" if verdict["absent"] else "DID NOT RUN"
            lines.append(f"{verdict['name']}: {outcome}: {verdict['problem']}")
            continue
        lines.append(f"{verdict['name']} ({verdict['library']}, {verdict['precision']}): {outcome}")
        wide = max([14, *(len(each["output"]) for each in verdict["differences"])])
        for each in verdict["differences"]:
            mark = " " if each["good"] else "!"
            worst = each["worst"] if math.isfinite(each["worst"]) else "not finite"
            shown = worst if isinstance(worst, str) else f"{worst:.2e}"
            lines.append(
                f" {mark} {each['output']:{wide}} worst {shown:>10}  "
                f"allowed {each['allowed']:.0e}  ({each['measure']})"
            )
    return "\n".join(printable(line) for line in lines)


def compare(
    reference: Backend, tested: Backend, precision: str, batches: tuple[int, ...] = (1, 1, 1, 3, 3)
) -> list[Difference]:
    """Run both on the same images and compare every output that the contract promises.

    The default batches take a backend with CUDA graphs through all of its ways: enqueued,
    captured, replayed, and another batch size.
    """
    contract = reference.contract
    allowed = _ALLOWED[precision]
    worst = {tensor.name: 0.0 for tensor in expected_tensors(contract)[1]}
    for number, rows in enumerate(batches):
        images = sample_images(contract, rows, number)
        expected, found = reference.run(images), tested.run(images)
        differences = _differences(
            expected, found, allowed[SIMILARITY], logits=contract.scores is not None
        )
        for name, value in differences.items():
            worst[name] = max(worst[name], value)
    return [
        Difference(name, _MEASURES[name], value, _allowed(allowed, name))
        for name, value in worst.items()
    ]


def sample_images(contract: Contract, rows: int, seed: int) -> Array:
    """Coloured clouds, see `clouds`, as the contract's `image`."""
    width, height = contract.image_size
    recipe = replace(contract.preprocessing, width=width, height=height)
    return ModelInput(contract).ready(clouds(recipe, rows, seed))


def clouds(recipe: Preprocessing, rows: int, seed: int) -> Array:
    """Coloured clouds: images that look like none in particular, yet excite every channel.

    Returns:
        `uint8 [rows, height, width, 3]` RGB.
    """
    random = np.random.default_rng(seed)
    frames = np.zeros((rows, recipe.height, recipe.width, 3))
    for cells in (2, 5, 11):
        coarse = random.random((rows, cells, cells, 3))
        y = np.arange(recipe.height) * cells // recipe.height
        x = np.arange(recipe.width) * cells // recipe.width
        frames += coarse[:, y][:, :, x]
    pixels: Array = (frames * (255 / 3)).astype(np.uint8)
    return pixels


def _differences(
    expected: dict[str, Array], found: dict[str, Array], tie: float, *, logits: bool = False
) -> dict[str, float]:
    # Logits have no scale of their own, as cosines and probabilities have.
    unit = max(1.0, float(np.abs(expected[EMBEDDING]).max())) if logits else 1.0
    near = np.abs(expected[SIMILARITY] - found[SIMILARITY]) / unit
    other = expected[NEIGHBOR] != found[NEIGHBOR]
    # Rows as similar as one another may change places, and then their heatmaps differ rightly.
    same = ~other.any(axis=1)
    result = {
        EMBEDDING: _worst(1 - cosines(expected[EMBEDDING], found[EMBEDDING])),
        SIMILARITY: _worst(near),
        NEIGHBOR: float((other & ~(near <= tie)).mean()),
    }
    for name in (HEATMAP, HEATMAP_LOWER):
        if name in expected:
            result[name] = _worst(np.abs(expected[name] - found[name])[same])
    if CONTRIBUTION in expected:
        signed = expected[CONTRIBUTION], found[CONTRIBUTION]
        result[CONTRIBUTION] = _worst(_shares_apart(*signed)[same])
        if HEATMAP_LOWER not in expected:
            # A heatmap stretches the rounding errors of a map without evidence to its full range.
            shown = same & ~(without_evidence(signed[0]) & without_evidence(signed[1]))
            result[HEATMAP] = _worst(np.abs(expected[HEATMAP] - found[HEATMAP])[shown])
    if CONTRAST in expected:
        margin = np.abs(expected[RUNNER_UP_SIMILARITY] - found[RUNNER_UP_SIMILARITY]) / unit
        changed = expected[RUNNER_UP] != found[RUNNER_UP]
        result[CONTRAST] = _worst(
            _shares_apart(expected[CONTRAST], found[CONTRAST])[same & ~changed]
        )
        result[RUNNER_UP] = float((same & changed & ~(margin <= tie)).mean())
        result[RUNNER_UP_SIMILARITY] = _worst(margin[same])
    if KNOWN_SCORE in expected:
        result[KNOWN_SCORE] = _worst(np.abs(expected[KNOWN_SCORE] - found[KNOWN_SCORE]))
    if ESTIMATE in expected:
        scale = np.maximum(np.abs(expected[ESTIMATE]), _TINY)
        result[ESTIMATE] = _worst(np.abs(expected[ESTIMATE] - found[ESTIMATE]) / scale)
    return result


def _shares_apart(expected: Array, found: Array) -> Array:
    """How far signed maps are apart, as shares of the greatest value of the expected one."""
    scale = np.maximum(np.abs(expected).max(axis=(1, 2, 3), keepdims=True), _TINY)
    apart: Array = np.abs(expected - found) / scale
    return apart


def _worst(values: Array) -> float:
    if values.size == 0:
        return 0.0
    return float(values.max()) if np.isfinite(values).all() else float("inf")


def _allowed(allowed: dict[str, float], name: str) -> float:
    if name in (NEIGHBOR, RUNNER_UP):
        return 0.0
    return allowed[_AS.get(name, name)]


def _verdict(name: str, opener: Opener, model: Path, reference: Backend) -> Verdict:
    library = precision = ""
    with tempfile.TemporaryDirectory(prefix="foldcam-") as folder:
        try:
            backend, precision = opener(model, Path(folder))
            with closing(backend):
                library = backend.name
                return Verdict(name, library, precision, compare(reference, backend, precision), "")
        except FoldcamError as error:
            # Without the folders of this machine: the text is for others to read.
            text = str(error)
            for place in (f"{folder}/", f"{model.parent}/", f"{Path.home()}/"):
                text = text.replace(place, "")
            absent = isinstance(error, AbsentError)
            return Verdict(name, library, precision, [], shorten(text, 500), absent)


def _tensorrt(model: Path, folder: Path) -> tuple[Backend, str]:
    from foldcam.runtime.backends.tensorrt.building import build_tried_engine
    from foldcam.runtime.backends.tensorrt.opening import open_engine
    from foldcam.runtime.engine.flavours import find_flavour, installed_versions
    from foldcam.runtime.engine.options import BuildOptions, Profile
    from foldcam.runtime.engine.progress import BuildLine

    if not installed_versions():
        raise AbsentError("TensorRT is not installed.")
    engine = folder / "self-test.engine"
    options = BuildOptions(profiles=(Profile(1, 1, 4),))
    # What is wrong is said here by every output, not by the probe pictures alone.
    built = build_tried_engine(
        model, engine, options, find_flavour("auto"), line=BuildLine(), accept_wrong=True
    )
    return open_engine(engine, model=model, accept_wrong=True), built.manifest.precision


def _cuda(model: Path, folder: Path) -> tuple[Backend, str]:  # noqa: ARG001
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise AbsentError("this onnxruntime has no CUDA.")
    backend = open_backend(model, "cuda", accept_wrong=True)
    return backend, getattr(backend.contract, "precision", "fp32")


CANDIDATES: dict[str, Opener] = {"tensorrt": _tensorrt, "onnxruntime-cuda": _cuda}


def _versions() -> dict[str, str]:
    host = find_host()
    found = versions(
        ("onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt_rtx_cu13", "cuda-bindings",
         "cuda-python", "pycuda", "numpy")
    )  # fmt: skip
    # JetPack's own modules have no package that pip knows.
    for name in ("tensorrt", "onnxruntime"):
        module = sys.modules.get(name)
        if module is not None:
            found.setdefault(name, str(getattr(module, "__version__", "unknown")))
    found["platform"] = f"{host.system} {host.machine}" + (f" L4T {host.l4t}" if host.l4t else "")
    return found
