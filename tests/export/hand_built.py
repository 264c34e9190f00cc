"""ONNX graphs made by hand, and the numpy that they must agree with."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from foldcam.export.banks.bank import Bank
from foldcam.export.grafting.fold import FoldOptions, fold
from foldcam.runtime.contract.schema import Origin
from foldcam.runtime.images.preprocess import Preprocessing

HEIGHT, WIDTH = 14, 21
K, H, W, D = 4, 7, 7, 3
ORIGIN = Origin("net", "", "0" * 64, "data", "train", "1" * 64)


def conv_weights() -> np.ndarray:
    """`[K, 3]`, a 1x1 convolution."""
    return np.random.default_rng(1).normal(size=(K, 3)).astype(np.float32)


def head_weights() -> np.ndarray:
    """`[D, K]`."""
    return np.random.default_rng(2).normal(size=(D, K)).astype(np.float32)


def embedding_model() -> onnx.ModelProto:
    """Average pool 2x3, 1x1 convolution, ReLU, average pool, linear."""
    nodes = [
        helper.make_node("AveragePool", ["image"], ["small"], kernel_shape=[2, 3], strides=[2, 3]),
        helper.make_node("Conv", ["small", "conv"], ["raw"]),
        helper.make_node("Relu", ["raw"], ["feature_map"]),
        helper.make_node("GlobalAveragePool", ["feature_map"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "fc"], ["embedding"], transB=1),
    ]
    constants = {"conv": conv_weights().reshape(K, 3, 1, 1), "fc": head_weights()}
    return model(nodes, constants, {"feature_map": [K, H, W], "embedding": [D]})


def model(
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    outputs: dict[str, list[int]],
    image: tuple[int, ...] = (3, HEIGHT, WIDTH),
) -> onnx.ModelProto:
    """A checked model with a dynamic batch."""
    graph = helper.make_graph(
        nodes,
        "made on /home/someone/machine",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", *image])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])
            for name, shape in outputs.items()
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(made, full_check=True)
    return made


def folded(
    bank: Bank, preprocessing: Preprocessing | None = None, **options: Any
) -> onnx.ModelProto:
    """The hand-built model with a bank folded in."""
    return fold(
        embedding_model(),
        bank,
        preprocessing=preprocessing or Preprocessing(width=WIDTH, height=HEIGHT),
        layer="relu",
        origin=ORIGIN,
        versions={"onnx": onnx.__version__},
        options=FoldOptions(**options),
    )


def run(made: onnx.ModelProto, images: np.ndarray) -> dict[str, np.ndarray]:
    """ONNX Runtime, one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        made.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"image": images}), strict=True))


def reference(
    images: np.ndarray, bank: Bank, transfer: int, neighbors: int, size: tuple[int, int] = (H, W)
) -> dict[str, np.ndarray]:
    """What the folded model must return, in float64 and loops."""
    count = len(images)
    small = images.astype(np.float64).reshape(count, 3, H, 2, W, 3).mean(axis=(3, 5))
    feature_map = np.maximum(np.einsum("kc,nchw->nkhw", conv_weights(), small), 0)
    embedding = feature_map.mean(axis=(2, 3)) @ head_weights().T
    unit = embedding / np.maximum(np.linalg.norm(embedding, axis=1, keepdims=True), 1e-12)
    similarity = unit @ bank.embeddings.T.astype(np.float64)
    order = np.argsort(-similarity, axis=1, kind="stable")
    raising, lowering, estimates = [], [], []
    for row in range(count):
        weights = bank.row_grad_weights()[order[row, :transfer]].mean(axis=0)
        signed = np.tensordot(weights, feature_map[row], 1)
        greatest = signed.max() if bank.outcome is None else np.abs(signed).max()
        scaled = signed / greatest if greatest > 0 else 0 * signed
        raising.append(resized(np.maximum(scaled, 0), size))
        lowering.append(resized(np.maximum(-scaled, 0), size))
        if bank.outcome is not None:
            powers = np.exp(similarity[row] / bank.outcome.tau)
            estimate = (powers * bank.outcome.values).sum() / powers.sum()
            logarithm = bank.outcome.transform == "log"
            estimates.append(np.exp(estimate) if logarithm else estimate)
    expected = {
        "embedding": embedding,
        "heatmap": np.stack(raising)[:, None],
        "neighbor": order[:, :neighbors],
        "similarity": np.take_along_axis(similarity, order[:, :neighbors], 1),
    }
    if bank.outcome is not None:
        expected["heatmap_lower"] = np.stack(lowering)[:, None]
        expected["estimate"] = np.array(estimates)
    return expected


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Linear interpolation between pixel centres, edges repeated."""
    for axis, wanted in enumerate(size):
        has = image.shape[axis]
        at = np.clip((np.arange(wanted) + 0.5) * has / wanted - 0.5, 0, has - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, has - 1)
        share = (at - low).reshape([-1 if a == axis else 1 for a in range(2)])
        image = np.take(image, low, axis) * (1 - share) + np.take(image, high, axis) * share
    return image
