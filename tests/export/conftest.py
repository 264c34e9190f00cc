"""Networks, images and folded models that the tests of export share."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import onnx
import pytest
import torch

from foldcam.export.banks.bank import Bank, BankOutcome
from foldcam.export.banks.objectives.directions import parse_objective
from foldcam.export.exporting.exporter import export_model
from foldcam.export.models.spec import LoadedModel, wrap_module
from foldcam.export.networks.cut import Network
from foldcam.export.networks.torch_cut import TorchNetwork
from foldcam.runtime.cli.foldcam import GROUP, gather
from foldcam.runtime.contract.schema import LabelRun, Transform
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.command import run_app

Color = tuple[int, int, int]
COLORS: dict[str, Color] = {"blue": (30, 60, 220), "green": (40, 200, 60), "red": (220, 40, 30)}


def _load(name: str) -> ModuleType:
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"foldcam_test_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Data classes look their module up while they are made.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def networks() -> ModuleType:
    """tests/export/networks.py: importlib mode has no import path to it."""
    return _load("networks")


@pytest.fixture(scope="session")
def hand_built() -> ModuleType:
    """tests/export/hand_built.py: ONNX graphs and a bank made by hand."""
    return _load("hand_built")


@pytest.fixture(scope="session")
def onnx_files() -> ModuleType:
    """tests/export/onnx_files.py: ONNX files as several exporters write them."""
    return _load("onnx_files")


@pytest.fixture(scope="session")
def summing() -> ModuleType:
    """tests/export/summing.py: ONNX networks that sum over positions, one of each kind."""
    return _load("summing")


@pytest.fixture(scope="session")
def pulled_back() -> ModuleType:
    """tests/export/pulled_back.py: grad-weights from a graph, and the same from torch."""
    return _load("pulled_back")


@pytest.fixture(scope="session")
def cut(networks: ModuleType) -> Callable[..., Network]:
    """`cut("PlainConv")`: the cut network of that class, made once per session."""
    made: dict[tuple[str, str | None], Network] = {}

    def get(name: str, layer: str | None = None) -> Network:
        if (name, layer) not in made:
            torch.manual_seed(0)
            made[name, layer] = TorchNetwork(getattr(networks, name)(), networks.SIZE, layer)
        return made[name, layer]

    return get


@pytest.fixture(scope="session")
def random_bank() -> Callable[..., Bank]:
    """`random_bank(rows, D, K)` with labels `0`, `1`, `2`, or with values: `transform="log"`."""

    def make(
        rows: int,
        size: int,
        channels: int,
        shared: bool = False,
        seed: int = 0,
        transform: Transform | None = None,
        tau: float = 0.2,
    ) -> Bank:
        generator = np.random.default_rng(seed)
        embeddings = generator.normal(size=(rows, size))
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
        distinct = min(3, rows) if shared else rows
        weights = generator.normal(size=(distinct, channels))
        weights /= np.abs(weights).max(axis=1, keepdims=True)
        index = np.arange(rows) * distinct // rows
        counts = np.bincount(np.arange(rows) * min(3, rows) // rows)
        labels = tuple(LabelRun(str(label), int(count)) for label, count in enumerate(counts))
        outcome = None
        if transform is not None:
            values = np.sort(generator.normal(3, 2, rows)).astype(np.float32)
            labels, outcome = (), BankOutcome(values, tau, transform)
        return Bank(
            embeddings.astype(np.float32),
            weights.astype(np.float32),
            index.astype(np.int32),
            labels,
            "all-triplets" if transform is None else f"kernel:tau={tau:g}",
            outcome=outcome,
        )

    return make


def _write_photos(root: Path, each: int = 4, seed: int = 0, **others: Color) -> Path:
    generator = np.random.default_rng(seed)
    for label, color in {**COLORS, **others}.items():
        folder = root / label
        folder.mkdir(parents=True)
        for number in range(each):
            image = generator.integers(0, 60, (20, 24, 3)).astype(np.uint8)
            top, left = generator.integers(0, 10, 2)
            image[top : top + 8, left : left + 8] = color
            cv2.imwrite(str(folder / f"{number}.png"), image[..., ::-1])
    return root


@pytest.fixture(scope="session")
def write_photos() -> Callable[..., Path]:
    """`write_photos(root, each, seed, white=(240, 240, 240))`: as `photos`, and other labels."""
    return _write_photos


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three class folders with four little photographs each."""
    return _write_photos(tmp_path / "photos")


@pytest.fixture(scope="session")
def shared_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `photos`; not to be changed."""
    return _write_photos(tmp_path_factory.mktemp("shared") / "photos")


@pytest.fixture(scope="session")
def preprocessing(networks: ModuleType) -> Preprocessing:
    height, width = networks.SIZE
    return Preprocessing(width=width, height=height)


@pytest.fixture(scope="session")
def loaded(networks: ModuleType, preprocessing: Preprocessing) -> LoadedModel:
    """The network that `folded_file` was made of."""
    return LoadedModel(networks.make_tiny(), preprocessing, "tinynet:make", "")


@pytest.fixture(scope="session")
def normalized(networks: ModuleType, preprocessing: Preprocessing) -> LoadedModel:
    """A network whose embedding has norm 1."""
    torch.manual_seed(0)
    module = networks.Normalized().eval()
    return wrap_module(module, preprocessing=preprocessing, name="net:make")


@pytest.fixture(scope="session")
def folded_file(
    loaded: LoadedModel,
    shared_photos: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A folded model of `tinynet:make` and the photographs; not to be changed."""
    from foldcam.export.datasets import load_dataset

    out = tmp_path_factory.mktemp("folded") / "model.onnx"
    export_model(loaded, load_dataset(shared_photos), out, parse_objective("all-triplets"))
    return out


@pytest.fixture
def folded_model(folded_file: Path) -> onnx.ModelProto:
    """The folded model as a message of its own, to be doctored."""
    return onnx.load(folded_file)


@pytest.fixture
def working_directory(tmp_path: Path) -> Iterator[Path]:
    """An empty working directory that is also on the import path while the test runs."""
    import sys

    before, path, modules = Path.cwd(), list(sys.path), set(sys.modules)
    os.chdir(tmp_path)
    try:
        yield tmp_path
    finally:
        os.chdir(before)
        sys.path[:] = path
        for name in set(sys.modules) - modules:
            origin = getattr(sys.modules[name], "__file__", None) or ""
            if origin.startswith(str(tmp_path)):
                del sys.modules[name]


# As pyproject.toml declares them; the installed metadata may be of another checkout.
COMMANDS = {
    "train": "foldcam.export.commands.train:app",
    "bank": "foldcam.export.commands.bank:app",
    "export": "foldcam.export.commands.export:app",
    "fold": "foldcam.export.commands.fold:app",
    "threshold": "foldcam.export.commands.threshold:app",
    "gallery": "foldcam.export.commands.gallery:app",
    "verify": "foldcam.export.commands.verify:app",
}


@pytest.fixture(scope="session")
def commands() -> dict[str, str]:
    """The entry points of this package."""
    return COMMANDS


@pytest.fixture
def foldcam(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run the program in this process; returns its status, standard output and error."""

    app = gather([EntryPoint(name, value, GROUP) for name, value in COMMANDS.items()])

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["foldcam", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            run_app(app, "foldcam")
        out, err = capfd.readouterr()
        return caught.value.code, out, err

    return call


@pytest.fixture(scope="session")
def build_engine() -> Callable[[onnx.ModelProto], None]:
    """`build_engine(model)`: TensorRT RTX parses and builds it; nothing where it is not there."""
    try:
        import tensorrt_rtx as trt
    except ImportError:
        return lambda _: None
    logger = trt.Logger(trt.Logger.ERROR)

    def build(model: onnx.ModelProto) -> None:
        builder = trt.Builder(logger)
        network = builder.create_network(0)
        parser = trt.OnnxParser(network, logger)
        parsed = parser.parse(model.SerializeToString())
        assert parsed, [parser.get_error(at).desc() for at in range(parser.num_errors)]
        config, profile = builder.create_builder_config(), builder.create_optimization_profile()
        for at in range(network.num_inputs):
            value = network.get_input(at)
            rest = [size if size > 0 else 1 for size in list(value.shape)[1:]]
            few = (4, 8, 64) if value.name.startswith("bank_") else (1, 2, 4)
            profile.set_shape(value.name, *([size, *rest] for size in few))
        config.add_optimization_profile(profile)
        assert builder.build_serialized_network(network, config) is not None

    return build
