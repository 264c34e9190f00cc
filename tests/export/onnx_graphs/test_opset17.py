"""`--opset 17`: what TensorRT 8.6 reads, with no operator and no form of opset 18."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional

from foldcam.export.grafting.fold import FoldOptions, fold
from foldcam.export.networks.torch_cut import TorchNetwork
from foldcam.export.onnx_graphs.opset import to_opset_17
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.errors import FoldcamError

PADS = np.array([0, 0, 1, 0, 0, 0, 2, 1])
CASES = {
    "Pad": ([("Pad", ["x", "pads"], "y", {})], {"pads": PADS}),
    "Pad by a value": (
        [("Pad", ["x", "pads", "seven"], "y", {})],
        {"pads": PADS, "seven": np.float32(7)},
    ),
    "Pad by reflection": ([("Pad", ["x", "pads", ""], "y", {"mode": "reflect"})], {"pads": PADS}),
    "Pad some axes": (
        [("Pad", ["x", "few", "seven", "axes"], "y", {})],
        {"few": np.array([1, 0, 2, 1]), "axes": np.array([-1, 2]), "seven": np.float32(7)},
    ),
    "Pad all axes": ([("Pad", ["x", "pads", "", ""], "y", {})], {"pads": PADS}),
    "Resize": (
        [("Resize", ["x", "", "s"], "y", {"mode": "linear", "antialias": 0})],
        {"s": np.array([1, 1, 2, 2], np.float32)},
    ),
    "Resize to a size": (
        [
            (
                "Resize",
                ["x", "", "", "s"],
                "y",
                {"mode": "nearest", "keep_aspect_ratio_policy": "stretch"},
            )
        ],
        {"s": np.array([2, 4, 9, 7])},
    ),
    "Split evenly": (
        [
            ("Split", ["x"], "a,b", {"axis": 1, "num_outputs": 2}),
            ("Sub", ["a", "b"], "y", {}),
        ],
        {},
    ),
    "Split with a rest": (
        [
            ("Split", ["x"], "a,b", {"axis": 3, "num_outputs": 2}),
            ("Concat", ["b", "a"], "y", {"axis": 3}),
        ],
        {},
    ),
    "Split by sizes": (
        [("Split", ["x", "s"], "a,b", {"axis": 1}), ("Concat", ["b", "a"], "y", {"axis": 1})],
        {"s": np.array([1, 3])},
    ),
    "LpPool": ([("LpPool", ["x"], "y", {"kernel_shape": [2, 2], "dilations": [1, 1]})], {}),
    "Mish": ([("Mish", ["x"], "y", {})], {}),
    **{
        f"{op} {keep}": (
            [("Abs", ["x"], "p", {}), (op, ["p", "axes"], "y", {"keepdims": keep})],
            {"axes": np.array([-1, 2])},
        )
        for op in (
            "ReduceL1",
            "ReduceL2",
            "ReduceLogSum",
            "ReduceLogSumExp",
            "ReduceMax",
            "ReduceMean",
            "ReduceMin",
            "ReduceProd",
            "ReduceSumSquare",
        )
        for keep in (0, 1)
    },
    "ReduceMean over all": ([("ReduceMean", ["x"], "y", {"noop_with_empty_axes": 0})], {}),
}
REFUSED = {
    "antialias": ("Resize", ["x", "", "s"], {"antialias": 1}, {"s": np.array([1, 1, 2, 2.0])}),
    "dilations": ("LpPool", ["x"], {"kernel_shape": [2, 2], "dilations": [2, 2]}, {}),
}


def _model(steps, constants):
    nodes = [helper.make_node(op, i, o.split(","), name=o, **a) for op, i, o, a in steps]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4, 5, 3])
    arrays = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "g", [given], outputs, arrays)
    opset = [helper.make_opsetid("", 18)]
    made = helper.make_model(graph, opset_imports=opset, ir_version=10)
    return onnx.shape_inference.infer_shapes(made, strict_mode=True)


def _run(model):
    x = np.random.default_rng(0).normal(size=(2, 4, 5, 3)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(["y"], {"x": x})[0]


@pytest.mark.parametrize("name", CASES)
def test_an_operator_of_18_does_the_same_in_17(name):
    model = _model(*CASES[name])
    before = model.SerializeToString(deterministic=True)
    onnx.checker.check_model(model, full_check=True)
    lowered = to_opset_17(model)
    assert model.SerializeToString(deterministic=True) == before
    assert [entry.version for entry in lowered.opset_import] == [17]
    onnx.checker.check_model(lowered, full_check=True)
    np.testing.assert_allclose(_run(lowered), _run(model), rtol=1e-6)


@pytest.mark.parametrize("name", REFUSED)
def test_what_17_cannot_say_does_not_pass_the_checker(name):
    op, inputs, attributes, constants = REFUSED[name]
    constants = {key: value.astype(np.float32) for key, value in constants.items()}
    model = _model([(op, inputs, "y", attributes)], constants)
    with pytest.raises(onnx.checker.ValidationError, match=name):
        onnx.checker.check_model(to_opset_17(model), full_check=True)


def test_axes_that_are_computed_are_refused_by_the_steps_name():
    steps = [("Neg", ["axes"], "n", {}), ("ReduceMax", ["x", "n"], "y", {})]
    with pytest.raises(FoldcamError, match="'y' takes its axes from a computation; use --opset 18"):
        to_opset_17(_model(steps, {"axes": np.array([-1])}))


class Padded(nn.Module):
    """Padding by reflection, a split, Mish: what converters cannot lower."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3, stride=2), nn.Linear(4, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = functional.mish(self.conv(functional.pad(image, (1, 2, 0, 1), mode="reflect")))
        left, right = x.chunk(2, dim=1)
        return functional.normalize(self.fc((left * right.sigmoid()).amax((2, 3))))


def _forms_of_17(model):
    """Every node must be one that opset 17 knows, with no more inputs, and no other attributes."""
    (entry,) = [e for e in model.opset_import if e.domain in ("", "ai.onnx")]
    assert entry.version == 17
    for node in model.graph.node:
        schema = onnx.defs.get_schema(node.op_type, 17)
        assert schema.since_version <= 17
        assert schema.min_input <= len(node.input) <= schema.max_input
        assert {attribute.name for attribute in node.attribute} <= set(schema.attributes)
    onnx.checker.check_model(model, full_check=True)


@pytest.fixture(scope="module")
def padded(networks):
    torch.manual_seed(0)
    return TorchNetwork(Padded(), networks.SIZE)


OPTIONS = [
    FoldOptions(transfer=transfer, neighbors=3, heatmap_size=size, input_type=kind, precision=bits)
    for transfer, size, kind, bits in itertools.product(
        (1, 2), ("native", "input"), ("float32", "uint8"), ("fp32", "fp16")
    )
]


@pytest.mark.parametrize("transform", [None, "log"])
@pytest.mark.parametrize("shared", [True, False])
def test_every_variant_of_a_network_that_converters_give_up_on(
    shared, transform, padded, networks, random_bank, hand_built
):
    network = padded.to_onnx(17)
    _forms_of_17(network)
    images = np.random.default_rng(0).normal(size=(3, 3, *networks.SIZE)).astype(np.float32)
    got = hand_built.run(network, images)["embedding"]
    np.testing.assert_allclose(got, padded.forward(torch.from_numpy(images)).embedding, atol=1e-5)
    bank = random_bank(7, 3, padded.feature_map_shape[0], shared, transform=transform)
    for options in OPTIONS:
        made = fold(
            network,
            bank,
            preprocessing=Preprocessing(networks.SIZE[1], networks.SIZE[0]),
            layer=padded.layer,
            origin=hand_built.ORIGIN,
            versions={},
            options=options,
        )
        _forms_of_17(made)


def test_the_demo_network_is_written_in_17(hand_built, random_bank):
    pytest.importorskip("efficientnet_lite_pytorch")
    from foldcam.export.models.demo import PREPROCESSING, demo_network

    network = TorchNetwork(demo_network(), (224, 224))
    _forms_of_17(
        fold(
            network.to_onnx(17),
            random_bank(3, 1280, 1280),
            preprocessing=PREPROCESSING,
            layer=network.layer,
            origin=hand_built.ORIGIN,
            versions={},
            options=FoldOptions(input_type="uint8", precision="fp16"),
        )
    )
