"""`foldcam evaluate house-price`, end to end on houses whose price is the colour of their walls."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="needs matplotlib: pip install foldcam[evaluate]")

from foldcam.benchmarks.evaluation.houses.houses import KINDS
from foldcam.benchmarks.evaluation.houses.study import TRAINING, StudyOptions, run_study
from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.images.files import read_image

SOURCE = """
import torch
from torch import nn
from foldcam.runtime.images.preprocess import Preprocessing


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.ReLU())
        self.preprocessing = Preprocessing(width=28, height=28)

    def forward(self, image):
        return self.body(self.stem(image)).mean((2, 3))


def make():
    return Tiny()
"""


@pytest.fixture(scope="module")
def houses(tmp_path_factory):
    """Forty houses: the dearer, the redder a part of every photograph."""
    folder = tmp_path_factory.mktemp("data") / "houses"
    (folder / "images").mkdir(parents=True)
    generator = np.random.default_rng(0)
    lines = ["house,price_usd"]
    for number in range(1, 41):
        share = generator.random()
        lines.append(f"{number},{round(100_000 * 8**share)}")
        for kind in KINDS:
            image = generator.integers(90, 160, (32, 40, 3)).astype(np.uint8)
            top, left = generator.integers(0, 16, 2)
            image[top : top + 16, left : left + 20] = (60, 60, round(60 + 190 * share))  # BGR
            cv2.imwrite(str(folder / "images" / f"{number}_{kind}.png"), image)
    (folder / "houses.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "house_price_net.py").write_text(SOURCE)
    sys.path.insert(0, str(folder))
    training = replace(
        TRAINING, epochs=12, embedding_size=6, train_from="backbone.stem.1", device="cpu"
    )
    yield StudyOptions(training=training, draws=100, base="house_price_net:make")
    sys.path.remove(str(folder))
    sys.modules.pop("house_price_net", None)


@pytest.fixture(scope="module")
def study(houses, options, tmp_path_factory):
    out = tmp_path_factory.mktemp("results") / "houses"
    stages = []
    document = run_study(houses, out, options, lambda stage, done, total: stages.append(stage))
    return out, document, stages


def test_everything_promised_is_written(study):
    out, document, stages = study
    names = {path.name for path in out.iterdir()}
    assert names == {
        "house-price.json", "house-price.md", "house-price.png", "contact-sheet.jpg",
        "net.safetensors", *(f"{kind}.onnx" for kind in KINDS),
    }  # fmt: skip
    assert json.loads((out / "house-price.json").read_text()) == document
    assert document["houses"] == {"train": 32, "test": 8, "left_out": []}
    assert {"training", "kitchen: embedding", "kitchen: masks", "bootstrap"} <= set(stages)


def test_each_kind_has_a_folded_model_with_its_own_bank(study):
    out, _, _ = study
    contracts = [read_contract(out / f"{kind}.onnx") for kind in KINDS]
    assert {contract.bank.rows for contract in contracts} == {32}
    assert {contract.outcome.transform for contract in contracts} == {"log"}
    assert len({contract.bank.sha256 for contract in contracts}) == 4
    assert len({contract.origin.network_sha256 for contract in contracts}) == 1


def test_a_colour_is_priced_better_than_the_median_prices_it(study):
    _, document, _ = study
    row = document["methods"]["folded"]["combined"]
    assert row["rank_correlation"]["mean"] > 0.8
    difference = document["differences"]["median"]["combined"]["r2_log"]
    assert difference["mean"] > 0
    assert difference["verdict"] in ("better", "open")


def test_tables_name_every_method_kind_and_metric(study):
    out, document, _ = study
    names = ("folded", "ridge_trained", "ridge_untrained", "knn_untrained", "median")
    kinds = ("combined", *KINDS)
    metrics = ("median_absolute_percentage_error", "r2_log", "r2", "rank_correlation")
    assert tuple(document["methods"]) == names
    assert tuple(document["differences"]) == names[1:]
    for table in (document["methods"], document["differences"]):
        assert all(tuple(table[name]) == kinds for name in table)
        assert all(set(table[n][k]) == set(metrics) for n in table for k in kinds)
    assert set(document["masking"]) == {*KINDS, "all"}
    text = (out / "house-price.md").read_text()
    assert text.count("| combined |") == len(names) + len(names) - 1


def test_the_contact_sheet_shows_dearest_and_cheapest(study):
    out, _, _ = study
    sheet = read_image(out / "contact-sheet.jpg")
    caption, title = 38, 26
    assert sheet.shape == (8 * (150 + caption + title), 8 * 150, 3)


def test_the_same_seed_gives_the_same_numbers(study, houses, options, tmp_path):
    _, document, _ = study
    again = run_study(houses, tmp_path, options, lambda *_: None)
    for key in ("methods", "differences", "masking"):
        assert again[key] == document[key]


def test_the_table_is_readable(study):
    from foldcam.benchmarks.evaluation.houses.report import text_table

    _, document, _ = study
    text = text_table(document)
    assert "median" in text
    assert "raising_minus_other" in text
    assert max(map(len, text.splitlines())) < 120


def test_a_folder_of_something_else_is_one_sentence(tmp_path, monkeypatch, capfd):
    from foldcam.benchmarks.commands.cli import app
    from foldcam.runtime.system.command import run_app

    arguments = ["evaluate", "house-price", "--data", str(tmp_path), "--out", str(tmp_path / "o")]
    monkeypatch.setattr(sys, "argv", ["foldcam", *arguments, "--json"])
    with pytest.raises(SystemExit) as caught:
        run_app(app, "foldcam")
    out, err = capfd.readouterr()
    assert (caught.value.code, out) == (1, "")
    assert "neither houses.csv nor HousesInfo.txt" in " ".join(err.split())
