"""A network in a file of its own, and workers without Ray."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from foldcam.export.exporting.scale_out import engine, work
from foldcam.export.exporting.scale_out.workers import Workers
from foldcam.export.models.spec import LoadedModel, load_model

SOURCE = """
import torch
from torch import nn
from torch.nn import functional
from foldcam.runtime.images.preprocess import Preprocessing


class Net(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2)
        layers = [nn.Linear(6, 5), nn.ReLU()] if hidden else []
        self.head = nn.Sequential(*layers, nn.Linear(5 if hidden else 6, 4))
        self.preprocessing = Preprocessing(16, 12)

    def forward(self, image):
        maps = functional.relu(self.conv(image))
        return functional.normalize(self.head(maps.mean((2, 3))))


def make(hidden=False, seed=0):
    torch.manual_seed(seed)
    return Net(hidden)


def bent():
    return make(hidden=True)
"""


class InProcess(Workers):
    """The same work in this process."""

    def _start(self) -> None:
        self._worker.ready()

    def _results(self, method: str, tasks: list[Any]) -> Any:
        for task in tasks:
            yield getattr(self._worker, method)(task)


@pytest.fixture(scope="session")
def loaded_before() -> dict[str, LoadedModel]:
    """The networks that a test of this session has loaded, by their factory in `SOURCE`."""
    return {}


@pytest.fixture
def in_process(
    monkeypatch: pytest.MonkeyPatch,
    loaded_before: dict[str, LoadedModel],
    request: pytest.FixtureRequest,
) -> None:
    """Workers of this process, which take the network that is loaded once for all tests.

    A test of the command loads it as the command does.
    """

    def once(spec: str, weights: Path | None = None, output: str | None = None) -> LoadedModel:
        factory = spec.partition(":")[2]
        if factory not in loaded_before:
            loaded_before[factory] = load_model(spec, weights, output)
        return loaded_before[factory]

    monkeypatch.setattr(engine, "Workers", InProcess)
    if "foldcam" not in request.fixturenames:
        for module in (engine, work, request.module):
            monkeypatch.setattr(module, "load_model", once, raising=False)


@pytest.fixture
def net(working_directory: Path, request: pytest.FixtureRequest) -> SimpleNamespace:
    """`net.linear` and `net.bent`: MODEL of a module in the working directory."""
    name = f"scaled_net_{abs(hash(request.node.nodeid))}"
    (working_directory / f"{name}.py").write_text(SOURCE)
    return SimpleNamespace(
        linear=f"{name}:make", bent=f"{name}:bent", path=working_directory / f"{name}.py"
    )
