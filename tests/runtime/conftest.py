"""Tiny folded models whose every output can be computed by hand.

The feature map `A` is the image averaged over quarters ([3, 2, 2] of an 8 x 8 input), the
embedding its spatial mean, and each bank row one pure colour whose grad-weights are
that colour too. So the heatmap of a reddish image is its red channel over its maximum.

Contributions are `a . A_p` over the four quarters and the embedding's length, so that they add up
to the similarity of the nearest row; the contrast is that of the two nearest rows, and adds up to
the difference of their similarities.

For a continuous outcome the rows have the values 10, 20 and 60, and whatever the row, red
raises the estimate and blue lowers it.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from foldcam.runtime.contract.schema import (
    METADATA_KEY,
    BankSummary,
    Contract,
    Explanation,
    LabelRun,
    Origin,
    Outcome,
)
from foldcam.runtime.images.preprocess import Preprocessing

ROOT = Path(__file__).parents[2]
SIZE = 8
BANK = np.eye(3, dtype=np.float32)[::-1].copy()  # rows: blue, green, red, as sorted by label
LABELS = ("blue", "green", "red")
VALUES = np.array([10.0, 20.0, 60.0], np.float32)
TAU = 0.5


def tiny_contract(**changes: Any) -> Contract:
    """The contract of `tiny_model`, with fields of it or of its preprocessing replaced."""
    recipe = Preprocessing(SIZE, SIZE, "stretch", "rgb", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    known = {field.name for field in dataclasses.fields(Preprocessing)}
    recipe = dataclasses.replace(
        recipe, **{name: changes.pop(name) for name in list(changes) if name in known}
    )
    contract = Contract(
        preprocessing=recipe,
        input_type="float32",
        layer="quarters",
        feature_map=(3, 2, 2),
        normalized=False,
        heatmap_size=(2, 2),
        transfer=1,
        neighbors=2,
        bank=BankSummary(3, 3, 3, 3, "all-triplets", "all", "none", "0" * 64),
        labels=tuple(LabelRun(name, 1) for name in LABELS),
        origin=Origin("tiny", "", "1" * 64, "colours", "train", "2" * 64),
        versions={"foldcam": "0.0.1"},
    )
    return dataclasses.replace(contract, **changes)


def tiny_outcome(**changes: Any) -> Contract:
    """The contract of a continuous outcome."""
    outcome = Outcome(tau=TAU, transform="none", low=10.0, median=20.0, high=60.0)
    return tiny_contract(labels=(), outcome=outcome, **changes)


def tiny_explained(*outputs: str, **changes: Any) -> Contract:
    """The contract of a file with optional outputs."""
    explanation = Explanation("pool", "none", "transferred")
    return tiny_contract(explanation=explanation, optional_outputs=outputs, **changes)


def tiny_graph(contract: Contract) -> onnx.ModelProto:
    """The folded graph, without metadata."""
    k = contract.neighbors
    width, height = contract.preprocessing.width, contract.preprocessing.height
    continuous = contract.outcome is not None
    constants = {
        "bank_t": BANK.T.copy(),
        "weights": np.tile(np.array([1, 0, -1], np.float32), (3, 1)) if continuous else BANK,
        "values": VALUES,
        "tau": np.array(TAU, np.float32),
        "k": np.array([k], np.int64),
        "one": np.array([1], np.int64),
        "flat": np.array([0, 3], np.int64),
        "all": np.array([1, 2, 3], np.int64),
        "tiny": np.array(1e-12, np.float32),
        "zero": np.array([0], np.int64),
        "map": np.array([0, 3, 1, 1], np.int64),
        "255": np.array(255.0, np.float32),
    }
    nodes = []
    if contract.input_type == "uint8":
        wide, high = contract.image_size
        # Of whole frames an area for each pixel.
        area = [high // height, wide // width]
        nodes += [
            helper.make_node("Cast", ["image"], ["cast"], to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["cast"], ["planes"], perm=[0, 3, 1, 2]),
            helper.make_node("AveragePool", ["planes"], ["chw"], kernel_shape=area, strides=area),
            helper.make_node("Div", ["chw", "255"], ["pixels"]),
        ]
        image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", high, wide, 3])
    else:
        nodes += [helper.make_node("Identity", ["image"], ["pixels"])]
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, height, width])
    half = [height // 2, width // 2]
    nodes += [
        helper.make_node("AveragePool", ["pixels"], ["A"], kernel_shape=half, strides=half),
        helper.make_node("GlobalAveragePool", ["A"], ["pooled"]),
        helper.make_node("Reshape", ["pooled", "flat"], ["embedding"]),
        helper.make_node("ReduceL2", ["embedding", "one"], ["norm"], keepdims=1),
        helper.make_node("Max", ["norm", "tiny"], ["safe_norm"]),
        helper.make_node("Div", ["embedding", "safe_norm"], ["e"]),
        helper.make_node("MatMul", ["e", "bank_t"], ["cosines"]),
        helper.make_node("TopK", ["cosines", "k"], ["similarity", "rows"]),
        helper.make_node("Cast", ["rows"], ["neighbor"], to=TensorProto.INT32),
        helper.make_node("Slice", ["rows", "zero", "one", "one"], ["nearest"]),
        helper.make_node("Gather", ["weights", "nearest"], ["a"]),
        helper.make_node("Reshape", ["a", "map"], ["a_map"]),
        helper.make_node("Mul", ["A", "a_map"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "one"], ["signed"], keepdims=1),
        helper.make_node("Relu", ["signed"], ["heat"]),
        helper.make_node("Abs" if continuous else "Relu", ["signed"], ["size"]),
        helper.make_node("ReduceMax", ["size", "all"], ["hottest"], keepdims=1),
        helper.make_node("Max", ["hottest", "tiny"], ["safe_hottest"]),
        helper.make_node("Div", ["heat", "safe_hottest"], ["heatmap"]),
    ]
    if continuous:
        nodes += [
            helper.make_node("Neg", ["signed"], ["against"]),
            helper.make_node("Relu", ["against"], ["cold"]),
            helper.make_node("Div", ["cold", "safe_hottest"], ["heatmap_lower"]),
            helper.make_node("Div", ["cosines", "tau"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["shares"], axis=1),
            helper.make_node("MatMul", ["shares", "values"], ["estimate"]),
        ]
    outputs = [
        helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 3]),
        helper.make_tensor_value_info("heatmap", TensorProto.FLOAT, ["N", 1, 2, 2]),
        helper.make_tensor_value_info("neighbor", TensorProto.INT32, ["N", k]),
        helper.make_tensor_value_info("similarity", TensorProto.FLOAT, ["N", k]),
    ]
    if continuous:
        outputs += [
            helper.make_tensor_value_info("heatmap_lower", TensorProto.FLOAT, ["N", 1, 2, 2]),
            helper.make_tensor_value_info("estimate", TensorProto.FLOAT, ["N"]),
        ]
    if contract.optional_outputs:
        nodes += [
            helper.make_node("Mul", ["safe_norm", "quarters"], ["divisor"]),
            helper.make_node("Reshape", ["divisor", "scalar_map"], ["divisor_map"]),
        ]
        constants["quarters"] = np.array(4.0, np.float32)
        constants["scalar_map"] = np.array([0, 1, 1, 1], np.int64)
    if "contribution" in contract.optional_outputs:
        nodes += [helper.make_node("Div", ["signed", "divisor_map"], ["contribution"])]
        outputs += [
            helper.make_tensor_value_info("contribution", TensorProto.FLOAT, ["N", 1, 2, 2])
        ]
    if "contrast" in contract.optional_outputs:
        constants |= {"two": np.array([2], np.int64), "vector": np.array([-1], np.int64)}
        nodes += [
            helper.make_node("TopK", ["cosines", "two"], ["top_similarity", "top_rows"]),
            helper.make_node("Slice", ["top_rows", "one", "two", "one"], ["second"]),
            helper.make_node("Slice", ["top_similarity", "one", "two", "one"], ["below"]),
            helper.make_node("Reshape", ["below", "vector"], ["runner_up_similarity"]),
            helper.make_node("Reshape", ["second", "vector"], ["runner_up_row"]),
            helper.make_node("Cast", ["runner_up_row"], ["runner_up"], to=TensorProto.INT32),
            helper.make_node("Gather", ["weights", "second"], ["b"]),
            helper.make_node("Reshape", ["b", "map"], ["b_map"]),
            helper.make_node("Sub", ["a_map", "b_map"], ["apart"]),
            helper.make_node("Mul", ["A", "apart"], ["apart_weighted"]),
            helper.make_node("ReduceSum", ["apart_weighted", "one"], ["apart_map"], keepdims=1),
            helper.make_node("Div", ["apart_map", "divisor_map"], ["contrast"]),
        ]
        outputs += [
            helper.make_tensor_value_info("contrast", TensorProto.FLOAT, ["N", 1, 2, 2]),
            helper.make_tensor_value_info("runner_up", TensorProto.INT32, ["N"]),
            helper.make_tensor_value_info("runner_up_similarity", TensorProto.FLOAT, ["N"]),
        ]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "tiny", [image], outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    return model


def save_model(
    path: Path,
    contract: Contract | None = None,
    change: Callable[[onnx.ModelProto], None] | None = None,
    metadata: str | None = None,
) -> Path:
    """Write a tiny folded model, after `change` had its way with the graph."""
    contract = contract or tiny_contract()
    model = tiny_graph(contract)
    if change is not None:
        change(model)
    helper.set_model_props(
        model, {METADATA_KEY: contract.to_json() if metadata is None else metadata}
    )
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(scope="session")
def tiny_estimator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folded model of a continuous outcome that nobody may change."""
    return save_model(tmp_path_factory.mktemp("estimator") / "tiny.onnx", tiny_outcome())


@pytest.fixture
def outcome_with() -> Callable[..., Contract]:
    """`outcome_with(neighbors=1)`: as `contract_with`, of a continuous outcome."""
    return tiny_outcome


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folded model that nobody may change."""
    return save_model(tmp_path_factory.mktemp("model") / "tiny.onnx")


@pytest.fixture
def explained() -> Callable[..., Contract]:
    """`explained("contribution", "contrast")`: the contract of a file with these outputs."""
    return tiny_explained


@pytest.fixture
def make_model(tmp_path: Path) -> Callable[..., Path]:
    """`make_model(contract=..., change=..., metadata=...)` writes a model of its own."""

    def make(name: str = "made.onnx", **options: Any) -> Path:
        return save_model(tmp_path / name, **options)

    return make


def with_probes(contract: Contract, folder: Path, precision: Any = "fp32") -> Contract:
    """The contract with three probe pictures, and the answers of its own tiny model."""
    from foldcam.runtime.backends.onnxruntime import OnnxRuntimeBackend
    from foldcam.runtime.contract.canary import Canary
    from foldcam.runtime.engine.canary.asking import ask
    from foldcam.runtime.engine.canary.verdict import answer_of

    backend = OnnxRuntimeBackend(save_model(folder / "right.onnx", contract), "cpu", 1)
    answers = [answer_of(seed, found) for seed, found in enumerate(ask(backend, range(3)))]
    return dataclasses.replace(contract, canary=Canary(precision, tuple(answers)))


@pytest.fixture
def make_probed(tmp_path: Path) -> Callable[..., Path]:
    """`make_probed(change=..., precision="fp16")`: a tiny model with probe pictures.

    What `change` does to the graph is not in the answers: the model answers wrongly then.
    """

    def make(
        name: str = "probed.onnx",
        contract: Contract | None = None,
        precision: str = "fp32",
        change: Callable[[onnx.ModelProto], None] | None = None,
    ) -> Path:
        contract = with_probes(contract or tiny_contract(), tmp_path, precision)
        return save_model(tmp_path / name, contract, change)

    return make


def exchanged(name: str, order: list[int]) -> Callable[[onnx.ModelProto], None]:
    """A graph in which the rows of a constant are in another order."""

    def change(model: onnx.ModelProto) -> None:
        tensor = next(each for each in model.graph.initializer if each.name == name)
        rows = np.ascontiguousarray(numpy_helper.to_array(tensor)[order])
        tensor.CopyFrom(numpy_helper.from_array(rows, name))

    return change


@pytest.fixture
def wrong_map() -> Callable[[onnx.ModelProto], None]:
    """A change of the tiny model: grad-weights of other channels, by the right embedding."""
    return exchanged("weights", [1, 2, 0])


@pytest.fixture
def wrong_network() -> Callable[[onnx.ModelProto], None]:
    """A change of the tiny model: one layer returns its channels in another order."""

    def change(model: onnx.ModelProto) -> None:
        nodes = model.graph.node
        at, layer = next((i, node) for i, node in enumerate(nodes) if "A" in node.output)
        layer.output[0] = "channels"
        nodes.insert(at + 1, helper.make_node("Gather", ["channels", "order"], ["A"], axis=1))
        order = numpy_helper.from_array(np.array([1, 2, 0]), "order")
        model.graph.initializer.append(order)

    return change


def _without_epsilon(model: onnx.ModelProto) -> None:
    """The embedding is the network's own normalisation, and 0 / 0 of a black picture."""
    for node in model.graph.node:
        for names in (node.input, node.output):
            for at, name in enumerate(names):
                names[at] = {"embedding": "plain", "safe_norm": "norm", "e": "embedding"}.get(
                    name, name
                )
    kept = [node for node in model.graph.node if list(node.output) != ["norm"]]
    at = next(i for i, node in enumerate(kept) if list(node.output) == ["plain"]) + 1
    kept.insert(at, helper.make_node("ReduceL2", ["plain", "one"], ["norm"], keepdims=1))
    kept = [node for node in kept if node.op_type != "Max" or "norm" not in node.output]
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _scaled(factor: float) -> Callable[[onnx.ModelProto], None]:
    """Every embedding becomes so many times as long; a NaN or infinity goes everywhere."""

    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(
            numpy_helper.from_array(np.array(factor, np.float32), "factor")
        )
        for node in model.graph.node:
            if list(node.output) == ["embedding"]:
                node.output[0] = "plain"
        at = next(i for i, node in enumerate(model.graph.node) if "plain" in node.output) + 1
        model.graph.node.insert(at, helper.make_node("Mul", ["plain", "factor"], ["embedding"]))

    return change


@pytest.fixture
def without_epsilon() -> Callable[[onnx.ModelProto], None]:
    """For `make_model(change=...)`: a black picture gives NaN."""
    return _without_epsilon


@pytest.fixture
def scaled() -> Callable[[float], Callable[[onnx.ModelProto], None]]:
    """`make_model(change=scaled(1e30))`: embeddings so many times as long."""
    return _scaled


@pytest.fixture
def load(make_model: Callable[..., Path]) -> Iterator[Callable[..., Any]]:
    """`load(change)`: a tiny model with a changed graph, opened."""
    from foldcam.runtime.model.folded_model import FoldedModel

    opened: list[FoldedModel] = []

    def load(change: Any, contract: Contract | None = None) -> FoldedModel:
        opened.append(FoldedModel.load(make_model(change=change, contract=contract), "cpu", 1))
        return opened[-1]

    yield load
    for model in opened:
        model.close()


@pytest.fixture
def contract_with() -> Callable[..., Contract]:
    """`contract_with(resize="crop")`: the tiny contract with fields replaced."""
    return tiny_contract


@pytest.fixture(autouse=True)
def no_secret_of_another_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test typed as a password is an ordinary word in the next."""
    from foldcam.runtime.system import redaction

    monkeypatch.setattr(redaction, "_known", redaction._Known())


Program = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def working(tmp_path: Path) -> Path:
    """An empty folder that programs run in."""
    folder = tmp_path / "working"
    folder.mkdir()
    return folder


@pytest.fixture
def runtime(working: Path) -> Program:
    """Runs `runtime ARGS` in this process, in an empty folder."""
    # Imported as the tests are, which no import path leads to.
    path = Path(__file__).with_name("in_process.py")
    spec = importlib.util.spec_from_file_location("foldcam_test_in_process", path)
    assert spec is not None
    assert spec.loader is not None
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)

    def call(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
        folder, changes = options.pop("cwd", working), options.pop("env", {})
        assert not options
        done: subprocess.CompletedProcess[str] = program.call(
            [str(each) for each in arguments], Path(folder), environment(**changes)
        )
        return done

    return call


@pytest.fixture
def runtime_process(working: Path) -> Program:
    """Runs `runtime ARGS` in a process of its own, in an empty folder: for how processes end."""

    def call(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
        options.setdefault("cwd", working)
        options.setdefault("capture_output", True)
        return subprocess.run(
            [sys.executable, "-m", "foldcam.runtime", *map(str, arguments)],
            text=True, timeout=60, check=False, env=environment(**options.pop("env", {})),
            **options,
        )  # fmt: skip

    return call


def environment(**changes: str) -> dict[str, str]:
    """This process's environment for a child that runs the checkout."""
    import os

    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("FOLDCAM_MODEL", "DISPLAY", "WAYLAND_DISPLAY")
    }
    return {**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "120", **changes}


@pytest.fixture
def child_environment() -> Callable[..., dict[str, str]]:
    return environment


def solid(color: tuple[int, int, int], height: int = 40, width: int = 60) -> np.ndarray:
    """`uint8 [height, width, 3]` of one RGB colour."""
    return np.full((height, width, 3), color, np.uint8)


COLORS = {"blue": (20, 40, 210), "green": (30, 200, 40), "red": (210, 40, 20)}
"""Of the pictures of a tiny model's rows."""


def write_gallery(path: Path, contract: Contract | None = None, **changes: Any) -> Path:
    """The gallery of a tiny model: pictures of one colour, whose maps are hot in one cell each.

    Row 0 is hot at the upper left, row 1 at the upper right, row 2 at the lower left.
    """
    from foldcam.runtime.contract.gallery import GalleryWriter

    contract = contract or tiny_contract(**changes)
    with path.open("wb") as file:
        writer = GalleryWriter(file, contract)
        for row, (label, color) in enumerate(COLORS.items()):
            cells = np.zeros(4, np.float32)
            cells[row] = 0.25
            writer.add(solid(color, 60, 80), cells.reshape(2, 2), f"{label}/1.png")
        writer.finish()
    return path


@pytest.fixture
def gallery_of(tmp_path: Path) -> Callable[..., Path]:
    """`gallery_of(contract)` writes `tiny.gallery`, see `write_gallery`."""

    def write(contract: Contract | None = None, name: str = "tiny.gallery") -> Path:
        return write_gallery(tmp_path / name, contract)

    return write


@pytest.fixture
def photo(tmp_path: Path) -> Callable[..., Path]:
    """`photo("sub/a.png", (255, 0, 0))` writes a photograph of one colour."""
    from foldcam.runtime.images.files import write_image

    def write(name: str, color: tuple[int, int, int] = (200, 30, 20), **size: int) -> Path:
        path = tmp_path / "photos" / name
        write_image(path, solid(color, **size))
        return path

    return write


@pytest.fixture
def video(tmp_path: Path) -> Callable[..., Path]:
    """`video("a.mp4", frames=40)`: reddish frames that brighten, by ffmpeg or OpenCV."""
    import cv2

    def write(name: str = "film.mp4", frames: int = 40, size: tuple[int, int] = (64, 48)) -> Path:
        path = tmp_path / name
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 20.0, size)
        assert writer.isOpened()
        for index in range(frames):
            writer.write(solid((10, 20, 100 + index % 100), size[1], size[0]))
        writer.release()
        return path

    return write
