"""ONNX Runtime on the workstation: whole graphs, and one operator at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from foldcam.export.onnx_graphs.device import CPU, Device
from foldcam.export.onnx_graphs.values import inputs_of, place_of, refill
from foldcam.runtime.system.errors import FoldcamError

Array = npt.NDArray[Any]
_FATAL = 4
_BEFORE_REASON = (
    "Status Message: ", " : FAIL : ", " : INVALID_ARGUMENT : ", " : NOT_IMPLEMENTED : ",
    " : RUNTIME_EXCEPTION : ", " was false. ", " failed: ",
)  # fmt: skip


class GraphSession:
    """A graph in ONNX Runtime.

    Args:
        model: with all weights in it.
        outputs: names of the values that `run` returns, which need not be the graph's outputs.
        device: where it is computed; images and values are arrays of the processor.
    """

    def __init__(
        self, model: onnx.ModelProto, outputs: Sequence[str], device: Device = CPU
    ) -> None:
        self._outputs = list(outputs)
        self._input = str(model.graph.input[0].name)
        try:
            with _asked_for(model, outputs):
                self._session = _session(model, device)
        except FoldcamError:
            raise
        except Exception as error:
            raise FoldcamError(f"ONNX Runtime refuses the network: {reason(error)}.") from error

    def run(self, images: Array) -> list[Array]:
        """One forward pass.

        Raises:
            FoldcamError: ONNX Runtime fails, for a reason in the graph.
        """
        try:
            found: list[Array] = self._session.run(self._outputs, {self._input: images})
        except Exception as error:
            raise FoldcamError(
                f"The network fails on a batch of {len(images)}: {reason(error)}."
            ) from error
        return found


class NodeRunner:
    """Computes single nodes as ONNX Runtime does, whatever the operator.

    Args:
        opsets: the opsets of the model that the nodes are from.
        ir_version: the IR version of that model.
    """

    def __init__(self, opsets: Sequence[onnx.OperatorSetIdProto], ir_version: int) -> None:
        self._opsets, self._ir_version = list(opsets), ir_version
        self._sessions: dict[tuple[object, ...], Any] = {}

    def run(self, node: onnx.NodeProto, values: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name.

        Args:
            node: the node.
            values: at least all it reads.

        Raises:
            FoldcamError: ONNX Runtime cannot compute it.
        """
        if node.op_type == "Constant":
            value = constant_of(node)
            if value is not None:
                return {str(node.output[0]): value}
        feeds = {name: values[name] for name in dict.fromkeys(inputs_of(node))}
        kinds = tuple((name, array.dtype.str, _dims(array)) for name, array in feeds.items())
        key = (node.SerializeToString(deterministic=True), kinds)
        try:
            if key not in self._sessions:
                self._sessions[key] = self._session(node, feeds)
            session = self._sessions[key]
            outputs = [str(name) for name in node.output if name]
            found = dict(zip(outputs, session.run(outputs, feeds), strict=True))
        except FoldcamError:
            raise
        except Exception as error:
            raise FoldcamError(
                f"{node.op_type} (node {place_of(node)}) fails: {reason(error)}."
            ) from error
        if not all(isinstance(array, np.ndarray) for array in found.values()):
            raise FoldcamError(
                f"{node.op_type} (node {place_of(node)}) returns a sequence or an optional value: "
                "export the network with tensors alone there."
            )
        return found

    def _session(self, node: onnx.NodeProto, feeds: Mapping[str, Array]) -> Any:
        given = [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(array.dtype), _dims(array)
            )
            for name, array in feeds.items()
        ]
        made = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        graph = helper.make_graph([node], "node", given, made)
        model = helper.make_model(graph, opset_imports=self._opsets, ir_version=self._ir_version)
        return _session(model, CPU, plain=True)


@contextmanager
def _asked_for(model: onnx.ModelProto, names: Sequence[str]) -> Iterator[None]:
    """Other outputs for as long as a session is made: a copy would be one of all weights."""
    graph = model.graph
    outputs, noted = list(graph.output), list(graph.value_info)
    try:
        del graph.output[:], graph.value_info[:]
        # ONNX Runtime works out type and shape by itself.
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names))
        yield
    finally:
        refill(graph.output, outputs)
        refill(graph.value_info, noted)


def _dims(array: Array) -> tuple[int | None, ...]:
    # How long a list of sizes or axes is, the operator must know.
    return array.shape if array.dtype.kind == "i" and array.ndim == 1 else (None,) * array.ndim


def constant_of(node: onnx.NodeProto) -> Array | None:
    """The value of a Constant node, None where it is text or sparse."""
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        if attribute.name == "value":
            return numpy_helper.to_array(value)
        if attribute.name in ("value_float", "value_floats"):
            return np.asarray(value, np.float32)
        if attribute.name in ("value_int", "value_ints"):
            return np.asarray(value, np.int64)
    return None


def reason(error: Exception) -> str:
    """A C++ library's reason in one line, without the places in its own source files."""
    text = " ".join((str(error) or type(error).__name__).split())
    for mark in _BEFORE_REASON:
        text = text.split(mark)[-1]
    return text[:200].rstrip(". ")


def cpu_session(model: onnx.ModelProto) -> Any:
    """A whole model on the processor."""
    return _session(model, CPU)


def plain_session(model: onnx.ModelProto) -> Any:
    """A whole model as it is written: on one thread, without int8 kernels for quantized steps."""
    onnxruntime, options = _prepared()
    # Equal inputs are to give equal bytes, whatever the number of cores.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise FoldcamError(f"ONNX Runtime refuses the folded model: {reason(error)}.") from error
    session.disable_fallback()
    return session


def _prepared() -> tuple[Any, Any]:
    try:
        import onnxruntime
    except ImportError as error:
        raise FoldcamError(
            "An embedding network in .onnx needs onnxruntime: pip install foldcam[cpu]."
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    return onnxruntime, options


def _session(model: onnx.ModelProto, device: Device, plain: bool = False) -> Any:
    onnxruntime, options = _prepared()
    if plain:
        # One operator: neither threads nor a rewritten graph pay.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=device.providers()
    )
    # It would turn to the processor by itself in the midst of a run, and nobody would know.
    session.disable_fallback()
    return session
