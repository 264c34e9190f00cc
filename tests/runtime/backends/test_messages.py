"""TensorRT's own texts in the user's words; the first three are quoted from public reports."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from foldcam.runtime.backends.cuda.cuda_python import _CudaPython
from foldcam.runtime.backends.cuda.memory import CudaMemory
from foldcam.runtime.backends.tensorrt.backend import CheckedPlan, TensorRTBackend
from foldcam.runtime.backends.tensorrt.messages import Messages, error_recorder, explain
from foldcam.runtime.system.errors import FoldcamError


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        (
            "The engine plan file is not compatible with this version of TensorRT, expecting "
            "library version 8.6.1.6 got 8.5.2.2, please rebuild.",
            "the engine was built by TensorRT 8.5.2.2 and this is 8.6.1.6: build it again here",
        ),
        (
            "Version tag does not match. Note: Current Version: 228, Serialized Engine "
            "Version: 237",
            "the engine has serialization version 237 and this TensorRT reads 228: build it again "
            "with the TensorRT that runs it",
        ),
        (
            "The engine plan file is generated on an incompatible device, expecting compute 9.0 "
            "got compute 8.9, please rebuild.",
            "the engine was built for compute capability 8.9 and this GPU has 9.0: build it again "
            "on this device",
        ),
        ("Requested amount of GPU memory could not be allocated: out of memory", "not enough"),
        ("Error Code 3: API Usage Error\n  (Parameter check failed)", "Error Code 3: API Usage"),
        ("", "TensorRT gave no reason"),
    ],
)
def test_known_texts_are_translated(text, meaning):
    assert meaning in explain([text] if text else [])
    assert "\n" not in explain([text])


def test_a_known_cause_wins_over_the_first_message():
    assert "no NVIDIA driver" in explain(["something vague", "(cudaError 35: CUDA driver version)"])


def test_hostile_text_cannot_steer_the_terminal():
    assert "\x1b" not in explain(["expecting library version \x1b[2J got 1 "])
    assert "\x1b" not in explain(["\x1b[2J"])


def test_of_a_flood_the_first_errors_are_kept(logger):
    messages = Messages(logger.messages)
    recorder = error_recorder(SimpleNamespace(IErrorRecorder=type("Base", (), {})), messages)
    for number in range(1000):
        recorder.report_error(3, f"error {number}")
    assert recorder.num_errors() == 20
    assert (recorder.get_error_code(0), recorder.get_error_desc(0)) == (3, "error 0")
    assert messages.reason() == "error 0"
    assert recorder.num_errors() == 0


@pytest.fixture(scope="module")
def rtx():
    module = pytest.importorskip(
        "tensorrt_rtx", reason="needs tensorrt_rtx: pip install foldcam[rtx]"
    )
    texts = []

    class Collector(module.ILogger):
        def __init__(self):
            module.ILogger.__init__(self)

        def log(self, severity, text):
            if int(severity) <= 1:
                texts.append(text)

    messages = SimpleNamespace(mark=lambda: len(texts), errors=lambda since=0: texts[since:])
    return module, SimpleNamespace(handle=Collector(), messages=messages)


def test_real_tensorrt_refuses_damage_and_its_reason_arrives(
    rtx, machine, cuda_python, contract_with, tmp_path
):
    """TensorRT-RTX's runtime starts without a GPU, sees a wrong file, and tells the recorder."""
    module, logger = rtx
    library = SimpleNamespace(module=module, title="TensorRT-RTX", rtx=True, release=(1, 7))
    plan = CheckedPlan(tmp_path / "x.engine", b"no engine" * 100, contract_with())
    with pytest.raises(FoldcamError) as caught:
        TensorRTBackend(plan, library, logger, CudaMemory(_CudaPython(cuda_python)))
    assert "x.engine cannot be loaded by TensorRT-RTX: " in str(caught.value)
    assert "no engine of this TensorRT" in str(caught.value)
    assert machine.clean()
