"""A bank that is an input, in an engine of the pretended TensorRT: copied once, changed between."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from foldcam.runtime.backends.cuda.cuda_python import _CudaPython
from foldcam.runtime.backends.cuda.memory import CudaMemory
from foldcam.runtime.backends.tensorrt.backend import CheckedPlan, TensorRTBackend
from foldcam.runtime.contract.bank.live_bank import LiveBank
from foldcam.runtime.contract.schema import BankInput, LabelRun

_MOST = 6


def _bank(rows):
    embeddings = np.eye(3, dtype=np.float32)[rows]
    runs = tuple(LabelRun(f"label {at}", 1) for at in range(len(rows)))
    hashes = np.zeros((len(rows), 32), np.uint8)
    return LiveBank(embeddings, runs, ("",) * len(rows), hashes, None, {"network_sha256": ""})


@pytest.fixture
def backend(machine, cuda_python, trt, logger, contract_with, make_plan):
    contract = replace(contract_with(), bank_input=BankInput(_MOST), query=True).of_file()
    plan = make_plan(
        bank_embedding=["FLOAT", [-1, 3]], bank_direction=["FLOAT", [-1, 3]],
        bank_label=["INT32", [-1]], query=["FLOAT", [-1, 3]],
    )  # fmt: skip
    library = SimpleNamespace(module=trt, title="TensorRT 10.3.0", rtx=False, release=(10, 3, 0))
    memory = CudaMemory(_CudaPython(cuda_python))
    opened = TensorRTBackend(CheckedPlan(Path("m.engine"), plan, contract), library, logger, memory)
    yield opened
    opened.close()
    assert machine.clean()


def _use(backend, bank):
    backend.use_bank(bank, backend.contract.with_bank(bank.labels, bank.sha256))


def _images(channel, rows=1):
    images = np.full((rows, 3, 8, 8), 1, np.float32)
    images[:, channel] = 100
    return images


def _nearest(backend, channel):
    return int(backend.run(_images(channel))["neighbor"][0, 0])


def test_the_bank_is_copied_once_and_not_with_each_batch(backend, machine):
    _use(backend, _bank([0, 1, 2]))
    mark = len(machine.calls)
    for _ in range(3):  # enqueued, captured, launched
        assert [_nearest(backend, channel) for channel in range(3)] == [0, 1, 2]
    copies = {call for call in machine.calls[mark:] if call.startswith("copy h2d")}
    assert copies == {"copy h2d 768", "copy h2d 12"}  # an image and its query


def test_another_bank_of_another_length_answers_from_the_next_batch_on(backend):
    _use(backend, _bank([0, 1, 2]))
    for _ in range(3):
        assert _nearest(backend, 2) == 2
    _use(backend, _bank([2, 0, 1, 0]))
    for _ in range(3):
        assert [_nearest(backend, channel) for channel in range(3)] == [1, 2, 0]
    assert len(backend.contract.labels) == 4
    _use(backend, _bank([0, 1]))
    for _ in range(3):
        assert _nearest(backend, 1) == 1


def test_a_query_is_of_its_own_image_and_is_forgotten_afterwards(backend):
    _use(backend, _bank([0, 1, 2]))
    images = _images(0, 3)
    query = np.zeros((3, 3), np.float32)
    query[1] = 1
    for _ in range(3):
        nearest = backend.run_query(images, query)["neighbor"][:, 0]
        assert nearest[0] == nearest[2] == 0
        assert nearest[1] != 0
        assert backend.run(images)["neighbor"][:, 0].tolist() == [0, 0, 0]
