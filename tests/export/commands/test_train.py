"""`foldcam train`, then export and verify of what it wrote, as a user would."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from foldcam.export.commands.export import app as export_app
from foldcam.export.commands.train import app as train_app
from foldcam.export.commands.verify import app as verify_app
from foldcam.runtime.images.files import write_image

FACTORY = """
import torch
from torch import nn

class Pooled(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.last = nn.Conv2d(6, 8, 3, stride=2, padding=1)
    def forward(self, image):
        print("a network that prints")
        return self.last(self.stem(image).relu()).relu().mean(dim=(2, 3))

make = Pooled
"""
QUICK = ["--size", "16", "--embedding-size", "4", "--epochs", "3", "--views", "2", "--mosaics", "4"]


@pytest.fixture
def program() -> typer.Typer:
    root = typer.Typer()
    for app in (export_app, train_app, verify_app):
        root.registered_commands.extend(app.registered_commands)
    return root


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    generator = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 2)):
        for number, label in enumerate(("red", "green")):
            for index in range(count):
                image = generator.integers(0, 90, (20, 20, 3), np.uint8)
                image[..., number] += 120
                write_image(tmp_path / "photos" / split / label / f"{index}.png", image)
    (tmp_path / "pooled_network.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_trained_network_is_exported_and_verified(here: Path, program: typer.Typer) -> None:
    run = CliRunner()
    made = run.invoke(
        program,
        ["train", "pooled_network:make", "--images", "photos", *QUICK, "--json"],
    )
    assert made.exit_code == 0, made.output
    report = json.loads(made.stdout)
    assert report["recall"]["train"]["queries"] == 8
    assert report["recall"]["test"]["queries"] == 4
    assert set(report["recall"]["test"]) >= {"recall_at_1", "recall_at_8", "map_at_r"}
    model = ["pooled_network:make", "--weights", "net.safetensors", "--images", "photos"]
    folded = run.invoke(program, ["export", *model, "--out", "model.onnx", "--json"])
    assert folded.exit_code == 0, folded.output
    assert json.loads(folded.stdout)["embedding_size"] == 4
    verified = run.invoke(
        program, ["verify", "model.onnx", "--images", "photos", "--trust-origin", "--json"]
    )
    assert verified.exit_code == 0, verified.output
    assert json.loads(verified.stdout)["passed"]


@pytest.mark.parametrize("split", ["train", "all"])
def test_the_command_that_train_ends_with_works_as_it_is(
    split: str, here: Path, program: typer.Typer
) -> None:
    run, out = CliRunner(), ["--out", "my net.safetensors"]
    (here / "photos").rename(here / "my photos")
    made = run.invoke(
        program,
        ["train", "pooled_network:make", "--images", "my photos", *QUICK, "--split", split, *out],
    )
    assert made.exit_code == 0, made.output
    (line,) = [line for line in made.stdout.splitlines() if line.startswith("Next: ")]
    words = shlex.split(line.removeprefix("Next: "))
    assert words[0] == "foldcam"
    folded = run.invoke(program, [*words[1:], "--json"])
    assert folded.exit_code == 0, folded.output
    assert json.loads(folded.stdout)["rows"] == (8 if split == "train" else 12)


def test_a_wrong_device_is_wrong_usage(here: Path, program: typer.Typer) -> None:
    made = CliRunner().invoke(
        program, ["train", "pooled_network:make", "--images", "photos", "--device", "tpu"]
    )
    assert made.exit_code == 2


def test_weights_of_another_network_are_refused(here: Path, program: typer.Typer) -> None:
    run = CliRunner()
    arguments = ["train", "pooled_network:make", "--images", "photos", *QUICK]
    assert run.invoke(program, arguments).exit_code == 0
    (here / "other_network.py").write_text(FACTORY)
    refused = run.invoke(
        program,
        ["export", "other_network:make", "--weights", "net.safetensors", "--images", "photos"],
    )
    assert "trained from 'pooled_network:make'" in str(refused.exception)
