"""Grafting the maps: grad-weights and summands -> contributions, and heatmaps in [0, 1]."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from foldcam.export.grafting.in_graph import BANK_MEAN_SUMMANDS
from foldcam.export.onnx_graphs.embedding_model import FEATURE_MAP
from foldcam.export.onnx_graphs.writing import PREFIX, Graft
from foldcam.runtime.contract.schema import CONTRAST, CONTRIBUTION, HEATMAP, HEATMAP_LOWER

# Below this an image's greatest heat counts as zero.
_TINY_HEAT = 1e-20


class MapGraft:
    """Adds maps to a graph.

    Args:
        mean: `float32 [K', h * w]`, what the summands are compared with; None for nothing.
    """

    def __init__(
        self,
        graft: Graft,
        feature_map: tuple[int, int, int],
        heatmap_size: tuple[int, int],
        mean: npt.NDArray[np.float32] | None,
    ) -> None:
        self._graft = graft
        self._grid = feature_map[1:]
        self._size = heatmap_size
        channels, height, width = feature_map
        flat = graft.constant("flat_map", [-1, channels, height * width], np.int64)
        self._positions = graft.node("Reshape", [FEATURE_MAP, flat], PREFIX + "positions")
        self._mean = None
        if mean is not None:
            self._mean = graft.constant(BANK_MEAN_SUMMANDS, mean, np.float32)

    def signed(self, grad_weights: str, name: str = "signed_heat") -> str:
        """`a . (S - mean S)`, `float32 [N, 1, h * w]`, for `a float32 [N, 1, K']`."""
        heat = self._graft.node("MatMul", [grad_weights, self._positions], PREFIX + name)
        if self._mean is None:
            return heat
        usual = self._graft.node("MatMul", [grad_weights, self._mean], f"{PREFIX}usual_{name}")
        return self._graft.node("Sub", [heat, usual], f"{PREFIX}relative_{name}")

    def in_cosines(self, signed: str, scale: str | None, norm: str, name: str) -> str:
        """A signed map in units of the cosine: times its scale, over `|z|`.

        Args:
            signed: `float32 [N, 1, h * w]`.
            scale: of its grad-weights, `float32 [N, 1, 1]`, or None for 1.
            norm: `|z|`, `float32 [N, 1]`.
        """
        shape = self._graft.constant(f"{name}_norm_shape", [-1, 1, 1], np.int64)
        norms = self._graft.node("Reshape", [norm, shape], f"{PREFIX}{name}_norm")
        if scale is None:
            return self._graft.node("Div", [signed, norms], f"{PREFIX}{name}_cosines")
        factor = self._graft.node("Div", [scale, norms], f"{PREFIX}{name}_factor")
        return self._graft.node("Mul", [signed, factor], f"{PREFIX}{name}_cosines")

    def heatmap(self, signed: str) -> None:
        """`heatmap`: what is positive, over its maximum."""
        heat = self._graft.node("Relu", [signed], PREFIX + "heat")
        safe = self._safe_maximum(heat)
        self.output(self._graft.node("Div", [heat, safe], PREFIX + "scaled_heat"), HEATMAP)

    def two_heatmaps(self, signed: str) -> None:
        """`heatmap` and `heatmap_lower`: both signs, over the greatest magnitude."""
        magnitude = self._graft.node("Abs", [signed], PREFIX + "magnitude")
        safe = self._safe_maximum(magnitude)
        scaled = self._graft.node("Div", [signed, safe], PREFIX + "scaled_heat")
        raising = self._graft.node("Relu", [scaled], PREFIX + "raising")
        negative = self._graft.node("Neg", [scaled], PREFIX + "negative_heat")
        lowering = self._graft.node("Relu", [negative], PREFIX + "lowering")
        self.output(raising, HEATMAP)
        self.output(lowering, HEATMAP_LOWER)

    def contribution(self, cosines: str) -> None:
        """`contribution`: the signed map in cosines, whose sum a larger output keeps."""
        self.output(self._shared(cosines, CONTRIBUTION), CONTRIBUTION)

    def contrast(self, cosines: str, other: str) -> None:
        """`contrast`: the signed map of one label less that of another, both in cosines."""
        between = self._graft.node("Sub", [cosines, other], PREFIX + "between_labels")
        self.output(self._shared(between, CONTRAST), CONTRAST)

    def _shared(self, cosines: str, name: str) -> str:
        """A map whose sum stays what it is where the output has more cells."""
        cells = self._size[0] * self._size[1] / (self._grid[0] * self._grid[1])
        if cells == 1:
            return cosines
        share = self._graft.constant(f"{name}_cell_share", 1 / cells, np.float32)
        return self._graft.node("Mul", [cosines, share], f"{PREFIX}{name}_shared_cells")

    def output(self, flat: str, output: str) -> None:
        """`[N, 1, h * w]` -> the output `[N, 1, height, width]`, resized where it must be."""
        shape = self._graft.constant(f"{output}_shape", [-1, 1, *self._grid], np.int64)
        native = self._size == self._grid
        name = output if native else f"{PREFIX}native_{output}"
        self._graft.node("Reshape", [flat, shape], name)
        if native:
            return
        pairs = zip(self._size, self._grid, strict=True)
        scales = [1.0, 1.0, *(resize_scale(wanted, size) for wanted, size in pairs)]
        self._graft.node(
            "Resize",
            [name, "", self._graft.constant(f"{output}_scales", scales, np.float32)],
            output,
            mode="linear",
            coordinate_transformation_mode="half_pixel",
        )

    def _safe_maximum(self, heat: str) -> str:
        """Greatest heat per image. Without heat zero is divided by something above zero."""
        greatest = self._graft.reduce("ReduceMax", heat, 2, PREFIX + "greatest_heat")
        tiny = self._graft.constant("tiny_heat", _TINY_HEAT, np.float32)
        return self._graft.node("Max", [greatest, tiny], PREFIX + "safe_heat")


def resize_scale(wanted: int, size: int) -> float:
    """A float32 scale for Resize, whose output size is `floor(size * scale)`."""
    scale: np.float32 = np.float32(wanted / size)
    # Some readers multiply in float32, others in float64.
    while min(float(np.float32(size) * scale), size * float(scale)) < wanted:
        scale = np.nextafter(scale, np.float32(np.inf))
    return float(scale)
