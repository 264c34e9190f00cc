"""What ONNX Runtime's TensorRT builds for: shapes of every input, a bank's lengths included."""

from __future__ import annotations

from dataclasses import replace

import pytest

from foldcam.runtime.backends import ort_providers
from foldcam.runtime.contract.schema import BankInput


@pytest.fixture
def shapes(contract_with, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "m.onnx").write_bytes(b"model")

    def of(**changes):
        contract = replace(contract_with(), **changes)
        options = ort_providers._tensorrt_options("1.22.0", tmp_path / "m.onnx", contract, False)
        return {name[12:15]: text for name, text in options.items() if "profile" in name}

    return of


def test_a_bank_in_the_graph_leaves_the_image_alone(shapes):
    assert shapes() == {"min": "image:1x3x8x8", "opt": "image:1x3x8x8", "max": "image:8x3x8x8"}


def test_a_bank_that_is_an_input_has_its_lengths_and_a_query_the_batch(shapes):
    found = shapes(bank_input=BankInput(500), query=True, labels=())
    assert found["min"] == (
        "image:1x3x8x8,bank_embedding:2x3,bank_direction:2x3,bank_label:2,query:1x3"
    )
    assert found["max"] == (
        "image:8x3x8x8,bank_embedding:500x3,bank_direction:500x3,bank_label:500,query:8x3"
    )
