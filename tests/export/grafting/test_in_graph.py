"""Banks stored smaller and searched in part: the graph against the numpy that describes it."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from foldcam.export.banks.bank import Bank
from foldcam.export.grafting import constants as storing
from foldcam.export.grafting.constants import store
from foldcam.export.grafting.fidelity import measure_fidelity
from foldcam.export.grafting.fold import FoldOptions, fold
from foldcam.export.grafting.in_graph import bank_of, is_intact, stored_bank_of
from foldcam.export.grafting.options import (
    Compression,
    SearchOptions,
    StorageOptions,
    parse_search,
    precision_of_embeddings,
    searches_lists,
)
from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.contract.schema import LabelRun
from foldcam.runtime.system.errors import FoldcamError

LISTS = SearchOptions("lists", 2)
PRECISIONS = ("float32", "float16", "int8")


@pytest.fixture
def short_lists(monkeypatch):
    """Five rows per list, so that little banks have several."""
    monkeypatch.setattr(storing, "_LIST_ROWS", 5)


@pytest.fixture
def images(hand_built):
    shape = (6, 3, hand_built.HEIGHT, hand_built.WIDTH)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def _on_circle(degrees, labels=None):
    angles = np.deg2rad(degrees)
    rows = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    count = len(rows)
    return Bank(
        rows,
        np.eye(count, 3, dtype=np.float32),
        np.arange(count, dtype=np.int32),
        labels or (LabelRun("a", count),),
        "sampled:5",
    )


def _unit(embedding):
    return embedding / np.linalg.norm(embedding, axis=1, keepdims=True)


def _assert_as_stored(got, stored, transfer, neighbors, feature_map):
    """The outputs of a folded model against the numpy reference of its own constants."""
    rows, similarity = stored.nearest(_unit(got["embedding"]), max(transfer, neighbors))
    np.testing.assert_array_equal(got["neighbor"], rows[:, :neighbors])
    np.testing.assert_allclose(got["similarity"], similarity[:, :neighbors], atol=1e-5)
    weights = stored.grad_weights()[stored.grad_index()[rows[:, :transfer]]].mean(axis=1)
    heat = np.maximum(np.einsum("nk,nkhw->nhw", weights, feature_map), 0)
    greatest = heat.max(axis=(1, 2), keepdims=True)
    expected = np.divide(heat, greatest, out=np.zeros_like(heat), where=greatest > 0)
    np.testing.assert_allclose(got["heatmap"][:, 0], expected, atol=1e-5)


def _feature_map(images, hand_built):
    small = images.reshape(len(images), 3, hand_built.H, 2, hand_built.W, 3).mean(axis=(3, 5))
    return np.maximum(np.einsum("kc,nchw->nkhw", hand_built.conv_weights(), small), 0)


def _contract_of(made, tmp_path):
    onnx.save(made, tmp_path / "m.onnx")
    return read_contract(tmp_path / "m.onnx")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_only_the_nearest_list_is_searched_by_hand(precision, monkeypatch):
    monkeypatch.setattr(storing, "_LIST_ROWS", 4)
    bank = _on_circle([0, 10, 20, 80, 150, 160, 170, 180])
    one = StorageOptions(SearchOptions("lists", 1), precision)
    stored = store(bank, one)
    assert sorted(map(tuple, stored.arrays["foldcam.bank_list_rows"].tolist())) == [
        (0, 1, 2, 3),
        (4, 5, 6, 7),
    ]
    # 110 degrees: row 3 (80) is nearest, and the centroids lie at 26.6 and 165.
    query = np.array([[np.cos(np.deg2rad(110)), np.sin(np.deg2rad(110))]], np.float32)
    rows, similarity = stored.nearest(query, 1)
    assert rows.tolist() == [[4]]
    assert similarity[0, 0] == pytest.approx(np.cos(np.deg2rad(40)), abs=2e-3)
    rows, _ = store(bank, replace(one, search=SearchOptions("lists", 2))).nearest(query, 3)
    assert rows.tolist() == [[3, 4, 5]]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("transfer", "neighbors"), [(1, 1), (3, 1), (1, 4), (2, 7), (8, 8)])
def test_the_graph_searches_lists_as_numpy_does(
    precision, transfer, neighbors, short_lists, images, hand_built, random_bank, tmp_path
):
    bank = random_bank(23, hand_built.D, hand_built.K)
    options = StorageOptions(LISTS, precision)
    made = hand_built.folded(bank, transfer=transfer, neighbors=neighbors, storage=options)
    contract = _contract_of(made, tmp_path)
    assert (contract.bank.storage.lists, contract.bank.storage.probes) == (5, 2)
    stored = stored_bank_of(made, contract)
    assert stored.padding().any()
    got = hand_built.run(made, images)
    _assert_as_stored(got, stored, transfer, neighbors, _feature_map(images, hand_built))
    assert got["neighbor"].dtype == np.int32
    # One image at a time says the same.
    for row in range(len(images)):
        alone = hand_built.run(made, images[row : row + 1])
        for name, value in alone.items():
            np.testing.assert_allclose(value[0], got[name][row], atol=1e-6, err_msg=name)


def test_lists_of_codes_fold_in_the_older_opset(short_lists, images, hand_built, random_bank):
    """For TensorRT 8.6, whose reductions take their axes as attributes."""
    bank = random_bank(23, hand_built.D, hand_built.K)
    options = FoldOptions(transfer=2, neighbors=3, storage=StorageOptions(LISTS, "int8"))
    made = []
    for opset in (17, 18):
        model = hand_built.embedding_model()
        model.opset_import[0].version = opset
        recipe = hand_built.Preprocessing(width=hand_built.WIDTH, height=hand_built.HEIGHT)
        made.append(
            fold(
                model,
                bank,
                preprocessing=recipe,
                layer="relu",
                origin=hand_built.ORIGIN,
                versions={},
                options=options,
            )
        )
    old, new = (hand_built.run(model, images) for model in made)
    assert made[0].opset_import[0].version == 17
    for name, value in new.items():
        np.testing.assert_array_equal(old[name], value, err_msg=name)


@pytest.mark.parametrize("size", [1, 2, 4, 5, 6, 7, 8, 13])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_embedding_size_is_searched(size, precision, short_lists, random_bank, hand_built):
    """Sizes that four does not divide, through a graph that takes embeddings as they are."""
    from foldcam.export.grafting.search import graft_neighbors, graft_unit_embedding
    from foldcam.export.onnx_graphs.writing import Graft

    generator = np.random.default_rng(size)
    bank = random_bank(31, size, 4, seed=size)
    stored = store(bank, StorageOptions(SearchOptions("lists", 3), precision))
    # An Identity in front, because an input cannot be an output.
    nodes = [helper.make_node("Identity", ["image"], ["embedding"])]
    model = hand_built.model(nodes, {}, {"embedding": [size]}, image=(size,))
    graft = Graft(model.graph, 18)
    unit = graft_unit_embedding(graft, False)
    graft_neighbors(graft, stored, unit, 4, 4)
    for name, kind in (("neighbor", TensorProto.INT32), ("similarity", TensorProto.FLOAT)):
        model.graph.output.append(helper.make_tensor_value_info(name, kind, ["batch", 4]))
    onnx.checker.check_model(model, full_check=True)
    queries = generator.normal(size=(9, size)).astype(np.float32)
    got = hand_built.run(model, queries)
    rows, similarity = stored.nearest(_unit(queries), 4)
    np.testing.assert_allclose(got["similarity"], similarity, atol=1e-5)
    if size > 1:
        np.testing.assert_array_equal(got["neighbor"], rows)
    exact = np.einsum("qd,qkd->qk", _unit(queries), bank.embeddings[got["neighbor"]])
    np.testing.assert_allclose(got["similarity"], exact, atol=1e-2)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_all_lists_searched_find_what_all_rows_do(precision, short_lists, random_bank):
    bank = random_bank(40, 16, 4)
    stored = store(bank, StorageOptions(SearchOptions("lists", 99), precision))
    assert stored.storage.probes == stored.storage.lists
    queries = _unit(np.random.default_rng(1).normal(size=(50, 16))).astype(np.float32)
    rows, similarity = stored.nearest(queries, 40)
    assert all(sorted(found) == list(range(40)) for found in rows.tolist())
    exact = queries @ bank.embeddings.T
    error = {"float32": 1e-6, "float16": 1e-3, "int8": 1e-2}[precision]
    np.testing.assert_allclose(similarity, np.take_along_axis(exact, rows, 1), atol=error)
    np.testing.assert_allclose(similarity, -np.sort(-exact, axis=1), atol=error)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_empty_place_is_never_found(precision, short_lists, hand_built, images, tmp_path):
    """All similarities are negative, where a place of zeros would win."""
    made = hand_built.folded(_far_bank(hand_built, images), neighbors=1)
    assert (hand_built.run(made, images[:1])["similarity"] < -0.5).all()
    options = StorageOptions(LISTS, precision)
    for neighbors in (1, 99):
        made = hand_built.folded(
            _far_bank(hand_built, images), neighbors=neighbors, storage=options
        )
        contract = _contract_of(made, tmp_path)
        stored = stored_bank_of(made, contract)
        assert stored.padding().any()
        got = hand_built.run(made, images[:1])
        assert (got["similarity"] < -0.5).all()
        assert len(set(got["neighbor"][0].tolist())) == contract.neighbors
        _assert_as_stored(got, stored, 1, contract.neighbors, _feature_map(images[:1], hand_built))


def _far_bank(hand_built, images):
    """Rows around the opposite of the first image's embedding."""
    embedding = hand_built.reference(images[:1], _any_bank(hand_built), 1, 1)["embedding"]
    generator = np.random.default_rng(0)
    rows = -_unit(embedding) + 0.2 * generator.normal(size=(13, hand_built.D))
    return replace(_any_bank(hand_built, 13), embeddings=_unit(rows).astype(np.float32))


def _any_bank(hand_built, rows=2):
    return Bank(
        np.eye(rows, hand_built.D, dtype=np.float32) + np.float32(0.1),
        np.ones((1, hand_built.K), np.float32),
        np.zeros(rows, np.int32),
        (LabelRun("a", rows),),
        "sampled:5",
    )


def test_equal_rows_are_found_once_each(short_lists, hand_built, images, tmp_path):
    bank = replace(_any_bank(hand_built, 12), embeddings=np.tile(np.float32([[0, 1, 0]]), (12, 1)))
    made = hand_built.folded(bank, neighbors=6, storage=StorageOptions(LISTS, "int8"))
    got = hand_built.run(made, images)
    assert all(len(set(rows)) == 6 for rows in got["neighbor"].tolist())
    np.testing.assert_allclose(np.ptp(got["similarity"], axis=1), 0, atol=1e-6)


def test_more_neighbors_than_the_searched_lists_hold_are_clamped_with_a_warning(
    short_lists, hand_built, random_bank, caplog, tmp_path
):
    bank = random_bank(23, hand_built.D, hand_built.K)
    with caplog.at_level(logging.WARNING):
        made = hand_built.folded(bank, neighbors=20, storage=StorageOptions(LISTS, "int8"))
    assert "--neighbors 20 is more than the 2 searched lists hold: taking" in caplog.text
    contract = _contract_of(made, tmp_path)
    sizes = np.sort(stored_bank_of(made, contract).list_sizes)
    assert contract.neighbors == sizes[:2].sum()


def test_tensorrt_sorts_no_more_than_it_can(hand_built, random_bank, caplog):
    with caplog.at_level(logging.WARNING):
        made = hand_built.folded(random_bank(4000, hand_built.D, hand_built.K), neighbors=3900)
    assert "--neighbors 3900 is more than TensorRT sorts: taking 3840" in caplog.text
    assert made.graph.output[2].type.tensor_type.shape.dim[1].dim_value == 3840


@pytest.mark.parametrize("transfer", [1, 3])
@pytest.mark.parametrize(
    ("precision", "compression"),
    [
        ("float16", Compression()),
        ("float32", Compression("rank", 2)),
        ("float16", Compression("rank", 3)),
        ("float32", Compression("prototypes", 2)),
        ("float16", Compression("prototypes", 1)),
    ],
)
def test_smaller_grad_weights_fold_to_what_numpy_says(
    precision, compression, transfer, images, hand_built, random_bank, tmp_path
):
    bank = random_bank(15, hand_built.D, hand_built.K)
    options = StorageOptions(precision=precision, compression=compression)
    made = hand_built.folded(bank, transfer=transfer, neighbors=2, storage=options)
    contract = _contract_of(made, tmp_path)
    assert contract.bank.compression == compression.name
    stored = stored_bank_of(made, contract)
    got = hand_built.run(made, images)
    _assert_as_stored(got, stored, transfer, 2, _feature_map(images, hand_built))
    # And it is another heatmap than the exact bank's, or the test could not fail.
    exact = hand_built.run(hand_built.folded(bank, transfer=transfer, neighbors=2), images)
    assert np.array_equal(got["neighbor"], exact["neighbor"])
    assert np.abs(got["heatmap"] - exact["heatmap"]).max() > (
        1e-5 if compression.kind == "none" else 1e-3
    )


def test_the_bank_is_read_back_as_the_search_sees_it(
    short_lists, hand_built, random_bank, tmp_path
):
    bank = random_bank(23, hand_built.D, hand_built.K, shared=True)
    options = StorageOptions(LISTS, "int8")
    made = hand_built.folded(bank, storage=options)
    contract = _contract_of(made, tmp_path)
    found = bank_of(made, contract)
    np.testing.assert_allclose(found.embeddings, bank.embeddings, atol=1e-2)
    np.testing.assert_allclose(found.row_grad_weights(), bank.row_grad_weights(), atol=1e-3)
    assert found.row_labels() == bank.row_labels()
    assert contract.bank.sha256 == bank.sha256()
    assert is_intact(made, contract)
    for name in ("bank_embeddings", "bank_code_scales", "bank_list_rows", "bank_centroids"):
        other = onnx.ModelProto()
        other.CopyFrom(made)
        tensor = next(t for t in other.graph.initializer if t.name == f"foldcam.{name}")
        array = numpy_helper.to_array(tensor)
        turned = np.ascontiguousarray(array[::-1])
        tensor.CopyFrom(numpy_helper.from_array(turned, tensor.name))
        assert not is_intact(other, contract)


def test_lists_of_other_rows_than_the_banks_are_refused(
    short_lists, hand_built, random_bank, tmp_path
):
    bank = random_bank(23, hand_built.D, hand_built.K)
    made = hand_built.folded(bank, storage=StorageOptions(LISTS, "int8"))
    contract = _contract_of(made, tmp_path)
    tensor = next(t for t in made.graph.initializer if t.name == "foldcam.bank_list_rows")
    rows = numpy_helper.to_array(tensor).copy()
    rows[rows == 7] = 1_000_000
    tensor.CopyFrom(numpy_helper.from_array(rows, tensor.name))
    with pytest.raises(FoldcamError, match="do not hold the 23 rows"):
        stored_bank_of(made, contract)


@pytest.mark.parametrize(
    "name", ["bank_embeddings", "bank_centroids", "bank_code_scales", "bank_grad_weights"]
)
def test_constants_of_other_shapes_are_refused(
    name, short_lists, hand_built, random_bank, tmp_path
):
    bank = random_bank(23, hand_built.D, hand_built.K)
    made = hand_built.folded(bank, storage=StorageOptions(LISTS, "int8"))
    contract = _contract_of(made, tmp_path)
    tensor = next(t for t in made.graph.initializer if t.name == f"foldcam.{name}")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[1:], tensor.name))
    with pytest.raises(FoldcamError, match="other shapes than its metadata describe"):
        stored_bank_of(made, contract)


def test_a_plain_bank_has_no_storage_in_its_contract(hand_built, random_bank, tmp_path):
    bank = random_bank(9, hand_built.D, hand_built.K)
    assert _contract_of(hand_built.folded(bank), tmp_path).bank.storage is None


def test_folding_in_lists_twice_gives_the_same_bytes(short_lists, hand_built, random_bank):
    bank = random_bank(23, hand_built.D, hand_built.K)
    options = StorageOptions(LISTS, "int8", Compression("prototypes", 2))
    first, second = (hand_built.folded(bank, storage=options) for _ in range(2))
    assert first.SerializeToString() == second.SerializeToString()


def test_auto_takes_lists_and_smaller_numbers_for_larger_banks():
    auto = SearchOptions()
    assert not searches_lists(auto, 1536, 128, False)
    assert searches_lists(auto, 1537, 128, False)
    # More bytes than those, and nearly all of them in the lists that would be searched.
    assert not searches_lists(auto, 1400, 1280, False)
    assert not searches_lists(auto, 10**6, 128, True)
    assert precision_of_embeddings("auto", False, 10**9) == "float32"
    assert precision_of_embeddings("auto", True, 10_000 * 128) == "float32"
    assert precision_of_embeddings("auto", True, 30_000 * 128) == "float16"
    assert precision_of_embeddings("auto", True, 100_000 * 128) == "int8"


def test_an_estimate_refuses_lists(hand_built, random_bank):
    bank = random_bank(9, hand_built.D, hand_built.K, transform="none")
    with pytest.raises(FoldcamError, match="averages over all of them"):
        hand_built.folded(bank, storage=StorageOptions(LISTS))


def test_codes_without_lists_are_refused(hand_built, random_bank):
    options = StorageOptions(SearchOptions("exhaustive"), "int8")
    with pytest.raises(FoldcamError, match="int8 needs --search lists"):
        hand_built.folded(random_bank(9, hand_built.D, hand_built.K), storage=options)


@pytest.mark.parametrize(
    "text", ["list", "lists:", "lists:0", "lists:-3", "lists:x", "exhaustive:2"]
)
def test_a_search_that_is_none_is_refused(text):
    with pytest.raises(FoldcamError, match="is not auto, exhaustive, lists or lists:PROBES"):
        parse_search(text)


def test_fidelity_by_hand(monkeypatch):
    """Four rows in two lists of two: rows 1 and 2 have their nearest other row elsewhere."""
    monkeypatch.setattr(storing, "_LIST_ROWS", 2)
    bank = _on_circle([0, 50, 90, 140], (LabelRun("a", 1), LabelRun("b", 2), LabelRun("c", 1)))
    stored = store(bank, StorageOptions(SearchOptions("lists", 1), "float32"))
    report = measure_fidelity(bank, stored)
    assert report.queries == 4
    assert report.same_row == 0.5
    # Row 1 finds row 0 in place of row 2, and row 2 row 3: other labels.
    assert report.same_label == 0.5
    lost = np.cos(np.deg2rad(40)) - np.cos(np.deg2rad(50))
    assert report.similarity_lost_mean == pytest.approx(2 * lost / 4, abs=1e-6)
    assert report.similarity_error_worst < 1e-6
    # Grad-weights (1 0 0), (0 1 0), (0 0 1) and zeros: 1 and 2 agree with nothing else.
    assert report.grad_weights_cosine_mean == 0.5
    assert report.grad_weights_cosine_worst == 0
    held_out = np.array([[np.cos(np.deg2rad(71)), np.sin(np.deg2rad(71))]], np.float32)
    assert measure_fidelity(bank, stored, held_out).same_row == 1


def test_an_exact_bank_is_faithful(random_bank):
    bank = random_bank(30, 5, 4)
    report = measure_fidelity(bank, store(bank))
    assert (report.same_row, report.same_label) == (1, 1)
    assert report.grad_weights_cosine_worst == pytest.approx(1)
