"""What the TensorRT backend says where the pretended GPU fails, and what it gives back."""

from __future__ import annotations

import gc
from pathlib import Path
from types import SimpleNamespace

import pytest
from pretended_tensorrt import assert_right, batch

from foldcam.runtime.backends.cuda.pycuda import _PyCuda
from foldcam.runtime.system.errors import FoldcamError

PATH = Path("birds.engine")


def test_failing_enqueue_tells_tensorrts_reason(open_plan, machine, trt):
    backend = open_plan()
    trt.fail.add("enqueue")
    trt.say = ["[executionContext.cpp] Error Code 7: Internal Error (it burns)\nsecond line"]
    with pytest.raises(
        FoldcamError,
        match=r"^birds\.engine failed in TensorRT 10\.3\.0 with a batch of 1: .*it burns",
    ) as caught:
        backend.run(batch(1))
    assert "\n" not in str(caught.value)
    trt.fail.clear()
    images = batch(1)
    assert_right(backend.run(images), images)


def test_failure_on_the_gpu_surfaces_with_its_name(open_plan, machine, statuses):
    backend = open_plan()
    machine.fail["cudaStreamSynchronize"] = statuses.cudaErrorIllegalAddress
    with pytest.raises(FoldcamError, match="cudaErrorIllegalAddress, an illegal memory access"):
        backend.run(batch(1))
    machine.fail["cudaStreamSynchronize"] = statuses.cudaErrorIllegalAddress
    machine.fail["cudaFree"] = statuses.cudaErrorIllegalAddress
    backend.close()
    assert machine.count("cudaFree") == 5
    assert machine.count("cudaStreamDestroy") == 1


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("runtime", "could not start: it burns"),
        ("deserialize", "cannot be loaded by TensorRT 10.3.0: it burns"),
        ("context", "no execution context could be made: it burns"),
        ("address", "buffer of 'image' was refused: it burns"),
        ("shape", "refuses a batch of 1: it burns"),
    ],
)
def test_refusal_while_opening_frees_what_was_made(open_plan, machine, trt, spoil, message):
    trt.fail.add(spoil)
    trt.say = ["it burns"]
    with pytest.raises(FoldcamError) as caught:
        open_plan()
    assert message in str(caught.value)
    assert str(caught.value).count(".engine") == 1 or spoil == "runtime"
    caught = None
    gc.collect()
    assert machine.clean()
    assert machine.count("cudaStreamDestroy") == 1


@pytest.mark.parametrize("room", range(0, 8 * 812, 797))
def test_no_memory_names_the_tensor_and_frees_the_rest(open_plan, machine, room):
    machine.memory = room
    with pytest.raises(FoldcamError) as caught:
        open_plan()
    assert "cudaErrorMemoryAllocation" in str(caught.value)
    assert "with a batch of 8" in str(caught.value)
    assert "MB are free" in str(caught.value)
    caught = None
    gc.collect()
    assert machine.clean()
    assert machine.memory == room


def test_no_memory_in_pycuda_is_told_as_well(open_plan, machine, pycuda, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pycuda", SimpleNamespace())
    machine.memory = 100
    with pytest.raises(FoldcamError, match="CUDA_ERROR_OUT_OF_MEMORY"):
        open_plan(cuda=_PyCuda(pycuda))
    assert pycuda.pushed == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"embedding": ["HALF", [-1, 3]]}, "'embedding' is float16.*promise float32"),
        ({"neighbor": ["INT64", [-1, 2]]}, "'neighbor' is int64.*promise int32"),
        ({"heatmap": ["FLOAT", [-1, 1, 7, 7]]}, r"'heatmap' is float32 \[N, 1, 7, 7\]"),
        ({"drop": "similarity"}, "'similarity' is missing"),
        ({"image2": ["FLOAT", [-1, 1]]}, "it needs the input 'image2'"),
        ({"image": ["FLOAT", [-1, 3, 9, 8]]}, "input 'image' is"),
        ({"extra": ["BF16", [-1, 3]]}, "'extra' is BF16"),
        ({"extra": ["FLOAT", [-1, -1]]}, "size of 'extra' is open"),
        ({"embedding": ["FLOAT", [-1, -1], [5]]}, r"'embedding' has the shape \[1, 5\].*\[1, 3\]"),
        ({"profiles": []}, "no optimization profile"),
    ],
)
def test_tensors_other_than_promised_are_named(open_plan, machine, changed, message):
    with pytest.raises(FoldcamError, match=message):
        open_plan(**changed)
    gc.collect()
    assert machine.clean()


def test_open_sizes_are_taken_from_the_contract(open_plan):
    images = batch(2)
    backend = open_plan(heatmap=["FLOAT", [-1, 1, -1, -1], [1, 2, 2]])
    assert_right(backend.run(images), images)


def test_messages_reach_the_exception_without_an_error_recorder(open_plan, trt, logger):
    trt.IErrorRecorder = None
    logger.messages.texts.append("an older matter")
    trt.fail.add("deserialize")
    trt.say = ["expecting library version 10.3.0.26 got 8.6.2.3, please rebuild"]
    with pytest.raises(FoldcamError) as caught:
        open_plan()
    assert "built by TensorRT 8.6.2.3 and this is 10.3.0.26: build it again" in str(caught.value)
    assert "older" not in str(caught.value)
