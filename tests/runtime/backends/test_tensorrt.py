"""The TensorRT backend against a pretended GPU: order of calls, shapes, graphs, failures."""

from __future__ import annotations

import gc
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pretended_tensorrt import assert_right, batch

from foldcam.runtime.backends.cuda.pycuda import _PyCuda
from foldcam.runtime.model.model_input import Batch
from foldcam.runtime.system.errors import FoldcamError

PATH = Path("birds.engine")


def since(machine, mark):
    """The calls from a mark on that matter for the order."""
    ignored = ("cudaGetErrorString", "cudaMemGetInfo")
    return [call for call in machine.calls[mark:] if call not in ignored]


COPIES_OUT = ["copy d2h 12", "copy d2h 16", "copy d2h 8", "copy d2h 8"]  # of one image
ENQUEUED = ["copy h2d 768", "enqueue", *COPIES_OUT]


def test_first_run_is_enqueued_second_captured_third_launched(open_plan, machine):
    backend = open_plan()
    runs = []
    for seed in range(3):
        mark = len(machine.calls)
        images = batch(1, seed=seed)
        assert_right(backend.run(images), images)
        runs.append(since(machine, mark))
    assert runs[0] == [*ENQUEUED, "cudaStreamSynchronize", "computed 1"]
    assert runs[1] == [
        "cudaStreamBeginCapture",
        *ENQUEUED,
        "cudaStreamEndCapture",
        "cudaGraphInstantiateWithFlags",
        "cudaGraphDestroy",
        "cudaGraphLaunch",
        "cudaStreamSynchronize",
        "computed 1",
    ]
    assert runs[2] == ["cudaGraphLaunch", "cudaStreamSynchronize", "computed 1"]
    backend.close()
    assert machine.clean()


def test_opening_allocates_for_the_largest_batch_and_sets_shapes(open_plan, machine):
    backend = open_plan(profiles=[(1, 4, 8)])
    assert sorted(len(block) for block in machine.device.values()) == sorted(
        8 * size for size in (768, 12, 16, 8, 8)
    )
    assert len(machine.pinned) == 5
    assert "shape [1, 3, 8, 8]" in machine.calls
    assert backend.name == "TensorRT 10.3.0"
    assert backend.device == "cuda (Pretended GPU)"
    assert machine.calls.index("runtime") < machine.calls.index("deserialize")
    assert machine.calls.index("deserialize") < machine.calls.index("cudaMalloc")
    assert machine.calls.index("cudaMalloc") < machine.calls.index("context")


def test_everything_is_freed_in_order_and_once(open_plan, machine):
    backend = open_plan()
    for _ in range(2):
        backend.run(batch(1))
    mark = len(machine.calls)
    backend.close()
    order = since(machine, mark)
    assert order == [
        "cudaStreamSynchronize",
        "cudaGraphExecDestroy",
        "del context",
        "del engine",
        "del runtime",
        *["cudaFree", "cudaFreeHost"] * 5,
        "cudaStreamDestroy",
    ]
    assert machine.clean()
    backend.close()
    assert since(machine, mark) == order
    with pytest.raises(FoldcamError, match=r"birds\.engine was closed"):
        backend.run(batch(1))


def test_uint8_images_are_taken_as_they_are(open_plan, machine):
    backend = open_plan(input_type="uint8")
    images = batch(3, np.uint8)
    assert_right(backend.run(images), images)
    assert "copy h2d 576" in machine.calls
    with pytest.raises(FoldcamError, match=r"images are float32 \[1, 3, 8, 8\].*takes uint8"):
        backend.run(batch(1))


def test_whole_frames_go_to_the_gpu_as_they_are(open_plan, machine):
    image = ["UINT8", [-1, 16, 16, 3]]
    backend = open_plan(input_type="uint8", frame=(16, 16), image=image)
    given = Batch(backend.contract, 2)
    frames = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    for frame in frames:
        given.add(frame)
    found = backend.run(given.images)["embedding"]
    np.testing.assert_allclose(found, frames.mean((1, 2)) / 255, rtol=1e-5)
    assert "copy h2d 1536" in machine.calls


def test_an_engine_of_other_frames_than_the_contracts_is_refused(open_plan):
    with pytest.raises(FoldcamError, match=r"uint8 \[N, 8, 8, 3\].*uint8 \[N, 16, 16, 3\]"):
        open_plan(input_type="uint8", frame=(16, 16))


def test_view_of_a_larger_array_is_taken_too(open_plan):
    images = batch(4, np.uint8)[::2, ::-1]
    assert not images.flags.c_contiguous
    assert_right(open_plan(input_type="uint8").run(images), images)


@pytest.mark.parametrize("rows", [8, 9, 16, 20])
def test_batches_beyond_the_profile_are_split(open_plan, machine, rows):
    backend = open_plan()
    for seed in range(3):
        images = batch(rows, seed=seed)
        assert_right(backend.run(images), images)
    parts = [min(8, rows - start) for start in range(0, rows, 8)]
    computed = [call for call in machine.calls if call.startswith("computed")]
    assert computed == [f"computed {part}" for part in parts] * 3


def test_no_images_give_empty_outputs(open_plan, machine):
    outputs = open_plan().run(batch(0))
    assert outputs["heatmap"].shape == (0, 1, 2, 2)
    assert "enqueue" not in machine.calls


def test_results_are_the_callers_own(open_plan):
    backend = open_plan()
    first = backend.run(batch(1, seed=1))
    kept = {name: array.copy() for name, array in first.items()}
    backend.run(batch(1, seed=2))
    backend.close()
    for name, array in kept.items():
        np.testing.assert_array_equal(first[name], array)


def test_each_batch_size_has_a_context_and_a_graph_of_its_own(open_plan, machine):
    backend = open_plan()
    for _ in range(3):
        for rows in (1, 3, 8):
            images = batch(rows, seed=rows)
            assert_right(backend.run(images), images)
    assert machine.count("cudaGraphInstantiateWithFlags") == 3
    assert machine.contexts == 3
    assert machine.count("enqueue") == 6  # one before and one in each capture


def test_longest_unused_context_takes_a_fifth_batch_size(open_plan, machine):
    backend = open_plan()
    for rows in (1, 2, 3, 4, 5, 1, 5):
        for _ in range(2):
            images = batch(rows, seed=rows)
            assert_right(backend.run(images), images)
    assert machine.contexts == 4
    # 1 gave way to 5 and came back in the place of 2; 5 was still there.
    assert machine.count("cudaGraphInstantiateWithFlags") == 6
    backend.close()
    assert machine.clean()


def test_before_tensorrt_10_one_context_changes_its_batch_and_drops_its_graph(open_plan, machine):
    backend = open_plan(release=(8, 6, 2))
    for rows in (2, 2, 5, 5, 2):
        images = batch(rows, seed=rows)
        assert_right(backend.run(images), images)
    assert machine.contexts == 1
    shapes = [call for call in machine.calls if call.startswith("shape")]
    assert shapes == [f"shape [{n}, 3, 8, 8]" for n in (1, 2, 5, 2)]
    # The graph of the old size goes before its context is told of the new one.
    destroyed = machine.calls.index("cudaGraphExecDestroy")
    assert destroyed < machine.calls.index("shape [5, 3, 8, 8]")


def test_no_memory_for_another_context_shares_the_first(open_plan, machine, trt):
    trt.most_contexts = 1
    backend = open_plan()
    for rows in (1, 1, 4, 4, 1):
        images = batch(rows, seed=rows)
        assert_right(backend.run(images), images)
    assert machine.contexts == 1
    assert machine.count("context") == 2  # asked for once more, and never again


def test_the_profile_with_the_fewest_blank_images_is_chosen(open_plan, machine):
    backend = open_plan(profiles=[(1, 1, 1), (4, 4, 4), (5, 8, 8)])
    for rows, ran in ((1, 1), (2, 4), (4, 4), (7, 7), (8, 8)):
        images = batch(rows, seed=rows)
        assert_right(backend.run(images), images)
        assert machine.calls[-1] == f"computed {ran}"
    assert "profile 1" in machine.calls
    assert "profile 2" in machine.calls


def test_blank_images_hold_nothing_of_the_batch_before(open_plan, machine):
    backend = open_plan(fixed=4)
    backend.run(np.full((4, 3, 8, 8), np.nan, np.float32))
    images = batch(2)
    assert_right(backend.run(images), images)
    first = next(iter(machine.device.values()))
    assert np.frombuffer(bytes(first), np.float32)[2 * 192 :].tolist() == [0.0] * 2 * 192


def test_no_graph_where_none_is_wanted(open_plan, machine, capsys):
    backend = open_plan(cuda_graph=False)
    for rows in (1, 1, 2, 2):
        images = batch(rows)
        assert_right(backend.run(images), images)
    assert "cudaStreamBeginCapture" not in machine.calls
    assert machine.contexts == 1
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda m, t, s: t.fail.add("capture"), "no graph for this layer"),
        (
            lambda m, t, s: m.fail.update(cudaStreamEndCapture=s.cudaErrorStreamCaptureInvalidated),
            "cudaErrorStreamCaptureInvalidated",
        ),
        (
            lambda m, t, s: m.fail.update(
                cudaGraphInstantiateWithFlags=s.cudaErrorMemoryAllocation
            ),
            "cudaErrorMemoryAllocation",
        ),
        (
            lambda m, t, s: m.fail.update(
                cudaStreamBeginCapture=s.cudaErrorStreamCaptureUnsupported
            ),
            "cudaErrorStreamCaptureUnsupported",
        ),
    ],
)
def test_failed_capture_says_why_once_and_goes_on(
    open_plan, machine, trt, statuses, capsys, spoil, reason
):
    backend = open_plan()
    trt.say = ["no graph for this layer"]
    spoil(machine, trt, statuses)
    for seed in range(4):
        images = batch(2, seed=seed)
        assert_right(backend.run(images), images)
        backend.run(batch(3))
    notes = capsys.readouterr().err
    assert notes.count("note: birds.engine runs without a CUDA graph: ") == 1
    assert reason in notes
    assert machine.count("cudaStreamBeginCapture") == 1
    assert not any(machine.capturing.values())
    backend.close()
    assert machine.clean()


def test_interruption_in_a_capture_leaves_the_stream_usable(open_plan, machine, monkeypatch):
    backend = open_plan()
    backend.run(batch(1))
    context = backend._executions[1]._context

    def interrupt(stream):
        raise KeyboardInterrupt

    monkeypatch.setattr(context, "execute_async_v3", interrupt, raising=False)
    with pytest.raises(KeyboardInterrupt):
        backend.run(batch(1))
    monkeypatch.undo()
    images = batch(1, seed=5)
    assert_right(backend.run(images), images)


def test_kernels_that_are_still_compiled_are_captured_later(open_plan, machine, trt, capsys):
    trt.capturable = [False, False, True]
    backend = open_plan(rtx=True)
    for _ in range(5):
        images = batch(1)
        assert_right(backend.run(images), images)
    assert machine.count("cudaStreamBeginCapture") == 1
    assert capsys.readouterr().err == ""


def test_what_can_never_be_captured_is_given_up(open_plan, machine, trt, capsys):
    trt.capturable = [False] * 1000
    backend = open_plan(rtx=True)
    for _ in range(60):
        backend.run(batch(1))
    assert "cannot be captured after 50 runs" in capsys.readouterr().err
    assert len(trt.capturable) == 950


def test_pycuda_runs_without_graphs_and_says_so(open_plan, machine, pycuda, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "pycuda", SimpleNamespace(VERSION_TEXT="2024.1"))
    backend = open_plan(cuda=_PyCuda(pycuda))
    for seed in range(3):
        images = batch(5, seed=seed)
        assert_right(backend.run(images), images)
    assert pycuda.pushed == 0
    assert capsys.readouterr().err.count("pycuda has no CUDA graphs") == 1
    backend.close()
    del backend
    gc.collect()
    assert machine.clean()


def test_two_engines_share_nothing(open_plan, machine):
    first, second = open_plan(), open_plan(input_type="uint8")
    for seed in range(3):
        floats, bytes_ = batch(2, seed=seed), batch(3, np.uint8, seed=seed)
        assert_right(first.run(floats), floats)
        assert_right(second.run(bytes_), bytes_)
    assert len(machine.streams) == 2
    first.close()
    images = batch(3, np.uint8, seed=9)
    assert_right(second.run(images), images)
    second.close()
    assert machine.clean()


def test_threads_take_turns(open_plan):
    backend = open_plan()
    wrong = []

    def work(seed):
        for round_ in range(20):
            images = batch(1 + seed % 3, seed=100 * seed + round_)
            try:
                assert_right(backend.run(images), images)
            except AssertionError as error:
                wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_without_copies_the_network_runs_alone_and_is_captured_by_itself(open_plan, machine):
    backend = open_plan(profiles=[(1, 1, 4)])
    backend.run(batch(2))
    mark = len(machine.calls)
    backend.run_resident(2)
    assert since(machine, mark) == [
        "cudaStreamBeginCapture",
        "enqueue",
        "cudaStreamEndCapture",
        "cudaGraphInstantiateWithFlags",
        "cudaGraphDestroy",
        "cudaGraphLaunch",
        "cudaStreamSynchronize",
        "computed 2",
    ]
    mark = len(machine.calls)
    backend.run_resident(2)
    assert since(machine, mark) == ["cudaGraphLaunch", "cudaStreamSynchronize", "computed 2"]
    # What `run` returns is not touched by it.
    images = batch(2, seed=5)
    assert_right(backend.run(images), images)
    backend.close()
    assert machine.clean()
    with pytest.raises(FoldcamError, match=r"birds\.engine was closed"):
        backend.run_resident(2)


def test_without_graphs_and_copies_the_network_is_enqueued(open_plan, machine):
    backend = open_plan(cuda_graph=False)
    backend.run(batch(1))
    mark = len(machine.calls)
    backend.run_resident(1)
    assert since(machine, mark) == ["enqueue", "cudaStreamSynchronize", "computed 1"]


def test_a_batch_that_run_would_split_is_split_without_copies_too(open_plan, machine):
    backend = open_plan(profiles=[(1, 2, 2)], cuda_graph=False)
    backend.run(batch(3))
    mark = len(machine.calls)
    backend.run_resident(3)
    computed = [call for call in since(machine, mark) if call.startswith("computed")]
    assert computed == ["computed 2", "computed 1"]


def test_a_failure_without_copies_names_engine_and_batch(open_plan, trt):
    backend = open_plan(cuda_graph=False)
    backend.run(batch(1))
    trt.fail.add("enqueue")
    with pytest.raises(FoldcamError, match=r"birds\.engine failed in TensorRT 10.3.0 with a batch"):
        backend.run_resident(1)
