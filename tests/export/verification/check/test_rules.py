"""The rules against TensorRT-RTX's real parser and builder: what they forbid fails there."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import onnx
import pytest

from foldcam.export.verification.check.checker import RULES, check_model
from foldcam.export.verification.check.targets import TARGETS, find_targets

trt = pytest.importorskip("tensorrt_rtx", reason="needs tensorrt_rtx: pip install foldcam[rtx]")

_SPEC = importlib.util.spec_from_file_location(
    "foldcam_check_examples", Path(__file__).with_name("examples.py")
)
examples = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(examples)
EXAMPLES = examples.EXAMPLES
BY_ID = {rule.id: rule for rule in RULES}
RTX = find_targets(["rtx"])


@pytest.fixture(scope="module")
def logger():
    """One per process: TensorRT keeps the first it is given."""
    return trt.Logger(trt.Logger.INTERNAL_ERROR)


def _stage_that_refuses(model, logger):
    """`parser`, `builder`, or `none`."""
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    # The network's weights live in the parser.
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model.SerializeToString()):
        return "parser"
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        value = network.get_input(index)
        shapes = [[each if size < 0 else size for size in value.shape] for each in (1, 2, 4)]
        profile.set_shape(value.name, *shapes)
    config.add_optimization_profile(profile)
    return "none" if builder.build_serialized_network(network, config) else "builder"


def _rules_met(model, tmp_path, severity):
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    (report,) = check_model(path, RTX).targets
    return {finding.rule for finding in report.findings if finding.severity == severity}


def test_every_rule_that_says_it_is_confirmed_has_its_two_models():
    confirmed = {rule.id for rule in RULES if rule.verified != "documented"}
    assert confirmed == set(EXAMPLES)


def test_rules_have_distinct_names_and_sources():
    assert len(BY_ID) == len(RULES)
    assert all(rule.source.startswith("https://") for rule in RULES)


def test_every_rule_speaks_of_some_target():
    # Any TensorRT can be named, also one that no JetPack has.
    others = find_targets([f"desktop-10.{minor}" for minor in range(17)])
    for rule in RULES:
        assert any(rule.holds_for(target) for target in (*TARGETS, *others)), rule.id


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_a_rule_forbids_is_refused_where_it_says(name, tmp_path, logger):
    rule, (forbidden, _) = BY_ID[name], EXAMPLES[name]
    assert _rules_met(forbidden, tmp_path, rule.severity) == {name}
    # A warning is about what the parser reads, and perhaps should not.
    expected = rule.verified if rule.severity == "error" else "none"
    assert _stage_that_refuses(forbidden, logger) == expected


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_a_rule_allows_is_built(name, tmp_path, logger):
    allowed = EXAMPLES[name][1]
    assert not _rules_met(allowed, tmp_path, "error")
    assert name not in _rules_met(allowed, tmp_path, BY_ID[name].severity)
    assert _stage_that_refuses(allowed, logger) == "none"


def test_the_operators_of_rtx_are_those_that_its_parser_says_it_has(logger):
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    names = {s.name for s in onnx.defs.get_all_schemas_with_history() if s.domain == ""}
    differ = {n for n in names if RTX[0].knows(n) != parser.supports_operator(n)}
    # It says that it reads the first two, and then lacks the plugin; the last two are not in
    # any published table.
    assert differ == {"NonZero", "RoiAlign", "CausalConvWithState", "LinearAttention"}
