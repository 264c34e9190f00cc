"""One use of an ONNX operator, as the functions that stand for it see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import onnx
import torch

from foldcam.export.onnx_graphs.values import attributes_of

Result = torch.Tensor | tuple[torch.Tensor, ...]
Operator = Callable[..., Result]
"""`(call, *inputs) -> output(s)`; an input that is left out is None."""

Number = TypeVar("Number", int, float)


class UnsupportedError(Exception):
    """This use of an operator has no torch function here; the text says why."""


@dataclass(frozen=True)
class Call:
    """A node's attributes and what else its meaning depends on.

    Attributes:
        attributes: by name, as Python values.
        opset: the version of ONNX's operators that the node is written in.
        outputs: how many of its outputs are used.
        hold: whether a normalisation is differentiated with its scale held constant, see
            `torch_cut.hold_scales`.
    """

    attributes: dict[str, Any]
    opset: int
    outputs: int
    hold: bool = False

    @staticmethod
    def of(node: onnx.NodeProto, opset: int, hold: bool = False) -> Call:
        """The call that a node is."""
        used = [position for position, name in enumerate(node.output) if name]
        return Call(attributes_of(node), opset, max(used, default=0) + 1, hold)

    def int(self, name: str, default: int) -> int:
        """An integer attribute."""
        return int(self.attributes.get(name, default))

    def float(self, name: str, default: float) -> float:
        """A float attribute."""
        return float(self.attributes.get(name, default))

    def text(self, name: str, default: str) -> str:
        """A string attribute."""
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else str(value)

    def ints(self, name: str) -> list[Any] | None:
        """A list of integers, None where it is left out."""
        value = self.attributes.get(name)
        return None if value is None else [int(each) for each in value]

    def given(self, name: str, tensor: torch.Tensor | None) -> list[Any] | None:
        """Integers that are an input in newer operator sets and an attribute in older ones."""
        if tensor is not None:
            return [int(each) for each in tensor.reshape(-1).tolist()]
        return self.ints(name)

    def scale(self, value: torch.Tensor) -> torch.Tensor:
        """What a normalisation divides by, as a constant where scales are held."""
        return value.detach() if self.hold else value

    def one_output(self) -> None:
        """Refuse the operator's further outputs."""
        if self.outputs > 1:
            raise UnsupportedError("its further outputs are used")
