"""What lies before a change is run once, and a candidate that begins behind it answers the same."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from foldcam.calibrate.graph import with_outputs
from foldcam.calibrate.placement import find_placement
from foldcam.calibrate.qdq import Recipe, Step, quantize
from foldcam.calibrate.quality import Damage
from foldcam.calibrate.session import Prefix, Runner
from foldcam.export.grafting.in_graph import contract_of
from foldcam.export.onnx_graphs.embedding_model import FEATURE_MAP
from foldcam.runtime.contract.schema import EMBEDDING, IMAGE

# Batches of four and of two.
PICTURES = np.random.default_rng(5).integers(0, 256, (6, 16, 16, 3)).astype(np.uint8)
ASKED = [EMBEDDING, FEATURE_MAP]


@pytest.fixture(scope="module")
def model(make_model):
    return make_model()


def _network(model):
    """Positions of the nodes up to the embedding."""
    return next(p for p, node in enumerate(model.graph.node) if EMBEDDING in node.output)


def test_the_rest_of_a_model_gives_what_the_whole_gives(model):
    contract = contract_of(model)
    whole = Runner(with_outputs(model, ASKED), contract).all(PICTURES)
    prefix = Prefix(model, ASKED, contract, PICTURES)
    # Forwards one node at a time, and back to the first.
    for place in [*range(-1, _network(model)), 0]:
        known = prefix.reach(place)
        rest = with_outputs(model, ASKED, known)
        # The nodes that were run are not among the rest.
        left = {name for node in rest.graph.node for name in node.output}
        run = {name for node in model.graph.node[: place + 1] for name in node.output}
        assert not left & run
        runner = Runner(rest, contract)
        found = [{**values, **runner.run(values)} for values in known]
        for name in ASKED:
            got = np.concatenate([values[name] for values in found])
            np.testing.assert_allclose(got, whole[name], rtol=1e-5, atol=1e-6)


def test_a_stop_holds_what_is_read_behind_it_and_nothing_else(model):
    """In front of the residual add both of its inputs are held, behind it the sum alone."""
    prefix = Prefix(model, ASKED, contract_of(model), PICTURES)
    places = {node.name: place for place, node in enumerate(model.graph.node)}
    assert set(prefix.reach(-1)[0]) == {IMAGE}
    assert set(prefix.reach(places["third"])[0]) == {"d", "e"}
    assert set(prefix.reach(places["join"])[0]) == {FEATURE_MAP}


def test_the_damage_of_a_layer_is_the_same_from_its_place_on(model):
    placement = find_placement(model)
    damage = Damage(model, contract_of(model), PICTURES)
    recipe = Recipe({name: Step(0.05) for name in placement.tensors(model)})
    names = {layer.name for layer in placement.layers}
    for layer in placement.layers:
        alone = quantize(model, placement, Recipe(recipe.steps, frozenset(names - {layer.name})))
        assert damage.of(alone, layer.place - 1) == pytest.approx(damage.of(alone), rel=1e-3)
        assert damage.of(alone) > 0


def test_where_a_sequence_would_be_handed_on_the_rest_begins_before_it(model):
    """`SplitToSequence` and back, around the input of the third convolution."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    nodes = list(copy.graph.node)
    place = next(p for p, node in enumerate(nodes) if node.name == "third")
    nodes[place].input[0] = "joined"
    half = helper.make_tensor("half", TensorProto.INT64, [2], [3, 3])
    copy.graph.initializer.append(half)
    nodes[place:place] = [
        helper.make_node("SplitToSequence", ["d", "half"], ["sequence"], axis=1),
        helper.make_node("ConcatFromSequence", ["sequence"], ["joined"], axis=1),
    ]
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    prefix = Prefix(copy, ASKED, contract_of(model), PICTURES)
    before = set(prefix.reach(place - 1)[0])
    assert set(prefix.reach(place)[0]) == before == {"d"}
    assert set(prefix.reach(place + 1)[0]) == {"d", "joined"}
