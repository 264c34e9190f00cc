"""Grad-weights that a graph computes itself, and the same from torch, for the tests to compare."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

from foldcam.export.grafting.own import graft_pull_back
from foldcam.export.networks.onnx_networks.head import OnnxHead
from foldcam.export.networks.onnx_torch.interpreter import Interpreter
from foldcam.export.onnx_graphs.embedding_model import opset_of
from foldcam.export.onnx_graphs.values import Flow
from foldcam.export.onnx_graphs.writing import Graft

DIRECTION, ANSWER = "direction", "grad_weights"


def grafted(model, source, end, size, row=None):
    """A copy of a model with the input `direction [N, size]` and the output `grad_weights`."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    made.graph.input.append(
        helper.make_tensor_value_info(DIRECTION, TensorProto.FLOAT, ["batch", size])
    )
    graft = Graft(made.graph, opset_of(made))
    found = graft_pull_back(graft, source, end, DIRECTION, row)
    graft.node("Identity", [found], ANSWER)
    made.graph.output.append(
        helper.make_tensor_value_info(ANSWER, TensorProto.FLOAT, ["batch", None])
    )
    return made


def run(model, outputs, feeds):
    """Outputs of a model, which need not be its declared ones."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[:]
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(
        shown.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(outputs, feeds)


def directions(count, size, seed=3):
    """`float32 [count, size]`."""
    return np.random.default_rng(seed).normal(size=(count, size)).astype(np.float32)


def by_interpreter(model, source, end, feeds, direction):
    """The gradient of `direction . end` with respect to `source`, node by node in torch.

    Normalisations of one operator are differentiated with their scale held.
    """
    flow = Flow(model.graph)
    head = sorted(flow.after(source) & flow.needed_for([end], [source]))
    read = {name for number in head for name in flow.inputs[number]} | {source}
    read -= {name for number in head for name in flow.nodes[number].output}
    values = {
        str(tensor.name): torch.from_numpy(numpy_helper.to_array(tensor).copy())
        for tensor in model.graph.initializer
        if tensor.name in read
    }
    given = {name: value for name, value in feeds.items() if name in read}
    others = sorted(read - set(values) - set(given))
    given.update(zip(others, run(model, others, feeds) if others else (), strict=True))
    values.update({name: torch.from_numpy(np.array(value)) for name, value in given.items()})
    values[source].requires_grad_(True)
    with torch.enable_grad():
        interpreter = Interpreter(model, hold=True)
        interpreter.run([flow.nodes[number] for number in head], values)
        wanted = torch.from_numpy(direction).reshape(values[end].shape)
        (gradient,) = torch.autograd.grad(values[end], values[source], grad_outputs=wanted)
    return gradient.numpy()


def by_head(prepared, source, end, images, direction):
    """The same of a prepared network's head, with the scales of its normalisations held."""
    head = OnnxHead(prepared, source, end)
    value, *context = run(prepared.model, [source, *head.context], {"image": images})
    leaf = torch.from_numpy(value).requires_grad_(True)
    with torch.enable_grad():
        z, _ = head(leaf, *(torch.from_numpy(each) for each in context))
        wanted = torch.from_numpy(direction).reshape(z.shape)
        (gradient,) = torch.autograd.grad(z, leaf, grad_outputs=wanted)
    return gradient.numpy()


def worst(found, expected):
    """The greatest difference over the greatest number."""
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())
