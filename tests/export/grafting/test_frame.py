"""Whole camera frames: the graph makes the network's input as the host's preprocessing does."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from foldcam.export.grafting.fold import FoldOptions, fold
from foldcam.export.grafting.frame import blocks, frame_notes, graft_frame, resize_weights
from foldcam.export.grafting.input import PIXELS, PLANES
from foldcam.export.grafting.unfold import unfold
from foldcam.export.onnx_graphs.writing import Graft
from foldcam.runtime.contract.reading import parse_contract
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.errors import FoldcamError

RULES = ("stretch", "crop", "letterbox")


def _input_maker(recipe, frame, opset=18):
    """The grafted part alone: frames -> the network's input as whole grey levels."""
    nodes = [
        helper.make_node("Cast", ["image"], [PIXELS], to=TensorProto.FLOAT),
        helper.make_node("Transpose", [PIXELS], [PLANES], PLANES, perm=[0, 3, 1, 2]),
    ]
    size = ["N", recipe.height, recipe.width, 3]
    graph = helper.make_graph(
        nodes,
        "input",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, size)],
        [helper.make_tensor_value_info(PLANES, TensorProto.FLOAT, ["N", 3, *size[1:3]])],
    )
    graft_frame(Graft(graph, opset), frame, recipe)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(made, full_check=True)
    return made


def _made(hand_built, recipe, frames, opset=18):
    """`float32 [N, height, width, 3]`."""
    maker = _input_maker(recipe, (frames.shape[2], frames.shape[1]), opset)
    return hand_built.run(maker, frames)[PLANES].transpose(0, 2, 3, 1)


def _photograph(generator, height, width):
    """Half of them soft, as photographs are, half of them noise, the hardest to resize."""
    noise = generator.integers(0, 256, (height, width, 3), np.uint8)
    if generator.random() < 0.5:
        return noise
    small = generator.integers(0, 256, (3, 4, 3), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("seed", range(60))
def test_the_input_is_the_hosts_within_one_grey_level(seed, hand_built):
    generator = np.random.default_rng(seed)
    height, width = (int(side) for side in generator.integers(1, 300, 2))
    recipe = Preprocessing(*(int(side) for side in generator.integers(1, 160, 2)), RULES[seed % 3])
    frames = np.stack([_photograph(generator, height, width) for _ in range(2)])
    found = _made(hand_built, recipe, frames)
    expected = np.stack([recipe.resized(frame)[0] for frame in frames]).astype(np.float64)
    np.testing.assert_array_equal(found, np.rint(found))
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("frame", [(1280, 720), (720, 1280), (640, 480), (1920, 1080)])
def test_frames_of_cameras_differ_in_hardly_a_pixel(frame, rule, hand_built):
    generator = np.random.default_rng(0)
    recipe = Preprocessing(224, 224, rule)
    frames = _photograph(generator, frame[1], frame[0])[None]
    apart = np.abs(_made(hand_built, recipe, frames)[0] - recipe.resized(frames[0])[0])
    assert apart.max() <= 1
    # Sums that end in a half are rounded to either side.
    assert (apart > 0).mean() < 5e-3


def test_weights_of_one_line_are_those_of_paper_and_pencil():
    shrinking = [[0.4, 0.4, 0.2, 0, 0], [0, 0, 0.2, 0.4, 0.4]]
    np.testing.assert_allclose(resize_weights(5, 2), shrinking, atol=1e-7)
    growing = [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]
    np.testing.assert_allclose(resize_weights(2, 4), growing, atol=1e-7)
    np.testing.assert_array_equal(resize_weights(3, 3), np.eye(3))


@pytest.mark.parametrize(("before", "after"), [(1280, 224), (97, 13), (8, 4), (13, 97), (1, 5)])
def test_weights_of_one_line_are_opencvs(before, after):
    rule = cv2.INTER_AREA if after < before else cv2.INTER_LINEAR
    lines = np.eye(before, dtype=np.float32)
    found = cv2.resize(lines, (before, after), interpolation=rule)
    np.testing.assert_allclose(resize_weights(before, after), found, atol=1e-6)


def test_letterbox_pads_with_the_mean_colour(hand_built):
    recipe = Preprocessing(8, 8, "letterbox", "bgr", mean=(0.2, 0.4, 0.6))
    found = _made(hand_built, recipe, np.full((1, 20, 40, 3), 255, np.uint8))[0]
    assert (found[:2] == [153, 102, 51]).all()
    assert (found[2:6] == 255).all()
    assert (found[6:] == [153, 102, 51]).all()


def test_what_is_cut_off_changes_nothing(hand_built):
    frames = np.random.default_rng(0).integers(0, 256, (2, 6, 20, 3), np.uint8)
    frames[1, :, 7:13] = frames[0, :, 7:13]
    found = _made(hand_built, Preprocessing(3, 3, "crop"), frames)
    np.testing.assert_array_equal(found[0], found[1])


def test_a_frame_of_the_networks_size_is_only_cast_and_transposed():
    made = _input_maker(Preprocessing(5, 4), (5, 4))
    assert [node.op_type for node in made.graph.node] == ["Cast", "Transpose"]
    assert not made.graph.initializer


@pytest.mark.parametrize("rule", RULES)
def test_matrices_are_small_where_a_line_falls_into_equal_parts(rule):
    made = _input_maker(Preprocessing(224, 224, rule), (1280, 720))
    assert sum(int(np.prod(tensor.dims)) for tensor in made.graph.initializer) < 3000
    assert made.graph.node[0].op_type == "Cast"


@pytest.mark.parametrize(
    ("before", "after", "parts"),
    [(720, 224, 16), (1280, 224, 16), (720, 144, 18), (16, 8, 1), (719, 224, 1), (7, 5, 1),
     (224, 448, 1), (448, 224, 28)],
)  # fmt: skip
def test_each_part_of_a_line_is_resized_alike(before, after, parts):
    assert blocks(before, after) == parts
    whole, part = resize_weights(before, after), resize_weights(before // parts, after // parts)
    np.testing.assert_allclose(whole, np.kron(np.eye(parts), part), atol=1e-6)


@pytest.mark.parametrize(
    ("frame", "said"),
    [((1280, 720), False), ((640, 480), False), ((1279, 719), True), ((224, 224), False)],
)
def test_sizes_without_a_common_divisor_are_said(frame, said, hand_built, random_bank):
    contract = parse_contract(
        _folded(hand_built, _bank(hand_built, random_bank),
                Preprocessing(hand_built.WIDTH, hand_built.HEIGHT), frame=frame)
        .metadata_props[0].value, "it",
    )  # fmt: skip
    contract = replace(contract, preprocessing=Preprocessing(224, 224))
    notes = frame_notes(contract)
    assert bool(notes) == said
    assert not said or "takes 810 million multiplications" in notes[0]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("opset", [17, 18])
def test_both_opsets_give_the_same(opset, rule, hand_built):
    frames = np.random.default_rng(0).integers(0, 256, (1, 40, 30, 3), np.uint8)
    recipe = Preprocessing(12, 17, rule)
    expected = _made(hand_built, recipe, frames)
    np.testing.assert_array_equal(_made(hand_built, recipe, frames, opset), expected)


FRAME = (50, 40)


def _folded(hand_built, bank, recipe, **options):
    options = {"input_type": "uint8", "frame": FRAME, "neighbors": 2, **options}
    return hand_built.folded(bank, recipe, **options)


def _bank(hand_built, random_bank):
    return random_bank(7, hand_built.D, hand_built.K)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_a_folded_model_answers_as_the_one_that_the_host_prepares_for(
    color, rule, hand_built, random_bank
):
    recipe = Preprocessing(hand_built.WIDTH, hand_built.HEIGHT, rule, color)
    bank = _bank(hand_built, random_bank)
    frames = np.random.default_rng(0).integers(0, 256, (3, FRAME[1], FRAME[0], 3), np.uint8)
    resized = np.stack([recipe.resized(frame)[0] for frame in frames])
    found = hand_built.run(_folded(hand_built, bank, recipe), frames)
    plain = hand_built.run(_folded(hand_built, bank, recipe, frame=None), resized)
    for name, value in plain.items():
        np.testing.assert_allclose(found[name], value, atol=1e-2, err_msg=name)


def test_the_contract_names_the_frame_and_is_silent_without(hand_built, random_bank):
    recipe = Preprocessing(hand_built.WIDTH, hand_built.HEIGHT)
    bank = _bank(hand_built, random_bank)
    texts = [
        _folded(hand_built, bank, recipe, frame=frame).metadata_props[0].value
        for frame in (FRAME, None)
    ]
    assert parse_contract(texts[0], "it").frame == FRAME
    assert '"frame"' not in texts[1]
    assert parse_contract(texts[1], "it").image_size == (recipe.width, recipe.height)


@pytest.mark.parametrize("rule", RULES)
def test_an_unfolded_model_is_the_one_without_a_frame_and_folds_to_the_same_bytes(
    rule, hand_built, random_bank
):
    recipe = Preprocessing(hand_built.WIDTH, hand_built.HEIGHT, rule)
    bank = _bank(hand_built, random_bank)
    made, plain = (_folded(hand_built, bank, recipe, frame=frame) for frame in (FRAME, None))
    parts = [
        unfold(model, parse_contract(model.metadata_props[0].value, "it"))
        for model in (made, plain)
    ]
    assert parts[0].network.SerializeToString() == parts[1].network.SerializeToString()
    again = fold(
        parts[0].network,
        bank,
        preprocessing=recipe,
        layer="relu",
        origin=hand_built.ORIGIN,
        versions={"onnx": onnx.__version__},
        options=FoldOptions(input_type="uint8", frame=FRAME, neighbors=2),
    )
    assert again.SerializeToString() == made.SerializeToString()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"input_type": "float32"}, "use --input uint8"),
        ({"frame": (0, 40)}, "from 1 to 16384"),
        ({"frame": (40, 16385)}, "from 1 to 16384"),
    ],
)
def test_an_impossible_frame_is_refused(options, said, hand_built, random_bank):
    recipe = Preprocessing(hand_built.WIDTH, hand_built.HEIGHT)
    with pytest.raises(FoldcamError, match=said):
        _folded(hand_built, _bank(hand_built, random_bank), recipe, **options)


def test_half_precision_makes_the_same_input(hand_built, random_bank):
    recipe = Preprocessing(hand_built.WIDTH, hand_built.HEIGHT)
    made = _folded(hand_built, _bank(hand_built, random_bank), recipe, precision="fp16")
    made.graph.output.append(helper.make_tensor_value_info(PLANES, TensorProto.FLOAT, None))
    frames = np.random.default_rng(0).integers(0, 256, (1, FRAME[1], FRAME[0], 3), np.uint8)
    found = hand_built.run(made, frames)[PLANES][0].transpose(1, 2, 0)
    assert np.abs(found - recipe.resized(frames[0])[0]).max() <= 1
