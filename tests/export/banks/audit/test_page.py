"""The page of an audit shows the rows' own pictures, found by name, else by hash."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from foldcam.benchmarks.studies.reliability.page import PHONE, chromium, why_no_browser
from foldcam.export.banks.audit.audit import audit_bank
from foldcam.export.banks.bank import Bank
from foldcam.export.banks.objectives.directions import parse_objective
from foldcam.export.banks.pictures import RowPictures
from foldcam.export.commands.bank import app
from foldcam.export.datasets import load_dataset
from foldcam.export.exporting.bank_files import build_bank_file
from foldcam.export.models.spec import LoadedModel


@pytest.fixture
def held(networks, preprocessing, photos, tmp_path):
    """A bank of `photos`, as a file."""
    torch.manual_seed(0)
    loaded = LoadedModel(networks.Normalized().eval(), preprocessing, "Normalized", "")
    out = tmp_path / "bank.safetensors"
    build_bank_file(loaded, load_dataset(photos), out, parse_objective("all-triplets"))
    return out


def test_the_page_has_a_picture_of_each_row_and_asks_no_host(held, photos, tmp_path):
    page = tmp_path / "audit.html"
    done = CliRunner().invoke(
        app,
        ["bank", "audit", str(held), "--images", str(photos), "--out", str(page), "--json"],
    )
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["pictures_not_found"] == 0
    text = page.read_text(encoding="utf-8")
    assert "no picture" not in text
    assert text.count("data:image/jpeg") >= 4
    assert "http" not in text.replace("http-equiv", "")
    assert 'value="' + document["likely_mislabelled"][0]["name"] in text


def test_without_images_the_page_has_names_alone(held, tmp_path):
    page = tmp_path / "audit.html"
    done = CliRunner().invoke(app, ["bank", "audit", str(held), "--out", str(page)])
    assert done.exit_code == 0, done.output
    text = page.read_text(encoding="utf-8")
    assert "data:image/jpeg" not in text
    assert "no picture" in text


def test_a_picture_is_found_by_name_then_by_hash_and_another_one_is_never_shown(held, photos):
    bank, dataset = Bank.load(held), load_dataset(photos)
    moved = photos / "red" / "moved.png"
    (photos / "red" / "0.png").rename(moved)
    (photos / "red" / "1.png").write_bytes((photos / "blue" / "2.png").read_bytes())
    rows = {name: row for row, name in enumerate(bank.names)}
    pictures = RowPictures(bank, load_dataset(photos))
    assert pictures.get(rows["red/0.png"]) is not None
    assert pictures.get(rows["blue/2.png"]) is not None
    assert pictures.get(rows["red/1.png"]) is None
    assert pictures.missing == {rows["red/1.png"]}
    unnamed = RowPictures(replace(bank, names=None), load_dataset(photos))
    assert unnamed.get(rows["red/0.png"]) is not None
    assert RowPictures(bank, None).get(0) is None
    assert len(dataset.samples) == 12


@pytest.mark.skipif(bool(why_no_browser()), reason=why_no_browser())
def test_ticked_pictures_become_the_list_to_remove_by_on_a_phone(held, photos, tmp_path):
    page_file = tmp_path / "audit.html"
    CliRunner().invoke(
        app, ["bank", "audit", str(held), "--images", str(photos), "--out", str(page_file)]
    )
    asked: list[str] = []
    with chromium() as browser:
        page = browser.new_context(**PHONE).new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.goto(page_file.as_uri())
        boxes = page.locator("input[type=checkbox]")
        boxes.first.check()
        listed = page.locator("#list").input_value()
        width = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert listed == Bank.load(held).names[audit_bank(Bank.load(held)).suspects()[0]]
    assert width <= 0
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
