"""`foldcam evaluate retrieval` of a network and of a folded model, with page and sheet."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from foldcam.benchmarks.commands.evaluate_cli import evaluate
from foldcam.export.datasets import load_dataset
from foldcam.export.exporting.exporter import export_model
from foldcam.export.models.spec import wrap_module
from foldcam.runtime.images.files import read_image, write_image
from foldcam.runtime.images.preprocess import Preprocessing

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


class Channels(torch.nn.Module):
    """The mean colour, normalised: `[N, 3, 16, 16]` -> `[N, 3]`."""

    preprocessing = Preprocessing(16, 16, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 3, 1, bias=False)
        self.conv.weight = torch.nn.Parameter(torch.eye(3).reshape(3, 3, 1, 1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        cells = torch.nn.functional.avg_pool2d(self.conv(image).relu(), 4).relu()
        return torch.nn.functional.normalize(cells.mean(dim=(2, 3)), dim=1)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Coloured squares in parts `train` and `test`; one red of the test part lies under blue."""
    generator = np.random.default_rng(0)
    for part, count in (("train", 4), ("test", 2)):
        for label, colour in COLOURS.items():
            folder = tmp_path / "data" / part / label
            folder.mkdir(parents=True)
            for number in range(count):
                image = generator.integers(0, 40, (16, 16, 3), np.uint8)
                image[4:12, 4:12] = colour
                write_image(folder / f"{number}.png", image)
    wrong = tmp_path / "data" / "test" / "blue" / "wrong.png"
    wrong.write_bytes((tmp_path / "data" / "test" / "red" / "0.png").read_bytes())
    return tmp_path / "data"


@pytest.fixture
def model(data: Path, tmp_path: Path) -> Path:
    out = tmp_path / "model.onnx"
    loaded = wrap_module(Channels().eval())
    export_model(loaded, load_dataset(data), out, bank_out=tmp_path / "bank.safetensors")
    return out


def _run(*arguments: object) -> str:
    done = CliRunner().invoke(evaluate, ["retrieval", *map(str, arguments)])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


def test_wrong_answers_are_shown_beside_their_match_by_name(
    model: Path, data: Path, tmp_path: Path
) -> None:
    page, sheet, bank = tmp_path / "wrong.html", tmp_path / "wrong.png", model.parent
    text = _run(
        model, "--images", data, "--bank", bank / "bank.safetensors", "--out", page,
        "--sheet", sheet, "--json",
    )  # fmt: skip
    document = json.loads(text)
    assert document["images"] == 7
    assert document["recall_at_1"]["mean"] == pytest.approx(6 / 7)
    (wrong,) = [query for query in document["queries"] if not query["right"]]
    assert (wrong["image"], wrong["answer"]) == ("test/blue/wrong.png", "red")
    assert wrong["row_name"].startswith("train/red/")
    html = page.read_text(encoding="utf-8")
    assert html.count("data:image/jpeg") == 2
    assert wrong["row_name"] in html
    assert read_image(sheet).shape[1] == 480


def test_names_are_in_the_banks_file_and_not_in_the_folded_model(model: Path) -> None:
    assert b"train/red/0.png" in (model.parent / "bank.safetensors").read_bytes()
    assert b"red/0.png" not in model.read_bytes()


def test_without_the_bank_no_picture_pretends_to_be_the_match(
    model: Path, data: Path, tmp_path: Path
) -> None:
    page = tmp_path / "wrong.html"
    _run(model, "--images", data, "--out", page)
    html = page.read_text(encoding="utf-8")
    assert html.count("data:image/jpeg") == 1
    assert "the picture of this row is not at hand" in html


def test_images_of_the_bank_are_compared_with_the_others(model: Path, data: Path) -> None:
    document = json.loads(_run(model, "--images", data, "--split", "train", "--json"))
    assert document["own_images"] == 12
    assert document["recall_at_1"]["mean"] == 1


def test_a_network_is_folded_first(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "net.onnx"
    torch.onnx.export(
        Channels().eval(), (torch.rand(1, 3, 16, 16),), out, dynamo=False,
        input_names=["image"], output_names=["embedding"],
    )  # fmt: skip
    text = _run(out, "--images", data, "--mean", "0,0,0", "--std", "1,1,1", "--json")
    document = json.loads(text)
    assert document["recall_at_1"]["mean"] == pytest.approx(6 / 7)
    only_red = tmp_path / "red.csv"
    only_red.write_text("path,label\ndata/test/red/0.png,red\n")
    given = ("--images", data, "--test", only_red, "--mean", "0,0,0", "--std", "1,1,1")
    assert json.loads(_run(out, *given, "--json"))["recall_at_1"]["mean"] == 1
    done = CliRunner().invoke(
        evaluate, ["retrieval", str(out), "--images", str(data), "--split", "all"]
    )
    assert "not a folded one" in str(done.exception)
    done = CliRunner().invoke(
        evaluate, ["retrieval", "demo", "--images", str(data), "--split", "all"]
    )
    assert done.exit_code == 2


def test_flags_that_a_folded_model_has_no_use_for_are_refused(model: Path, data: Path) -> None:
    done = CliRunner().invoke(
        evaluate, ["retrieval", str(model), "--images", str(data), "--size", "32"]
    )
    assert done.exit_code == 2
