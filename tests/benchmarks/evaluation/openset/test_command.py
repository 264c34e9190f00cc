"""`foldcam evaluate openset` of a folded model, of a network, and of one that is trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from foldcam.benchmarks.commands.evaluate_cli import evaluate
from foldcam.benchmarks.evaluation.explanation.data import Parts, read_parts
from foldcam.benchmarks.evaluation.openset.subject import LEFT_OUT, Asked, Retraining, of_network
from foldcam.export.datasets import load_dataset
from foldcam.export.exporting.exporter import export_model
from foldcam.export.models.spec import LoadedModel, load_model
from foldcam.export.models.training.trainer import TrainingOptions
from foldcam.runtime.images.files import write_image
from foldcam.runtime.system.errors import FoldcamError

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
OPTIONS = TrainingOptions(
    embedding_size=4, epochs=1, labels_per_batch=2, views=2, mosaics=2, mosaics_per_batch=2,
    train_from="backbone.pool", device="cpu",
)  # fmt: skip


# Pooled colours: `[N, 3, 16, 16]` -> `[N, 3]`; what lies behind the first layer learns.
NETWORK = """
import torch
from foldcam.runtime.images.preprocess import Preprocessing

class Colours(torch.nn.Module):
    preprocessing = Preprocessing(16, 16, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))

    def __init__(self):
        super().__init__()
        self.pool = torch.nn.AvgPool2d(4)
        self.conv = torch.nn.Conv2d(3, 3, 1)
        torch.nn.init.dirac_(self.conv.weight)
        torch.nn.init.zeros_(self.conv.bias)

    def forward(self, image):
        return self.conv(self.pool(image).relu()).relu().mean(dim=(2, 3))
"""


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoadedModel:
    (tmp_path / "openset_colours.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    return load_model("openset_colours:Colours")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Coloured squares in parts `train` and `test`, and yellow ones in `others`."""
    generator = np.random.default_rng(0)

    def squares(folder: Path, colour: tuple[int, int, int], count: int) -> None:
        folder.mkdir(parents=True)
        for number in range(count):
            image = generator.integers(0, 90, 3) + generator.integers(0, 60, (16, 16, 3))
            image[4:12, 4:12] = colour
            write_image(folder / f"{number}.png", image.astype(np.uint8))

    for label, colour in COLOURS.items():
        squares(tmp_path / "data" / "train" / label, colour, 6)
        squares(tmp_path / "data" / "test" / label, colour, 5)
    squares(tmp_path / "others", (255, 255, 0), 4)
    return tmp_path / "data"


@pytest.fixture
def model(network: LoadedModel, data: Path, tmp_path: Path) -> Path:
    return export_model(network, load_dataset(data), tmp_path / "model.onnx").path


def _run(*arguments: object) -> Result:
    given = ("openset", *map(str, arguments), "--draws", "20")
    return CliRunner().invoke(evaluate, given)


def test_the_bank_of_a_folded_model_is_measured_with_labels_left_out(
    model: Path, data: Path, tmp_path: Path
) -> None:
    done = _run(model, "--images", data, "--out", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.exception
    document = json.loads(done.stdout)
    assert document["unknown_source"] == LEFT_OUT
    assert (document["known_images"], document["unknown_images"]) == (15, 15)
    assert document["scores"]["similarity"]["auroc"]["mean"] > 0.8
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"openset.json", "openset.md", "openset.png"}


def test_given_unknown_images_count_as_unknown_whatever_they_are_called(
    model: Path, data: Path
) -> None:
    done = _run(model, "--images", data, "--unknown", data.parent / "others", "--json")
    document = json.loads(done.stdout)
    assert (document["known_images"], document["unknown_images"]) == (15, 4)
    done = _run(model, "--images", data, "--unknown", data, "--json")
    notes = json.loads(done.stdout)["notes"]
    assert any("33 of the images that were given as unknown" in note for note in notes)


def test_images_of_one_label_leave_none_to_leave_out(model: Path, data: Path) -> None:
    listed = data.parent / "red.csv"
    listed.write_text(
        "path,label\n" + "".join(f"data/test/red/{number}.png,red\n" for number in range(5))
    )
    done = _run(model, "--images", listed)
    assert isinstance(done.exception, FoldcamError)
    assert "show one of its labels alone" in str(done.exception)


@pytest.mark.parametrize("flags", [("--size", "32"), ("--mean", "0,0,0"), ("--epochs", "3")])
def test_flags_that_nothing_would_read_are_refused(
    model: Path, data: Path, flags: tuple[str, str]
) -> None:
    assert _run(model, "--images", data, *flags).exit_code == 2


def _parts(data: Path) -> Parts:
    return read_parts(data, None, singletons="refuse", seed=0)


def test_a_networks_bank_is_the_training_part(network: LoadedModel, data: Path) -> None:
    asked = of_network(network, _parts(data), network.preprocessing, None, 0)
    assert [len(setting.rows.units) for setting in asked.settings] == [12, 12, 12]
    assert asked.unknown_source == LEFT_OUT
    given = load_dataset(data, "test")
    asked = of_network(network, _parts(data), network.preprocessing, given, 0)
    (setting,) = asked.settings
    assert len(setting.rows.units) == 18
    assert setting.unknown.tolist() == [False] * 15 + [True] * 15


def test_each_network_is_trained_without_the_labels_that_it_is_asked_for(
    network: LoadedModel, data: Path, tmp_path: Path
) -> None:
    before = network.module.conv.weight.clone()
    folder = tmp_path / "new" / "folder"
    stages: list[str] = []

    def asked_with(options: TrainingOptions) -> Asked:
        return of_network(
            network, _parts(data), network.preprocessing, None, 0, Retraining(options, folder),
            lambda stage, *_: stages.append(stage),
        )  # fmt: skip

    asked = asked_with(OPTIONS)
    assert stages.count("training") >= 3
    # No network begins with what another one has learned of the labels that it is to leave out.
    assert network.module.conv.weight.equal(before)
    for setting, group in zip(asked.settings, asked.groups, strict=True):
        assert set(setting.rows.names).isdisjoint(group)
        assert [asked.labels[n] in group for n in range(15)] == setting.unknown.tolist()
    kept = sorted(folder.glob("net-without-*.safetensors"))
    assert len(kept) == 3
    # What is there is taken, and what was trained in another way is not.
    stages.clear()
    asked_with(OPTIONS)
    assert "training" not in stages
    asked_with(replace(OPTIONS, epochs=2))
    assert len(list(folder.glob("net-without-*.safetensors"))) == 6


def test_two_labels_are_too_few_to_train_without_one(
    network: LoadedModel, data: Path, tmp_path: Path
) -> None:
    parts = _parts(data)
    samples = tuple(sample for sample in parts.training.samples if sample.label != "red")
    fewer = replace(parts, training=replace(parts.training, samples=samples))
    with pytest.raises(FoldcamError, match="--retrain trains without one of them"):
        of_network(network, fewer, network.preprocessing, None, 0, Retraining(OPTIONS, tmp_path))
