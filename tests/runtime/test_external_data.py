"""Weights in other files: which are read, wherever in the file they are named."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from foldcam.runtime.backends import open_backend
from foldcam.runtime.contract.onnx_file import read_header
from foldcam.runtime.system.errors import FoldcamError

OUTSIDE = "outside of the file's folder"


def _external(name="w", location="w.bin", **entries):
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": "16", **entries}.items():
        if value is not None:
            tensor.external_data.add(key=key, value=value)
    return tensor


def _constant(tensor):
    return helper.make_node("Constant", [], ["c"], value=tensor)


def _branch(tensor):
    value = helper.make_tensor_value_info("c", TensorProto.FLOAT, [4])
    return helper.make_graph([_constant(tensor)], "b", [], [value])


def _sparse(tensor, part):
    found = onnx.SparseTensorProto(dims=[4])
    getattr(found, part).CopyFrom(tensor)
    return found


def _several(kind, values):
    node = helper.make_node("Many", [], ["c"])
    attribute = node.attribute.add(name="a", type=getattr(onnx.AttributeProto, kind.upper()))
    getattr(attribute, kind).extend(values)
    return node


def _in_function(model, tensor):
    model.functions.append(
        helper.make_function(
            "d", "F", [], ["c"], [_constant(tensor)], [helper.make_opsetid("", 18)]
        )
    )


def _in_training(model, tensor, part):
    getattr(model.training_info.add(), part).initializer.append(tensor)


# How a tensor gets into each place of a model that can hold one.
PLACES = {
    "initializer": lambda m, t: m.graph.initializer.append(t),
    "attribute": lambda m, t: m.graph.node.append(_constant(t)),
    "list of tensors": lambda m, t: m.graph.node.append(_several("tensors", [t])),
    "list of graphs": lambda m, t: m.graph.node.append(_several("graphs", [_branch(t)])),
    "subgraph": lambda m, t: m.graph.node.append(
        helper.make_node("If", ["x"], ["z"], then_branch=_branch(t), else_branch=_branch(t))
    ),
    "sparse values": lambda m, t: m.graph.sparse_initializer.append(_sparse(t, "values")),
    "sparse indices": lambda m, t: m.graph.sparse_initializer.append(_sparse(t, "indices")),
    "sparse attribute": lambda m, t: m.graph.node.append(
        _several("sparse_tensors", [_sparse(t, "values")])
    ),
    "function": _in_function,
    "training": lambda m, t: _in_training(m, t, "initialization"),
    "algorithm": lambda m, t: _in_training(m, t, "algorithm"),
}


def _saved(tmp_path, put, tensor):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    put(model, tensor)
    folder = tmp_path / "folder"
    folder.mkdir(exist_ok=True)
    (tmp_path / "w.bin").write_bytes(bytes(64))
    (folder / "w.bin").write_bytes(bytes(64))
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx"


@pytest.mark.parametrize("place", PLACES)
def test_every_place_of_a_tensor_is_looked_at(place, tmp_path):
    path = _saved(tmp_path, PLACES[place], _external())
    assert {each.location for each in read_header(path).external} == {"w.bin"}
    path = _saved(tmp_path, PLACES[place], _external(location="../w.bin"))
    with pytest.raises(FoldcamError, match=OUTSIDE):
        read_header(path)


@pytest.mark.parametrize(
    "location",
    [
        "../w.bin", "a/../../w.bin", "inner/../w.bin", "./../w.bin", "..", "/etc/hostname", "//w",
        "..\\w.bin", "\\w.bin", "C:\\w.bin", "C:w.bin", "file:///etc/hostname", "w\0.bin",
        "link.bin", "folder/w.bin", ".secret", "inner/.secret/key",
        # By which ONNX Runtime means an address in its own memory.
        "*/_ORT_MEM_ADDR_/*",
    ],
)  # fmt: skip
def test_places_outside_of_the_folder_are_never_read(location, tmp_path):
    path = _saved(tmp_path, PLACES["initializer"], _external(location=location))
    folder = path.parent
    (folder / "inner").mkdir()
    (folder / ".secret").write_bytes(bytes(64))
    (folder / "link.bin").symlink_to(tmp_path / "w.bin")
    (folder / "folder").symlink_to(tmp_path)
    with pytest.raises(FoldcamError, match=OUTSIDE):
        read_header(path)


def test_links_in_a_circle_are_one_sentence(tmp_path):
    path = _saved(tmp_path, PLACES["initializer"], _external(location="loop"))
    (path.parent / "loop").symlink_to(path.parent / "loop")
    with pytest.raises(FoldcamError, match=f"{OUTSIDE}|which is missing"):
        read_header(path)


def test_places_inside_are_read_even_by_a_link_or_from_another_folder(tmp_path, monkeypatch):
    for location in ("w.bin", "./w.bin", "inner/w.bin", "link.bin"):
        path = _saved(tmp_path, PLACES["initializer"], _external(location=location))
        (path.parent / "inner").mkdir(exist_ok=True)
        (path.parent / "inner" / "w.bin").write_bytes(bytes(64))
        if not (path.parent / "link.bin").is_symlink():
            (path.parent / "link.bin").symlink_to("w.bin")
        monkeypatch.chdir(tmp_path)
        assert read_header(path.relative_to(tmp_path)).external[0].location == location
        monkeypatch.chdir(path.parent)
        assert read_header(path.relative_to(path.parent)).external[0].location == location


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ({"location": ""}, "none is named"),
        ({"location": None}, "none is named"),
        ({"location": "absent.bin"}, "which is missing"),
        ({"location": "pipe"}, "no regular file"),
        ({"location": "inner"}, "no regular file"),
        ({"offset": "49"}, "ends before the weight"),
        ({"length": "65"}, "ends before the weight"),
        ({"offset": "65", "length": None}, "ends before the weight"),
        ({"offset": "-1"}, "no number of bytes"),
        ({"offset": "1e3"}, "no number of bytes"),
        ({"offset": "\u0661"}, "no number of bytes"),
        ({"length": "9" * 40}, "no number of bytes"),
    ],
)
def test_what_no_reader_could_read_is_refused(entries, sentence, tmp_path):
    path = _saved(tmp_path, PLACES["initializer"], _external(**entries))
    (path.parent / "inner").mkdir()
    os.mkfifo(path.parent / "pipe")
    with pytest.raises(FoldcamError, match=sentence):
        read_header(path)


def test_two_places_of_one_weight_are_refused(tmp_path):
    tensor = _external()
    tensor.external_data.add(key="location", value="other.bin")
    path = _saved(tmp_path, PLACES["initializer"], tensor)
    with pytest.raises(FoldcamError, match="two entries 'location'"):
        read_header(path)


def test_a_place_that_is_left_over_may_not_lead_outside_either(tmp_path):
    """Readers join a tensor that is written in two pieces: the place, and that it counts."""
    tensor = _external(location="../w.bin")
    tensor.data_location = TensorProto.DEFAULT
    with pytest.raises(FoldcamError, match=OUTSIDE):
        read_header(_saved(tmp_path, PLACES["initializer"], tensor))
    tensor = _external(location="absent.bin")
    tensor.data_location = TensorProto.DEFAULT
    tensor.raw_data = bytes(16)
    assert not read_header(_saved(tmp_path, PLACES["initializer"], tensor)).external[0].read


def test_a_number_beyond_32_bits_hides_nothing(tmp_path):
    """Other readers drop the upper bits, of a field's number as of an enumeration."""
    path = _saved(tmp_path, PLACES["initializer"], _external(location="absent.bin"))
    content = path.read_bytes()
    assert content.count(b"\x70\x01") == 1
    path.write_bytes(content.replace(b"\x70\x01", b"\x70\x81\x80\x80\x80\x10"))
    with pytest.raises(FoldcamError):
        read_header(path)
    path.write_bytes(b"\xba\x80\x80\x80\x10" + b"\x00" + content)
    with pytest.raises(FoldcamError, match="damaged"):
        read_header(path)


def test_a_pipe_or_a_device_is_no_onnx_file(tmp_path):
    os.mkfifo(tmp_path / "model.onnx")
    for path in (tmp_path / "model.onnx", tmp_path.__class__("/dev/zero")):
        with pytest.raises(FoldcamError, match="a pipe, a device or a socket"):
            read_header(path)


def _refusing(sessions):
    """An ONNX Runtime that writes down what it is asked to open."""

    def session(path, *_arguments, **_settings):
        sessions.append(path)
        raise RuntimeError("opened")

    options = SimpleNamespace(add_session_config_entry=lambda *_: None)
    return SimpleNamespace(
        __version__="1.18.0",
        InferenceSession=session,
        SessionOptions=lambda: options,
        get_available_providers=lambda: ["CPUExecutionProvider"],
    )


def test_a_library_opens_the_file_only_after_foldcam_has_looked(tiny_model, monkeypatch, tmp_path):
    """ONNX Runtime before 1.24 would read whatever the file names."""
    sessions = []
    monkeypatch.setitem(sys.modules, "onnxruntime", _refusing(sessions))
    model = onnx.load(tiny_model)
    value = numpy_helper.from_array(np.ones(4, np.float32), "w")
    for tensor, opened in ((value, 1), (_external(), 1), (_external(location="../w.bin"), 0)):
        sessions.clear()
        path = tmp_path / "folder" / "model.onnx"
        path.parent.mkdir(exist_ok=True)
        for folder in (tmp_path, path.parent):
            (folder / "w.bin").write_bytes(bytes(64))
        made = onnx.ModelProto()
        made.CopyFrom(model)
        made.graph.initializer.append(tensor)
        path.write_bytes(made.SerializeToString())
        with pytest.raises(FoldcamError, match="opened" if opened else OUTSIDE):
            open_backend(path, provider="cpu")
        assert len(sessions) == opened


@pytest.mark.parametrize(
    ("domain", "operator"),
    [
        ("com.microsoft", "EPContext"),
        ("com.microsoft", "PythonOp"),
        ("org.pytorch.aten", "ATen"),
        ("acme", "Relu"),
        ("com.microsoft.", "Gelu"),
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_a_folded_model_with_an_operator_that_may_run_code_is_refused(
    domain, operator, inside, tiny_model, tmp_path
):
    model = onnx.load(tiny_model)
    node = helper.make_node(operator, ["q"], ["r"], domain=domain)
    if inside:
        graph = helper.make_graph([node], "b", [], [])
        node = helper.make_node("If", ["c"], ["z"], then_branch=graph, else_branch=graph)
    model.graph.node.append(node)
    # A function of that name does not make it harmless.
    model.functions.append(
        helper.make_function(domain, operator, ["a"], ["b"], [], [helper.make_opsetid("", 18)])
    )
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(FoldcamError, match=f"none of ONNX's own, {operator} of '{domain}'"):
        open_backend(tmp_path / "m.onnx", provider="cpu")
