"""A rule of your own for what a TensorRT version refuses.

    python examples/tensorrt_rule.py model.onnx

prints the places in the model that the rule finds. The rule itself is one of taste: it asks for
strides of at most two.
"""

from __future__ import annotations

import sys
from pathlib import Path

from foldcam.export.verification.check.checker import Rule
from foldcam.export.verification.check.matchers import Details, Place, places
from foldcam.export.verification.check.targets import Target
from foldcam.export.verification.check.view import load_view


def long_strides(at: Place) -> Details | None:
    """Details for the braces of the rule's sentence, where a stride is longer than two."""
    strides = at.node.attributes.get("strides") or []
    entries = list(strides) if isinstance(strides, (list, tuple)) else []
    return {"strides": entries} if max(entries, default=1) > 2 else None


RULE = Rule(
    id="long-strides",
    matches=places("Conv", long_strides),
    sentence="{node.op} has strides {strides}, and skips pixels on {target.title}",
    remedy="use two convolutions of stride two",
    source="https://github.com/onnx/onnx-tensorrt/blob/main/docs/operators.md",
    severity="info",
    verified="documented",
    since=(8, 6),
)


def main(path: Path) -> None:
    """Apply the rule to a file, for one TensorRT."""
    target = Target("jetpack-6.2", (10, 3))
    view = load_view(path)
    if RULE.holds_for(target):
        for node, details in RULE.matches(view, target):
            sentence = RULE.sentence.format(node=node, target=target, view=view, **details)
            print(f"{node.name}: {sentence}; {RULE.remedy}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
