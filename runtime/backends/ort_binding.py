"""ONNX Runtime on a GPU: input and outputs bound to memory that was allocated beforehand."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from foldcam.runtime.contract.schema import IMAGE, QUERY, Contract
from foldcam.runtime.contract.tensors import expected_tensors, further_inputs

if TYPE_CHECKING:
    from foldcam.runtime.backends.interface import Array

_MAX_SIZES = 4
_NOT_CAPTURED = -1


@dataclass(frozen=True)
class _Bound:
    binding: Any
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    run_options: Any


class BoundSession:
    """A session whose tensors stay on the GPU from run to run, one set per batch size.

    Without binding, every run would allocate and its copies would count as computing.

    Args:
        extra: names of outputs that the contract does not promise; ONNX Runtime allocates
            these itself.
        cuda_graph: whether the session was made to capture. A graph replays into the
            memory that it was captured with whatever is bound, so each set of tensors
            has a graph of its own, and a set with a graph is never given up.
    """

    def __init__(
        self,
        onnxruntime: ModuleType,
        session: Any,
        contract: Contract,
        extra: list[str],
        cuda_graph: bool,
        device: str = "cuda",
    ) -> None:
        self._onnxruntime: Any = onnxruntime
        self._session: Any = session
        image, self._outputs = expected_tensors(contract)
        further = further_inputs(contract)
        # What comes with each batch; the bank stays.
        self._batched = [image, *(tensor for tensor in further if tensor.name == QUERY)]
        self._bank: dict[str, Any] = {}
        self._extra = extra
        self._cuda_graph = cuda_graph
        self._device = device
        self._captured: dict[int, _Bound] = {}
        self._graphs = 0
        self._loose: OrderedDict[int, _Bound] = OrderedDict()

    def use_bank(self, arrays: Mapping[str, Array]) -> None:
        """Copy a bank's arrays to the GPU, where every later run reads them.

        A captured graph reads the memory that it was captured with, so all are made again.
        """
        make = self._onnxruntime.OrtValue.ortvalue_from_numpy
        self._bank = {
            name: make(np.ascontiguousarray(array), self._device, 0)
            for name, array in arrays.items()
        }
        self._captured.clear()
        self._loose.clear()

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One forward pass.

        Args:
            inputs: the contract's `image`, and `query` where it has one, by name.
        """
        bound = self._bound_for(len(inputs[IMAGE]))
        for name, value in bound.inputs.items():
            value.update_inplace(np.ascontiguousarray(inputs[name]))
        bound.binding.synchronize_inputs()
        self._session.run_with_iobinding(bound.binding, bound.run_options)
        bound.binding.synchronize_outputs()
        outputs = {name: _own(value.numpy()) for name, value in bound.outputs.items()}
        if self._extra:
            names = [*bound.outputs, *self._extra]
            values = dict(zip(names, bound.binding.get_outputs(), strict=True))
            outputs.update((name, _own(values[name].numpy())) for name in self._extra)
        return outputs

    def run_resident(self, rows: int) -> None:
        """The network alone on the images of the last `run` of so many; the outputs stay there."""
        bound = self._bound_for(rows)
        self._session.run_with_iobinding(bound.binding, bound.run_options)
        bound.binding.synchronize_outputs()

    def _bound_for(self, rows: int) -> _Bound:
        if rows in self._captured:
            return self._captured[rows]
        if self._cuda_graph and len(self._captured) < _MAX_SIZES:
            # From 1 on: 0 is the graph of who names none. A number is never used twice.
            self._graphs += 1
            self._captured[rows] = self._bind(rows, self._graphs)
            return self._captured[rows]
        found = self._loose.pop(rows, None)
        if found is None:
            if len(self._loose) >= _MAX_SIZES:
                self._loose.popitem(last=False)
            found = self._bind(rows, _NOT_CAPTURED)
        self._loose[rows] = found
        return found

    def _bind(self, rows: int, graph: int) -> _Bound:
        binding = self._session.io_binding()
        inputs = {tensor.name: self._allocate(rows, tensor) for tensor in self._batched}
        for name, value in (*inputs.items(), *self._bank.items()):
            binding.bind_ortvalue_input(name, value)
        outputs = {tensor.name: self._allocate(rows, tensor) for tensor in self._outputs}
        for name, value in outputs.items():
            binding.bind_ortvalue_output(name, value)
        for name in self._extra:
            binding.bind_output(name, self._device, 0)
        options = None
        if self._cuda_graph:
            options = self._onnxruntime.RunOptions()
            options.add_run_config_entry("gpu_graph_id", str(graph))
        return _Bound(binding, inputs, outputs, options)

    def _allocate(self, rows: int, tensor: Any) -> Any:
        shape = [rows, *tensor.shape[1:]]
        make = self._onnxruntime.OrtValue.ortvalue_from_shape_and_type
        return make(shape, np.dtype(tensor.dtype), self._device, 0)


def _own(array: Array) -> Array:
    """A copy where the array only looks into memory that the next run overwrites."""
    return array if array.flags.owndata else array.copy()
