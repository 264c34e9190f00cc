"""The table of rules, in the order in which they are reported."""

from __future__ import annotations

from foldcam.export.check.rule import Rule
from foldcam.export.check.rules_graph import GRAPH_RULES
from foldcam.export.check.rules_operators import OPERATOR_RULES
from foldcam.export.check.rules_quantized import QUANTIZED_RULES
from foldcam.export.check.rules_types import TYPE_RULES

RULES: tuple[Rule, ...] = (*GRAPH_RULES, *OPERATOR_RULES, *TYPE_RULES, *QUANTIZED_RULES)
