"""One form of what the standard allows in several: the order of nodes, how open sizes are written.

ONNX Runtime takes nodes in any order, and its own float16 converter puts new ones at the
end; ONNX's checker, its converter and foldcam read a graph from front to back.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, MutableSequence

import numpy as np
import onnx
from onnx import numpy_helper

from foldcam.export.onnx_graphs.values import graphs, inputs_of, place_of
from foldcam.runtime.system.errors import FoldcamError

# Of a sparse constant, written out: no network has one that is larger.
_MOST_NUMBERS = 1 << 28


def canonical(model: onnx.ModelProto) -> None:
    """Sort the nodes, open sizes of -1, write sparse constants out, name each output once.

    A model that has that form already is not changed, nor is what it computes.
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
        del model.graph.output[:]
        model.graph.output.extend(once)


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
    before = [{maker[name] for name in inputs_of(node) if name in maker} for node in listed]
    if all(each < number for number, needed in enumerate(before) for each in needed):
        return
    users: list[list[int]] = [[] for _ in listed]
    for number, needed in enumerate(before):
        for each in needed:
            users[each].append(number)
    waiting = [len(needed) for needed in before]
    ready = [number for number, count in enumerate(waiting) if not count]
    order = []
    while ready:
        number = heapq.heappop(ready)
        order.append(number)
        for user in users[number]:
            waiting[user] -= 1
            if not waiting[user]:
                heapq.heappush(ready, user)
    if len(order) < len(listed):
        stuck = next(number for number, count in enumerate(waiting) if count)
        raise FoldcamError(
            f"The network runs in a circle: {listed[stuck].op_type} (node "
            f"{place_of(listed[stuck])}) needs its own result; the file is damaged."
        )
    del nodes[:]
    nodes.extend(listed[number] for number in order)


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
