"""Any image and any label: every output finite, nothing leaks across a batch, text survives."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import os
import unicodedata
from functools import cache

import numpy as np
import onnx
import pytest

from foldcam.export.banks.objectives.directions import parse_objective
from foldcam.export.datasets import load_dataset
from foldcam.export.exporting.exporter import export_model
from foldcam.export.grafting.fold import FoldOptions, fold
from foldcam.export.models.spec import LoadedModel
from foldcam.runtime.contract import schema as contract_module
from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.contract.schema import LabelRun
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.model.folded_model import FoldedModel
from foldcam.runtime.pipeline.run import run as run_pipeline
from foldcam.runtime.sinks import open_sinks
from foldcam.runtime.sources import open_source
from foldcam.runtime.system.errors import FoldcamError

# Heads that end in a normalisation, divide by a bare norm, or do neither.
NETWORKS = ["Normalized", "PlainConv", "NeckNormalized"]
VARIANTS = list(
    itertools.product(("float32", "uint8"), ("fp32", "fp16"), (None, "none", "log"), (17, 18))
)


def _pictures(height, width):
    """uint8 `[N, H, W, 3]`: what cameras and test suites send at their worst."""
    generator = np.random.default_rng(0)
    black = np.zeros((height, width, 3), np.uint8)
    pixel = black.copy()
    pixel[height // 2, width // 3] = 255
    stripes = black.copy()
    stripes[:, ::2] = 255
    red = black.copy()
    red[..., 0] = 255
    noise = generator.integers(0, 256, black.shape, np.uint8)
    bits = generator.integers(0, 2, black.shape, np.uint8) * np.uint8(255)
    return np.stack([black, ~black, noise, bits, pixel, ~pixel, stripes, red])


@pytest.fixture(scope="module")
def exported(cut):
    """`exported(name, opset)`: the network as ONNX, made once."""
    return cache(lambda name, opset: (cut(name), cut(name).to_onnx(opset)))


def _folded(pair, networks, random_bank, hand_built, transform, **options):
    network, model = pair
    recipe = Preprocessing(networks.SIZE[1], networks.SIZE[0])
    size, channels = network.embedding_size, network.feature_map_shape[0]
    made = fold(
        model,
        random_bank(9, size, channels, transform=transform),
        preprocessing=recipe,
        layer=network.layer,
        origin=hand_built.ORIGIN,
        versions={},
        options=FoldOptions(transfer=2, neighbors=3, **options),
    )
    pixels = _pictures(*networks.SIZE)
    images = pixels if options.get("input_type") == "uint8" else recipe.normalized(pixels)
    return made, images


def _assert_sound(outputs, count):
    for name, value in outputs.items():
        assert len(value) == count
        assert np.isfinite(value).all(), name
    for name in {"heatmap", "heatmap_lower"} & set(outputs):
        assert outputs[name].min() >= 0
        assert outputs[name].max() <= 1
    assert (np.abs(outputs["similarity"]) <= 1 + 1e-5).all()
    assert ((outputs["neighbor"] >= 0) & (outputs["neighbor"] < 9)).all()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("input_type", "precision", "transform", "opset"), VARIANTS)
def test_every_output_is_finite_for_any_picture(
    input_type, precision, transform, opset, name, exported, networks, random_bank, hand_built
):
    made, images = _folded(
        exported(name, opset),
        networks,
        random_bank,
        hand_built,
        transform,
        input_type=input_type,
        precision=precision,
    )
    onnx.checker.check_model(made, full_check=True)
    outputs = hand_built.run(made, images)
    _assert_sound(outputs, len(images))
    assert outputs["heatmap"].max() > 0
    # Each alone gives what it gives in company: nothing is normalised across the batch.
    for row in range(len(images)):
        alone = hand_built.run(made, images[row : row + 1])
        for output, value in outputs.items():
            np.testing.assert_allclose(alone[output][0], value[row], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("transform", [None, "log"])
def test_neighbours_in_the_batch_change_nothing(
    transform, precision, exported, networks, random_bank, hand_built
):
    made, images = _folded(
        exported("PlainConv", 18), networks, random_bank, hand_built, transform, precision=precision
    )
    noise = images[2]
    glaring, nothing = noise * np.float32(1e4 if precision == "fp32" else 100), noise * 0
    expected = hand_built.run(made, np.stack([noise, noise, noise]))
    for other in (glaring, nothing, *images):
        got = hand_built.run(made, np.stack([other, noise, other]))
        for name, value in got.items():
            np.testing.assert_allclose(value[1], expected[name][1], atol=1e-6, rtol=1e-6)


def test_a_network_that_is_dead_for_black_answers_with_zeros(hand_built, random_bank):
    """No bias: an image of zeros has no features, no embedding and no heat."""
    for precision, transform in itertools.product(("fp32", "fp16"), (None, "log")):
        bank = random_bank(6, hand_built.D, hand_built.K, transform=transform)
        made = hand_built.folded(bank, transfer=2, neighbors=2, precision=precision)
        dark = np.zeros((2, 3, hand_built.HEIGHT, hand_built.WIDTH), np.float32)
        outputs = hand_built.run(made, dark)
        assert all(np.isfinite(value).all() for value in outputs.values())
        assert (outputs["embedding"] == 0).all()
        assert (outputs["heatmap"] == 0).all()
        assert (outputs["similarity"] == 0).all()


LABELS = {
    "emoji": "喜鹊 🐦‍⬛ — Häher",
    "right to left": "שלום \u202eabc\u202c",
    "combining": "e\u0301\u0302\u0303",
    "quotes": '"quoted" \\ back, comma; semicolon',
    "newline": "two\nlines\tand a tab",
    "long": "x" * 10_000,
    "format": "%s {0} $HOME ../..",
}


@pytest.fixture(scope="module")
def spoken(networks, preprocessing, shared_photos, tmp_path_factory):
    """A folded model whose labels, from a CSV, are those of `LABELS`."""
    folder = tmp_path_factory.mktemp("spoken")
    photos = sorted(shared_photos.rglob("*.png"))
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        rows.writerow(["path", "label"])
        for number, photo in enumerate(photos * 2):
            rows.writerow([photo, list(LABELS.values())[number % len(LABELS)]])
    out = folder / "model.onnx"
    loaded = LoadedModel(networks.make_tiny(), preprocessing, "tinynet:make", "")
    goal = parse_objective("all-triplets")
    export_model(loaded, load_dataset(folder / "labels.csv"), out, goal)
    return out


def test_any_label_reaches_the_contract(spoken):
    names = [run.name for run in read_contract(spoken).labels]
    composed = {unicodedata.normalize("NFC", label) for label in LABELS.values()}
    assert sorted(set(names)) == sorted(composed)


def test_any_label_reaches_the_lines_of_json_and_the_pictures(spoken, shared_photos, tmp_path):
    """The bank's rows in turn, whatever the network finds."""
    labels = {}
    for name, text in LABELS.items():
        model = onnx.load(spoken)
        (entry,) = model.metadata_props
        contract = read_contract(spoken)
        run = LabelRun(text, contract.bank.rows)
        entry.value = dataclasses.replace(contract, labels=(run,)).to_json()
        path, out = tmp_path / "one.onnx", tmp_path / name
        onnx.save(model, path)
        with open_source(file=str(shared_photos / "red")) as source, FoldedModel.load(path) as one:
            sinks = open_sinks(source, save=str(out), jsonl=str(out / "lines.jsonl"))
            summary = run_pipeline(source, one, sinks)
        lines = (out / "lines.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
        assert summary.frames == len(lines) == 4
        assert len(list(out.glob("*.png"))) == 4
        labels[name] = {json.loads(line)["neighbors"][0]["label"] for line in lines}
    assert labels == {name: {text} for name, text in LABELS.items()}


def test_a_folder_whose_name_is_no_text_is_readable_all_the_same(
    photos, networks, preprocessing, tmp_path
):
    (photos / "red").rename(os.fsdecode(os.fsencode(photos) + b"/r\xff\xfed"))
    out = tmp_path / "m.onnx"
    loaded = LoadedModel(networks.make_tiny(), preprocessing, "tinynet:make", "")
    export_model(loaded, load_dataset(photos), out, parse_objective("all-triplets"))
    assert {run.name for run in read_contract(out).labels} == {"blue", "green", "r\ufffd\ufffdd"}


@pytest.mark.parametrize("label", ["nul \0 inside", "lone \udcff\ud800 surrogates", ""])
def test_labels_that_no_data_set_can_hold_survive_a_fold(label, random_bank, hand_built, tmp_path):
    bank = random_bank(6, hand_built.D, hand_built.K)
    bank = dataclasses.replace(bank, labels=(LabelRun(label, 6),))
    bank.save(tmp_path / "bank.safetensors")
    assert type(bank).load(tmp_path / "bank.safetensors").row_labels() == [label] * 6
    onnx.save(hand_built.folded(bank), tmp_path / "m.onnx")
    assert read_contract(tmp_path / "m.onnx").label_of(5) == label


def test_labels_too_large_to_be_read_again_are_refused(random_bank, hand_built, monkeypatch):
    monkeypatch.setattr(contract_module, "MAX_METADATA_BYTES", 100_000)
    bank = random_bank(6, hand_built.D, hand_built.K)
    bank = dataclasses.replace(bank, labels=(LabelRun("x" * 200_000, 6),))
    with pytest.raises(FoldcamError, match="use fewer or shorter labels"):
        hand_built.folded(bank)
