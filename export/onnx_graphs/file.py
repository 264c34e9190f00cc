"""Reading an embedding network from an ONNX file, and its hash."""

from __future__ import annotations

import hashlib
import heapq
import re
from collections.abc import Iterable, MutableSequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import numpy as np
import onnx
import onnx.defs
import onnx.inliner
from onnx import TensorProto, helper, numpy_helper

from foldcam.export.onnx_graphs.message import load_message
from foldcam.export.onnx_graphs.values import graphs, inputs_of, place_of, prune, refill
from foldcam.runtime.contract.schema import METADATA_KEY
from foldcam.runtime.system.errors import FoldcamError

_QUANTIZED = {
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul",
    "ConvInteger", "MatMulInteger",
}  # fmt: skip
_FUSED = {
    "BiasGelu", "Conv", "FastGelu", "FusedConv", "FusedGemm", "FusedMatMul", "Gelu",
    "MultiHeadAttention", "Attention", "QuickGelu", "ReorderInput", "ReorderOutput",
    "SkipLayerNormalization",
}  # fmt: skip
_OWN_DOMAINS = ("", "ai.onnx")
# `tokens[0]`: the first row of a value `[N, T, D]`.
_TOKEN = re.compile(r"(?P<value>.+)\[(?P<number>\d+)\]")


@dataclass(frozen=True)
class OnnxFile:
    """An embedding network that exists only as an ONNX file.

    Attributes:
        model: its message with all weights in it, functions inlined.
        output: the output that the user names as the embedding, or None to find it.
    """

    path: Path
    model: onnx.ModelProto
    output: str | None = None


def read_onnx(path: Path, output: str | None = None) -> OnnxFile:
    """Read an ONNX file and refuse what can never be folded.

    Args:
        output: the value that is the embedding, or None to find it; `NAME[0]` is the first
            token of a value `[N, T, D]`, where transformers put their class token.
    """
    try:
        model = load_message(path)
    except FoldcamError as error:
        raise FoldcamError(f"MODEL {error}") from error
    if not model.graph.output:
        raise FoldcamError(f"MODEL {path} is not an ONNX file, or it is damaged.")
    if any(item.key == METADATA_KEY for item in model.metadata_props):
        raise FoldcamError(
            f"MODEL {path} is folded already: name the network it was made from, or compare it "
            f"with `foldcam verify {path}`."
        )
    _check_opset(model, path)
    canonical(model)
    if model.functions:
        try:
            model = onnx.inliner.inline_local_functions(model)
        except Exception as error:
            # onnx's C++ raises what it likes at functions that call themselves or do not exist.
            raise FoldcamError(
                f"MODEL {path}: onnx cannot put its functions in place of their calls: the file "
                "is damaged."
            ) from error
    if output is not None:
        _end_at(model.graph, output)
    _check_operators(model.graph)
    return OnnxFile(path, model, output)


def ending_at(file: OnnxFile, output: str) -> OnnxFile:
    """The same network up to one of its values, as `read_onnx` gives it with that output."""
    model = onnx.ModelProto()
    model.CopyFrom(file.model)
    _end_at(model.graph, output)
    return OnnxFile(file.path, model, output)


def computation_hash(model: onnx.ModelProto, embedding: str) -> str:
    """SHA-256 of what is computed: nodes, attributes, weights.

    Names of nodes, documentation, metadata and the layout of the file do not count.
    """
    digest = hashlib.sha256(f"embedding {embedding};".encode())
    for item in sorted(model.opset_import, key=lambda item: str(item.domain)):
        digest.update(f"opset {item.domain} {item.version};".encode())
    _hash_graph(model.graph, digest)
    return digest.hexdigest()


def _hash_graph(graph: onnx.GraphProto, digest: hashlib._Hash) -> None:
    for value in [*graph.input, *graph.output]:
        kind = value.type.tensor_type
        sizes = [dim.dim_param or dim.dim_value for dim in kind.shape.dim]
        digest.update(f"value {value.name} {kind.elem_type} {sizes};".encode())
    for tensor in sorted(graph.initializer, key=lambda tensor: str(tensor.name)):
        digest.update(f"weight {tensor.name};".encode())
        _hash_tensor(tensor, digest)
    for node in graph.node:
        digest.update(
            f"node {node.domain} {node.op_type} {list(node.input)} {list(node.output)};".encode()
        )
        for attribute in sorted(node.attribute, key=lambda attribute: str(attribute.name)):
            digest.update(f"attribute {attribute.name} {attribute.type};".encode())
            if attribute.type == onnx.AttributeProto.GRAPH:
                _hash_graph(attribute.g, digest)
            elif attribute.type == onnx.AttributeProto.TENSOR:
                _hash_tensor(attribute.t, digest)
            else:
                digest.update(repr(helper.get_attribute_value(attribute)).encode())


def _hash_tensor(tensor: TensorProto, digest: hashlib._Hash) -> None:
    digest.update(f"{tensor.data_type} {list(tensor.dims)};".encode())
    if tensor.data_type == TensorProto.STRING:
        digest.update(repr(list(tensor.string_data)).encode())
    else:
        # The numbers have several places in the message: what they are counts.
        digest.update(numpy_helper.to_array(tensor).tobytes())


def _end_at(graph: onnx.GraphProto, output: str) -> None:
    """Keep what computes one value: of a network that compares two images, one of its twins."""
    values = {name for node in graph.node for name in node.output}
    if output not in values and (token := _TOKEN.fullmatch(output)) and token["value"] in values:
        number = numpy_helper.from_array(np.int64(token["number"]), f"{output}_number")
        graph.initializer.append(number)
        graph.node.append(
            helper.make_node("Gather", [token["value"], number.name], [output], output, axis=1)
        )
    elif output not in values:
        shown = ", ".join(repr(value.name) for value in graph.output)
        raise FoldcamError(
            f"The network has no value {output!r} for --output; its outputs: {shown}."
        )
    refill(graph.output, [onnx.ValueInfoProto(name=output)])
    prune(graph)
    used = {name for node in graph.node for name in inputs_of(node)}
    refill(graph.input, [value for value in graph.input if value.name in used])


def _check_opset(model: onnx.ModelProto, path: Path) -> None:
    versions = [item.version for item in model.opset_import if item.domain in _OWN_DOMAINS]
    newest = onnx.defs.onnx_opset_version()
    if not versions:
        raise FoldcamError(
            f"MODEL {path} does not say in which version of ONNX's operators (opset) it is "
            "written: export it again."
        )
    if not 1 <= max(versions) <= newest:
        raise FoldcamError(
            f"MODEL {path} is in ONNX opset {max(versions)}, and {newest} is the newest that this "
            f"onnx ({onnx.__version__}) knows: export it in opset 18, or install a newer onnx."
        )


def _check_operators(graph: onnx.GraphProto) -> None:
    for inner in graphs(graph):
        for node in inner.node:
            if node.domain.startswith("com.microsoft") and node.op_type in _FUSED:
                raise FoldcamError(
                    f"The network has {node.op_type} of {node.domain!r} (node {place_of(node)}), "
                    "which ONNX Runtime's optimizer put together and no other tool can run: give "
                    "the file from before that, or optimize it at the level ORT_ENABLE_BASIC."
                )
            if node.domain not in _OWN_DOMAINS:
                raise FoldcamError(
                    f"The network has a custom operator, {node.op_type} of {node.domain!r} (node "
                    f"{place_of(node)}), which no stock tool can run: export it with ONNX's own "
                    "operators."
                )
            if node.op_type in _QUANTIZED:
                raise FoldcamError(
                    f"The network is quantized ({node.op_type}, node {place_of(node)}): fold its "
                    "float original, and quantize the folded model."
                )


# Of a sparse constant, written out: no network has one that is larger.
_MOST_NUMBERS = 1 << 28


def canonical(model: onnx.ModelProto) -> None:
    """Sort the nodes, open sizes of -1, write sparse constants out, name each output once.

    ONNX Runtime takes nodes in any order, and its own float16 converter puts new ones at the
    end; ONNX's checker, its converter and foldcam read a graph from front to back. A model that
    has that form already is not changed, nor is what it computes.
    """
    for function in model.functions:
        _sort_inside(function.node)
        _sort(function.node)
    _sort_inside(model.graph.node)
    _sort(model.graph.node)
    for graph in graphs(model.graph):
        _open_sizes([*graph.input, *graph.output, *graph.value_info])
        _write_out(graph)
    named = {str(value.name): value for value in model.graph.output}
    if len(named) < len(model.graph.output):
        once = list(named.values())
        refill(model.graph.output, once)


def _sort_inside(nodes: Iterable[onnx.NodeProto]) -> None:
    """Sort branches and bodies of loops, the innermost first: what a node reads depends on it."""
    for node in nodes:
        for attribute in node.attribute:
            inner = [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else []
            for graph in [*inner, *attribute.graphs]:
                _sort_inside(graph.node)
                _sort(graph.node)


def _sort(nodes: MutableSequence[onnx.NodeProto]) -> None:
    """Every node behind those whose results it reads, and else in the order of the file."""
    listed = list(nodes)
    maker: dict[str, int] = {}
    for number, node in enumerate(listed):
        for name in node.output:
            if name and name in maker:
                raise FoldcamError(
                    f"The network makes its value {name!r} twice (nodes "
                    f"{place_of(listed[maker[name]])} and {place_of(node)}): the file is damaged."
                )
            if name:
                maker[str(name)] = number
    before = {
        number: {maker[name] for name in inputs_of(node) if name in maker}
        for number, node in enumerate(listed)
    }
    if all(each < number for number, needed in before.items() for each in needed):
        return
    sorter = TopologicalSorter(before)
    try:
        sorter.prepare()
    except CycleError as error:
        stuck = listed[min(error.args[1])]
        raise FoldcamError(
            f"The network runs in a circle: {stuck.op_type} (node {place_of(stuck)}) needs its own "
            "result; the file is damaged."
        ) from None
    ready: list[int] = []
    order = []
    while sorter.is_active():
        for number in sorter.get_ready():
            heapq.heappush(ready, number)
        order.append(heapq.heappop(ready))
        sorter.done(order[-1])
    refill(nodes, (listed[number] for number in order))


def _open_sizes(values: Iterable[onnx.ValueInfoProto]) -> None:
    """Sizes of -1, as older converters write what is open."""
    for value in values:
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_value") and dim.dim_value < 1:
                dim.Clear()


def _write_out(graph: onnx.GraphProto) -> None:
    """Sparse constants as dense ones, which every reader knows."""
    graph.initializer.extend(_dense(sparse, sparse.values.name) for sparse in
                             graph.sparse_initializer)  # fmt: skip
    del graph.sparse_initializer[:]
    for node in graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name == "sparse_value":
                dense = _dense(attribute.sparse_tensor, str(node.output[0]))
                attribute.CopyFrom(onnx.helper.make_attribute("value", dense))


def _dense(sparse: onnx.SparseTensorProto, name: str) -> onnx.TensorProto:
    dims = [int(size) for size in sparse.dims]
    count = int(np.prod(dims, dtype=object)) if dims else 1
    if not 0 <= count <= _MOST_NUMBERS:
        raise FoldcamError(
            f"The network's sparse constant {name!r} holds {count} numbers when it is written out, "
            f"and at most {_MOST_NUMBERS} are read."
        )
    try:
        values = numpy_helper.to_array(sparse.values)
        places = numpy_helper.to_array(sparse.indices)
        dense = np.zeros(dims, values.dtype)
        if places.ndim == 2:
            dense[tuple(places.T)] = values
        else:
            dense.reshape(-1)[places] = values
    except (IndexError, ValueError, TypeError) as error:
        raise FoldcamError(f"The network's sparse constant {name!r} is damaged.") from error
    return numpy_helper.from_array(dense, name)
