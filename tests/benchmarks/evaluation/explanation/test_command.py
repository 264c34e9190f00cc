"""`foldcam evaluate explanation`, from flags to files and exit statuses."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from foldcam.benchmarks.commands.cli import app
from foldcam.runtime.images.files import read_image
from foldcam.runtime.model.drawing.text import draw_caption
from foldcam.runtime.system.command import run_app

NETWORK = """
import torch
from torch import nn
from foldcam.runtime.images.preprocess import Preprocessing

class Colours(nn.Module):
    preprocessing = Preprocessing(32, 32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 4, 4)
        self.fc = nn.Linear(3, 3)

    def forward(self, image):
        return self.fc(self.conv(image).relu().mean(dim=(2, 3)))

def make():
    torch.manual_seed(0)
    return Colours()
"""


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    (tmp_path / "explained.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def call(*arguments: object) -> tuple[int, str, str]:
        words = ["foldcam", "evaluate", "explanation", "explained:make", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as caught:
            run_app(app, "foldcam")
        out, err = capfd.readouterr()
        return int(caught.value.code or 0), out, " ".join(err.split())

    return call


def test_it_prints_a_table_and_a_verdict_and_writes_what_it_is_asked_for(
    command, wandering: Path, tmp_path: Path
) -> None:
    status, out, _ = command(
        "--images", wandering, "--draws", 20, "--most", 9, "--sheet", "maps.png", "--out", "results"
    )
    assert status == 0
    assert out.splitlines()[2].startswith("contribution")
    assert out.splitlines()[-1].startswith("The heat ")
    document = json.loads((tmp_path / "results" / "explanation.json").read_text())
    assert document["images"]["test"] == 9
    assert document["verdict"] in (tmp_path / "results" / "explanation.md").read_text()
    tile = draw_caption(np.zeros((176, 176, 3), np.uint8), "contribution")
    assert read_image(tmp_path / "maps.png").shape[0] == 9 * tile.shape[0]


def test_json_is_one_document(command, wandering: Path) -> None:
    status, out, _ = command("--images", wandering, "--draws", 20, "--most", 6, "--json")
    assert status == 0
    assert json.loads(out)["methods"][0] == "contribution"


@pytest.mark.parametrize(
    ("kept", "sentence"),
    [
        (["red"], "All training images have one label"),
        ([], "holds no labelled images"),
    ],
)
def test_unusable_data_is_one_sentence_and_status_1(
    command, wandering: Path, tmp_path: Path, kept: list[str], sentence: str
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for label in kept:
        shutil.copytree(wandering / label, data / label)
    status, out, err = command("--images", data, "--json")
    assert (status, out) == (1, "")
    assert sentence in err
    assert "Traceback" not in err


def test_pictures_of_the_bank_are_not_measured(command, wandering: Path, tmp_path: Path) -> None:
    again = shutil.copytree(wandering, tmp_path / "again")
    status, _, err = command("--images", wandering, "--test", again)
    assert status == 1
    assert "0 of 36 test images of fewer than two labels can be used" in err
    assert "is in the bank itself" in err


def test_a_sheet_that_is_no_picture_is_wrong_usage(command, wandering: Path) -> None:
    status, _, err = command("--images", wandering, "--sheet", "maps.txt")
    assert status == 2
    assert "no image suffix" in err
