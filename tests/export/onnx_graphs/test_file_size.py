"""Folded models that would be too large for one ONNX file."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from foldcam.export.banks.objectives.directions import parse_objective
from foldcam.export.datasets import load_dataset
from foldcam.export.exporting import exporter
from foldcam.export.exporting.exporter import export_model
from foldcam.export.grafting.fold import FoldOptions
from foldcam.export.models.spec import LoadedModel
from foldcam.export.onnx_graphs import message
from foldcam.export.onnx_graphs.message import check_file_size, weight_bytes
from foldcam.runtime.system.errors import FoldcamError

MESSAGE = r"would be .* GB \(network .*bank of 12 images .*--precision fp16.*--compress"


def test_all_kinds_of_constants_are_counted():
    kinds = [np.float32, np.float16, np.int64, np.int32, np.uint8, np.float64]
    arrays = [np.ones((3, 5), kind) for kind in kinds]
    raw = [numpy_helper.from_array(array, str(n)) for n, array in enumerate(arrays)]
    listed = helper.make_tensor("listed", onnx.TensorProto.FLOAT, [4], [1.0, 2, 3, 4])
    inside = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.ones(7)))
    graph = helper.make_graph([inside], "g", [], [], [*raw, listed])
    expected = sum(array.nbytes for array in arrays) + 16 + 56
    assert weight_bytes(helper.make_model(graph)) == expected


def test_two_gigabytes_are_the_limit():
    check_file_size(1 << 30, (1 << 30) - (2 << 20), 5)
    with pytest.raises(FoldcamError, match=r"would be 2\.15 GB \(network 1\.07, bank of 5 images"):
        check_file_size(1 << 30, 1 << 30, 5)


def _export(networks, preprocessing, photos, out, precision="fp32"):
    loaded = LoadedModel(networks.make_tiny(), preprocessing, "tinynet:make", "")
    options = FoldOptions(precision=precision)
    goal = parse_objective("all-triplets")
    return export_model(loaded, load_dataset(photos), out, goal, options=options)


def test_a_network_too_large_is_refused_before_the_long_pass(
    networks, preprocessing, shared_photos, tmp_path, monkeypatch
):
    monkeypatch.setattr(message, "MAX_FILE_BYTES", 1 << 20)
    monkeypatch.setattr(exporter, "build_bank", lambda *_, **__: pytest.fail("the pass began"))
    with pytest.raises(FoldcamError, match=MESSAGE):
        _export(networks, preprocessing, shared_photos, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_half_the_network_is_foreseen(
    networks, preprocessing, shared_photos, tmp_path, monkeypatch
):
    """Room for the float16 network and the bank, and not for the float32 network."""
    single = weight_bytes(
        onnx.load(_made(networks, preprocessing, shared_photos, tmp_path, "fp32"))
    )
    half = weight_bytes(onnx.load(_made(networks, preprocessing, shared_photos, tmp_path, "fp16")))
    assert half < single
    monkeypatch.setattr(message, "MAX_FILE_BYTES", (1 << 20) + (half + single) // 2)
    _made(networks, preprocessing, shared_photos, tmp_path, "fp16")
    with pytest.raises(FoldcamError, match=MESSAGE):
        _made(networks, preprocessing, shared_photos, tmp_path, "fp32")


def _made(networks, preprocessing, photos, folder, precision):
    out = folder / f"{precision}.onnx"
    _export(networks, preprocessing, photos, out, precision)
    return out


def test_a_bank_too_large_is_refused_by_fold(hand_built, random_bank, monkeypatch):
    monkeypatch.setattr(message, "_REST", 0)
    bank = random_bank(200, hand_built.D, hand_built.K)
    made = hand_built.folded(bank)
    monkeypatch.setattr(message, "MAX_FILE_BYTES", weight_bytes(made))
    hand_built.folded(bank)
    monkeypatch.setattr(message, "MAX_FILE_BYTES", weight_bytes(made) - 1)
    with pytest.raises(FoldcamError, match="bank of 200 images"):
        hand_built.folded(bank)
