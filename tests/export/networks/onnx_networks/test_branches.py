"""Branches of an ONNX network: taken where the image has no say, refused where it has."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from foldcam.export.networks.onnx_networks.cut import OnnxNetwork
from foldcam.export.onnx_graphs.file import read_onnx
from foldcam.runtime.system.errors import FoldcamError


def _with_branch(made, level):
    """The ReLU that makes `map` becomes an If over the mean of a value: ReLU or negated."""
    graphs = [
        onnx.helper.make_graph(
            [onnx.helper.make_node(operator, ["c0"], [f"{operator}_out"])],
            operator,
            [],
            [onnx.helper.make_tensor_value_info(f"{operator}_out", 1, None)],
        )
        for operator in ("Relu", "Neg")
    ]
    nodes = list(made.graph.node)
    nodes[1:2] = [
        onnx.helper.make_node("ReduceMean", [level], ["level"], "n_level", keepdims=0),
        onnx.helper.make_node("Cast", ["level"], ["condition"], to=9),
        onnx.helper.make_node(
            "If", ["condition"], ["map"], "n_if", then_branch=graphs[0], else_branch=graphs[1]
        ),
    ]
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    return made


HEAD = ["Relu map -> q", "GlobalAveragePool q -> p", "Flatten p -> f", "Gemm f,w1 -> y"]


def test_a_branch_taken_by_a_constant_is_part_of_the_trunk(
    onnx_files, tmp_path, random_images, answers_of
):
    made = _with_branch(onnx_files.plain(HEAD, one=np.ones(1, np.float32)), "one")
    path = onnx_files.save(made, tmp_path)
    network = OnnxNetwork(read_onnx(path), onnx_files.SIZE)
    images = random_images(2, onnx_files.SIZE)
    expected = answers_of(str(path), images.numpy())[0]
    np.testing.assert_allclose(network.forward(images).embedding, expected, rtol=1e-5, atol=1e-6)
    assert network.layer == "q"


def test_a_branch_that_asks_for_a_size_is_taken_in_the_head_as_well(
    onnx_files, tmp_path, random_images, answers_of
):
    """As torch writes `squeeze` of a dimension whose size it does not know."""
    lines = ["GlobalAveragePool map -> p", "Shape p -> sizes", "Gather sizes,two -> width"]
    lines += ["Equal width,one -> single", "Identity p -> f", "Gemm f,w1 -> y"]
    made = onnx_files.plain(lines, two=np.array(2, np.int64), one=np.array(1, np.int64))
    axes = onnx.numpy_helper.from_array(np.array([2, 3], np.int64), "axes")
    kept = [onnx.helper.make_tensor_value_info(name, 1, None) for name in ("s", "t")]
    squeeze = onnx.helper.make_node("Squeeze", ["p", "axes"], ["s"], "n_p")
    other = onnx.helper.make_node("Identity", ["p"], ["t"], "n_p")
    node = onnx.helper.make_node(
        "If",
        ["single"],
        ["f"],
        "n_if",
        then_branch=onnx.helper.make_graph([squeeze], "then", [], kept[:1], [axes]),
        else_branch=onnx.helper.make_graph([other], "else", [], kept[1:]),
    )
    (place,) = (at for at, each in enumerate(made.graph.node) if each.op_type == "Identity")
    made.graph.node[place].CopyFrom(node)
    for each in made.graph.node:
        if each.op_type == "Gemm":
            # Two nodes of one name, which ONNX allows and ONNX Runtime does not.
            each.name = made.graph.node[0].name
    path = onnx_files.save(made, tmp_path)
    network = OnnxNetwork(read_onnx(path), onnx_files.SIZE)
    images = random_images(3, onnx_files.SIZE)
    activations = network.forward(images)
    pooled = activations.feature_map.mean((2, 3)).numpy()
    np.testing.assert_allclose(
        activations.embedding, pooled @ onnx_files.weights(1, 4, 3), rtol=1e-5, atol=1e-6
    )
    found = answers_of(network.to_onnx(18).SerializeToString(), images.numpy())
    np.testing.assert_allclose(found[1], activations.embedding, rtol=1e-5, atol=1e-6)


def test_a_branch_that_looks_at_all_images_is_refused(onnx_files, tmp_path):
    path = onnx_files.save(_with_branch(onnx_files.plain(HEAD), "c0"), tmp_path)
    with pytest.raises(FoldcamError, match=r"ReduceMean \(node 'n_level'\) mixes or drops images"):
        OnnxNetwork(read_onnx(path), onnx_files.SIZE)


def test_a_batch_norm_in_training_mode_is_named(onnx_files, tmp_path):
    made = onnx_files.plain(
        ["BatchNormalization map,s,s,s,s -> b training_mode=1", *HEAD],
        s=np.ones(4, np.float32),
    )
    for node in made.graph.node:
        if node.op_type == "BatchNormalization":
            node.output.extend(["mean", "var"])
        elif node.name == "n_q":
            node.input[0] = "b"
    with pytest.raises(FoldcamError, match=r"\(node 'n_b'\) is in training mode.*after eval"):
        OnnxNetwork(read_onnx(onnx_files.save(made, tmp_path)), onnx_files.SIZE)
