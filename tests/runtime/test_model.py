"""The model as a function: exact values, and what it refuses."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from foldcam.runtime import FoldcamError, FoldedModel
from foldcam.runtime.backends import open_backend


def quartered() -> np.ndarray:
    """16 x 16 RGB: red 200, 100, 50, 0 in the quarters; green 20 everywhere."""
    image = np.zeros((16, 16, 3), np.uint8)
    image[..., 1] = 20
    image[:8, :8, 0], image[:8, 8:, 0], image[8:, :8, 0] = 200, 100, 50
    return image


@pytest.mark.parametrize("input_type", ["float32", "uint8"])
def test_exact_values(make_model, contract_with, input_type):
    model = FoldedModel.load(make_model(contract=contract_with(input_type=input_type)))
    result = model(quartered())
    red, green = 87.5 / 255, 20 / 255
    np.testing.assert_allclose(result.embedding, [red, green, 0], atol=1e-6)
    np.testing.assert_allclose(result.heatmap, [[1, 0.5], [0.25, 0]], atol=1e-6)
    assert result.neighbors.tolist() == [2, 1]
    assert result.neighbors.dtype == np.int32
    assert result.labels == ["red", "green"]
    norm = np.hypot(red, green)
    np.testing.assert_allclose(result.similarities, [red / norm, green / norm], atol=1e-6)
    assert result.frame_wh == (16, 16)
    assert result.input_wh == (8, 8)
    assert result.timings.inference_ms > 0
    assert result.hottest() == (4.0, 4.0)


def test_bgr_network_gets_bgr(make_model, contract_with):
    model = FoldedModel.load(make_model(contract=contract_with(color="bgr")))
    result = model(np.full((8, 8, 3), (255, 0, 0), np.uint8))
    np.testing.assert_allclose(result.embedding, [0, 0, 1], atol=1e-6)


def test_batch_equals_single_images_of_any_size(tiny_model):
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (h, w, 3), np.uint8) for h, w in ((8, 8), (31, 17), (9, 64))]
    model = FoldedModel.load(tiny_model, provider="cpu", threads=1)
    for one, many in zip(map(model, images), model.run_batch(images), strict=True):
        np.testing.assert_array_equal(one.embedding, many.embedding)
        np.testing.assert_array_equal(one.heatmap, many.heatmap)
        assert one.labels == many.labels
    assert model.run_batch([]) == []


def test_black_image_has_no_heat_and_no_nan(tiny_model):
    result = FoldedModel.load(tiny_model)(np.zeros((8, 8, 3), np.uint8))
    assert result.heatmap.tolist() == [[0, 0], [0, 0]]
    assert result.hottest() is None


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_wrong_array_is_named(tiny_model, image):
    with pytest.raises(FoldcamError, match="uint8"):
        FoldedModel.load(tiny_model)(image)


def drop(name):
    def change(model: onnx.ModelProto) -> None:
        kept = [output for output in model.graph.output if output.name != name]
        del model.graph.output[:]
        model.graph.output.extend(kept)

    return change


def retype(name, dtype, shape):
    def change(model: onnx.ModelProto) -> None:
        for tensor in [*model.graph.output, *model.graph.input]:
            if tensor.name == name:
                tensor.CopyFrom(helper.make_tensor_value_info(name, dtype, shape))

    return change


@pytest.mark.parametrize("name", ["embedding", "heatmap", "neighbor", "similarity"])
def test_missing_output_is_named(make_model, name):
    with pytest.raises(FoldcamError, match=f"output '{name}' is missing"):
        open_backend(make_model(change=drop(name)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (retype("neighbor", TensorProto.INT64, ["N", 2]), r"'neighbor' is int64.*promise int32"),
        (retype("embedding", TensorProto.FLOAT, ["N", 5]), r"'embedding' is float32 \[N, 5\]"),
        (retype("heatmap", TensorProto.FLOAT, ["N", 2, 2]), "'heatmap'"),
        (retype("image", TensorProto.UINT8, ["N", 8, 8, 3]), "input 'image' is uint8"),
        (retype("image", TensorProto.FLOAT, [1, 3, 8, 8]), "batch size of 'image' is fixed at 1"),
    ],
)
def test_wrong_tensor_is_named(make_model, change, message):
    with pytest.raises(FoldcamError, match=message):
        open_backend(make_model(change=change))


def test_second_input_is_refused(make_model):
    def change(model: onnx.ModelProto) -> None:
        model.graph.input.append(
            helper.make_tensor_value_info("temperature", TensorProto.FLOAT, [1])
        )

    with pytest.raises(FoldcamError, match="needs the input 'temperature'"):
        open_backend(make_model(change=change))


def test_graph_that_belies_its_metadata_is_refused(make_model, contract_with):
    """Open sizes pass the check of the file; what comes out is checked again."""

    def change(model: onnx.ModelProto) -> None:
        retype("embedding", TensorProto.FLOAT, ["N", "D"])(model)

    bank = contract_with().bank
    wider = type(bank)(**{**vars(bank), "embedding_size": 7})
    path = make_model(contract=contract_with(bank=wider), change=change)
    with pytest.raises(FoldcamError, match="'embedding' of shape"):
        FoldedModel.load(path)(np.zeros((8, 8, 3), np.uint8))


def test_neighbor_beyond_the_bank_is_refused(make_model, contract_with):
    contract = contract_with()
    bank = type(contract.bank)(**{**vars(contract.bank), "rows": 2, "grad_weight_rows": 2})
    path = make_model(contract=contract_with(bank=bank, labels=contract.labels[:2]))
    with pytest.raises(FoldcamError, match=r"bank row 2 .* bank of 2"):
        FoldedModel.load(path)(np.full((8, 8, 3), (255, 0, 0), np.uint8))


def test_unloadable_graph_gives_one_sentence(make_model):
    def change(model: onnx.ModelProto) -> None:
        model.graph.node[0].op_type = "NoSuchOperator"

    with pytest.raises(FoldcamError) as caught:
        open_backend(make_model(change=change))
    assert "cannot be loaded by ONNX Runtime" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_model_that_is_not_folded(tmp_path, tiny_model):
    model = onnx.load(tiny_model)
    del model.metadata_props[:]
    path = tmp_path / "plain.onnx"
    onnx.save(model, path)
    with pytest.raises(FoldcamError, match=r"not a folded one.*foldcam export"):
        open_backend(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "not an ONNX file"), (b"hello world", "not an ONNX file"), (None, "does not exist")],
)
def test_file_that_is_no_model(tmp_path, content, message):
    path = tmp_path / "bad.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FoldcamError, match=message):
        open_backend(path)


def test_cuda_that_is_not_there_is_named(tiny_model):
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(FoldcamError, match=r"foldcam\[gpu\]"):
        open_backend(tiny_model, "cuda")


def test_missing_onnxruntime_names_the_extra(tiny_model, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(FoldcamError, match=r"foldcam\[cpu\]"):
        open_backend(tiny_model)


def test_closed_model_says_so(tiny_model):
    model = FoldedModel.load(tiny_model)
    model.close()
    with pytest.raises(FoldcamError, match="closed"):
        model(np.zeros((8, 8, 3), np.uint8))


def test_a_continuous_outcome_by_hand(tiny_estimator):
    image = quartered()
    image[8:, 8:, 2] = 100
    result = FoldedModel.load(tiny_estimator)(image)
    # Red minus blue of each quarter is 200, 100, 50 and -100: shares of one maximum.
    np.testing.assert_allclose(result.heatmap, [[1, 0.5], [0.25, 0]], atol=1e-6)
    np.testing.assert_allclose(result.heatmap_lower, [[0, 0], [0, 0.5]], atol=1e-6)
    red, green, blue = np.array([87.5, 20, 25]) / np.linalg.norm([87.5, 20, 25])
    shares = np.exp(np.array([blue, green, red]) / 0.5)
    expected = (shares * [10, 20, 60]).sum() / shares.sum()
    assert result.estimate == pytest.approx(expected, rel=1e-5)
    assert isinstance(result.estimate, float)
    assert result.labels == []
    assert result.neighbors.tolist() == [2, 0]
    assert (result.hottest(), result.hottest_lower()) == ((4.0, 4.0), (12.0, 12.0))
    assert result.answer == f"{expected:.2f}"


def test_a_model_of_labels_has_no_estimate(tiny_model):
    result = FoldedModel.load(tiny_model)(quartered())
    assert (result.estimate, result.heatmap_lower, result.hottest_lower()) == (None, None, None)
    assert result.answer == "red"


def test_a_batch_of_estimates_equals_single_images(tiny_estimator):
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (h, w, 3), np.uint8) for h, w in ((8, 8), (31, 17), (9, 64))]
    model = FoldedModel.load(tiny_estimator, provider="cpu", threads=1)
    for one, many in zip(map(model, images), model.run_batch(images), strict=True):
        assert one.estimate == pytest.approx(many.estimate)
        np.testing.assert_allclose(one.heatmap_lower, many.heatmap_lower, atol=1e-6)


@pytest.mark.parametrize("name", ["heatmap_lower", "estimate"])
def test_missing_output_of_a_continuous_outcome_is_named(make_model, outcome_with, name):
    with pytest.raises(FoldcamError, match=f"output '{name}' is missing"):
        open_backend(make_model(contract=outcome_with(), change=drop(name)))


def test_an_outcome_of_another_shape_is_named(make_model, outcome_with):
    change = retype("estimate", TensorProto.FLOAT, ["N", 1])
    with pytest.raises(FoldcamError, match=r"'estimate' is float32 \[N, 1\].*promise .* \[N\]"):
        open_backend(make_model(contract=outcome_with(), change=change))
