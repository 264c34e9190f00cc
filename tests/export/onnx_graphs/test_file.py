"""ONNX files as they come: external data, custom operators, damaged ones; and their hash."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from foldcam.export.onnx_graphs.file import computation_hash, read_onnx
from foldcam.runtime.contract.schema import METADATA_KEY
from foldcam.runtime.system.errors import FoldcamError


@pytest.fixture
def external(onnx_files, tmp_path):
    """A file whose weights lie beside it, in `w.bin`."""
    path = tmp_path / "net.onnx"
    onnx.save(
        onnx_files.plain(),
        path,
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location="w.bin",
        size_threshold=0,
    )
    return path


def _weights(model):
    return {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}


def _doctored(path, change):
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = change.get(entry.key, entry.value)
    onnx.save(model, path)


def test_weights_beside_the_file_are_read(external, onnx_files):
    found, expected = _weights(read_onnx(external).model), _weights(onnx_files.plain())
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def test_missing_weights_are_named(external):
    (external.parent / "w.bin").unlink()
    with pytest.raises(FoldcamError, match=r"'w\.bin', which is missing"):
        read_onnx(external)


def test_weights_that_are_cut_short_are_refused(external):
    data = (external.parent / "w.bin").read_bytes()
    (external.parent / "w.bin").write_bytes(data[:-4])
    with pytest.raises(FoldcamError, match=r"'w\.bin' ends before the weight"):
        read_onnx(external)


@pytest.mark.parametrize("place", ["../w.bin", "/etc/hostname", "inner/../../w.bin"])
def test_weights_outside_of_the_folder_are_never_read(place, external):
    (external.parent.parent / "w.bin").write_bytes(bytes(4096))
    _doctored(external, {"location": place})
    with pytest.raises(FoldcamError, match="outside of the file's folder"):
        read_onnx(external)


def test_a_link_that_leads_out_of_the_folder_is_not_followed(external):
    beside, outside = external.parent / "w.bin", external.parent.parent / "elsewhere.bin"
    beside.rename(outside)
    beside.symlink_to(outside)
    with pytest.raises(FoldcamError, match="outside of the file's folder"):
        read_onnx(external)


def test_more_than_a_protocol_buffer_holds_is_refused(external):
    with (external.parent / "w.bin").open("r+b") as stream:
        stream.truncate((1 << 31) + 4096)  # sparse: takes no room on the disk
    model = onnx.load(external, load_external_data=False)
    entries = {entry.key: entry for entry in model.graph.initializer[0].external_data}
    entries["length"].value = str(1 << 31)
    entries["offset"].value = "0"
    onnx.save(model, external)
    with pytest.raises(FoldcamError, match=r"2\.00 GiB .* holds at most 2"):
        read_onnx(external)


def test_what_is_no_onnx_file_is_refused(tmp_path):
    path = tmp_path / "a.onnx"
    with pytest.raises(FoldcamError, match="does not exist"):
        read_onnx(path)
    for data in (b"", b"not onnx at all", bytes(100)):
        path.write_bytes(data)
        with pytest.raises(FoldcamError, match="is not an ONNX file"):
            read_onnx(path)


def test_a_folded_model_is_recognised(onnx_files, tmp_path):
    model = onnx_files.plain()
    model.metadata_props.add(key=METADATA_KEY, value="{}")
    with pytest.raises(FoldcamError, match=r"is folded already.*foldcam verify"):
        read_onnx(onnx_files.save(model, tmp_path))


@pytest.mark.parametrize("inside", [False, True])
def test_a_custom_operator_is_named(inside, onnx_files, tmp_path):
    model = onnx_files.plain()
    custom = helper.make_node("Magic", ["y"], ["z"], "m_1", domain="com.acme")
    if inside:
        branch = helper.make_graph([custom], "b", [], [onnx.ValueInfoProto(name="z")])
        condition = helper.make_node("Constant", [], ["c"], value_int=1)
        model.graph.node.extend(
            [
                condition,
                helper.make_node("If", ["c"], ["q"], then_branch=branch, else_branch=branch),
            ]
        )
    else:
        model.graph.node.append(custom)
    model.opset_import.append(helper.make_opsetid("com.acme", 1))
    with pytest.raises(FoldcamError, match=r"Magic of 'com\.acme' \(node 'm_1'\)"):
        read_onnx(onnx_files.save(model, tmp_path))


def test_what_the_optimizer_of_onnx_runtime_fused_is_refused_with_the_way_back(
    onnx_files, tmp_path
):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    path = onnx_files.save(onnx_files.plain(), tmp_path)
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    with pytest.raises(FoldcamError, match=r"FusedConv of 'com\.microsoft'.*ORT_ENABLE_BASIC"):
        read_onnx(tmp_path / "optimized.onnx")


def test_a_quantized_network_is_refused(onnx_files, tmp_path):
    model = onnx_files.plain(["DequantizeLinear map,scale -> y"], scale=np.ones(1, np.float32))
    with pytest.raises(FoldcamError, match=r"quantized \(DequantizeLinear, node 'n_y'\)"):
        read_onnx(onnx_files.save(model, tmp_path))


def test_functions_of_the_file_are_inlined(onnx_files, tmp_path):
    model = onnx_files.plain(["GlobalAveragePool map -> p", "Flatten p -> f", "Gemm f,w1 -> g"])
    model.functions.append(
        helper.make_function(
            "local",
            "Twice",
            ["a"],
            ["b"],
            [helper.make_node("Add", ["a", "a"], ["b"])],
            [helper.make_opsetid("", 17)],
        )
    )
    model.graph.node.append(helper.make_node("Twice", ["g"], ["y"], domain="local"))
    model.opset_import.append(helper.make_opsetid("local", 1))
    read = read_onnx(onnx_files.save(model, tmp_path)).model
    assert [node.op_type for node in read.graph.node][-1] == "Add"
    assert not read.functions


def test_the_hash_is_of_what_is_computed(onnx_files, external, tmp_path):
    def digest(model, output="y"):
        return computation_hash(model, output)

    plain = onnx_files.plain()
    expected = digest(plain)
    assert digest(read_onnx(external).model) == expected
    plain.doc_string = plain.graph.doc_string = "written on a machine"
    plain.producer_name = "somebody"
    plain.metadata_props.add(key="a", value="b")
    for node in plain.graph.node:
        node.name, node.doc_string = "", "line 3"
    for tensor in plain.graph.initializer:
        data = onnx.numpy_helper.to_array(tensor).reshape(-1)
        tensor.ClearField("raw_data")
        tensor.float_data.extend(data.tolist())
    assert digest(plain) == expected
    assert digest(plain, "f") != expected
    plain.graph.initializer[0].float_data[0] += 1e-3
    assert digest(plain) != expected


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.graph.node[1].__setattr__("op_type", "Sigmoid"),
        lambda m: m.graph.node[0].attribute[0].ints.__setitem__(0, 1),
        lambda m: m.graph.node[1].input.__setitem__(0, "x"),
        lambda m: m.opset_import[0].__setattr__("version", 18),
        lambda m: m.graph.input[0].type.tensor_type.__setattr__("elem_type", TensorProto.DOUBLE),
    ],
)
def test_the_hash_knows_every_part_of_the_computation(change, onnx_files):
    model = onnx_files.plain()
    before = computation_hash(model, "y")
    change(model)
    assert computation_hash(model, "y") != before
