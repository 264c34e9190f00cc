"""A folded network that rounding ruins at one layer, and images to calibrate it on."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import onnx
import pytest
from onnx import helper

from foldcam.export.banks.bank import Bank
from foldcam.export.grafting.fold import FoldOptions, fold
from foldcam.export.onnx_graphs.embedding_model import mark_network
from foldcam.export.onnx_graphs.opset import to_opset_17
from foldcam.runtime.cli.foldcam import GROUP, gather
from foldcam.runtime.contract.schema import LabelRun
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.command import run_app

SIZE = 16
K, D = 6, 4
COLORS = {"blue": (30, 60, 220), "green": (40, 200, 60), "red": (220, 40, 30)}
RECIPE = Preprocessing(SIZE, SIZE)


@pytest.fixture(scope="session")
def hand_built() -> ModuleType:
    """tests/export/hand_built.py."""
    path = Path(__file__).parent.parent / "export" / "hand_built.py"
    spec = importlib.util.spec_from_file_location("foldcam_test_hand_built_int8", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _constants(outlier: float) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(3)
    first = generator.normal(size=(4, 3, 3, 3)) * 0.3
    second = generator.normal(size=(K, 4, 3, 3)) * 0.3
    # One channel of great numbers, which the next layer takes back: float32 sees no difference.
    first[0] *= outlier
    second[:, 0] /= outlier
    return {
        "first.weight": first.astype(np.float32),
        "first.bias": generator.normal(size=4).astype(np.float32) * 0.1,
        "second.weight": second.astype(np.float32),
        "third.weight": (generator.normal(size=(K, K, 1, 1)) * 0.3).astype(np.float32),
        "fc.weight": generator.normal(size=(D, K)).astype(np.float32),
    }


def _network(hand_built: ModuleType, constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    node = helper.make_node
    nodes = [
        node("Conv", ["image", "first.weight", "first.bias"], ["a"], name="first", pads=[1] * 4),
        node("Relu", ["a"], ["b"], name="relu1"),
        node("Conv", ["b", "second.weight"], ["c"], name="second", pads=[1] * 4, strides=[2, 2]),
        node("Relu", ["c"], ["d"], name="relu2"),
        node("Conv", ["d", "third.weight"], ["e"], name="third"),
        node("Add", ["d", "e"], ["feature_map"], name="join"),
        node("GlobalAveragePool", ["feature_map"], ["pooled"], name="pool"),
        node("Flatten", ["pooled"], ["flat"], name="flatten"),
        node("Gemm", ["flat", "fc.weight"], ["embedding"], name="fc", transB=1),
    ]
    outputs = {"feature_map": [K, SIZE // 2, SIZE // 2], "embedding": [D]}
    return hand_built.model(nodes, constants, outputs, (3, SIZE, SIZE))


def _photos(root: Path, each: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    for label, color in COLORS.items():
        folder = root / label
        folder.mkdir(parents=True)
        for number in range(each):
            image = generator.integers(0, 60, (20, 24, 3)).astype(np.uint8)
            top, left = generator.integers(0, 10, 2)
            image[top : top + 9, left : left + 9] = color
            cv2.imwrite(str(folder / f"{number:02}.png"), image[..., ::-1])


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """`train` and `test`, ten images of each of three labels."""
    root = tmp_path_factory.mktemp("data") / "squares"
    _photos(root / "train", 10, 0)
    _photos(root / "test", 10, 1)
    return root


@pytest.fixture(scope="session")
def make_model(hand_built, data):
    """`make_model(outlier, **FoldOptions)`: folded; 1 is harmless, 3000 ruins the second layer.

    With `explained` the file has contributions, whose summands are those of the average pool.
    """

    def make(
        outlier: float = 1.0, opset: int = 18, explained: bool = False, **options
    ) -> onnx.ModelProto:
        from foldcam.export.datasets import load_dataset
        from foldcam.runtime.images.files import read_image

        constants = _constants(outlier)
        network = _network(hand_built, constants)
        samples = load_dataset(data, "train").samples
        images = np.stack(
            [RECIPE.normalized(RECIPE.resized(read_image(s.path))[0]) for s in samples]
        )
        outputs = hand_built.run(network, images)
        embeddings = outputs["embedding"]
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
        labels = np.repeat(np.arange(3), 10)
        weights = []
        for label in range(3):
            mine, others = embeddings[labels == label], embeddings[labels != label]
            row = (mine.mean(axis=0) - others.mean(axis=0)) @ constants["fc.weight"]
            weights.append(row / np.abs(row).max())
        bank = Bank(
            embeddings.astype(np.float32),
            np.array(weights, np.float32),
            labels.astype(np.int32),
            tuple(LabelRun(name, 10) for name in COLORS),
            "all-triplets",
        )
        if explained:
            mark_network(network, "0" * 64, "pool")
            mean = outputs["feature_map"].mean(axis=0)
            bank = replace(bank, summands="pool", mean_summands=mean)
        return fold(
            network if opset == 18 else to_opset_17(network),
            bank,
            preprocessing=RECIPE,
            layer="join",
            origin=hand_built.ORIGIN,
            versions={},
            options=FoldOptions(**options),
        )

    return make


@pytest.fixture(scope="session")
def easy(make_model, tmp_path_factory) -> Path:
    """A folded model that int8 hardly changes; not to be changed."""
    path = tmp_path_factory.mktemp("easy") / "model.onnx"
    onnx.save(make_model(), path)
    return path


@pytest.fixture(scope="session")
def fragile(make_model, tmp_path_factory) -> Path:
    """A folded model whose second layer no scale for a whole tensor serves."""
    path = tmp_path_factory.mktemp("fragile") / "model.onnx"
    onnx.save(make_model(3000.0), path)
    return path


@pytest.fixture
def foldcam(monkeypatch, capfd):
    """Run the program in this process; returns its status, standard output and error."""
    commands = {
        "calibrate": "foldcam.calibrate.cli:app",
        "check": "foldcam.export.commands.check:app",
    }
    app = gather([EntryPoint(name, value, GROUP) for name, value in commands.items()])

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["foldcam", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            run_app(app, "foldcam")
        out, err = capfd.readouterr()
        return caught.value.code, out, err

    return call
