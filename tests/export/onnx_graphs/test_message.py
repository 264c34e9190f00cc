"""An ONNX file in memory names no other file any more."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from foldcam.export.onnx_graphs.message import load_message, tensors
from foldcam.runtime.system.errors import FoldcamError

ROOT = Path(__file__).resolve().parents[3]


def _external(name, offset):
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "w.bin"), ("offset", str(offset)), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def _model():
    """External data in constants, attributes, subgraphs, functions and sparse tensors."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy")
    constant = helper.make_node("Constant", [], ["c"], value=_external("inner", 16))
    branch = helper.make_graph([constant], "b", [], [helper.make_tensor_value_info("c", 1, [4])])
    nodes = [
        helper.make_node("Add", ["x", "w"], ["y"]),
        helper.make_node("If", ["x"], ["z"], then_branch=branch, else_branch=branch),
    ]
    graph = helper.make_graph(nodes, "g", [x], [y], [_external("w", 0)])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    body = [helper.make_node("Constant", [], ["c"], value=_external("in function", 32))]
    made.functions.append(
        helper.make_function("d", "F", [], ["c"], body, [helper.make_opsetid("", 18)])
    )
    sparse = made.graph.sparse_initializer.add(dims=[9])
    sparse.values.CopyFrom(_external("sparse", 48))
    made.training_info.add().initialization.initializer.append(_external("training", 64))
    return made


@pytest.fixture
def path(tmp_path):
    (tmp_path / "w.bin").write_bytes(np.arange(20, dtype=np.float32).tobytes())
    (tmp_path / "model.onnx").write_bytes(_model().SerializeToString())
    return tmp_path / "model.onnx"


def test_weights_beside_the_file_are_read_wherever_they_are_named(path):
    found = {tensor.name: tensor for tensor in tensors(load_message(path))}
    for start, name in enumerate(("w", "inner", "in function", "sparse", "training")):
        tensor = found[name]
        assert tensor.data_location == TensorProto.DEFAULT
        assert not tensor.external_data
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), np.arange(4) + 4 * start)


def test_a_message_needs_no_other_file_to_run(path, monkeypatch, tmp_path):
    model = load_message(path)
    (path.parent / "w.bin").unlink()
    # Where a library would look for it.
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert not any(t.data_location == TensorProto.EXTERNAL for t in tensors(model))


def test_what_cannot_be_read_is_one_sentence(path):
    (path.parent / "w.bin").write_bytes(bytes(70))
    with pytest.raises(FoldcamError, match="ends before the weight 'training'"):
        load_message(path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(FoldcamError, match="is not an ONNX file, or it is damaged"):
        load_message(path)
    with pytest.raises(FoldcamError, match="does not exist"):
        load_message(path.with_name("none.onnx"))


def test_a_text_form_of_onnx_is_not_taken_for_a_model(tmp_path):
    """`onnx.load` goes by the suffix, and these forms have no small reader before them."""
    path = tmp_path / "model.textproto"
    onnx.save(onnx.parser.parse_model('<ir_version: 8, opset_import: ["": 18]> g (float[1] x) =>'
                                      " (float[1] y) { y = Relu(x) }"), path)  # fmt: skip
    with pytest.raises(FoldcamError, match="is not an ONNX file"):
        load_message(path)


def test_no_other_module_opens_an_onnx_file_by_itself():
    """Else its external data would be up to the library."""
    packages = ("runtime", "export", "calibrate", "benchmarks")
    opening = re.compile(r"\bonnx\.load(_model)?\(|load_external_data|external_data_helper")
    found = [
        str(path.relative_to(ROOT))
        for package in packages
        for path in (ROOT / package).rglob("*.py")
        if opening.search(re.sub(r'"[^"\n]*"|`[^`]*`', "", path.read_text()))
    ]
    assert found == []
