"""What a rule is: a matcher over a model, for some targets, and what to tell the user."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from foldcam.export.check.model_view import ModelView, Node
from foldcam.export.check.targets import Flavour, Target, Version

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
Verified = Literal["parser", "builder", "documented"]


@dataclass(frozen=True)
class Match:
    """A place in the model that a rule speaks of.

    Attributes:
        node: the node's name; empty for the model as a whole.
        operator: its operator, or empty.
        details: values for the braces in the rule's sentence and remedy.
    """

    node: str
    operator: str = ""
    details: dict[str, object] = field(default_factory=dict)


Matcher = Callable[[ModelView, Target], Iterator[Match]]
NodeTest = Callable[[ModelView, Node], "dict[str, object] | None"]


@dataclass(frozen=True)
class Rule:
    """One line of the table.

    Attributes:
        id: short name, also in `--json`.
        severity: `error` where TensorRT refuses the model or would compute something else,
            `warning` where it may, `info` for what is good to know.
        matches: finds the places.
        sentence: what is wrong; `{...}` from the match, and `{target}`, `{operator}`.
        remedy: which option of foldcam or which change avoids it.
        source: where the fact is published.
        verified: `parser` or `builder` where the tests confirm it, both ways, with
            TensorRT-RTX's real ONNX parser or builder; `documented` where they cannot.
        since, before: the versions of TensorRT it holds for, from `since` to below `before`.
        flavours: of TensorRT.
    """

    id: str
    severity: Severity
    matches: Matcher
    sentence: str
    remedy: str
    source: str
    verified: Verified
    since: Version = (0, 0)
    before: Version | None = None
    flavours: frozenset[Flavour] = frozenset({"tensorrt", "tensorrt_rtx"})

    def holds_for(self, target: Target) -> bool:
        """Whether the rule speaks of this target."""
        return (
            target.flavour in self.flavours
            and target.version >= self.since
            and (self.before is None or target.version < self.before)
        )


def at(node: Node, **details: object) -> Match:
    """The match of a whole node."""
    return Match(node.name, node.op, details)


def on(*operators: str, test: NodeTest) -> Matcher:
    """Match the nodes of standard operators for which `test` returns details."""

    def find(view: ModelView, _: Target) -> Iterator[Match]:
        for node in view.of(*operators):
            details = test(view, node)
            if details is not None:
                yield at(node, **details)

    return find


def attribute_outside(name: str, default: object, allowed: set[object]) -> NodeTest:
    """Details `{found}` where an attribute has a value that is not allowed."""

    def test(_: ModelView, node: Node) -> dict[str, object] | None:
        found = node.attributes.get(name, default)
        return None if found in allowed else {"found": found}

    return test


def every_entry(name: str, allowed: int) -> NodeTest:
    """Details `{found}` where an attribute that is a list has another entry than `allowed`."""

    def test(_: ModelView, node: Node) -> dict[str, object] | None:
        found = node.attributes.get(name) or []
        entries = list(found) if isinstance(found, (list, tuple)) else []
        return None if all(entry == allowed for entry in entries) else {"found": entries}

    return test


def not_constant(index: int, what: str) -> NodeTest:
    """Details `{input}` and `{what}` where an input is there and not a constant of the file."""

    def test(view: ModelView, node: Node) -> dict[str, object] | None:
        name = node.input(index)
        return None if not name or view.is_constant(name) else {"input": name, "what": what}

    return test


def graph_input(index: int, what: str) -> NodeTest:
    """Details `{input}` and `{what}` where an input comes from the caller of the graph."""

    def test(view: ModelView, node: Node) -> dict[str, object] | None:
        name = node.input(index)
        given = any(value.name == name for value in view.inputs)
        return {"input": name, "what": what} if name and given else None

    return test


def more_outputs_than(most: int) -> NodeTest:
    """Details `{outputs}` where more outputs are used."""

    def test(_: ModelView, node: Node) -> dict[str, object] | None:
        used = [name for name in node.outputs if name]
        return {"outputs": len(used)} if len(used) > most else None

    return test
