"""Grafting the heatmaps: grad-weights and feature map -> maps in [0, 1]."""

from __future__ import annotations

import numpy as np

from foldcam.export.onnx_graphs.embedding_model import FEATURE_MAP
from foldcam.export.onnx_graphs.writing import PREFIX, Graft
from foldcam.runtime.contract.schema import HEATMAP, HEATMAP_LOWER

# Below this an image's greatest heat counts as zero.
_TINY_HEAT = 1e-20


def graft_heatmap(
    graft: Graft,
    grad_weights: str,
    feature_map: tuple[int, int, int],
    heatmap_size: tuple[int, int],
) -> None:
    """`heatmap`: what is positive in `a . A`, over its maximum.

    Args:
        graft: adds nodes to the network's graph.
        grad_weights: name of `a`, `float32 [N, 1, K]`.
        feature_map: `(K, h, w)`.
        heatmap_size: `(height, width)` of the output.
    """
    signed = _signed_heat(graft, grad_weights, feature_map)
    heat = graft.node("Relu", [signed], PREFIX + "heat")
    safe = _safe_maximum(graft, heat)
    scaled = graft.node("Div", [heat, safe], PREFIX + "scaled_heat")
    _output_map(graft, scaled, HEATMAP, feature_map, heatmap_size)


def graft_two_heatmaps(
    graft: Graft,
    grad_weights: str,
    feature_map: tuple[int, int, int],
    heatmap_size: tuple[int, int],
) -> None:
    """`heatmap` and `heatmap_lower`: both signs of `a . A`, over its greatest magnitude.

    Args: as `graft_heatmap`.
    """
    signed = _signed_heat(graft, grad_weights, feature_map)
    magnitude = graft.node("Abs", [signed], PREFIX + "magnitude")
    safe = _safe_maximum(graft, magnitude)
    scaled = graft.node("Div", [signed, safe], PREFIX + "scaled_heat")
    raising = graft.node("Relu", [scaled], PREFIX + "raising")
    negative = graft.node("Neg", [scaled], PREFIX + "negative_heat")
    lowering = graft.node("Relu", [negative], PREFIX + "lowering")
    _output_map(graft, raising, HEATMAP, feature_map, heatmap_size)
    _output_map(graft, lowering, HEATMAP_LOWER, feature_map, heatmap_size)


def _signed_heat(graft: Graft, grad_weights: str, feature_map: tuple[int, int, int]) -> str:
    """`a . A`, `float32 [N, 1, h * w]`."""
    channels, height, width = feature_map
    flat = graft.constant("flat_map", [-1, channels, height * width], np.int64)
    positions = graft.node("Reshape", [FEATURE_MAP, flat], PREFIX + "positions")
    return graft.node("MatMul", [grad_weights, positions], PREFIX + "signed_heat")


def _safe_maximum(graft: Graft, heat: str) -> str:
    """Greatest heat per image. Without heat anywhere zero is divided by something above zero."""
    greatest = graft.reduce("ReduceMax", heat, 2, PREFIX + "greatest_heat")
    tiny = graft.constant("tiny_heat", _TINY_HEAT, np.float32)
    return graft.node("Max", [greatest, tiny], PREFIX + "safe_heat")


def _output_map(
    graft: Graft,
    flat: str,
    output: str,
    feature_map: tuple[int, int, int],
    heatmap_size: tuple[int, int],
) -> None:
    """`[N, 1, h * w]` -> the output `[N, 1, height, width]`, resized where it must be."""
    _, height, width = feature_map
    shape = graft.constant(f"{output}_shape", [-1, 1, height, width], np.int64)
    native = heatmap_size == (height, width)
    name = output if native else f"{PREFIX}native_{output}"
    graft.node("Reshape", [flat, shape], name)
    if native:
        return
    pairs = zip(heatmap_size, (height, width), strict=True)
    scales = [1.0, 1.0, *(resize_scale(wanted, size) for wanted, size in pairs)]
    graft.node(
        "Resize",
        [name, "", graft.constant(f"{output}_scales", scales, np.float32)],
        output,
        mode="linear",
        coordinate_transformation_mode="half_pixel",
    )


def resize_scale(wanted: int, size: int) -> float:
    """A float32 scale for Resize, whose output size is `floor(size * scale)`."""
    scale: np.float32 = np.float32(wanted / size)
    # Some readers multiply in float32, others in float64.
    while min(float(np.float32(size) * scale), size * float(scale)) < wanted:
        scale = np.nextafter(scale, np.float32(np.inf))
    return float(scale)
