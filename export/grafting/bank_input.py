"""A bank as inputs of the graph: constants made inputs of open length, and back. No torch.

The bank is folded as constants first. Then its three arrays become inputs, in the layout in which
a device holds them: `bank_embedding [rows, D]`, `bank_label [rows]`, and one direction per label,
`bank_direction [labels, D]`, which is arithmetic of embeddings. The graph pulls the direction of
the nearest row back at each image, so that no array of the bank depends on the network's head.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from foldcam.export.banks.bank import Bank
from foldcam.export.banks.objectives.directions import (
    DEFAULT_OBJECTIVE,
    class_sums,
    triplets_of_sums,
)
from foldcam.export.grafting.in_graph import (
    BANK_EMBEDDINGS,
    BANK_GRAD_INDEX,
    BANK_GRAD_WEIGHTS,
    BANK_MEAN_SUMMANDS,
    StoredBank,
    sha256_of,
)
from foldcam.export.grafting.options import StorageOptions
from foldcam.export.grafting.own import obstacle_to_own
from foldcam.export.grafting.search import ROW_LABELS, SIMILARITIES
from foldcam.export.onnx_graphs.embedding_model import BATCH
from foldcam.export.onnx_graphs.values import refill
from foldcam.export.onnx_graphs.writing import PREFIX, Graft
from foldcam.runtime.contract.bank.live_bank import bank_path
from foldcam.runtime.contract.bank_storage import BankStorage
from foldcam.runtime.contract.schema import (
    BANK_DIRECTION,
    BANK_EMBEDDING,
    BANK_LABEL,
    QUERY,
    Contract,
)
from foldcam.runtime.contract.tensors import LABELS, ROWS
from foldcam.runtime.system.errors import FoldcamError

_INDICES = (BANK_GRAD_INDEX, ROW_LABELS)
# A user who gave one of them should know the message as theirs.
_FLAG = "--bank-input (which --query includes)"


def with_directions(bank: Bank, model: onnx.ModelProto, storage: StorageOptions) -> Bank:
    """A bank as a device can change it: one direction per label, pulled back in the graph.

    Args:
        bank: of labels and all triplets.
        model: the embedding network, as `Network.to_onnx` makes it.
        storage: what was asked for.
    """
    if bank.outcome is not None or len(bank.labels) < 2:
        raise FoldcamError(f"{_FLAG} needs a bank of at least two labels: leave both out.")
    if bank.objective != DEFAULT_OBJECTIVE or bank.channel_rule != "all":
        raise FoldcamError(
            f"{_FLAG} takes directions from the labels' mean embeddings, as the objective "
            f"{DEFAULT_OBJECTIVE} with all channels, and the bank's is {bank.objective} with "
            f"channels {bank.channel_rule}: build the bank with the defaults."
        )
    obstacle = obstacle_to_own(model)
    if obstacle is not None:
        raise FoldcamError(
            f"{_FLAG}: the graph cannot pull directions back through the network's head: "
            f"{obstacle}; leave both out."
        )
    small = storage.compression.kind != "none" or storage.precision not in ("auto", "float32")
    if small or storage.search.choice == "lists" or bank.compression != "none":
        raise FoldcamError(
            f"{_FLAG} holds float32 rows, all searched: leave --compress, --bank-precision "
            "and --search lists out."
        )
    counts = np.array([run.count for run in bank.labels])
    labels = np.repeat(np.arange(len(counts)), counts)
    directions = triplets_of_sums(class_sums(bank.embeddings, labels), counts)
    return replace(bank, grad_weights=directions, grad_index=labels.astype(np.int32), rule="own")


def directions_stored(bank: Bank) -> StoredBank:
    """The constants that `to_inputs` makes inputs."""
    arrays = {
        BANK_EMBEDDINGS: np.ascontiguousarray(bank.embeddings.T),
        BANK_GRAD_WEIGHTS: bank.grad_weights,
        BANK_GRAD_INDEX: bank.grad_index,
    }
    if bank.mean_summands is not None:
        # A constant of the graph in any case: it is that of the network's training images.
        arrays[BANK_MEAN_SUMMANDS] = bank.mean_summands.reshape(len(bank.mean_summands), -1)
    storage = BankStorage("exhaustive", 0, 0, 0, "float32", "float32", 0, sha256=sha256_of(arrays))
    return StoredBank(arrays, storage)


@contextmanager
def bank_beside(temporary: Path, out: Path, bank: Bank | None) -> Iterator[None]:
    """Keep a bank beside a model's temporary file, and then beside the model.

    Args:
        temporary, out: the model's file, now and as it will be called.
        bank: as `with_directions` makes it; None where the bank is a part of the graph.
    """
    if bank is None:
        yield
        return
    here = bank_path(temporary)
    try:
        bank.save(here)
        yield
        here.replace(bank_path(out))
    finally:
        here.unlink(missing_ok=True)


def graft_query(graft: Graft, directions: str, size: int) -> str:
    """The input `query` in place of the bank's direction, for images where it is not zero.

    Args:
        directions: name of the bank's, `float32 [N, 1, D]`.
    """
    query = helper.make_tensor_value_info(QUERY, TensorProto.FLOAT, [BATCH, size])
    graft.graph.input.append(query)
    shape = graft.constant("query_direction_shape", [-1, 1, size], np.int64)
    asked = graft.node("Reshape", [QUERY, shape], PREFIX + "query_direction")
    length = graft.reduce("ReduceL1", asked, 2, PREFIX + "query_length")
    zero = graft.constant("query_zero", 0.0, np.float32)
    given = graft.node("Greater", [length, zero], PREFIX + "query_given")
    return graft.node("Where", [given, asked, directions], PREFIX + "asked_direction")


def to_inputs(graph: onnx.GraphProto, size: int) -> None:
    """Make the bank's constants inputs of the graph."""
    constants = {BANK_EMBEDDINGS, BANK_GRAD_WEIGHTS, *_INDICES}
    refill(
        graph.initializer, [tensor for tensor in graph.initializer if tensor.name not in constants]
    )
    search = next(node for node in graph.node if SIMILARITIES in node.output)
    # Its second factor comes as rows, which Gemm reads without turning them around.
    search.op_type = "Gemm"
    search.attribute.append(helper.make_attribute("transB", 1))
    names = {
        BANK_EMBEDDINGS: BANK_EMBEDDING,
        BANK_GRAD_WEIGHTS: BANK_DIRECTION,
        **dict.fromkeys(_INDICES, BANK_LABEL),
    }
    for node in graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = names.get(name, name)
    graph.input.extend(
        [
            helper.make_tensor_value_info(BANK_EMBEDDING, TensorProto.FLOAT, [ROWS, size]),
            helper.make_tensor_value_info(BANK_DIRECTION, TensorProto.FLOAT, [LABELS, size]),
            helper.make_tensor_value_info(BANK_LABEL, TensorProto.INT32, [ROWS]),
        ]
    )


def to_constants(model: onnx.ModelProto, contract: Contract, bank: Bank) -> onnx.ModelProto:
    """A model whose bank is an input, with a bank as constants: what all other tools read."""
    if contract.bank_input is None:
        return model
    constant = onnx.ModelProto()
    constant.CopyFrom(model)
    graph = constant.graph
    refill(graph.input, [value for value in graph.input if value.name not in _INPUTS])
    search = next(node for node in graph.node if SIMILARITIES in node.output)
    search.op_type = "MatMul"
    del search.attribute[:]
    names = {
        BANK_EMBEDDING: BANK_EMBEDDINGS,
        BANK_DIRECTION: BANK_GRAD_WEIGHTS,
        BANK_LABEL: BANK_GRAD_INDEX,
    }
    for node in graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = names.get(name, name)
    arrays = dict(directions_stored(replace(bank, mean_summands=None)).arrays)
    if contract.query:
        arrays[QUERY] = np.zeros((1, bank.embedding_size), np.float32)
    for name, array in arrays.items():
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
    return constant


_INPUTS = (BANK_EMBEDDING, BANK_DIRECTION, BANK_LABEL, QUERY)
