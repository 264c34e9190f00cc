"""Rules that no parser at hand can confirm: each is met where it should be, and not elsewhere."""

from __future__ import annotations

from inspect import isfunction
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from foldcam.export.verification.check import attention, checker, matchers
from foldcam.export.verification.check.checker import RULES

FLOAT, INT64, UINT8 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.UINT8
ANY = [("y", FLOAT, ["a", "b", "c", "d"])]
SCALE = np.array(0.1, np.float32)
# Tested by behaviour in test_findings.py, test_files.py, test_folded.py and test_known_wrong.py.
ELSEWHERE = {
    "opset-too-new", "not-of-the-opset", "undated-operator", "external-data", "dynamic-size",
    "bfloat16", "dla", "wrong-attention-10.3", "wrong-attention-10.4", "wrong-attention-10.7",
    "attention-fp16", "attention-to-fp16", "if-from-tile",
}  # fmt: skip


def _relu(e, **how):
    return e.model([e.node("Relu", "x")], **how)


def _cast(e, to, opset=23):
    nodes = [e.node("Cast", "x", "h", to=to), e.node("Cast", "h", to=FLOAT)]
    return e.model(nodes, opset=opset)


def _function(e):
    made = e.model([helper.make_node("Mine", ["x"], ["y"], domain="d")], domains=["d"], opset=17)
    inner = helper.make_node("Relu", ["a"], ["b"])
    made.functions.append(
        helper.make_function("d", "Mine", ["a"], ["b"], [inner], [helper.make_opsetid("", 17)])
    )
    return made


def _attention(e):
    nodes = [e.node("Attention", "x x x", softcap=2.0)]
    return e.model(nodes, None, [("x", FLOAT, [1, 2, 8, 8])], ANY, opset=23)


def _per_channel(e):
    return e.quantized(np.full(3, 0.1, np.float32), np.zeros(3, np.int8))


def _weights_only(e, quantized_input=False, residual=False, identity_quantized=False):
    nodes = [e.node("DequantizeLinear", "w s z", "wd")]
    source = "x"
    if quantized_input or identity_quantized:
        nodes += [e.node("QuantizeLinear", "x s z", "q"), e.node("DequantizeLinear", "q s z", "xd")]
        source = "xd"
    nodes.append(e.node("Conv", f"{source} wd", "c" if residual else "y"))
    if residual:
        nodes.append(e.node("Add", f"c {'xd' if identity_quantized else 'x'}"))
    constants = {"s": SCALE, "z": np.array(0, np.int8), "w": np.ones((3, 3, 1, 1), np.int8)}
    return e.model(nodes, constants)


def _unsigned(e, kind=np.uint8):
    return e.quantized(zero=np.array(0, kind))


# rule -> (target, a model that meets it, a target or None for the same, a model that does not)
CASES = {
    "opset-too-old": ("jetpack-6.2", lambda e: _relu(e, opset=8), None, lambda e: _relu(e)),
    "local-function": ("jetpack-6.0", _function, "jetpack-6.2", _function),
    "not-folded": ("rtx", lambda e: _relu(e), None, None),
    "resize-cubic": (
        "jetpack-6.2",
        lambda e: e.resize(mode="cubic"),
        "rtx",
        lambda e: e.resize(mode="cubic"),
    ),
    "attention-softcap": ("jetpack-7.2", _attention, None, lambda e: _relu(e)),
    "float8": (
        "jetpack-6.0",
        lambda e: _cast(e, TensorProto.FLOAT8E4M3FN),
        "jetpack-6.2",
        lambda e: _cast(e, TensorProto.FLOAT8E4M3FN),
    ),
    "int4": (
        "jetpack-6.0",
        lambda e: _cast(e, TensorProto.INT4),
        "jetpack-6.2",
        lambda e: _cast(e, TensorProto.INT4),
    ),
    "float4": (
        "jetpack-6.2",
        lambda e: _cast(e, TensorProto.FLOAT4E2M1),
        "jetpack-7.0",
        lambda e: _cast(e, TensorProto.FLOAT4E2M1),
    ),
    "uint8-constant": (
        "jetpack-7.2",
        lambda e: e.added(np.ones(8, np.uint8)),
        "rtx",
        lambda e: e.added(np.ones(8, np.uint8)),
    ),
    "int64-output": (
        "jetpack-6.2",
        lambda e: e.topk(9, 2),
        None,
        lambda e: _relu(e),
    ),
    "uint8-quantize": ("jetpack-6.2", _unsigned, None, lambda e: _unsigned(e, np.int8)),
    "quantize-name-shared": (
        "jetpack-6.2",
        lambda e: e.named("same", "same"),
        None,
        lambda e: e.named("one", "two"),
    ),
    "activation-per-channel": ("rtx", _per_channel, None, lambda e: e.quantized()),
    "float-input": (
        "rtx",
        lambda e: _weights_only(e),
        None,
        lambda e: _weights_only(e, quantized_input=True),
    ),
    "residual": (
        "rtx",
        lambda e: _weights_only(e, quantized_input=True, residual=True),
        None,
        lambda e: _weights_only(e, residual=True, identity_quantized=True),
    ),
}


def _met(checked, model, target):
    return {finding.rule for finding in checked(model, target).findings}


def test_every_documented_rule_is_met_by_some_test():
    documented = {rule.id for rule in RULES if rule.verified == "documented"}
    assert documented == set(CASES) | ELSEWHERE


@pytest.mark.parametrize("rule", CASES)
def test_a_documented_rule_is_met_where_it_should_be(rule, examples, checked):
    target, make, _, _ = CASES[rule]
    assert rule in _met(checked, make(examples), target)


@pytest.mark.parametrize("rule", [name for name, case in CASES.items() if case[3]])
def test_a_documented_rule_is_not_met_elsewhere(rule, examples, checked):
    target, _, other, make = CASES[rule]
    assert rule not in _met(checked, make(examples), other or target)


def test_the_identity_of_a_residual_that_is_not_quantized_is_named(examples, checked):
    made = _weights_only(examples, quantized_input=True, residual=True)
    made.graph.node[-1].input[1] = "x"
    (finding,) = [f for f in checked(made, "rtx").findings if f.rule == "residual"]
    assert (finding.severity, finding.operator) == ("info", "Add")


def test_every_function_of_the_matchers_is_named_by_a_rule():
    table = Path(checker.__file__).with_name("rules.toml").read_text(encoding="utf-8")
    general = {"places", "always", "attribute", "types", "constants"}
    own = {
        name
        for module in (matchers, attention)
        for name, value in vars(module).items()
        if isfunction(value) and value.__module__ == module.__name__ and name[0] != "_"
    }
    assert {name for name in own - general if f'"{name}"' not in table} == set()
