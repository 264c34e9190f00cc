"""float16 networks: typed throughout, close to float32, and finite where float16 alone is not."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from foldcam.export.banks.low_rank import row_scales
from foldcam.export.banks.objectives.directions import parse_objective
from foldcam.export.datasets import load_dataset
from foldcam.export.exporting import exporter
from foldcam.export.exporting.exporter import export_model
from foldcam.export.grafting.fold import FoldOptions, fold
from foldcam.export.models.spec import LoadedModel
from foldcam.export.networks.torch_cut import TorchNetwork
from foldcam.export.onnx_graphs.normalization import find_normalization
from foldcam.export.onnx_graphs.precision import to_float16
from foldcam.export.verification.images import NamedImage
from foldcam.export.verification.pair_report import LIMITS
from foldcam.export.verification.run import verify_model
from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.errors import FoldcamError

F16, F32 = TensorProto.FLOAT16, TensorProto.FLOAT


def _types(model):
    """The type of every value, as ONNX infers it; the full checker is passed on the way."""
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    graph = inferred.graph
    values = [*graph.input, *graph.output, *graph.value_info]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types.update((tensor.name, tensor.data_type) for tensor in graph.initializer)
    return types


def _precisions(model):
    """For each node, by its operator: the float types among its inputs and outputs."""
    types = _types(model)
    found = {}
    for node in model.graph.node:
        kinds = {
            types[name] for name in [*node.input, *node.output] if types.get(name) in (F16, F32)
        }
        found.setdefault(node.op_type, []).append(kinds)
    return found


def _network(hand_built, steps, constants=None, opset=18):
    """`image [3, 2, 2]` -> Relu -> `feature_map` -> steps -> `embedding [3]`.

    A step is `Op input,input -> output`; it may start from `feature_map` and `mean`.
    """
    nodes = [
        helper.make_node("Relu", ["image"], ["feature_map"]),
        helper.make_node("GlobalAveragePool", ["feature_map"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["mean"]),
    ]
    for step in steps:
        op, inputs, _, output, *settings = step.split()
        attributes = {key: int(value) for key, value in (s.split("=") for s in settings)}
        nodes.append(helper.make_node(op, inputs.split(","), [output], **attributes))
    used = {name for node in nodes for name in node.input}
    arrays = {
        "axis": np.array([1]),
        "eye": np.eye(3, dtype=np.float32),
        "tiny": np.array(1e-12, np.float32),
        **{k: np.asarray(v, np.float32) for k, v in (constants or {}).items()},
    }
    arrays = {name: value for name, value in arrays.items() if name in used}
    outputs = {"feature_map": [3, 2, 2], "embedding": [3]}
    made = hand_built.model(nodes, arrays, outputs, (3, 2, 2))
    del made.opset_import[:]
    made.opset_import.append(helper.make_opsetid("", opset))
    return made


def _flat(rows):
    """Images whose channels are constant: `[N, 3]` -> `[N, 3, 2, 2]`."""
    return np.broadcast_to(np.asarray(rows, np.float32)[:, :, None, None], (len(rows), 3, 2, 2))


@pytest.mark.parametrize(
    "name", ["PlainConv", "Normalized", "NeckNormalized", "FlattenHead", "Attentive"]
)
def test_the_ends_are_float32_and_the_convolutions_float16(name, cut, hand_built):
    network = cut(name).to_onnx()
    before = network.SerializeToString(deterministic=True)
    half = to_float16(network)
    assert network.SerializeToString(deterministic=True) == before
    precisions = _precisions(half)
    assert all(kinds == {F16} for kinds in precisions["Conv"])
    assert all(kinds != {F16, F32} for op in precisions for kinds in precisions[op] if op != "Cast")
    assert {
        value.type.tensor_type.elem_type for value in [*half.graph.input, *half.graph.output]
    } == {F32}
    weights = {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    assert not [n for n, kind in weights.items() if kind == F32 and f"{n}.float16" in weights]
    images = np.random.default_rng(0).normal(size=(4, 3, 12, 16)).astype(np.float32)
    got, exact = hand_built.run(half, images), hand_built.run(network, images)
    for output in ("embedding", "feature_map"):
        scale = np.abs(exact[output]).max()
        np.testing.assert_allclose(got[output], exact[output], atol=2e-3 * scale)
        # And float16 it was.
        assert not np.array_equal(got[output], exact[output])


def test_the_normalisation_is_kept_and_found_again(cut):
    half = to_float16(cut("Normalized").to_onnx())
    source = find_normalization(half.graph, "embedding")
    assert source is not None
    types = _types(half)
    assert types[source] == F32
    producers = {name: node for node in half.graph.node for name in node.output}
    reached, waiting = set(), ["embedding"]
    while waiting:
        name = waiting.pop()
        if name not in reached and name != source and name in producers:
            reached.add(name)
            # A shape is the same in both types.
            waiting.extend(producers[name].input if producers[name].op_type != "Shape" else ())
    assert {types[name] for name in reached if types[name] in (F16, F32)} == {F32}


# An embedding of 300s has squares beyond float16, one of 1e-4 has squares below it.
@pytest.mark.parametrize("size", [300.0, 1e-4])
@pytest.mark.parametrize(
    "steps",
    [
        ["ReduceL2 z,axis -> n", "Div z,n -> embedding"],
        ["ReduceL2 z,axis -> n", "Max n,tiny -> m", "Div z,m -> embedding"],
        ["Mul z,z -> s", "ReduceSum s,axis -> q", "Sqrt q -> n", "Div z,n -> embedding"],
        ["LpNormalization z -> embedding axis=1 p=2"],
    ],
)
def test_the_final_normalisation_stays_exact(steps, size, hand_built):
    network = _network(hand_built, ["MatMul mean,eye -> z", *steps])
    images = _flat([[3 * size, 4 * size, 0]])
    got = hand_built.run(to_float16(network), images)["embedding"]
    np.testing.assert_allclose(got, [[0.6, 0.8, 0]], atol=1e-3)


def test_a_normalisation_inside_keeps_its_variance_in_float32(hand_built):
    """Layer norm spelled out: squares of 400 overflow float16, squares of 1e-3 vanish."""
    steps = [
        "ReduceMean mean,axis -> centre",
        "Sub mean,centre -> away",
        "Mul away,away -> square",
        "ReduceMean square,axis -> variance",
        "Sqrt variance -> deviation",
        "Div away,deviation -> unit",
        "MatMul unit,eye -> embedding",
    ]
    for size in (400.0, 1e-3):
        images = _flat([[0, size, 2 * size]])
        half = to_float16(_network(hand_built, steps))
        got = hand_built.run(half, images)["embedding"]
        np.testing.assert_allclose(got, [[-1.2247, 0, 1.2247]], atol=2e-3)
        assert _precisions(half)["MatMul"] == [{F16}]


def test_two_neighbouring_float32_steps_are_not_joined_by_float16(hand_built):
    steps = ["Exp mean -> x", "Log x -> embedding"]
    half = to_float16(_network(hand_built, steps))
    # exp(60) is infinite in float16, and 1 / exp(60) nothing.
    got = hand_built.run(half, _flat([[60, 0, 1]]))["embedding"]
    np.testing.assert_allclose(got, [[60, 0, 1]], atol=0.05)
    assert [n.op_type for n in half.graph.node].count("Cast") == 2


@pytest.mark.parametrize(("greatest", "kept"), [(65504.0, False), (65600.0, True), (1e30, True)])
def test_weights_beyond_float16_stay_and_are_named(greatest, kept, hand_built, caplog):
    weights = np.eye(3) * greatest
    steps = ["MatMul mean,heavy -> big", "MatMul big,light -> embedding"]
    network = _network(hand_built, steps, {"heavy": weights, "light": np.eye(3) / 1024})
    with caplog.at_level(logging.WARNING):
        half = to_float16(network)
    assert ("heavy holds" in caplog.text) == kept
    assert "light" not in caplog.text
    assert _precisions(half)["MatMul"] == [{F32} if kept else {F16}, {F16}]


def test_types_are_inferred_without_the_weights(hand_built, monkeypatch):
    """onnx serialises what it infers on: at most 2 GB, of which float16 leaves half."""
    weights = np.tile(np.eye(3, dtype=np.float32), (1, 100_000))
    network = _network(hand_built, ["MatMul mean,eye -> embedding"])
    nodes = [
        helper.make_node("MatMul", ["mean", "wide"], ["z"]),
        helper.make_node("Split", ["z", "parts"], ["embedding", "rest"], axis=1),
    ]
    del network.graph.node[-1]
    network.graph.node.extend(nodes)
    parts = np.array([3, weights.shape[1] - 3])
    for name, value in (("wide", weights), ("parts", parts)):
        network.graph.initializer.append(numpy_helper.from_array(value, name))
    sizes, infer = [], onnx.shape_inference.infer_shapes
    monkeypatch.setattr(
        onnx.shape_inference, "infer_shapes", lambda m: sizes.append(m.ByteSize()) or infer(m)
    )
    half = to_float16(network)
    assert max(sizes) < 10_000 < weights.nbytes
    monkeypatch.undo()
    assert _precisions(half)["MatMul"] == _precisions(half)["Split"] == [{F16}]
    got = hand_built.run(half, _flat([[1, 2, 3]]))["embedding"]
    np.testing.assert_array_equal(got, [[1, 2, 3]])


def test_a_small_constant_is_not_flushed(hand_built):
    """1e-8 is zero in float16: a quotient by it would be infinite."""
    steps = ["MatMul mean,eye -> z", "Mul z,small -> down", "Mul down,great -> embedding"]
    network = _network(hand_built, steps, {"small": 1e-8, "great": 1e8})
    got = hand_built.run(to_float16(network), _flat([[1, 2, 3]]))["embedding"]
    np.testing.assert_allclose(got, [[1, 2, 3]], rtol=1e-3)


def test_zeros_stay_zeros_and_small_weights_are_rounded_not_raised(hand_built):
    weights = np.array([[1, 0, 0], [0, 1e-9, 0], [0, 0, -1e-9]])
    network = _network(hand_built, ["MatMul mean,w -> embedding"], {"w": weights})
    half = to_float16(network)
    (tensor,) = [t for t in half.graph.initializer if t.data_type == F16]
    np.testing.assert_array_equal(numpy_helper.to_array(tensor), np.diag([1, 0, 0]))


@pytest.mark.parametrize("opset", [17, 18])
def test_resize_keeps_its_float32_scales(opset, hand_built):
    nodes = [
        helper.make_node("Abs", ["image"], ["positive"]),
        helper.make_node("Resize", ["positive", "", "scales"], ["feature_map"], mode="nearest"),
        helper.make_node("GlobalMaxPool", ["feature_map"], ["top"]),
        helper.make_node("Flatten", ["top"], ["embedding"]),
    ]
    constants = {"scales": np.array([1, 1, 2, 2], np.float32)}
    outputs = {"feature_map": [3, 4, 4], "embedding": [3]}
    network = hand_built.model(nodes, constants, outputs, (3, 2, 2))
    network.opset_import[0].version = opset
    half = to_float16(network)
    assert _precisions(half)["Resize"] == [{F16, F32}]
    got = hand_built.run(half, _flat([[1, -2, 3]]))
    np.testing.assert_array_equal(got["embedding"], [[1, 2, 3]])


def test_constants_that_are_nodes_are_converted(hand_built):
    network = _network(
        hand_built,
        ["Clip mean,low,high -> c", "MatMul c,eye -> embedding"],
        {"low": 0.5, "high": 2.0},
    )
    moved = [t for t in network.graph.initializer if t.name in ("low", "high")]
    for tensor in moved:
        network.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
    for tensor in moved:
        network.graph.initializer.remove(tensor)
    got = hand_built.run(to_float16(network), _flat([[0, 1, 9]]))
    np.testing.assert_array_equal(got["embedding"], [[0.5, 1, 2]])


def test_control_flow_sees_float32(hand_built):
    """An If whose branches read a value from outside, made in float16 there."""
    branches = {}
    for name, op in (("then_branch", "Identity"), ("else_branch", "Neg")):
        node = helper.make_node(op, ["z"], [f"{op}_out"])
        out = helper.make_tensor_value_info(f"{op}_out", F32, ["batch", 3])
        branches[name] = helper.make_graph([node], op, [], [out])
    network = _network(hand_built, ["MatMul mean,eye -> z", "Identity z -> embedding"])
    network.graph.node.pop()
    network.graph.node.append(helper.make_node("If", ["yes"], ["embedding"], **branches))
    network.graph.initializer.append(numpy_helper.from_array(np.array(False), "yes"))
    half = to_float16(network)
    assert _precisions(half)["MatMul"] == [{F16}]
    got = hand_built.run(half, _flat([[1, 2, 3]]))
    np.testing.assert_array_equal(got["embedding"], [[-1, -2, -3]])


def test_integers_stay_integers(hand_built):
    steps = ["ArgMax mean -> i axis=1", "Cast i -> f to=1", "Mul mean,f -> embedding"]
    half = to_float16(_network(hand_built, steps))
    got = hand_built.run(half, _flat([[1, 2, 4], [3, 0, 1]]))
    np.testing.assert_array_equal(got["embedding"], [[2, 4, 8], [0, 0, 0]])


@pytest.mark.parametrize("scale", [1.0, 1e-7, 1e-30])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_gradients_of_any_size_give_the_same_heatmap(precision, scale, random_bank, hand_built):
    """Rows are of size 1 to 2 where they reach the graph: nothing is flushed."""
    bank = random_bank(9, hand_built.D, hand_built.K)
    raw = bank.grad_weights * np.float32(scale)
    scaled = dataclasses.replace(bank, grad_weights=raw)
    shape = (5, 3, hand_built.HEIGHT, hand_built.WIDTH)
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    got = hand_built.run(hand_built.folded(scaled, precision=precision), images)
    expected = hand_built.reference(images, bank, 1, 1)
    limit = 1e-5 if precision == "fp32" else 1e-2
    np.testing.assert_allclose(got["heatmap"], expected["heatmap"], atol=limit)
    assert (got["heatmap"].max(axis=(1, 2, 3)) == 1).all()
    # float16 rows hold them as well, should the bank be stored so.
    rows = raw / row_scales(raw)[:, None]
    np.testing.assert_allclose(rows.astype(np.float16), rows, atol=1e-3)


@pytest.mark.parametrize("transform", [None, "none", "log"])
def test_a_float16_fold_agrees_with_numpy(transform, random_bank, hand_built, tmp_path):
    bank = random_bank(9, hand_built.D, hand_built.K, transform=transform)
    made = hand_built.folded(bank, precision="fp16", transfer=2, neighbors=3)
    onnx.save(made, tmp_path / "m.onnx")
    contract = read_contract(tmp_path / "m.onnx")
    assert contract.precision == "fp16"
    limits = LIMITS["fp16"]
    shape = (8, 3, hand_built.HEIGHT, hand_built.WIDTH)
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    got = hand_built.run(made, images)
    expected = hand_built.reference(images, bank, 2, 3)
    np.testing.assert_array_equal(got["neighbor"], expected["neighbor"])
    np.testing.assert_allclose(
        got["similarity"], expected["similarity"], atol=limits.similarity_difference
    )
    for name in {"heatmap", "heatmap_lower"} & set(expected):
        np.testing.assert_allclose(got[name], expected[name], atol=limits.heatmap_difference)
    if transform is not None:
        span = np.ptp(bank.outcome.in_units())
        assert np.abs(got["estimate"] - expected["estimate"]).max() / span < 1e-2
    assert all(value.dtype in (np.float32, np.int32) for value in got.values())
    # The graft is float32: only the convolution and the linear step are not.
    halves = [op for op, kinds in _precisions(made).items() for k in kinds if k == {F16}]
    assert sorted(set(halves)) == ["AveragePool", "Conv", "Gemm", "Relu"]


@pytest.fixture(scope="module")
def half_file(networks, shared_photos, preprocessing, tmp_path_factory):
    """A folded model of `tinynet:make` in float16."""
    out = tmp_path_factory.mktemp("half") / "model.onnx"
    loaded = LoadedModel(networks.make_tiny(), preprocessing, "tinynet:make", "")
    options = FoldOptions(precision="fp16", input_type="uint8", neighbors=2)
    goal = parse_objective("all-triplets")
    export_model(loaded, load_dataset(shared_photos), out, goal, options=options)
    return out


def _noise(count):
    drawn = np.random.default_rng(3).integers(0, 256, (count, 20, 24, 3), np.uint8)
    return [NamedImage(str(number), image) for number, image in enumerate(drawn)]


def _cut(module, networks):
    return TorchNetwork(module, networks.SIZE)


def test_verify_measures_a_float16_file_by_its_own_limits(half_file, folded_file, networks):
    report = verify_model(half_file, _cut(networks.make_tiny(), networks), _noise(16))
    assert report.passed, report.failures
    assert report.main.precision == "fp16"
    # Wider than float32's: they are not idle.
    assert report.main.heatmap_difference_worst > LIMITS["fp32"].heatmap_difference / 10


@pytest.mark.parametrize("constant", ["fc.weight.float16", "trunk.conv.weight.float16"])
def test_a_float16_file_with_other_weights_fails(constant, half_file, networks, tmp_path):
    model = onnx.load(half_file)
    (tensor,) = [t for t in model.graph.initializer if t.name == constant]
    value = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value[::-1]), constant))
    onnx.save(model, tmp_path / "m.onnx")
    assert not verify_model(
        tmp_path / "m.onnx", _cut(networks.make_tiny(), networks), _noise(16)
    ).passed


@pytest.fixture
def overflowing(networks):
    """A network whose activations float16 does not hold."""
    module = networks.make_tiny()
    with torch.no_grad():
        module.trunk.conv.weight *= 1e5
        module.trunk.conv.bias *= 1e5
    return module


@pytest.fixture
def export_half(overflowing, shared_photos, preprocessing, tmp_path):
    """Exports that network in float16 to `m.onnx`."""

    def export():
        loaded = LoadedModel(overflowing, preprocessing, "tinynet:make", "")
        return export_model(
            loaded,
            load_dataset(shared_photos),
            tmp_path / "m.onnx",
            parse_objective("all-triplets"),
            options=FoldOptions(precision="fp16"),
        )

    return export


def test_activations_beyond_float16_stay_float32_where_pictures_measured_them(
    export_half, overflowing, networks
):
    made = export_half()
    assert any("float16's greatest number" in note for note in made.notes)
    # On other pictures.
    assert verify_model(made.path, _cut(overflowing, networks), _noise(4)).passed


def test_activations_beyond_float16_that_nobody_measured_are_refused(
    export_half, monkeypatch, tmp_path
):
    monkeypatch.setattr(exporter, "wide_values", lambda *_: (frozenset(), []))
    with pytest.raises(FoldcamError, match=r"in float16 answers 3 probe pictures wrongly"):
        export_half()
    assert not (tmp_path / "m.onnx").exists()


def test_a_convolution_with_a_dead_channel_is_float16(hand_built, random_bank):
    """What batch norm leaves of a channel that is never active: weights of 1e-12."""
    network = hand_built.embedding_model()
    (tensor,) = [t for t in network.graph.initializer if t.name == "conv"]
    value = numpy_helper.to_array(tensor).copy()
    value[0] *= 1e-12
    tensor.CopyFrom(numpy_helper.from_array(value, "conv"))
    half = to_float16(network)
    assert _precisions(half)["Conv"] == [{F16}]
    made = fold(
        network,
        random_bank(5, hand_built.D, hand_built.K),
        preprocessing=Preprocessing(hand_built.WIDTH, hand_built.HEIGHT),
        layer="relu",
        origin=hand_built.ORIGIN,
        versions={},
        options=FoldOptions(precision="fp16"),
    )
    shape = (3, 3, hand_built.HEIGHT, hand_built.WIDTH)
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    assert all(np.isfinite(value).all() for value in hand_built.run(made, images).values())
