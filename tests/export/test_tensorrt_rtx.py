"""Every kind of folded model is parsed and built by TensorRT RTX, which needs no GPU for that."""

from __future__ import annotations

import pytest

from export import storing
from export.storage_options import StorageOptions, parse_compression, parse_search

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
        hand_built.WIDTH, hand_built.HEIGHT, color=settings.pop("color", "rgb")
    )
    made = hand_built.folded(bank, recipe, **settings)
    names, kinds, plan = _build(made.SerializeToString(), logger)
    continuous = ["heatmap_lower", "estimate"] if transform else []
    assert names == ["embedding", "heatmap", "neighbor", "similarity", *continuous]
    assert kinds["neighbor"] == trt.int32
    assert plan is not None


def test_a_folded_torch_network_builds(logger, folded_file):
    assert _build(folded_file.read_bytes(), logger)[2] is not None
