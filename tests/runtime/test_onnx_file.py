"""The small reader against the onnx package, and against damage."""

from __future__ import annotations

import os

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foldcam.runtime.contract.onnx_file import read_contract, read_header
from foldcam.runtime.contract.schema import METADATA_KEY
from foldcam.runtime.system.errors import FoldcamError


def test_agrees_with_onnx(tiny_model):
    header = read_header(tiny_model)
    model = onnx.load(tiny_model)
    assert header.opset == model.opset_import[0].version == 18
    assert header.metadata == {entry.key: entry.value for entry in model.metadata_props}
    for found, expected in (
        (header.inputs, model.graph.input),
        (header.outputs, model.graph.output),
    ):
        assert [tensor.name for tensor in found] == [value.name for value in expected]
        for tensor, value in zip(found, expected, strict=True):
            kind = value.type.tensor_type
            assert tensor.dtype == str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
            assert tensor.shape == tuple(dim.dim_param or dim.dim_value for dim in kind.shape.dim)


def test_reads_the_contract(tiny_model, contract_with):
    assert read_contract(tiny_model) == contract_with()


def test_metadata_of_another_program_are_refused(make_model):
    path = make_model(metadata="{}")
    with pytest.raises(FoldcamError, match="schema_version is missing"):
        read_contract(path)


@pytest.mark.parametrize("content", [b"", b"\0", b"\xff" * 40, b"PK\3\4" + b"\0" * 50])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    with pytest.raises(FoldcamError, match="not an ONNX file"):
        read_header(path)


def test_folder_and_absence(tmp_path):
    with pytest.raises(FoldcamError, match="is a folder"):
        read_header(tmp_path)
    with pytest.raises(FoldcamError, match="does not exist"):
        read_header(tmp_path / "none.onnx")


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damage_raises_nothing_else(tiny_model, tmp_path, data):
    content = bytearray(tiny_model.read_bytes())
    for _ in range(data.draw(st.integers(0, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.onnx"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        contract = read_contract(path)
    except FoldcamError as error:
        assert str(path) in str(error)  # noqa: PT017  (either may happen)
    else:
        assert contract.bank.rows == sum(run.count for run in contract.labels)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(content=st.binary(max_size=200))
def test_arbitrary_bytes_raise_nothing_else(tmp_path, content):
    path = tmp_path / "any.onnx"
    path.write_bytes(content)
    with pytest.raises(FoldcamError):
        read_contract(path)


def test_weights_are_skipped_not_read(tiny_model, tmp_path):
    """A header behind a gigabyte of (sparse) weights is read at once."""
    content = tiny_model.read_bytes()
    size = 1 << 30
    varint = b""
    value = size
    while value:
        varint += bytes([(value & 0x7F) | (0x80 if value > 0x7F else 0)])
        value >>= 7
    path = tmp_path / "huge.onnx"
    with path.open("wb") as stream:
        stream.write(bytes([15 << 3 | 2]) + varint)  # an unknown field, as weights are
        stream.seek(size, os.SEEK_CUR)
        stream.write(content)
    assert METADATA_KEY in read_header(path).metadata
