"""Networks are cut where positions are summed: what is found, and that it adds up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from foldcam.export.grafting.own import obstacle_to_own
from foldcam.export.networks.onnx_networks import summand_network
from foldcam.export.networks.onnx_networks.cut import OnnxNetwork
from foldcam.export.networks.onnx_networks.summand_network import SummandNetwork, with_summands
from foldcam.export.networks.onnx_networks.summands import NoSumError
from foldcam.export.networks.torch_cut import TorchNetwork
from foldcam.export.onnx_graphs.embedding_model import FEATURE_MAP, FEATURE_SUM, marked_summands
from foldcam.export.onnx_graphs.file import read_onnx
from foldcam.export.onnx_graphs.session import GraphSession
from foldcam.export.verification.formulas import NetworkValues, expected_outputs
from foldcam.runtime.contract.reading import parse_contract
from foldcam.runtime.contract.schema import METADATA_KEY
from foldcam.runtime.system.errors import FoldcamError


class Arctangent(torch.nn.Module):
    """A head with a function that has a gradient in torch, and none in `export.onnx_torch`."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.map, self.fc = torch.nn.Conv2d(3, 4, 4, 4), torch.nn.Linear(4, 3)

    def forward(self, image):
        return torch.atan(self.fc(self.map(image).relu().mean((2, 3))))


EXACT, HALVES = 1e-5, 3e-3


def _names():
    """The cases of tests/export/summing.py, which importlib mode cannot import here."""
    return [
        "average pool",
        "pool with a window as large as the map",
        "mean of two axes",
        "mean that is the embedding",
        "channels last",
        "mean of tokens",
        "mean of transposed tokens",
        "mean of transposed tokens with an axis of one",
        "generalised mean",
        "sum of a weighted map",
        "pool and two layers",
        "depthwise",
        "depthwise of two kernels",
        "depthwise and a pool of its one cell",
        "full kernel",
        "flatten",
        "flatten that ends the network",
        "flatten, inputs first",
        "flatten and a product",
        "flatten of channels last",
        "class token",
        "another token",
        "class token with a mask",
        "another token with a mask",
        "class token, scaled before",
        "class token, heads joined with the images",
        "a learned query",
        "average pool in half precision",
        "depthwise in half precision",
        "flatten in half precision",
        "class token in half precision",
    ]


@pytest.fixture(scope="module")
def opened(summing, onnx_files, tmp_path_factory):
    """`opened(name)`: case, file, the network cut at its map, and cut at its sum."""
    made = {}

    def get(name):
        if name not in made:
            case = summing.CASES[name]
            model = summing.model(onnx_files, case.lines, case.half, case.size)
            base = OnnxNetwork(
                read_onnx(onnx_files.save(model, tmp_path_factory.mktemp("sums"))), summing.SIZE
            )
            made[name] = case, model, base, SummandNetwork(base)
        return made[name]

    return get


def _close(found, expected, case, share=1.0):
    """Whether the difference is small beside the greatest number."""
    limit = (HALVES if case.half else EXACT) * share
    assert np.abs(found - expected).max() <= limit * np.abs(expected).max()


def _contract(made):
    return parse_contract({e.key: e.value for e in made.metadata_props}[METADATA_KEY], "here")


def test_every_case_is_tried(summing):
    assert sorted(_names()) == sorted(summing.CASES)


@pytest.mark.parametrize("name", _names())
def test_the_summands_are_those_computed_by_hand(name, opened, summing):
    case, model, base, network = opened(name)
    images = summing.images(5)
    values = summing.values_of(model, images)
    expected = case.summands(values)
    assert network.summands == case.kind
    assert network.notes == base.notes == ()
    assert network.feature_map_shape == expected.shape[1:]
    found = network.forward(torch.from_numpy(images))
    assert found.feature_map.dtype == torch.float32
    _close(found.feature_map.numpy(), expected, case)


@pytest.mark.parametrize("name", _names())
def test_summands_and_what_no_position_owns_add_up_to_the_sum(name, opened, summing):
    case, model, _, network = opened(name)
    images = summing.images(5)
    values = summing.values_of(model, images)
    summands, total = GraphSession(network.to_onnx(), [FEATURE_MAP, FEATURE_SUM]).run(images)
    summed = summands.sum(axis=(2, 3)) * (1 / summing.P if case.mean else 1)
    _close(total.astype(np.float32), values[case.total].reshape(total.shape), case)
    own = total.astype(np.float32)
    if case.kind == "attention":
        (query,) = {network.summation.row}
        own = own.reshape(5, summing.HEADS, -1, summing.HEAD_SIZE)[:, :, query]
    _close(summed + case.rest(values), own.reshape(5, -1), case)


@pytest.mark.parametrize("name", _names())
def test_the_embedding_is_the_networks_own(name, opened, summing):
    case, model, base, network = opened(name)
    images = summing.images(5)
    (own,) = GraphSession(model, ["y"]).run(images)
    whole = network.to_onnx()
    onnx.checker.check_model(whole, full_check=True)
    assert [output.name for output in whole.graph.output] == ["feature_map", "embedding"]
    assert marked_summands(whole) == (case.kind, network.summation.row or 0)
    (folded,) = GraphSession(whole, ["embedding"]).run(images)
    if case.half:
        # ONNX Runtime computes halves in the precision that it has a kernel for.
        _close(folded, own, case)
    else:
        np.testing.assert_array_equal(folded, own)
    in_torch = network.forward(torch.from_numpy(images)).embedding.numpy()
    _close(in_torch, own, case)
    assert network.sha256() == base.sha256()


@pytest.mark.parametrize("name", _names())
def test_an_image_has_the_same_summands_in_every_batch(name, opened, summing):
    case, _, _, network = opened(name)
    images = torch.from_numpy(summing.images(5))
    direction = torch.from_numpy(summing.numbers(8, 1, network.embedding_size)).expand(5, -1)
    whole = network.forward(images)
    pulled = network.pull_back(whole, direction)
    for row in range(5):
        alone = network.forward(images[row : row + 1])
        _close(alone.feature_map.numpy(), whole.feature_map[row : row + 1].numpy(), case)
        _close(alone.embedding.numpy(), whole.embedding[row : row + 1].numpy(), case)
        own = network.pull_back(alone, direction[:1])
        _close(own.numpy(), pulled[row : row + 1].numpy(), case, 10)


@pytest.mark.parametrize("name", _names())
def test_the_gradient_is_the_same_at_every_position(name, opened, summing):
    _, _, base, network = opened(name)
    images = torch.from_numpy(summing.images(4))
    direction = torch.from_numpy(summing.numbers(8, 4, network.embedding_size))
    found = network.forward(images)
    pulled = network.pull_back_map(found, direction)
    assert pulled.abs().max() > 0
    assert (pulled - pulled[:, :, :1, :1]).abs().max() == 0
    assert not network.head_depends_on_position(found)
    assert base.head_is_linear(base.forward(images)) in (True, False)


@pytest.mark.parametrize("name", _names())
def test_contributions_add_up_to_the_score_of_a_linear_head(name, opened, summing):
    case, _, _, network = opened(name)
    images = torch.from_numpy(summing.images(6))
    found = network.forward(images)
    assert network.head_is_linear(found) == case.linear
    if not case.linear:
        return
    direction = torch.from_numpy(summing.numbers(8, 1, network.embedding_size)).expand(6, -1)
    weights = network.pull_back(found, direction)
    of_positions = torch.einsum("nk,nkhw->n", weights, found.feature_map)
    score = (network.head_end(found) * direction).sum(dim=1)
    rest = score - of_positions
    limit = 1e-2 * float(score.abs().max()) if case.half else 1e-4
    # What no position owns, computed without any position.
    _, *context = found.context
    nothing = torch.zeros_like(found.feature_map)
    without = network.head_end(type(found)(nothing, found.embedding, found.context))
    assert context
    assert (rest - (without * direction).sum(dim=1)).abs().max() < limit
    if case.kind != "attention":
        # A bias, which is the same for all images.
        assert (rest - rest[0]).abs().max() < limit


@pytest.mark.parametrize(
    ("baseline", "rule"), [("none", "transferred"), ("mean", "transferred"), ("none", "own")]
)
@pytest.mark.parametrize("name", _names())
def test_contributions_of_the_folded_graph_add_up(
    name, baseline, rule, opened, summing, hand_built
):
    case, _, base, network = opened(name)
    assert obstacle_to_own(network.to_onnx()) is None
    trained = summing.trained(network, rule)
    made = summing.folded(network, trained.bank, baseline=baseline)
    images = summing.images(6, seed=1)
    got = hand_built.run(made, images)
    contract = _contract(made)
    assert (contract.explanation.summands, contract.explanation.baseline) == (case.kind, baseline)
    assert contract.explanation.grad_weights == rule
    assert contract.explanation.query == (network.summation.row or 0)
    found = network.forward(torch.from_numpy(images))
    head_end = network.head_end(found).numpy()
    own = base.head_end(base.forward(torch.from_numpy(images))).numpy()
    _close(head_end, own, case)
    cosines = (got["embedding"] * own).sum(1) / np.linalg.norm(got["embedding"], axis=1)
    np.testing.assert_allclose(cosines / np.linalg.norm(own, axis=1), 1, atol=1e-7 + 1e-6)
    expected = expected_outputs(
        NetworkValues(
            got["embedding"],
            found.feature_map.numpy(),
            head_end,
            lambda wanted: network.pull_back(found, torch.from_numpy(wanted)).numpy(),
        ),
        trained.bank,
        contract,
    )
    np.testing.assert_array_equal(got["neighbor"][:, 0], expected.rows[:, 0])
    _close(got["contribution"], expected.contribution, case, 10)
    np.testing.assert_allclose(got["heatmap"], expected.heatmap, atol=1e-2 if case.half else 1e-4)
    if not case.linear or case.half:
        return
    evidence = got["contribution"].sum(axis=(1, 2, 3)) * np.linalg.norm(own, axis=1)
    direction = trained.directions[got["neighbor"][:, 0]]
    score = (own * direction).sum(axis=1)
    if baseline == "mean" and case.kind != "attention":
        usual = direction @ trained.head_ends.mean(axis=0)
        np.testing.assert_allclose(evidence, score - usual, atol=1e-4)
    if baseline == "none":
        nothing = type(found)(torch.zeros_like(found.feature_map), found.embedding, found.context)
        of_nobody = (network.head_end(nothing).numpy() * direction).sum(axis=1)
        np.testing.assert_allclose(evidence, score - of_nobody, atol=1e-4)


@pytest.mark.parametrize(
    "name",
    [
        "global maximum",
        "two pools side by side",
        "a gate of the pooled map before a maximum",
        "class token beside a mean of the patches",
        "two tokens",
    ],
)
def test_without_one_sum_the_old_cut_is_kept_and_it_is_said(
    name, summing, onnx_files, tmp_path, hand_built
):
    lines, reason = summing.NO_SUM[name]
    path = onnx_files.save(summing.model(onnx_files, lines), tmp_path)
    base = OnnxNetwork(read_onnx(path), summing.SIZE)
    with pytest.raises(NoSumError) as caught:
        SummandNetwork(base)
    assert str(caught.value) == reason
    network = with_summands(base)
    assert network is base
    assert network.summands == "none"
    assert network.notes[-1].startswith(
        f"The embedding is no function of one sum over positions ({reason}): "
    )
    trained = summing.trained(network)
    made = summing.folded(network, trained.bank)
    got = hand_built.run(made, summing.images(3))
    contract = _contract(made)
    assert contract.explanation.summands == "none"
    assert np.isfinite(got["contribution"]).all()


def test_summands_that_mix_the_images_of_a_batch_are_not_taken(opened, monkeypatch):
    _, _, base, _ = opened("class token")
    right = SummandNetwork._trunk

    def mixed(self, images):
        summands, *others = right(self, images)
        return summands.flip(0), *others

    monkeypatch.setattr(SummandNetwork, "_trunk", mixed)
    with pytest.raises(NoSumError, match="depends on the others of its batch"):
        SummandNetwork(base)


def test_a_head_that_cannot_be_run_in_parts_keeps_the_old_cut(summing):
    network = with_summands(TorchNetwork(Arctangent(), summing.SIZE))
    assert network.summands == "none"
    assert "The head cannot be differentiated: Atan (node " in network.notes[-1]
    assert "--head fitted" not in network.notes[-1]
    assert "\n" not in network.notes[-1]


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes\ndo not fit"), ValueError(), FoldcamError("No opset 18.")]
)
def test_nothing_that_goes_wrong_in_the_search_ends_it(error, summing, monkeypatch):
    def fails(*_):
        raise error

    base = TorchNetwork(Arctangent(), summing.SIZE)
    monkeypatch.setattr(summand_network, "find_summation", fails)
    network = with_summands(base)
    assert network is base
    assert network.summands == "none"
    assert "The embedding is no function of one sum over positions (" in network.notes[-1]
    assert "\n" not in network.notes[-1]


def test_summands_that_do_not_add_up_are_not_taken(opened, monkeypatch):
    _, _, base, _ = opened("flatten")
    right = summand_network.find_summation

    def wrong(*given):
        return replace(right(*given), factor=0.5)

    monkeypatch.setattr(summand_network, "find_summation", wrong)
    with pytest.raises(NoSumError, match="the positions do not add up to their sum"):
        SummandNetwork(base)
