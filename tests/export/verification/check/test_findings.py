"""What the user reads: which node, why, and how to fix it, for which target."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from typer.testing import CliRunner

from foldcam.export.commands.check import app
from foldcam.export.verification.check.targets import TARGETS, find_targets
from foldcam.runtime.system.errors import FoldcamError

TEN_AND_LATER = [target.name for target in TARGETS if target.version >= (10, 0)]


def _only_error(report):
    (finding,) = [finding for finding in report.findings if finding.severity == "error"]
    return finding


@pytest.mark.parametrize("target", ["jetpack-6.1", "jetpack-6.2", "desktop-10.3"])
def test_opset_21_is_too_new_for_10_3(examples, checked, target):
    finding = _only_error(checked(examples.model([examples.node("Relu", "x")], opset=21), target))
    assert finding.rule == "opset-too-new"
    assert "opset 21" in finding.sentence
    assert "up to 20" in finding.sentence
    assert "--opset 20 or lower" in finding.remedy


@pytest.mark.parametrize("target", ["jetpack-7.0", "jetpack-7.2", "desktop-11", "rtx"])
def test_opset_21_is_well_for_10_13_and_later(examples, checked, target):
    assert checked(examples.model([examples.node("Relu", "x")], opset=21), target).passed


@pytest.mark.parametrize(
    ("target", "newest"),
    [("jetpack-6.0", 17), ("jetpack-6.2", 20), ("desktop-10.9", 22), ("jetpack-7.2", 24)],
)
def test_the_newest_opset_of_a_target_passes_and_the_next_does_not(
    examples, checked, target, newest
):
    relu = [examples.node("Relu", "x")]
    assert checked(examples.model(relu, opset=newest), target).passed
    assert not checked(examples.model(relu, opset=newest + 1), target).passed


@pytest.mark.parametrize("target", TEN_AND_LATER)
def test_a_zero_point_that_is_not_zero_is_named_with_its_node(examples, checked, target):
    report = checked(examples.quantized(zero=np.array(-7, np.int8)), target)
    found = [finding for finding in report.findings if finding.rule == "zero-point"]
    assert [finding.node for finding in found] == ["QuantizeLinear to q", "DequantizeLinear to y"]
    assert "zero point of -7" in found[0].sentence
    assert "symmetrically" in found[0].remedy


@pytest.mark.parametrize("target", TEN_AND_LATER)
def test_an_int32_bias_is_named_with_its_node_and_the_quantizers_option(examples, checked, target):
    finding = _only_error(checked(examples.biased(np.ones(3, np.int32)), target))
    assert (finding.rule, finding.node) == ("int32-bias", "DequantizeLinear to bd")
    assert "QuantizeBias': False" in finding.remedy


@pytest.mark.parametrize("target", TEN_AND_LATER)
def test_antialias_is_named_with_its_node(examples, checked, target):
    finding = _only_error(checked(examples.resize(mode="linear", antialias=1), target))
    assert (finding.rule, finding.operator, finding.node) == (
        "resize-antialias", "Resize", "Resize to y",
    )  # fmt: skip
    assert "preprocessing" in finding.remedy


@pytest.mark.parametrize("target", TEN_AND_LATER)
def test_4000_of_a_bank_are_too_many_and_the_options_are_named(examples, checked, target):
    finding = _only_error(checked(examples.topk(5000, 4000), target))
    assert (finding.rule, finding.operator) == ("topk-too-many", "TopK")
    assert "4000" in finding.sentence
    assert "--neighbors" in finding.remedy
    assert "3840" in finding.remedy


@pytest.mark.parametrize("target", TEN_AND_LATER)
def test_a_transpose_of_bytes_is_named_and_the_cast_recommended(examples, checked, target):
    finding = _only_error(checked(examples.bytes_in("Transpose"), target))
    assert (finding.rule, finding.node) == ("uint8-first-operator", "Transpose to between")
    assert "--input uint8" in finding.remedy


def test_an_operator_that_came_later_says_which_version_has_it(examples, checked):
    made = examples.model([examples.node("Swish", "x")], opset=24)
    finding = _only_error(checked(made, "desktop-10.15"))
    assert finding.rule == "unknown-operator"
    assert "TensorRT 11.2 has it" in finding.sentence
    assert checked(made, "desktop-11.2").passed


def test_an_operator_that_no_table_dates_is_a_warning(examples, checked):
    report = checked(examples.model([examples.node("Gelu", "x")], opset=20), "jetpack-6.2")
    assert report.passed
    (finding,) = [f for f in report.findings if f.severity == "warning"]
    assert finding.rule == "undated-operator"
    assert "10.15 does" in finding.sentence


def test_axes_as_an_input_in_opset_17_are_not_of_that_opset(examples, checked):
    nodes = [examples.node("ReduceMean", "x axes")]
    made = examples.model(nodes, {"axes": [2]}, outputs=[("y", 1, ["a", "b", "c", "d"])], opset=17)
    finding = _only_error(checked(made, "jetpack-6.0"))
    assert finding.rule == "not-of-the-opset"
    assert "the input number 2 of ReduceMean" in finding.sentence


def test_bfloat16_concerns_8_6_alone(examples, checked):
    nodes = [
        examples.node("Cast", "x", "h", to=TensorProto.BFLOAT16),
        examples.node("Cast", "h", "f", to=TensorProto.FLOAT),
        examples.node("Add", "f f"),
    ]
    made = examples.model(nodes, opset=17)
    old = {f.rule: f for f in checked(made, "jetpack-6.0").findings}
    assert old["bfloat16"].node == "Cast to h"
    new = {f.rule for f in checked(made, "jetpack-6.2").findings}
    assert "bfloat16" not in new


def test_the_open_end_of_a_slice_is_no_large_index(examples, checked):
    nodes = [examples.node("Slice", "x start end")]
    made = examples.model(
        nodes, {"start": [0], "end": [np.iinfo(np.int64).max]}, opset=17
    )  # fmt: skip
    assert not [f for f in checked(made, "jetpack-6.0").findings if f.severity != "info"]


def test_an_open_image_size_is_a_warning_and_an_open_batch_is_not(examples, checked):
    def made(shape):
        return examples.model(
            [examples.node("Relu", "x")], None, [("x", 1, shape)], [("y", 1, shape)]
        )

    assert not checked(made(["N", 3, 8, 8]), "jetpack-6.2").count("warning")
    (finding,) = [
        f
        for f in checked(made(["N", 3, "H", 8]), "jetpack-6.2").findings
        if f.severity == "warning"
    ]
    assert finding.rule == "dynamic-size"
    assert "[?, 3, ?, 8]" in finding.sentence


def test_nodes_inside_of_a_branch_and_of_a_function_are_found(examples, checked):
    made = examples.branch(False)
    arm = made.graph.node[2].attribute[0].g
    arm.node[0].op_type = "Unique"
    assert "unknown-operator" in {f.rule for f in checked(made, "jetpack-6.2").findings}

    made = examples.model([helper.make_node("Mine", ["x"], ["y"], domain="d")], domains=["d"])
    inner = helper.make_node("Unique", ["a"], ["b"])
    made.functions.append(
        helper.make_function("d", "Mine", ["a"], ["b"], [inner], [helper.make_opsetid("", 18)])
    )
    assert _only_error(checked(made, "jetpack-6.2")).rule == "unknown-operator"


def test_dla_is_spoken_of_only_where_there_is_one(examples, checked):
    made = examples.model([examples.node("Relu", "x", "r"), examples.node("Erf", "r")], opset=17)
    (finding,) = [f for f in checked(made, "jetpack-6.2").findings if f.rule == "dla"]
    assert "1 of 2 operators" in finding.sentence
    assert "Erf (1)" in finding.sentence
    for name in ("jetpack-7.2", "rtx", "desktop-11"):
        assert "dla" not in {f.rule for f in checked(made, name).findings}


def test_targets_are_found_by_name_by_version_and_all_at_once():
    assert find_targets(["all"]) == TARGETS
    assert [t.name for t in find_targets(["rtx", "jetpack-6.2", "rtx"])] == ["jetpack-6.2", "rtx"]
    (other,) = find_targets(["desktop-10.7"])
    assert (other.version, other.newest_opset) == ((10, 7), 20)


@pytest.mark.parametrize("name", ["jetpack-5.1", "desktop-8.4", "desktop-", "orin", ""])
def test_an_unknown_target_names_the_known_ones(name):
    with pytest.raises(FoldcamError, match=r"jetpack-6\.2"):
        find_targets([name])


# The command


def _run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def forbidden(examples, tmp_path):
    path = tmp_path / "forbidden.onnx"
    onnx.save(examples.topk(5000, 4000), path)
    return path


@pytest.fixture
def allowed(examples, tmp_path):
    path = tmp_path / "allowed.onnx"
    onnx.save(examples.topk(5000, 3840), path)
    return path


def test_the_exit_status_is_3_with_errors_and_0_without(forbidden, allowed):
    assert _run(forbidden, "--target", "jetpack-6.2").exit_code == 3
    assert _run(allowed, "--target", "jetpack-6.2").exit_code == 0
    assert _run(allowed, "--target", "nowhere").exit_code == 2
    assert _run(allowed).exit_code == 2


def test_the_text_names_node_remedy_and_verdict_per_target(forbidden):
    text = _run(forbidden, "--target", "jetpack-6.2", "--target", "rtx").stdout
    assert "TopK TopK to y index: TopK asks for the 4000 greatest" in text
    assert "fix     export with fewer --neighbors" in text
    assert "for     jetpack-6.2, rtx" in text
    assert "FAILED  1 error" in text


def test_many_places_of_one_rule_are_counted_and_not_all_listed(examples, tmp_path):
    count = 12
    nodes = [
        examples.node("Resize", f"x{at} - - s", f"x{at + 1}", mode="linear", antialias=1)
        for at in range(count)
    ]
    made = examples.model(
        nodes, {"s": [1, 3, 8, 8]}, [("x0", 1, [1, 3, 8, 8])], [(f"x{count}", 1, [1, 3, 8, 8])]
    )
    onnx.save(made, tmp_path / "many.onnx")
    text = _run(tmp_path / "many.onnx", "--target", "rtx").stdout
    assert text.count("antialias=1 is not read") == 5
    assert "and 7 more" in text
    assert "12 errors" in text


def test_json_is_one_document_with_findings_per_target(forbidden):
    result = _run(forbidden, "--target", "all", "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 3
    assert list(document["targets"]) == [target.name for target in TARGETS]
    entry = document["targets"]["jetpack-6.2"]
    assert (entry["tensorrt"], entry["newest_opset"], entry["passed"]) == ("10.3", 20, False)
    finding = entry["findings"][0]
    assert set(finding) == {
        "severity", "rule", "node", "operator", "sentence", "remedy", "source", "verified",
    }  # fmt: skip
    assert finding["rule"] == "topk-too-many"
    assert finding["verified"] == "builder"
