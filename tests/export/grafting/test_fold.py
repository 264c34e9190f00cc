"""The folded graph against plain numpy."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest

from foldcam.export.banks.bank import Bank
from foldcam.export.grafting.fold import FoldOptions, fold
from foldcam.export.grafting.heat import resize_scale
from foldcam.export.grafting.in_graph import bank_of
from foldcam.runtime.contract.onnx_file import read_contract, read_header
from foldcam.runtime.contract.schema import LabelRun
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.errors import FoldcamError

OUTPUTS = ("embedding", "heatmap", "neighbor", "similarity")


@pytest.fixture
def images(hand_built):
    shape = (5, 3, hand_built.HEIGHT, hand_built.WIDTH)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def _assert_equal(got, expected):
    assert set(got) == set(OUTPUTS)
    for name in OUTPUTS:
        np.testing.assert_allclose(got[name], expected[name], atol=1e-5, err_msg=name)
    assert got["neighbor"].dtype == np.int32
    assert all(got[name].dtype == np.float32 for name in OUTPUTS if name != "neighbor")


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("transfer", "neighbors"), [(1, 1), (1, 5), (3, 1), (3, 5), (5, 5)])
def test_a_random_bank_folds_to_what_numpy_says(
    transfer, neighbors, shared, images, hand_built, random_bank
):
    bank = random_bank(9, hand_built.D, hand_built.K, shared)
    made = hand_built.folded(bank, transfer=transfer, neighbors=neighbors)
    got = hand_built.run(made, images)
    _assert_equal(got, hand_built.reference(images, bank, transfer, neighbors))
    assert got["heatmap"].max() == 1
    assert got["heatmap"].min() == 0


@pytest.mark.parametrize("size", ["input", (100, 37), (3, 2), (7, 14), (1, 1), (13, 7), (224, 224)])
def test_the_heatmap_has_the_size_asked_for(size, images, hand_built, random_bank):
    bank = random_bank(6, hand_built.D, hand_built.K)
    made = hand_built.folded(bank, heatmap_size=size)
    wanted = (hand_built.HEIGHT, hand_built.WIDTH) if size == "input" else size
    got = hand_built.run(made, images)
    assert got["heatmap"].shape == (5, 1, *wanted)
    _assert_equal(got, hand_built.reference(images, bank, 1, 1, wanted))


def test_every_resize_scale_gives_the_size_in_both_precisions():
    for has in range(1, 57):
        for wanted in range(1, 700):
            scale = resize_scale(wanted, has)
            assert int(np.floor(np.float32(has) * np.float32(scale))) == wanted
            assert int(np.floor(has * scale)) == wanted


@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_uint8_input_equals_the_float_path(color, hand_built, random_bank):
    recipe = Preprocessing(
        hand_built.WIDTH,
        hand_built.HEIGHT,
        color=color,
        mean=(0.1, 0.5, 0.9),
        std=(0.2, 0.3, 0.4),
    )
    bank = random_bank(6, hand_built.D, hand_built.K)
    pixels = np.random.default_rng(0).integers(
        0, 256, (4, hand_built.HEIGHT, hand_built.WIDTH, 3), np.uint8
    )
    options = {"transfer": 2, "neighbors": 3, "heatmap_size": "input"}
    floats = hand_built.run(hand_built.folded(bank, recipe, **options), recipe.normalized(pixels))
    made = hand_built.folded(bank, recipe, input_type="uint8", **options)
    bytes_ = hand_built.run(made, pixels)
    for name in OUTPUTS:
        np.testing.assert_allclose(bytes_[name], floats[name], atol=1e-5, err_msg=name)
    # And the colour order matters here: the test could fail.
    swapped = hand_built.run(made, np.ascontiguousarray(pixels[..., ::-1]))
    assert np.abs(swapped["embedding"] - floats["embedding"]).max() > 1e-2


def test_no_heat_gives_zeros_and_no_embedding_stays_finite(hand_built, random_bank):
    bank = random_bank(6, hand_built.D, hand_built.K)
    dark = np.zeros((2, 3, hand_built.HEIGHT, hand_built.WIDTH), np.float32)
    got = hand_built.run(hand_built.folded(bank, transfer=2, neighbors=2), dark)
    assert (got["heatmap"] == 0).all()
    assert (got["similarity"] == 0).all()
    assert all(np.isfinite(got[name]).all() for name in OUTPUTS)


def test_evidence_against_everywhere_gives_zeros(images, hand_built, random_bank):
    bank = random_bank(6, hand_built.D, hand_built.K)
    against = Bank(
        bank.embeddings,
        -np.abs(bank.grad_weights),
        bank.grad_index,
        bank.labels,
        bank.objective,
    )
    got = hand_built.run(hand_built.folded(against), images)
    assert (got["heatmap"] == 0).all()


@pytest.mark.parametrize("exponent", [-12, 12])
def test_faint_and_glaring_images_have_the_same_heatmap(exponent, images, hand_built, random_bank):
    bank = random_bank(6, hand_built.D, hand_built.K)
    made = hand_built.folded(bank)
    got = hand_built.run(made, images * np.float32(10.0**exponent))
    np.testing.assert_allclose(got["heatmap"], hand_built.run(made, images)["heatmap"], atol=1e-4)


def test_images_do_not_influence_each_other(images, hand_built, random_bank):
    made = hand_built.folded(random_bank(9, hand_built.D, hand_built.K), transfer=3, neighbors=5)
    together = hand_built.run(
        made, images * np.array([1, 100, 0, 1e-3, 7]).reshape(5, 1, 1, 1).astype(np.float32)
    )
    for row, factor in enumerate([1, 100, 0, 1e-3, 7]):
        alone = hand_built.run(made, images[row : row + 1] * np.float32(factor))
        for name in OUTPUTS:
            np.testing.assert_allclose(together[name][row], alone[name][0], atol=1e-5, rtol=1e-5)
    assert not np.array_equal(together["heatmap"][0], together["heatmap"][1])


@pytest.mark.parametrize("rows", [1, 2])
def test_more_neighbors_than_rows_are_clamped_with_a_warning(
    rows, images, hand_built, random_bank, caplog, tmp_path
):
    bank = random_bank(rows, hand_built.D, hand_built.K)
    with caplog.at_level(logging.WARNING):
        made = hand_built.folded(bank, transfer=7, neighbors=9)
    assert "--transfer 7 is more than the bank's" in caplog.text
    assert "--neighbors 9 is more than the bank's" in caplog.text
    onnx.save(made, tmp_path / "m.onnx")
    contract = read_contract(tmp_path / "m.onnx")
    assert (contract.transfer, contract.neighbors) == (rows, rows)
    _assert_equal(hand_built.run(made, images), hand_built.reference(images, bank, rows, rows))


def test_the_contract_is_read_back_without_onnx(hand_built, random_bank, tmp_path):
    bank = random_bank(7, hand_built.D, hand_built.K, shared=True)
    made = hand_built.folded(
        bank, transfer=2, neighbors=3, heatmap_size=(9, 11), input_type="uint8"
    )
    onnx.save(made, tmp_path / "m.onnx")
    contract = read_contract(tmp_path / "m.onnx")
    assert contract.preprocessing == Preprocessing(hand_built.WIDTH, hand_built.HEIGHT)
    assert contract.feature_map == (hand_built.K, hand_built.H, hand_built.W)
    assert (contract.transfer, contract.neighbors, contract.heatmap_size) == (2, 3, (9, 11))
    assert contract.bank.sha256 == bank.sha256()
    assert (contract.bank.rows, contract.bank.grad_weight_rows) == (7, 3)
    assert [contract.label_of(row) for row in range(7)] == bank.row_labels()
    assert contract.origin == hand_built.ORIGIN
    assert not contract.normalized
    header = read_header(tmp_path / "m.onnx")
    assert [(t.name, t.dtype, t.shape) for t in header.inputs] == [
        ("image", "uint8", ("batch", hand_built.HEIGHT, hand_built.WIDTH, 3))
    ]
    assert [(t.name, t.dtype, t.shape) for t in header.outputs] == [
        ("embedding", "float32", ("batch", hand_built.D)),
        ("heatmap", "float32", ("batch", 1, 9, 11)),
        ("neighbor", "int32", ("batch", 3)),
        ("similarity", "float32", ("batch", 3)),
    ]
    assert bank_of(made, contract).sha256() == bank.sha256()


@pytest.mark.parametrize(
    ("size", "channels", "what"), [(5, 4, "embeddings of size 5"), (3, 9, "channels 9")]
)
def test_a_bank_of_another_network_is_refused(size, channels, what, hand_built, random_bank):
    with pytest.raises(FoldcamError, match=f"{what} and the network has"):
        hand_built.folded(random_bank(4, size, channels))


@pytest.mark.parametrize("missing", ["feature_map", "embedding"])
def test_a_model_without_an_output_is_refused_by_its_name(missing, hand_built, random_bank):
    model = hand_built.embedding_model()
    kept = [value for value in model.graph.output if value.name != missing]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    with pytest.raises(FoldcamError, match=f"no output '{missing}'"):
        _fold(model, random_bank(4, 3, 4), hand_built)


def test_preprocessing_of_another_size_than_the_models_input_is_refused(hand_built, random_bank):
    with pytest.raises(FoldcamError, match=r"\[3, 14, 21\] and its preprocessing makes"):
        hand_built.folded(random_bank(4, 3, 4), Preprocessing())


def test_a_model_with_another_input_is_refused(hand_built, random_bank):
    model = hand_built.embedding_model()
    model.graph.input[0].name = model.graph.node[0].input[0] = "x"
    with pytest.raises(FoldcamError, match="inputs are x where"):
        _fold(model, random_bank(4, 3, 4), hand_built)


def test_folding_twice_gives_the_same_bytes_and_leaves_the_input_alone(hand_built, random_bank):
    model, bank = hand_built.embedding_model(), random_bank(6, 3, 4, shared=True)
    before = model.SerializeToString(deterministic=True)
    options = FoldOptions(transfer=2, neighbors=3, heatmap_size=(9, 9), input_type="uint8")
    first, second = (_fold(model, bank, hand_built, options) for _ in range(2))
    assert first.SerializeToString() == second.SerializeToString()
    assert model.SerializeToString(deterministic=True) == before
    assert b"/home/someone" not in first.SerializeToString()


def test_one_label_of_many_rows_stays_small(hand_built):
    rows = 50_000
    bank = Bank(
        np.tile(np.array([[1, 0, 0]], np.float32), (rows, 1)),
        np.ones((1, 4), np.float32),
        np.zeros(rows, np.int32),
        (LabelRun("only", rows),),
        "all-triplets",
    )
    made = hand_built.folded(bank)
    (entry,) = made.metadata_props
    assert len(entry.value) < 2000


def _fold(model, bank, hand_built, options=None):
    return fold(
        model,
        bank,
        preprocessing=Preprocessing(hand_built.WIDTH, hand_built.HEIGHT),
        layer="relu",
        origin=hand_built.ORIGIN,
        versions={},
        options=options,
    )
