"""The output `contribution`: the method's formula on a hand-built network, however it is stored."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from foldcam.export.grafting import constants as storing
from foldcam.export.grafting.fold import FoldOptions, default_baseline, fold
from foldcam.export.grafting.options import StorageOptions, parse_compression, parse_search
from foldcam.export.grafting.unfold import unfold
from foldcam.export.onnx_graphs.embedding_model import mark_network, marked_summands
from foldcam.runtime.contract.reading import parse_contract
from foldcam.runtime.contract.schema import METADATA_KEY
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.errors import FoldcamError


@pytest.fixture
def network(hand_built):
    """The hand-built network, whose feature map is pooled."""
    made = hand_built.embedding_model()
    mark_network(made, hand_built.ORIGIN.network_sha256, "pool")
    return made


@pytest.fixture
def explained_bank(hand_built, random_bank):
    """Rows of very different sizes, and the mean of some maps."""

    def make(rows=11, sizes=(-20, 6), **settings):
        bank = random_bank(rows, hand_built.D, hand_built.K, **settings)
        generator = np.random.default_rng(3)
        powers = generator.integers(*sizes, size=(len(bank.grad_weights), 1))
        mean = generator.random((hand_built.K, hand_built.H, hand_built.W))
        return replace(
            bank,
            grad_weights=(bank.grad_weights * 2.0**powers).astype(np.float32),
            summands="pool",
            mean_summands=mean.astype(np.float32),
        )

    return make


@pytest.fixture
def folded(hand_built, network):
    def call(bank, **options):
        return fold(
            network,
            bank,
            preprocessing=Preprocessing(width=hand_built.WIDTH, height=hand_built.HEIGHT),
            layer="relu",
            origin=hand_built.ORIGIN,
            versions={},
            options=FoldOptions(**options),
        )

    return call


def _contract(made):
    return parse_contract({e.key: e.value for e in made.metadata_props}[METADATA_KEY], "here")


def _images(hand_built, count=5):
    shape = (count, 3, hand_built.HEIGHT, hand_built.WIDTH)
    return np.random.default_rng(4).normal(size=shape).astype(np.float32)


def _by_hand(hand_built, bank, images, transfer=1, mean=None):
    """`a . (S_p - mean S_p) / |z|` in float64, `[N, 1, h, w]`."""
    small = images.astype(np.float64).reshape(len(images), 3, hand_built.H, 2, hand_built.W, 3)
    maps = np.einsum("kc,nchw->nkhw", hand_built.conv_weights(), small.mean(axis=(3, 5)))
    maps = np.maximum(maps, 0)
    z = maps.mean(axis=(2, 3)) @ hand_built.head_weights().T
    lengths = np.linalg.norm(z, axis=1)
    order = np.argsort(-(z / lengths[:, None]) @ bank.embeddings.T, axis=1, kind="stable")
    weights = bank.row_grad_weights().astype(np.float64)[order[:, :transfer]].mean(axis=1)
    if mean is not None:
        maps = maps - mean
    signed = np.einsum("nk,nkhw->nhw", weights, maps)
    return (signed / lengths[:, None, None])[:, None]


def _assert_close(found, expected, share):
    """Maps that differ by no more than a share of their own greatest number."""
    greatest = np.abs(expected).max(axis=(1, 2, 3), keepdims=True)
    np.testing.assert_allclose(found / greatest, expected / greatest, atol=share)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("transfer", [1, 2, 5])
@pytest.mark.parametrize("baseline", ["none", "mean"])
def test_contributions_follow_the_formula(
    transfer, baseline, shared, hand_built, explained_bank, folded
):
    bank, images = explained_bank(shared=shared), _images(hand_built)
    made = folded(bank, transfer=transfer, baseline=baseline)
    got = hand_built.run(made, images)
    mean = bank.mean_summands if baseline == "mean" else None
    expected = _by_hand(hand_built, bank, images, transfer, mean)
    _assert_close(got["contribution"], expected, 1e-5)
    heat = np.maximum(expected, 0)
    greatest = heat.max(axis=(1, 2, 3), keepdims=True)
    np.testing.assert_allclose(got["heatmap"], heat / np.maximum(greatest, 1e-300), atol=1e-5)
    assert list(got) == ["embedding", "heatmap", "neighbor", "similarity", "contribution"]


@pytest.mark.parametrize(
    ("precision", "compress", "search", "share"),
    [
        ("float16", "none", "auto", 2e-3),
        ("auto", "rank:3", "auto", 1e-5),
        ("float16", "rank:3", "auto", 2e-3),
        ("auto", "none", "lists:5", 1e-5),
        ("int8", "none", "lists:5", 2e-3),
    ],
)
@pytest.mark.parametrize("transfer", [1, 3])
def test_small_grad_weights_survive_however_the_bank_is_stored(
    transfer, precision, compress, search, share, hand_built, explained_bank, folded, monkeypatch
):
    monkeypatch.setattr(storing, "_LIST_ROWS", 3)
    bank, images = explained_bank(sizes=(-60, -40)), _images(hand_built)
    if compress == "rank:3":
        # Rows of rank 3, of which it loses nothing.
        bank = replace(bank, grad_weights=bank.grad_weights * np.float32([1, 1, 1, 0]))
    storage = StorageOptions(parse_search(search), precision, parse_compression(compress))
    made = folded(bank, transfer=transfer, baseline="mean", storage=storage)
    got = hand_built.run(made, images)
    expected = _by_hand(hand_built, bank, images, transfer, bank.mean_summands)
    assert np.abs(expected).max() < 1e-10
    _assert_close(got["contribution"], expected, share)


def test_half_precision_of_the_network_keeps_contributions(hand_built, explained_bank, folded):
    bank, images = explained_bank(sizes=(-30, -29)), _images(hand_built)
    got = hand_built.run(folded(bank, precision="fp16", baseline="mean"), images)
    expected = _by_hand(hand_built, bank, images, 1, bank.mean_summands)
    assert got["contribution"].dtype == np.float32
    _assert_close(got["contribution"], expected, 1e-2)


@pytest.mark.parametrize("size", [(14, 14), (14, 21), "input"])
def test_a_larger_map_has_the_same_sum(size, hand_built, explained_bank, folded):
    bank, images = explained_bank(), _images(hand_built)
    native, larger = (
        hand_built.run(folded(bank, heatmap_size=wanted), images)["contribution"]
        for wanted in ("native", size)
    )
    assert larger.shape[2:] == ((14, 21) if size == "input" else size)
    np.testing.assert_allclose(
        larger.sum(axis=(1, 2, 3)), native.sum(axis=(1, 2, 3)), rtol=1e-4, atol=1e-9
    )


def test_no_evidence_is_a_map_of_zeros_and_never_nan(hand_built, explained_bank, folded):
    bank = explained_bank()
    images = _images(hand_built)
    images[0] = 0  # whose embedding is zero as well
    none = hand_built.run(folded(replace(bank, grad_weights=0 * bank.grad_weights)), images)
    assert (none["heatmap"] == 0).all()
    assert (none["contribution"] == 0).all()
    against = hand_built.run(folded(replace(bank, grad_weights=-np.abs(bank.grad_weights))), images)
    assert (against["heatmap"] == 0).all()
    assert (against["contribution"][1:].sum(axis=(1, 2, 3)) < 0).all()
    assert (against["contribution"][0] == 0).all()
    compared = hand_built.run(folded(bank, baseline="mean"), images)
    assert np.isfinite(compared["contribution"]).all()
    assert np.isfinite(compared["heatmap"]).all()


def test_a_continuous_outcome_has_one_signed_map(hand_built, explained_bank, folded):
    bank, images = explained_bank(transform="none"), _images(hand_built)
    made = folded(bank)
    assert _contract(made).explanation.baseline == "none"
    got = hand_built.run(made, images)
    expected = _by_hand(hand_built, bank, images)
    _assert_close(got["contribution"], expected, 1e-5)
    greatest = np.abs(expected).max(axis=(1, 2, 3), keepdims=True)
    both = got["heatmap"] - got["heatmap_lower"]
    np.testing.assert_allclose(both, expected / greatest, atol=1e-5)


def test_a_bank_of_before_folds_as_before(hand_built, random_bank):
    bank = random_bank(7, hand_built.D, hand_built.K)
    made = hand_built.folded(bank)
    contract = _contract(made)
    assert (contract.explanation, contract.optional_outputs) == (None, ())
    images = _images(hand_built)
    got = hand_built.run(made, images)
    assert list(got) == ["embedding", "heatmap", "neighbor", "similarity"]
    for name, expected in hand_built.reference(images, bank, 1, 1).items():
        np.testing.assert_allclose(got[name], expected, atol=1e-5, err_msg=name)


def test_grad_weights_of_one_cut_are_refused_by_another(
    hand_built, random_bank, explained_bank, folded
):
    plain = random_bank(7, hand_built.D, hand_built.K)
    with pytest.raises(FoldcamError) as caught:
        folded(plain)
    assert str(caught.value) == (
        "The bank's grad-weights are those of its last spatial activation and the network's "
        "feature map is the summands of a pool: build the bank with this network again."
    )
    with pytest.raises(FoldcamError, match="are those of the summands of a depthwise kernel and"):
        folded(replace(explained_bank(), summands="depthwise"))
    with pytest.raises(FoldcamError, match="feature map is its last spatial activation: build"):
        hand_built.folded(explained_bank())


def test_a_mean_that_is_missing_or_of_other_maps_is_one_sentence(
    hand_built, explained_bank, folded
):
    bank = explained_bank()
    without = replace(bank, mean_summands=None)
    with pytest.raises(FoldcamError, match="--baseline mean: the bank does not hold the mean"):
        folded(without, baseline="mean")
    assert _contract(folded(without)).explanation.baseline == "none"
    other = replace(bank, mean_summands=np.zeros((hand_built.K, 3, 3), np.float32))
    with pytest.raises(FoldcamError, match=r"is 4 x 3 x 3 and the network's feature map 4 x 7 x 7"):
        folded(other, baseline="mean")
    assert _contract(folded(other, baseline="none")).explanation.baseline == "none"


@pytest.mark.parametrize(
    ("summands", "continuous", "baseline"),
    [
        ("pool", False, "none"),
        ("none", False, "none"),
        ("depthwise", False, "mean"),
        ("linear", False, "mean"),
        ("attention", False, "none"),
        ("depthwise", True, "none"),
    ],
)
def test_the_baseline_follows_the_kind_of_head(summands, continuous, baseline):
    assert default_baseline(summands, continuous) == baseline


@pytest.mark.parametrize("baseline", ["none", "mean"])
def test_what_was_folded_comes_back(baseline, hand_built, explained_bank, folded, network):
    bank = explained_bank()
    made = folded(bank, baseline=baseline)
    parts = unfold(made, _contract(made))
    assert marked_summands(parts.network) == ("pool", 0)
    assert parts.bank.sha256() == bank.sha256()
    assert parts.bank.summands == "pool"
    if baseline == "mean":
        np.testing.assert_array_equal(parts.bank.mean_summands, bank.mean_summands)
    else:
        assert parts.bank.mean_summands is None
    again = fold(
        parts.network,
        parts.bank,
        preprocessing=_contract(made).preprocessing,
        layer="relu",
        origin=hand_built.ORIGIN,
        versions={},
        options=FoldOptions(baseline=baseline),
    )
    assert again.SerializeToString(deterministic=True) == made.SerializeToString(deterministic=True)
