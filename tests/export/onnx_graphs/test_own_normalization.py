"""Networks that begin by normalising their images are given what they take."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from foldcam.export.exporting.exporter import normalization_notes
from foldcam.export.models.spec import load_model, with_overrides
from foldcam.export.onnx_graphs.own_normalization import own_normalization
from foldcam.runtime.images.preprocess import Preprocessing

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def network(*steps):
    """A convolution, a pool and a linear layer behind `(operator, numbers, first)` steps."""
    nodes, constants, name = [], [], "image"
    for number, (operator, *values) in enumerate(steps):
        given = [name]
        for place, value in enumerate(values):
            constant = np.asarray(value, np.float32)
            if operator != "BatchNormalization" and constant.size == 3:
                constant = constant.reshape(1, 3, 1, 1)
            constants.append(numpy_helper.from_array(constant, f"c{number}.{place}"))
            given.append(f"c{number}.{place}")
        nodes.append(helper.make_node(operator, given, [f"s{number}"]))
        name = f"s{number}"
    generator = np.random.default_rng(0)
    for key, shape in (("w", (4, 3, 3, 3)), ("m", (4, 5))):
        values = generator.normal(size=shape).astype(np.float32)
        constants.append(numpy_helper.from_array(values, key))
    nodes += [
        helper.make_node("Conv", [name, "w"], ["conv"]),
        helper.make_node("Relu", ["conv"], ["map"]),
        helper.make_node("GlobalAveragePool", ["map"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("MatMul", ["flat", "m"], ["out"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 16, 16])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 5])
    graph = helper.make_graph(nodes, "g", [image], [out], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


BYTES = [
    [("Sub", MEAN), ("Div", STD)],
    [("Sub", 127.5), ("Mul", 0.0078125)],
    [("Div", 255.0)],
    [("Mul", 1 / 255), ("Sub", [0.485, 0.456, 0.406]), ("Div", [0.229, 0.224, 0.225])],
    [("Add", [-n for n in MEAN]), ("Identity",), ("Mul", [1 / n for n in STD])],
    [("BatchNormalization", [1, 1, 1], [0, 0, 0], MEAN, [n * n for n in STD])],
]
UNITS = [[("Sub", 0.5), ("Div", 0.5)], [("Mul", 2.0), ("Sub", 1.0)]]
# A learned scale, a normalisation of what is normalised already, and none at all.
NONE = [
    [],
    [("Mul", 1.3)],
    [("BatchNormalization", [1, 1, 1], [0, 0, 0], [0.1, 0.0, -0.1], [1.2, 1, 0.9])],
    [("Mul", -1.0)],
]


@pytest.mark.parametrize("steps", BYTES)
def test_a_network_of_pixels_of_0_to_255_is_recognised(steps):
    found = own_normalization(network(*steps).graph)
    assert found is not None
    assert found.takes_bytes
    assert "0.00392156863" in found.flags


@pytest.mark.parametrize("steps", UNITS)
def test_a_network_of_pixels_of_0_to_1_is_recognised(steps):
    found = own_normalization(network(*steps).graph)
    assert found is not None
    assert not found.takes_bytes
    assert found.flags == "--mean 0,0,0 --std 1,1,1"


@pytest.mark.parametrize("steps", NONE)
def test_other_beginnings_are_no_normalisation(steps):
    assert own_normalization(network(*steps).graph) is None


@pytest.mark.parametrize(("steps", "std"), [(BYTES[0], 1 / 255), (UNITS[0], 1.0)])
def test_an_onnx_file_is_given_what_it_takes_and_that_is_said(steps, std, tmp_path):
    onnx.save(network(*steps), tmp_path / "net.onnx")
    loaded = load_model(str(tmp_path / "net.onnx"))
    assert loaded.preprocessing.mean == (0, 0, 0)
    assert loaded.preprocessing.std == (std, std, std)
    (note,) = normalization_notes(loaded, loaded.preprocessing)
    assert note.startswith("The network normalises its images itself")
    (warning,) = normalization_notes(loaded, Preprocessing())
    assert warning.startswith("WARNING: the network normalises its images itself")


@pytest.mark.parametrize("steps", [BYTES[0], UNITS[0]])
def test_the_flags_that_the_warning_names_are_the_ones_that_fit(steps):
    found = own_normalization(network(*steps).graph)
    words = found.flags.split()
    look = with_overrides(Preprocessing(), mean=words[1], std=words[3])
    assert found.fits(look)
    assert not found.fits(Preprocessing())


def test_a_network_without_one_keeps_the_usual_note(tmp_path):
    onnx.save(network(), tmp_path / "net.onnx")
    loaded = load_model(str(tmp_path / "net.onnx"))
    assert loaded.preprocessing.mean == Preprocessing().mean
    assert (
        "does not say how its images are normalised"
        in normalization_notes(loaded, loaded.preprocessing)[0]
    )
