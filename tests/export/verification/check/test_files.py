"""Any ONNX file: large ones, folded ones that were changed, and what is no ONNX file at all."""

from __future__ import annotations

import contextlib
import subprocess
import sys

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from foldcam.export.verification.check.checker import check_model
from foldcam.export.verification.check.report import report_text
from foldcam.export.verification.check.targets import find_targets
from foldcam.runtime.system.errors import FoldcamError

TARGETS = find_targets(["jetpack-6.2"])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "does not exist"),
        (b"", "is not an ONNX file"),
        (b"hello, this is text", "is not an ONNX file"),
        (bytes(range(256)) * 9, "is not an ONNX file"),
        (onnx.ModelProto(ir_version=8).SerializeToString(), "is not an ONNX file"),
    ],
)
def test_what_is_no_network_is_refused_by_one_sentence(tmp_path, content, sentence):
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FoldcamError, match=sentence):
        check_model(path, TARGETS)


def test_a_graph_without_nodes_is_refused(tmp_path):
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    made = helper.make_model(helper.make_graph([], "g", [value], [value]))
    onnx.save(made, tmp_path / "model.onnx")
    with pytest.raises(FoldcamError, match="no nodes"):
        check_model(tmp_path / "model.onnx", TARGETS)


def test_a_file_beyond_the_limit_says_how_to_save_it(tmp_path, examples, monkeypatch):
    onnx.save(examples.quantized(), tmp_path / "model.onnx")
    monkeypatch.setattr("foldcam.export.verification.check.view.MAX_BYTES", 10)
    with pytest.raises(FoldcamError, match="external data"):
        check_model(tmp_path / "model.onnx", TARGETS)


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_a_damaged_file_is_checked_or_refused_and_never_a_traceback(
    data, examples, tmp_path_factory
):
    good = bytearray(examples.biased(np.ones(3, np.int32)).SerializeToString())
    for _ in range(data.draw(st.integers(1, 6))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(good)))
    path = tmp_path_factory.mktemp("damaged") / "model.onnx"
    path.write_bytes(bytes(good[: len(good) if cut % 2 else cut]))
    # Anything else than a FoldcamError fails the test.
    with contextlib.suppress(FoldcamError):
        report_text(check_model(path, TARGETS))


def _beside(tmp_path, examples):
    """A model whose constant lies in `weights.bin`."""
    made = examples.model([examples.node("Add", "x big")], {"big": np.ones((3, 8, 8), np.float32)})
    path = tmp_path / "model.onnx"
    onnx.save(made, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def test_external_data_is_named(tmp_path, examples):
    (report,) = check_model(_beside(tmp_path, examples), TARGETS).targets
    (finding,) = [f for f in report.findings if f.rule == "external-data"]
    assert "weights.bin" in finding.sentence
    assert report.passed


def test_a_file_whose_weights_no_reader_finds_is_refused(tmp_path, examples):
    path = _beside(tmp_path, examples)
    (tmp_path / "weights.bin").write_bytes(b"short")
    with pytest.raises(FoldcamError, match=r"'weights\.bin' ends before the weight 'big'"):
        check_model(path, TARGETS)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(FoldcamError, match=r"'weights\.bin', which is missing"):
        check_model(path, TARGETS)


def _short(made):
    made.graph.initializer[0].raw_data = b"123"


def _huge(made):
    made.graph.initializer[0].dims[0] = 1 << 40


def _negative(made):
    made.graph.initializer[0].dims[0] = -1


def _untyped(made):
    made.graph.initializer[0].data_type = 0


def _unmade(made):
    made.graph.output[0].name = "nobody makes this"


def _twice(made):
    made.graph.node.append(made.graph.node[0])


def _few_inputs(made):
    del made.graph.node[0].input[1:]


def _future(made):
    made.ir_version = 999


def _no_version(made):
    made.ClearField("ir_version")


def _no_type(made):
    made.graph.input[0].type.Clear()


def _foreign(made):
    made.graph.node[0].domain = "acme"


@pytest.mark.parametrize(
    "damage",
    [_untyped, _unmade, _twice, _few_inputs, _future, _no_version, _no_type, _foreign],
)  # fmt: skip
def test_a_file_that_no_reader_takes_does_not_pass(damage, tmp_path, examples):
    made = examples.model([examples.node("Add", "x big")], {"big": np.ones((3, 8, 8), np.float32)})
    path = tmp_path / "model.onnx"
    onnx.save(made, path)
    assert check_model(path, TARGETS).passed
    damage(made)
    path.write_bytes(made.SerializeToString())
    (report,) = check_model(path, TARGETS).targets
    (finding,) = [f for f in report.findings if f.severity == "error"]
    assert finding.rule == "invalid"
    assert finding.sentence.startswith("it is no valid ONNX file: ")


@pytest.mark.parametrize("damage", [_short, _huge, _negative])
def test_a_file_whose_sizes_cannot_be_is_refused_before_it_is_parsed(damage, tmp_path, examples):
    made = examples.model([examples.node("Add", "x big")], {"big": np.ones((3, 8, 8), np.float32)})
    damage(made)
    path = tmp_path / "model.onnx"
    path.write_bytes(made.SerializeToString())
    with pytest.raises(FoldcamError, match=r"'big' .* the file is damaged"):
        check_model(path, TARGETS)


def test_nodes_that_readers_sort_themselves_are_no_error(tmp_path, examples):
    made = examples.model([examples.node("Relu", "x", "h"), examples.node("Abs", "h")])
    nodes = list(made.graph.node)
    del made.graph.node[:]
    made.graph.node.extend(reversed(nodes))
    (tmp_path / "model.onnx").write_bytes(made.SerializeToString())
    assert check_model(tmp_path / "model.onnx", TARGETS).passed


def test_large_constants_are_neither_copied_nor_lost(tmp_path, examples):
    weights = np.ones((3, 3, 60, 60), np.float16)
    nodes = [examples.node("Conv", "x w")]
    made = examples.model(
        nodes, {"w": weights}, [("x", 1, [1, 3, 64, 64])], [("y", 1, [1, 3, 5, 5])]
    )
    onnx.save(made, tmp_path / "model.onnx")
    (report,) = check_model(tmp_path / "model.onnx", TARGETS).targets
    (finding,) = [f for f in report.findings if f.severity == "error"]
    assert finding.rule == "mixed-operands"
    assert "float32 and float16" in finding.sentence


def test_names_from_the_file_cannot_steer_the_terminal(tmp_path, examples):
    made = examples.resize(mode="linear", antialias=1)
    made.graph.node[0].name = "a\x1b[31m\n{sentence}"
    onnx.save(made, tmp_path / "model.onnx")
    text = report_text(check_model(tmp_path / "model.onnx", TARGETS))
    assert "\x1b" not in text
    assert "a\\x1b[31m\\n{sentence}" in text


def test_a_folded_model_that_was_changed_breaks_its_contract(tmp_path, folded_model):
    folded_model.graph.output[1].type.tensor_type.shape.dim[1].dim_value = 2
    onnx.save(folded_model, tmp_path / "model.onnx")
    (report,) = check_model(tmp_path / "model.onnx", TARGETS).targets
    (finding,) = [f for f in report.findings if f.severity == "error"]
    assert finding.rule == "contract"
    assert "heatmap" in finding.sentence


def test_checking_needs_no_torch(tmp_path, examples):
    onnx.save(examples.quantized(), tmp_path / "model.onnx")
    code = (
        "import sys; from foldcam.export.commands.check import app\n"
        f"sys.argv = ['check', {str(tmp_path / 'model.onnx')!r}, '--target', 'rtx']\n"
        "try:\n    app()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules and 'onnxruntime' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_an_unusable_file_ends_with_status_1_and_one_line(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"\x08\x07nonsense")
    code = (
        "import sys\nfrom foldcam.runtime.system.command import run_app\n"
        "from foldcam.export.commands.check import app\n"
        f"sys.argv = ['check', {str(tmp_path / 'model.onnx')!r}, '--target', 'all']\n"
        "run_app(app, 'foldcam check')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 1
    assert done.stdout == b""
    assert done.stderr.decode().startswith("error: ")
    assert done.stderr.count(b"\n") == 1
