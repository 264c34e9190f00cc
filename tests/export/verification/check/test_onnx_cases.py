"""ONNX's own test cases, near two thousand: does the check say what TensorRT-RTX's parser does?"""

from __future__ import annotations

import warnings

import pytest

from foldcam.export.verification.check.checker import check_model
from foldcam.export.verification.check.targets import find_targets

trt = pytest.importorskip("tensorrt_rtx", reason="needs tensorrt_rtx: pip install foldcam[rtx]")

# The parser lets it pass, though uint8 is documented for inputs and outputs alone.
DOCUMENTED_ONLY = {"test_equal_uint8"}
# The number of the opset is a promise of the documents.
NOT_OF_THE_PARSER = {"opset-too-new", "opset-too-old"}


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory):
    """`{name of the case: (whether the parser reads it, rules of the errors found)}`."""
    with warnings.catch_warnings():
        # Some cases compute what overflows, to show it.
        warnings.simplefilter("ignore")
        cases = pytest.importorskip("onnx.backend.test.case.node").collect_testcases("")
    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    path = tmp_path_factory.mktemp("cases") / "model.onnx"
    found = {}
    for case in cases:
        if case.model is None:
            continue
        data = case.model.SerializeToString()
        path.write_bytes(data)
        builder = trt.Builder(logger)
        network = builder.create_network(0)
        read = trt.OnnxParser(network, logger).parse(data)
        (report,) = check_model(path, find_targets(["rtx"])).targets
        rules = {f.rule for f in report.findings if f.severity == "error"} - NOT_OF_THE_PARSER
        found[case.name] = (read, rules)
    return found


def test_what_the_parser_reads_raises_no_false_alarm(verdicts):
    alarms = {name: rules for name, (read, rules) in verdicts.items() if read and rules}
    assert set(alarms) <= DOCUMENTED_ONLY, alarms


def test_nine_of_ten_that_the_parser_refuses_are_found(verdicts):
    refused = [rules for read, rules in verdicts.values() if not read]
    assert len(refused) > 500
    assert sum(bool(rules) for rules in refused) / len(refused) > 0.9
