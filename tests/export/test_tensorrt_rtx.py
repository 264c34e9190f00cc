"""Every kind of folded model is parsed and built by TensorRT RTX, which needs no GPU for that."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from onnx import helper, numpy_helper

from foldcam.export.grafting import constants as storing
from foldcam.export.grafting.fold import FoldOptions, fold
from foldcam.export.grafting.options import StorageOptions, parse_compression, parse_search
from foldcam.export.networks.onnx_networks.cut import OnnxNetwork
from foldcam.export.networks.onnx_networks.summand_network import SummandNetwork
from foldcam.export.onnx_graphs.file import read_onnx
from foldcam.runtime.contract.reading import parse_contract
from foldcam.runtime.contract.schema import Origin
from foldcam.runtime.images.preprocess import Preprocessing

trt = pytest.importorskip("tensorrt_rtx", reason="needs tensorrt_rtx: pip install foldcam[rtx]")

VARIANTS = {
    "one row": {},
    "shared rows": {"shared": True},
    "neighbors": {"neighbors": 5},
    "transfer": {"transfer": 3, "shared": True},
    "both": {"transfer": 3, "neighbors": 5},
    "input size": {"heatmap_size": "input"},
    "odd size": {"heatmap_size": (100, 37)},
    "uint8": {"input_type": "uint8", "transfer": 2, "neighbors": 3},
    "continuous": {"transform": "none"},
    "continuous log": {"transform": "log", "neighbors": 3, "transfer": 2, "heatmap_size": "input"},
    "continuous uint8": {"transform": "log", "input_type": "uint8", "heatmap_size": (9, 100)},
    "lists": {"search": "lists", "precision": "float32"},
    "lists float16": {"search": "lists", "precision": "float16", "neighbors": 5},
    "lists codes": {"search": "lists", "precision": "int8"},
    "lists codes neighbors": {
        **{"search": "lists", "precision": "int8", "neighbors": 5, "transfer": 3},
        **{"shared": True, "input_type": "uint8"},
    },
    "float16": {"precision": "float16", "transfer": 2},
    "rank": {"compress": "rank:2", "transfer": 2, "neighbors": 3},
    "rank float16": {"compress": "rank:2", "precision": "float16"},
    "prototypes": {"compress": "prototypes:2", "precision": "float16"},
    "continuous rank": {"transform": "log", "compress": "rank:2", "precision": "float16"},
    "uint8 bgr": {"input_type": "uint8", "color": "bgr", "heatmap_size": (3, 9)},
    "fp16": {"precision": "fp16"},
    "fp16 both": {"precision": "fp16", "transfer": 3, "neighbors": 5, "heatmap_size": "input"},
    "fp16 uint8": {"precision": "fp16", "input_type": "uint8", "color": "bgr", "shared": True},
    "fp16 continuous": {"precision": "fp16", "transform": "log", "input_type": "uint8"},
    "frame": {"input_type": "uint8", "frame": (1280, 720)},
    "frame that grows": {"input_type": "uint8", "frame": (10, 9), "color": "bgr"},
    "frame that does both": {"input_type": "uint8", "frame": (10, 90), "neighbors": 3},
    "frame crop": {"input_type": "uint8", "frame": (640, 480), "resize": "crop"},
    "frame letterbox": {"input_type": "uint8", "frame": (640, 480), "resize": "letterbox"},
    "fp16 frame": {"precision": "fp16", "input_type": "uint8", "frame": (640, 480)},
}


@pytest.fixture(scope="module")
def logger():
    """One per process: TensorRT keeps the first it is given."""
    return trt.Logger(trt.Logger.ERROR)


def _build(data, logger):
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse(data)
    errors = [parser.get_error(i).desc() for i in range(parser.num_errors)]
    assert parsed, errors
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    image = network.get_input(0)
    rest = list(image.shape)[1:]
    profile.set_shape(image.name, [1, *rest], [2, *rest], [4, *rest])
    config.add_optimization_profile(profile)
    names = [network.get_output(i).name for i in range(network.num_outputs)]
    kinds = {network.get_output(i).name: network.get_output(i).dtype for i in range(len(names))}
    return names, kinds, builder.build_serialized_network(network, config)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_folded_variant_builds(name, logger, hand_built, random_bank, monkeypatch):
    settings = dict(VARIANTS[name])
    shared, transform = settings.pop("shared", False), settings.pop("transform", None)
    # Twenty-three rows are five lists, one with an empty place.
    monkeypatch.setattr(storing, "_LIST_ROWS", 5)
    settings["storage"] = StorageOptions(
        parse_search(settings.pop("search", "auto")),
        settings.pop("precision", "auto"),
        parse_compression(settings.pop("compress", "none")),
    )
    bank = random_bank(23, hand_built.D, hand_built.K, shared, transform=transform)
    recipe = hand_built.Preprocessing(
        hand_built.WIDTH,
        hand_built.HEIGHT,
        settings.pop("resize", "stretch"),
        settings.pop("color", "rgb"),
    )
    made = hand_built.folded(bank, recipe, **settings)
    names, kinds, plan = _build(made.SerializeToString(), logger)
    continuous = ["heatmap_lower", "estimate"] if transform else []
    assert names == ["embedding", "heatmap", "neighbor", "similarity", *continuous]
    assert kinds.pop("neighbor") == trt.int32
    assert set(kinds.values()) == {trt.float32}
    assert plan is not None


@pytest.mark.parametrize(
    "style", ["face", "channels last, batch of 1", "transformer", "squeeze and excitation"]
)
def test_a_folded_onnx_file_builds(style, logger, onnx_files, random_bank, tmp_path):
    path = onnx_files.save(onnx_files.STYLES[style](), tmp_path)
    network = OnnxNetwork(read_onnx(path), onnx_files.SIZE)
    height, width = onnx_files.SIZE
    made = fold(
        network.to_onnx(18),
        random_bank(9, network.embedding_size, network.feature_map_shape[0]),
        preprocessing=Preprocessing(width, height),
        layer=network.layer,
        origin=Origin("embedding.onnx", "", network.sha256(), "data", "train", "1" * 64),
        versions={},
    )
    assert _build(made.SerializeToString(), logger)[2] is not None


# A network of every way to make summands, and everything that is made of them.
SUMS = [
    "average pool",
    "channels last",
    "mean of transposed tokens",
    "depthwise of two kernels",
    "full kernel",
    "flatten",
    "flatten of channels last",
    "class token with a mask",
    "class token, heads joined with the images",
    "a learned query",
    "flatten in half precision",
    "class token in half precision",
]
EXPLAINED = {
    "mean": ("transferred", {"baseline": "mean", "transfer": 3}),
    "own and contrast": ("own", {"contrast": True, "heatmap_size": "input", "input_type": "uint8"}),
    "half precision": ("own", {"precision": "fp16", "contrast": True, "baseline": "mean"}),
}


@pytest.fixture(scope="module")
def summed(summing, onnx_files, tmp_path_factory):
    """`summed("average pool")`: that network with its summands, made once."""

    @cache
    def make(name):
        case = summing.CASES[name]
        model = summing.model(onnx_files, case.lines, case.half, case.size)
        path = onnx_files.save(model, tmp_path_factory.mktemp("summed"))
        return SummandNetwork(OnnxNetwork(read_onnx(path), summing.SIZE))

    return make


@pytest.mark.parametrize("name", SUMS)
@pytest.mark.parametrize("explained", EXPLAINED)
def test_contributions_build(explained, name, logger, summing, summed):
    network = summed(name)
    rule, options = EXPLAINED[explained]
    made = summing.folded(network, summing.trained(network, rule).bank, **options)
    names, kinds, plan = _build(made.SerializeToString(), logger)
    more = ["contrast", "runner_up", "runner_up_similarity"] if "contrast" in options else []
    assert names == ["embedding", "heatmap", "neighbor", "similarity", "contribution", *more]
    assert kinds["contribution"] == trt.float32
    assert plan is not None


def test_a_folded_torch_network_builds(logger, folded_file):
    assert _build(folded_file.read_bytes(), logger)[2] is not None


# Heads, normalisations and layouts of many kinds.
NETWORKS = ["PlainConv", "Normalized", "ReciprocalRoot", "NeckNormalized", "TwoPools", "Attentive"]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("opset", [17, 18])
def test_a_torch_network_builds_in_every_precision_and_opset(
    opset, precision, name, logger, cut, networks, random_bank, hand_built
):
    network = cut(name)
    made = fold(
        network.to_onnx(opset),
        random_bank(7, network.embedding_size, network.feature_map_shape[0]),
        preprocessing=hand_built.Preprocessing(networks.SIZE[1], networks.SIZE[0]),
        layer=network.layer,
        origin=hand_built.ORIGIN,
        versions={},
        options=FoldOptions(neighbors=3, input_type="uint8", precision=precision),
    )
    assert _build(made.SerializeToString(), logger)[2] is not None


def test_operands_of_two_precisions_are_refused(logger, hand_built):
    """Should this ever parse, the tests above prove nothing about types."""
    nodes = [
        helper.make_node("Relu", ["image"], ["feature_map"]),
        helper.make_node("Flatten", ["feature_map"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["embedding"]),
    ]
    outputs = {"feature_map": [3, 2, 2], "embedding": [3]}
    weights = np.ones((12, 3), np.float32)
    model = hand_built.model(nodes, {"w": weights}, outputs, (3, 2, 2))
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights.astype(np.float16), "w"))
    with pytest.raises(AssertionError):
        _build(model.SerializeToString(), logger)


@pytest.mark.parametrize("name", ["shared rows", "uint8 bgr", "continuous log"])
def test_a_swapped_bank_builds(name, logger, hand_built, random_bank):
    from foldcam.export.grafting.fold import FoldOptions, fold
    from foldcam.export.grafting.unfold import unfold
    from foldcam.runtime.contract.schema import METADATA_KEY

    settings = dict(VARIANTS[name])
    shared, transform = settings.pop("shared", False), settings.pop("transform", None)
    recipe = hand_built.Preprocessing(
        hand_built.WIDTH, hand_built.HEIGHT, color=settings.pop("color", "rgb")
    )
    bank = random_bank(9, hand_built.D, hand_built.K, shared, transform=transform)
    made = hand_built.folded(bank, recipe, **settings)
    entry = next(e for e in made.metadata_props if e.key == METADATA_KEY)
    contract = parse_contract(entry.value, "made")
    swapped = fold(
        unfold(made, contract).network,
        random_bank(30, hand_built.D, hand_built.K, seed=3),
        preprocessing=recipe,
        layer=contract.layer,
        origin=contract.origin,
        versions={},
        options=FoldOptions(**settings),
    )
    names, _, plan = _build(swapped.SerializeToString(), logger)
    assert names == ["embedding", "heatmap", "neighbor", "similarity"]
    assert plan is not None
