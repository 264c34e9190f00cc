"""A rule of your own for what a TensorRT version refuses.

    python examples/tensorrt_rule.py model.onnx

prints the places in the model that the rule finds. The rule itself is one of taste: it asks for
strides of at most two.
"""

from __future__ import annotations

import sys
from pathlib import Path

from foldcam.export.check.loading import load_view
from foldcam.export.check.model_view import ModelView, Node
from foldcam.export.check.rule import Rule, on
from foldcam.export.check.targets import Target


def long_strides(_: ModelView, node: Node) -> dict[str, object] | None:
    """Details for the braces of the rule's sentence, where a stride is longer than two."""
    strides = node.attributes.get("strides") or []
    entries = list(strides) if isinstance(strides, (list, tuple)) else []
    return {"strides": entries} if max(entries, default=1) > 2 else None


RULE = Rule(
    id="long-strides",
    severity="info",
    matches=on("Conv", test=long_strides),
    sentence="{operator} has strides {strides}, and skips pixels on {target}",
    remedy="use two convolutions of stride two",
    source="https://github.com/onnx/onnx-tensorrt/blob/main/docs/operators.md",
    verified="documented",
    since=(8, 6),
)


def main(path: Path) -> None:
    """Apply the rule to a file, for one TensorRT."""
    target = Target("jetpack-6.2", (10, 3))
    if RULE.holds_for(target):
        for match in RULE.matches(load_view(path), target):
            values = {"target": target.title, "operator": match.operator, **match.details}
            print(f"{match.node}: {RULE.sentence.format(**values)}; {RULE.remedy}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
