"""Sizes that a file of a few kilobytes states: refused before any library allocates them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from foldcam.runtime.contract.onnx_file import read_header
from foldcam.runtime.contract.onnx_sizes import VARIABLE
from foldcam.runtime.system.errors import FoldcamError

HUGE = 1 << 31


def saved(tmp_path, nodes=(), constants=None, image=(1, 3, 8, 8), change=None):
    """An identity with some nodes beside it."""
    constants = {name: np.asarray(value) for name, value in (constants or {}).items()}
    graph = helper.make_graph(
        [helper.make_node("Identity", ["image"], ["out"]), *nodes],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, list(image))],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, list(image))],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph)
    if change is not None:
        change(model)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    return tmp_path / "m.onnx"


def node(kind, inputs, **attributes):
    return [helper.make_node(kind, inputs, ["big"], **attributes)]


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        (node("ConstantOfShape", ["n"]), {"n": [HUGE, 8]}),
        (node("Expand", ["one", "n"]), {"n": [HUGE], "one": [np.float32(1)]}),
        (node("Tile", ["image", "n"]), {"n": [1, 1, 65536, 65536]}),
        (node("Range", ["a", "n", "b"]), {"a": 0, "n": 1 << 40, "b": 1}),
        (node("OneHot", ["i", "n", "v"]), {"n": [HUGE], "i": [0], "v": [0, 1]}),
        (node("Resize", ["image", "", "n"]), {"n": np.float32([1, 1, 1e6, 1e6])}),
        (node("Resize", ["image", "", "n"]), {"n": np.float32([1, 1, np.inf, 1])}),
        (node("Resize", ["image", "", "", "n"]), {"n": [1, 3, HUGE, HUGE]}),
        (node("Pad", ["image", "n"]), {"n": [0, 0, 0, 0, 0, 0, HUGE, 0]}),
        (node("RandomNormal", [], shape=[HUGE, 4]), {}),
    ],
)
def test_a_constant_that_makes_something_huge_is_refused(tmp_path, nodes, constants):
    path = saved(tmp_path, nodes, constants)
    with pytest.raises(FoldcamError, match=r"where 4 GiB are allowed.*FOLDCAM_MOST_TENSOR_GIB"):
        read_header(path)
    as_nodes = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(value)))
        for name, value in constants.items()
    ]
    with pytest.raises(FoldcamError, match="where 4 GiB are allowed"):
        read_header(saved(tmp_path, [*as_nodes, *nodes]))
    inner = helper.make_graph(nodes, "inner", [], [])
    with pytest.raises(FoldcamError, match="where 4 GiB are allowed"):
        read_header(
            saved(tmp_path, [helper.make_node("If", ["c"], ["x"], then_branch=inner)], constants)
        )


def test_typed_fields_count_as_well_as_raw_ones(tmp_path):
    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(helper.make_tensor("n", TensorProto.INT64, [1], [HUGE]))

    with pytest.raises(FoldcamError, match="output of ConstantOfShape"):
        read_header(saved(tmp_path, node("ConstantOfShape", ["n"]), change=change))


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [([1, 3, HUGE, 8], "would have 192 GiB"), ([1, 3, 1 << 62, 1 << 62], "all memory"),
     ([1, 3, -7, 8], "size below 0")],
)  # fmt: skip
def test_a_declared_value_of_such_a_size_is_refused(tmp_path, sizes, reason):
    with pytest.raises(FoldcamError, match=reason):
        read_header(saved(tmp_path, image=sizes))


@pytest.mark.parametrize(
    ("dims", "reason"),
    [([HUGE], "and 16 bytes of numbers"), ([-4], "size below 0"), ([1 << 62, 8], "16 bytes")],
)
def test_a_tensor_holds_the_numbers_that_its_shape_counts(tmp_path, dims, reason):
    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer[0].dims[:] = dims

    path = saved(tmp_path, constants={"w": np.ones(4, np.float32)}, change=change)
    with pytest.raises(FoldcamError, match=reason):
        read_header(path)


def test_a_window_wider_than_any_picture_is_refused(tmp_path):
    path = saved(tmp_path, node("AveragePool", ["image"], kernel_shape=[HUGE, 2]))
    with pytest.raises(FoldcamError, match="kernel_shape of an operator"):
        read_header(path)


def test_who_needs_more_may_have_it(tmp_path, monkeypatch):
    path = saved(tmp_path, node("ConstantOfShape", ["n"]), {"n": [1 << 31]})
    monkeypatch.setenv(VARIABLE, "16")
    assert read_header(path).outputs
    for nonsense in ("nan", "-1", "much"):
        monkeypatch.setenv(VARIABLE, nonsense)
        with pytest.raises(FoldcamError, match="where 4 GiB"):
            read_header(path)


def test_what_networks_have_is_read(tmp_path):
    constants = {
        "sizes": [1, 3, 1024, 1024], "empty": np.float32([]), "repeats": [1, 1, 4, 4],
        "ends": [(1 << 63) - 1], "starts": [0], "open": [-1, 3],
    }  # fmt: skip
    nodes = [
        *node("Resize", ["image", "empty", "empty", "sizes"]),
        helper.make_node("Tile", ["image", "repeats"], ["a"]),
        helper.make_node("Slice", ["image", "starts", "ends"], ["b"]),
        helper.make_node("Reshape", ["image", "open"], ["c"]),
    ]
    path = saved(tmp_path, nodes, constants, image=("N", 3, 4096, 4096))
    assert read_header(path).inputs[0].shape == ("N", 3, 4096, 4096)
    assert read_header(saved(tmp_path, image=(-1, 3, 8, 8))).outputs
