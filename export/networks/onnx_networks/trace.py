"""One pass over an ONNX graph in torch, and where its gradient ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx
import torch
from onnx import numpy_helper

from foldcam.export.networks.feature_map import Grid
from foldcam.export.networks.onnx_networks.prepare import noise
from foldcam.export.networks.onnx_torch.arrangement import to_torch
from foldcam.export.networks.onnx_torch.call import UnsupportedError
from foldcam.export.networks.onnx_torch.interpreter import Interpreter
from foldcam.export.onnx_graphs.values import Flow, place_of
from foldcam.runtime.contract.schema import IMAGE
from foldcam.runtime.system.errors import FoldcamError

# The operator was computed in float16, or summed in another order.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Obstacle:
    """A node through which no gradient passes.

    Attributes:
        number: the number of the node in the graph.
        sentence: which operator and node it is, and why.
    """

    number: int
    sentence: str


class Trace:
    """One pass over the graph in torch, with the gradient of the head's end at every value.

    A node without a torch function, or whose function gives other numbers than ONNX
    Runtime, is computed by the latter, and the gradient ends there.

    Attributes:
        gradients: `[N, ...]` by name, of those values that a gradient reaches.
        obstacles: where it ends, in the order of the graph.
    """

    def __init__(self, model: onnx.ModelProto, flow: Flow, head_end: str, image_size: Grid) -> None:
        self.obstacles: list[Obstacle] = []
        self._interpreter = Interpreter(model)
        values = {
            str(tensor.name): _constant(numpy_helper.to_array(tensor))
            for tensor in model.graph.initializer
        }
        values[IMAGE] = torch.from_numpy(noise(image_size, 2)).requires_grad_(True)
        with torch.enable_grad():
            for number in sorted(flow.needed_for([head_end])):
                self._step(number, flow, values)
        self.gradients = _gradients(values, head_end)

    def _step(self, number: int, flow: Flow, values: dict[str, torch.Tensor]) -> None:
        node = flow.nodes[number]
        if all(values[name].dtype.is_floating_point is False for name in flow.inputs[number]):
            values.update(self._interpreter.in_runtime(node, values))
            return
        exact = self._interpreter.in_runtime(node, values)
        try:
            found = self._interpreter.apply(node, values)
            if not all(_same(found[name], value) for name, value in exact.items()):
                raise UnsupportedError("its torch function gives other numbers than ONNX Runtime")
        except UnsupportedError as error:
            found = exact
            if any(values[name].requires_grad for name in flow.inputs[number]):
                floats = [v for v in exact.values() if v.is_floating_point()]
                for value in floats:
                    value.requires_grad_(True)
                if floats:
                    sentence = f"{node.op_type} (node {place_of(node)}), {error}"
                    self.obstacles.append(Obstacle(number, sentence))
        values.update(found)


def _constant(array: object) -> torch.Tensor:
    try:
        return to_torch(array)  # type: ignore[arg-type]
    except UnsupportedError as error:
        raise FoldcamError(
            f"The network has a constant that torch cannot hold: {error}."
        ) from error


def _same(found: torch.Tensor, exact: torch.Tensor) -> bool:
    if found.shape != exact.shape or found.dtype != exact.dtype:
        return False
    if not exact.is_floating_point():
        return bool((found == exact).all())
    size = float(exact[exact.isfinite()].abs().max()) if exact.isfinite().any() else 0.0
    return torch.allclose(
        found.detach(), exact, rtol=0, atol=_TOLERANCE * size + 1e-6, equal_nan=True
    )


def _gradients(values: Mapping[str, torch.Tensor], head_end: str) -> dict[str, torch.Tensor]:
    """The gradient of a random sum over the head's end with respect to each value."""
    end = values[head_end]
    if not end.requires_grad:
        return {}
    generator = torch.Generator().manual_seed(0)
    names = [name for name, value in values.items() if value.requires_grad]
    found = torch.autograd.grad(
        end,
        [values[name] for name in names],
        grad_outputs=torch.randn(end.shape, generator=generator),
        allow_unused=True,
    )
    return {name: each for name, each in zip(names, found, strict=True) if each is not None}
