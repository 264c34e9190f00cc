"""All rules by operator, and a node that has none."""

from __future__ import annotations

import onnx

from foldcam.export.onnx_graphs.adjoints import arrangement, elementwise, products
from foldcam.export.onnx_graphs.adjoints.step import Rule
from foldcam.export.onnx_graphs.adjoints.tape import ObstacleError
from foldcam.export.onnx_graphs.values import place_of

RULES: dict[str, Rule] = {**elementwise.RULES, **arrangement.RULES, **products.RULES}


def rule_of(node: onnx.NodeProto) -> Rule:
    """The rule for a node."""
    if node.domain in ("", "ai.onnx") and node.op_type in RULES:
        return RULES[node.op_type]
    raise ObstacleError(
        f"{node.op_type} (node {place_of(node)}), an operator that has no derivative here"
    )
