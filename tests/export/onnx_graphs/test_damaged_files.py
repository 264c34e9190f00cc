"""Damaged and hostile ONNX files: read, or refused in one sentence, and memory stays bounded."""

from __future__ import annotations

import random
import resource
import subprocess
import sys
from itertools import pairwise

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from foldcam.benchmarks.studies.reliability.mutants import mutated_onnx
from foldcam.export.onnx_graphs.file import read_onnx
from foldcam.export.verification.check.view import load_view
from foldcam.runtime.contract.onnx_file import read_header
from foldcam.runtime.system.errors import FoldcamError


def network(nodes=(), constants=None, last="x") -> onnx.ModelProto:
    """A convolution, pooled; before it, `nodes` that make `x` out of the image."""
    generator = np.random.default_rng(0)
    weights = {"w": generator.random((4, 3, 3, 3), np.float32), **(constants or {})}
    graph = helper.make_graph(
        [
            *(nodes or [helper.make_node("Identity", ["image"], ["x"])]),
            helper.make_node("Conv", [last, "w"], ["A"], name="conv", pads=[1, 1, 1, 1]),
            helper.make_node("GlobalAveragePool", ["A"], ["pooled"], name="pool"),
            helper.make_node("Flatten", ["pooled"], ["embedding"], name="flat"),
        ],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 16, 16])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def save(path, model):
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("reader", [read_header, read_onnx, load_view])
def test_any_file_is_read_or_refused_in_one_sentence(reader, tmp_path):
    original, path, refused, count = network().SerializeToString(), tmp_path / "m.onnx", [], 150
    for number in range(count):
        path.write_bytes(mutated_onnx(random.Random(f"onnx:{number}"), [original]))
        try:
            reader(path)
        except FoldcamError as error:
            refused.append(str(error))
    assert 10 < len(refused) < count
    assert max(map(len, refused)) < 600
    assert not any("\n" in text for text in refused)


@pytest.mark.parametrize("name", [b"conv", b"embedding", b"Conv", b"image"])
@pytest.mark.parametrize("reader", [read_onnx, load_view])
def test_a_name_that_is_no_utf8_is_damage(reader, name, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(network().SerializeToString().replace(name, b"\xff" * len(name)))
    with pytest.raises(FoldcamError, match=r"is not an ONNX file, or it is damaged\.$"):
        reader(path)


def doubled() -> onnx.ModelProto:
    """A list of four numbers, twice as long after each of 34 nodes."""
    names = ["few", *(f"d{number}" for number in range(34))]
    nodes = [
        helper.make_node("Concat", [one, one], [other], axis=0) for one, other in pairwise(names)
    ]
    nodes += [
        helper.make_node("ReduceSum", [names[-1]], ["sum"], keepdims=0),
        helper.make_node("Cast", ["sum"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["image", "number"], ["x"]),
    ]
    return network(nodes, {"few": np.ones(4, np.int64)})


def multiplied() -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["a", "b"], ["big"]),
        helper.make_node("ReduceSum", ["big"], ["sum"], keepdims=0),
        helper.make_node("Add", ["image", "sum"], ["x"]),
    ]
    column = np.ones((70_000, 1), np.float32)
    return network(nodes, {"a": column, "b": column.T.copy()})


@pytest.mark.parametrize("make", [doubled, multiplied])
@pytest.mark.parametrize("reader", ["load_view", "read_onnx"])
def test_a_value_that_only_the_nodes_make_huge_is_refused_in_little_memory(make, reader, tmp_path):
    path = save(tmp_path / "m.onnx", make())
    program = (
        "import sys, pathlib\n"
        "from foldcam.export.verification.check.view import load_view\n"
        "from foldcam.export.onnx_graphs.file import read_onnx\n"
        f"{reader}(pathlib.Path(sys.argv[1]))\n"
    )

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))

    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        capture_output=True, text=True, check=False, preexec_fn=limited, timeout=120,
    )  # fmt: skip
    assert "where 4 GiB are allowed" in done.stderr
    assert "MemoryError" not in done.stderr


def test_a_network_of_the_usual_sizes_is_read(tmp_path):
    path = save(tmp_path / "m.onnx", network())
    assert read_onnx(path).model.graph.node
    assert load_view(path)
