"""What a classifier makes of its logits, in a graph and in numpy."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from foldcam.export.onnx_graphs.normalization import add_scores, find_logits, scores_of

LOGITS = np.array([[200.0, -3.0, 0.5], [0.0, 1.0, -800.0]], np.float32)


def network(*nodes):
    shape = numpy_helper.from_array(np.array([-1, 3], np.int64), "rows")
    graph = helper.make_graph(
        [helper.make_node("Identity", ["image"], ["given"]), *nodes],
        "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 3])],
        [shape],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


@pytest.mark.parametrize(
    ("operator", "kind"),
    [("Softmax", "softmax"), ("LogSoftmax", "log-softmax"), ("Sigmoid", "sigmoid")],
)
def test_the_logits_are_found_before_what_is_made_of_them(operator, kind):
    made = network(
        helper.make_node(operator, ["given"], ["scores"]),
        helper.make_node("Reshape", ["scores", "rows"], ["embedding"]),
    )
    assert find_logits(made.graph, "embedding") == ("given", kind)


def test_scores_that_are_logits_are_found_themselves():
    made = network(helper.make_node("Neg", ["given"], ["embedding"]))
    assert find_logits(made.graph, "embedding") == ("embedding", "logits")


@pytest.mark.parametrize("kind", ["logits", "softmax", "log-softmax", "sigmoid"])
def test_what_is_added_is_found_again_and_equals_numpy_also_at_the_ends(kind):
    made = network(helper.make_node("Neg", ["given"], ["embedding"]))
    add_scores(made, kind)
    assert find_logits(made.graph, "embedding")[1] == kind
    session = onnxruntime.InferenceSession(made.SerializeToString())
    (found,) = session.run(["embedding"], {"image": -LOGITS})
    np.testing.assert_allclose(found, scores_of(LOGITS, kind), rtol=1e-6, atol=1e-7)
