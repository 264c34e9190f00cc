"""Running ONNX nodes in torch, and in ONNX Runtime where no gradient passes."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

import onnx
import torch

from foldcam.export.networks.onnx_torch import arrangement, elementwise, statistics, windows
from foldcam.export.networks.onnx_torch.arrangement import to_torch
from foldcam.export.networks.onnx_torch.call import Call, Operator, UnsupportedError
from foldcam.export.onnx_graphs.embedding_model import opset_of
from foldcam.export.onnx_graphs.session import Array, NodeRunner, constant_of
from foldcam.runtime.system.errors import FoldcamError

OPERATORS: dict[str, Operator] = {
    **arrangement.OPERATORS,
    **elementwise.OPERATORS,
    **statistics.OPERATORS,
    **windows.OPERATORS,
}
"""Every operator that has a torch function, by its name in ONNX's own domain."""


class Interpreter:
    """Computes nodes one by one, in float32 also where the file says float16."""

    def __init__(self, model: onnx.ModelProto, hold: bool = False) -> None:
        self._opset, self._hold = opset_of(model), hold
        self.runner = NodeRunner(model.opset_import, model.ir_version)

    def apply(
        self, node: onnx.NodeProto, values: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Outputs by name, through which torch can differentiate."""
        if node.op_type == "Constant":
            value = constant_of(node)
            if value is None:
                raise UnsupportedError("it is no tensor")
            return {str(node.output[0]): to_torch(value)}
        operator = OPERATORS.get(node.op_type)
        if operator is None:
            raise UnsupportedError("it has no torch function here")
        inputs = [values[name] if name else None for name in node.input]
        try:
            result = operator(Call.of(node, self._opset, self._hold), *inputs)
        except UnsupportedError:
            raise
        except Exception as error:
            # An unforeseen use: ONNX Runtime takes over, or the node is named to the user.
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise UnsupportedError(f"torch fails: {first}") from error
        outputs = result if isinstance(result, tuple) else (result,)
        return {str(name): value for name, value in zip(node.output, outputs, strict=False) if name}

    def in_runtime(
        self, node: onnx.NodeProto, values: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Outputs by name from ONNX Runtime, without a gradient."""
        arrays = _Arrays(values)
        found = self.runner.run(node, arrays)
        try:
            return {name: to_torch(array) for name, array in found.items()}
        except UnsupportedError as error:
            raise FoldcamError(f"{node.op_type}: {error}.") from error

    def run(self, nodes: list[onnx.NodeProto], values: MutableMapping[str, torch.Tensor]) -> None:
        """Compute nodes in order and add what they return to the values.

        Raises:
            UnsupportedError: a gradient would have to pass through a node that has none.
        """
        for node in nodes:
            try:
                values.update(self.apply(node, values))
            except UnsupportedError:
                found = self.in_runtime(node, values)
                # Numbers that only count or compare have no gradient anyway.
                floats = any(value.is_floating_point() for value in found.values())
                differentiated = any(values[name].requires_grad for name in node.input if name)
                if torch.is_grad_enabled() and floats and differentiated:
                    raise
                values.update(found)


class _Arrays(Mapping[str, Array]):
    """Tensors as arrays, converted only when they are asked for."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> Array:
        array: Array = self._tensors[name].detach().numpy()
        return array

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)
