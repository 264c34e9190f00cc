"""docs/jetson.md quotes TensorRT's parser: these are its words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

trt = pytest.importorskip("tensorrt_rtx", reason="needs tensorrt_rtx: pip install foldcam[rtx]")

PAGE = (Path(__file__).resolve().parents[4] / "docs" / "jetson.md").read_text(encoding="utf-8")
QUOTED = re.findall(r"(?m)^\| `([^`]+)` \(a\)", PAGE)
# Which rule's forbidden model provokes it.
RULES = {
    "Non-zero zero point": "zero-point",
    "input has type Int32": "int32-bias",
    "Antialiasing": "resize-antialias",
    "TensorRT only supports half_pixel": "resize-coordinates",
    "first input has type UInt8": "uint8-first-operator",
    "TensorRT does not support UINT8": "uint8-inside",
    "must have same input types": "mixed-operands",
    "Axis input must resolve": "reduction-axes",
    "Plugin not found": "custom-operator",
}


def test_every_quoted_text_has_a_model_that_provokes_it():
    assert len(QUOTED) == len(RULES)
    assert all(any(text.startswith(start) for start in RULES) for text in QUOTED)


@pytest.mark.parametrize("text", QUOTED)
def test_the_parser_says_what_the_page_quotes(text, examples):
    rule = next(rule for start, rule in RULES.items() if text.startswith(start))
    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    assert not parser.parse(examples.EXAMPLES[rule][0].SerializeToString())
    said = "\n".join(parser.get_error(index).desc() for index in range(parser.num_errors))
    assert text in said
