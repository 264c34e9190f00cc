"""What the activations of a float network look like on images, where they may be cut, and the
store in which an earlier or interrupted run left that."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import onnx

from foldcam.calibrate.graph import with_outputs
from foldcam.calibrate.session import Images, Runner
from foldcam.export.banks.arrays import load_arrays, save_arrays
from foldcam.export.grafting.versions import tool_versions
from foldcam.export.onnx_graphs.device import CPU, Device
from foldcam.runtime.contract.schema import Contract
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import atomic_path, digest_of

Progress = Callable[[str, int, int], None]

BINS = 4096
# Values of one activation that are counted per batch; ranges see all of them.
_SAMPLE = 1 << 17


@dataclass(frozen=True, eq=False)
class Activation:
    """One activation over all images.

    Attributes:
        greatest: magnitude.
        least: value.
        width: of the histogram's bins.
        histogram: `int64 [BINS]`, magnitudes from 0 on, of a regular sample of the values.
        channel_mean: `float64 [C]`; of axis 1 for maps, else of the last axis.
    """

    greatest: float
    least: float
    width: float
    histogram: npt.NDArray[np.int64]
    channel_mean: npt.NDArray[np.float64]


def gather(
    model: onnx.ModelProto,
    contract: Contract,
    tensors: Sequence[str],
    images: Images,
    progress: Progress | None = None,
    names: Sequence[str] = (),
    device: Device = CPU,
) -> dict[str, Activation]:
    """Run a float model over images and describe some of its activations.

    Args:
        model: folded, float32.
        tensors: names of float32 activations; a graph input may be among them.
        images: `uint8 [n, height, width, 3]` RGB at the input size.
        progress: called after each batch.
        names: of the images, for the message.
        device: where the model runs.
    """
    inputs = {value.name for value in model.graph.input}
    inner = [name for name in tensors if name not in inputs]
    runner = Runner(with_outputs(model, inner), contract, device=device)
    counters = {name: _Counter() for name in tensors}
    done = 0
    for part, outputs in runner.batches(images):
        for name in tensors:
            values = outputs[name] if name in outputs else contract.preprocessing.normalized(part)
            if not counters[name].add(values):
                raise FoldcamError(
                    f"The activation {name!r} holds NaN or infinity {_where(values, done, names)}, "
                    "in float32 already: take that image out of the data set if it is one of one "
                    "colour, or repair the network before quantizing it."
                )
        done += len(part)
        if progress is not None:
            progress("ranges", done, len(images))
    return {name: counter.activation() for name, counter in counters.items()}


def _where(values: npt.NDArray[Any], done: int, names: Sequence[str]) -> str:
    """On which images of a batch an activation is not finite."""
    rows = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
    here = [names[done + int(row)] for row in rows[:3] if done + int(row) < len(names)]
    return f"on {', '.join(here)}" if here else f"on the images from number {done + 1} on"


def save_statistics(path: Path, found: Mapping[str, Activation]) -> None:
    """Write statistics to an `.npz` file, whole or not at all."""
    activations = list(found.values())
    ranges = np.array([[a.greatest, a.least, a.width] for a in activations], np.float64)
    arrays = {"tensors": np.array(list(found)), "ranges": ranges}
    arrays["histograms"] = np.stack([activation.histogram for activation in activations])
    for place, activation in enumerate(activations):
        arrays[f"mean{place}"] = activation.channel_mean
    save_arrays(path, arrays)


def load_statistics(path: Path) -> dict[str, Activation] | None:
    """Read what `save_statistics` wrote; None where there is none, or it cannot be read."""
    arrays = load_arrays(path)
    if arrays is None:
        return None
    try:
        ranges = arrays["ranges"]
        return {
            str(name): Activation(
                greatest=float(ranges[place, 0]),
                least=float(ranges[place, 1]),
                width=float(ranges[place, 2]),
                histogram=np.asarray(arrays["histograms"][place], np.int64),
                channel_mean=np.asarray(arrays[f"mean{place}"], np.float64),
            )
            for place, name in enumerate(arrays["tensors"])
        }
    except (KeyError, IndexError):
        return None


class _Counter:
    """Adds batches up; the histogram's range doubles when a value leaves it."""

    def __init__(self) -> None:
        self._greatest = 0.0
        self._least = np.inf
        self._range = 0.0
        self._counts = np.zeros(BINS, np.int64)
        self._sum: npt.NDArray[np.float64] | None = None
        self._per_channel = 0

    def add(self, values: npt.NDArray[np.float32]) -> bool:
        """Count a batch; False, and nothing counted, where a value of it is not finite."""
        # Both are NaN if a value is. Exporters leave slices of nothing in a graph.
        least, most = float(values.min(initial=np.inf)), float(values.max(initial=-np.inf))
        if values.size and not np.isfinite(most - least):
            return False
        greatest = max(most, -least, 0.0)
        self._greatest = max(self._greatest, greatest)
        self._least = min(self._least, least)
        axis = 1 if values.ndim > 3 else values.ndim - 1
        others = tuple(place for place in range(values.ndim) if place != axis)
        total = values.sum(axis=others, dtype=np.float64)
        self._sum = total if self._sum is None else self._sum + total
        self._per_channel += values.size // max(1, values.shape[axis])
        if greatest == 0:
            return True
        if self._range == 0:
            self._range = greatest
        while self._range < greatest:
            self._range *= 2
            self._counts = np.concatenate(
                [self._counts.reshape(-1, 2).sum(axis=1), np.zeros(BINS // 2, np.int64)]
            )
        # An odd step meets every channel and column, one after the other.
        step = max(1, values.size // _SAMPLE) | 1
        magnitudes = np.abs(values.reshape(-1)[::step].astype(np.float64))
        bins = np.minimum((magnitudes * (BINS / self._range)).astype(np.int64), BINS - 1)
        self._counts += np.bincount(bins, minlength=BINS)
        return True

    def activation(self) -> Activation:
        assert self._sum is not None
        return Activation(
            self._greatest,
            self._least,
            self._range / BINS,
            self._counts,
            self._sum / max(1, self._per_channel),
        )


Method = Literal["minmax", "percentile", "entropy", "mse"]
METHODS: tuple[Method, ...] = get_args(Method)

PERCENTILE = 99.99
_CANDIDATES = 128
_ENTROPY_LEVELS = 128


def threshold_of(activation: Activation, method: Method, levels: int = 127) -> float:
    """The greatest magnitude that is kept.

    Args:
        method: `minmax` cuts nothing; `percentile` the 0.01 % greatest; `entropy` where the
            Kullback-Leibler divergence between the values and their levels is least (S.
            Migacz, "8-bit Inference with TensorRT", 2017); `mse` where their mean squared
            error is least.
    """
    if method == "minmax":
        return activation.greatest
    if method == "percentile":
        return _percentile(activation)
    return _entropy(activation) if method == "entropy" else _least_squares(activation, levels)


def thresholds_of(activation: Activation, levels: int = 127) -> dict[Method, float]:
    """All four; an activation that is always zero has one of 1."""
    if activation.greatest == 0:
        return dict.fromkeys(METHODS, 1.0)
    return {method: threshold_of(activation, method, levels) for method in METHODS}


def clipped_share(activation: Activation, threshold: float) -> float:
    """The share of values beyond a threshold, in [0, 1]."""
    first = int(np.ceil(threshold / activation.width)) if activation.width else BINS
    counts = activation.histogram
    return float(counts[first:].sum() / max(1, counts.sum()))


def _percentile(activation: Activation) -> float:
    share = np.cumsum(activation.histogram) / activation.histogram.sum()
    bin_ = int(np.searchsorted(share, PERCENTILE / 100))
    return float(min(activation.greatest, (bin_ + 1) * activation.width))


def _least_squares(activation: Activation, levels: int) -> float:
    counts = activation.histogram
    values = (np.arange(BINS) + 0.5) * activation.width
    candidates = activation.greatest * np.arange(1, _CANDIDATES + 1) / _CANDIDATES
    errors = []
    for threshold in candidates:
        scale = threshold / levels
        rounded = np.minimum(np.rint(values / scale), levels) * scale
        errors.append(float((counts * (values - rounded) ** 2).sum()))
    # Of equal errors the widest range.
    best = len(errors) - 1 - int(np.argmin(errors[::-1]))
    return float(candidates[best])


def _entropy(activation: Activation) -> float:
    counts = activation.histogram.astype(np.float64)
    # Zeros, of which a ReLU makes many, are exact at every scale.
    counts[0] = 0
    used = max(_ENTROPY_LEVELS, int(np.ceil(activation.greatest / activation.width)))
    used = min(used, BINS)
    edges = np.unique(np.linspace(_ENTROPY_LEVELS, used, _CANDIDATES).astype(np.int64))
    divergences = [_divergence(counts[:used], int(edge)) for edge in edges]
    best = len(divergences) - 1 - int(np.argmin(divergences[::-1]))
    return float(min(activation.greatest, edges[best] * activation.width))


def _divergence(counts: npt.NDArray[np.float64], edge: int) -> float:
    inside = counts[:edge]
    reference = inside.copy()
    reference[-1] += counts[edge:].sum()
    if reference.sum() == 0 or inside.sum() == 0:
        return np.inf
    group = np.arange(edge) * _ENTROPY_LEVELS // edge
    filled = inside > 0
    totals = np.bincount(group, inside, _ENTROPY_LEVELS)
    places = np.bincount(group, filled, _ENTROPY_LEVELS)
    spread = np.where(filled, totals[group] / np.maximum(places[group], 1), 0.0)
    p = reference / reference.sum()
    # A level that the values lack is not impossible, only unlikely.
    q = np.maximum(spread / spread.sum(), 1e-9)
    there = p > 0
    return float((p[there] * np.log(p[there] / q[there])).sum())


_TOOLS = ("foldcam", "numpy", "onnx", "onnxruntime")


def key_of(**parts: Any) -> str:
    """Hexadecimal SHA-256 of values that JSON can hold, by their names."""
    return digest_of(parts)


def tools() -> dict[str, str]:
    """Versions of what computes a calibration."""
    import onnxruntime

    versions = {**tool_versions(), "onnxruntime": str(onnxruntime.__version__)}
    return {name: versions[name] for name in _TOOLS if name in versions}


@dataclass(frozen=True)
class Store:
    """A folder of results; never asked by a file's name, only by key.

    Args:
        folder: made when the first result is kept; None keeps nothing.
    """

    folder: Path | None

    def statistics(self, key: str) -> dict[str, Activation] | None:
        """Kept statistics; None where there are none."""
        return None if self.folder is None else load_statistics(self.folder / f"{key}.npz")

    def keep_statistics(self, key: str, found: Mapping[str, Activation]) -> None:
        """Keep them."""
        if self.folder is not None:
            save_statistics(self.folder / f"{key}.npz", found)

    def arrays(self, key: str) -> dict[str, npt.NDArray[Any]] | None:
        """Kept arrays by name; None where there are none."""
        return None if self.folder is None else load_arrays(self.folder / f"{key}.npz")

    def keep_arrays(self, key: str, found: Mapping[str, npt.NDArray[Any]]) -> None:
        """Keep them."""
        if self.folder is not None:
            save_arrays(self.folder / f"{key}.npz", found)

    def json(self, key: str) -> Any:
        """A kept document; None where there is none, or half of one."""
        if self.folder is None:
            return None
        try:
            return json.loads((self.folder / f"{key}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def keep_json(self, key: str, document: Any) -> None:
        """Keep it."""
        if self.folder is not None:
            with atomic_path(self.folder / f"{key}.json") as temporary:
                temporary.write_text(json.dumps(document), encoding="utf-8")
