"""Two pictures compared: the similarity, and what in each of them speaks for it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from foldcam.export.datasets import load_dataset
from foldcam.export.exporting.exporter import export_model
from foldcam.export.grafting.fold import FoldOptions
from foldcam.runtime.contract.bank.bank_file import read_bank
from foldcam.runtime.contract.bank.live_bank import bank_path
from foldcam.runtime.images.files import read_image, write_image
from foldcam.runtime.model.folded_model import FoldedModel
from foldcam.runtime.model.pair import compare, draw_pair
from foldcam.runtime.system.errors import FoldcamError


@pytest.fixture(scope="module")
def model(normalized, shared_photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("pair") / "model.onnx"
    options = FoldOptions(bank_input=True, query=True)
    export_model(normalized, load_dataset(shared_photos), out, options=options)
    return out


@pytest.fixture
def pictures(tmp_path):
    generator = np.random.default_rng(3)
    paths = []
    for number, shape in enumerate([(40, 60), (90, 30)]):
        paths.append(tmp_path / f"{number}.png")
        write_image(paths[-1], generator.integers(0, 256, (*shape, 3)).astype(np.uint8))
    return paths


def test_the_map_of_a_pair_is_that_of_the_other_s_direction(model, pictures):
    bank = read_bank(bank_path(model))
    with FoldedModel.load(model, "cpu") as loaded:
        pair = compare(loaded, *pictures)
        plain = [loaded(path) for path in pictures]
        unit = [each.embedding / np.linalg.norm(each.embedding) for each in plain]
        assert pair.similarity == pytest.approx(float(unit[0] @ unit[1]), abs=1e-6)
        for found, path, other in ((pair.first, pictures[0], 1), (pair.second, pictures[1], 0)):
            direction = unit[other] - bank.embeddings.mean(0)
            asked = loaded.explain(path, direction=direction)
            np.testing.assert_allclose(found.contribution, asked.contribution, atol=1e-6)
            assert found.answer == loaded(path).answer


def test_a_picture_is_wholly_like_itself(model, pictures):
    with FoldedModel.load(model, "cpu") as loaded:
        pair = compare(loaded, pictures[0], pictures[0])
    assert pair.similarity == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_array_equal(pair.first.contribution, pair.second.contribution)


def test_pictures_of_any_size_are_drawn_beside_each_other(model, pictures):
    with FoldedModel.load(model, "cpu") as loaded:
        pair = compare(loaded, *pictures)
    drawn = draw_pair(pair, *pictures)
    assert drawn.shape[0] > 480
    assert drawn.shape[1] > 480 * 60 // 40 + 480 * 30 // 90


def test_a_picture_of_one_line_is_no_film_of_millions_of_columns(model, tmp_path):
    line = np.full((1, 5000, 3), 90, np.uint8)
    with FoldedModel.load(model, "cpu") as loaded:
        pair = compare(loaded, line, line.transpose(1, 0, 2).copy())
    drawn = draw_pair(pair, line, line.transpose(1, 0, 2))
    assert drawn.shape[1] < 4 * 480


def test_the_command_says_similarity_and_region_and_saves_the_picture(model, pictures, tmp_path):
    saved = tmp_path / "pair.png"
    command = [sys.executable, "-m", "foldcam.runtime", "compare", model, *pictures]
    done = subprocess.run(
        [*map(str, command), "--save", str(saved), "--json"], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert -1 <= document["similarity"] <= 1
    assert set(document["first"]["hottest_region"]) == {"x", "y", "width", "height", "share"}
    assert read_image(saved).shape[0] > 480


def test_questions_that_make_no_sense_are_one_sentence_each(model, pictures):
    with FoldedModel.load(model, "cpu") as loaded:
        for question, text in (
            ({}, "exactly one of"),
            ({"label": "red", "like": pictures[1]}, "exactly one of"),
            ({"like": pictures[1], "against": "red"}, "against needs a label"),
            ({"label": "red", "against": "red"}, "against itself"),
            ({"label": "rde"}, "did you mean 'red'"),
            ({"direction": np.zeros(3)}, "zero or not finite"),
            ({"direction": np.ones(7)}, r"\[7\] where \[3\] is needed"),
            ({"direction": np.array([1, np.nan, 0])}, "zero or not finite"),
        ):
            with pytest.raises(FoldcamError, match=text):
                loaded.explain(pictures[0], **question)


def test_a_label_against_another_is_the_difference_of_their_maps(model, pictures):
    with FoldedModel.load(model, "cpu") as loaded:
        maps = {}
        bank = read_bank(bank_path(model))
        for label in ("red", "green"):
            own = bank.label_index == [run.name for run in bank.labels].index(label)
            mean = bank.embeddings[own].mean(0)
            maps[label] = loaded.explain(pictures[0], direction=mean).contribution
        asked = loaded.explain(pictures[0], label="red", against="green").contribution
    np.testing.assert_allclose(asked, maps["red"] - maps["green"], atol=1e-6)


def test_a_model_without_the_input_is_refused(folded_file, pictures):
    with (
        FoldedModel.load(folded_file, "cpu") as loaded,
        pytest.raises(FoldcamError, match="export or fold it again with --query"),
    ):
        compare(loaded, *pictures)


def test_the_region_s_share_is_that_of_its_box(model, pictures):
    with FoldedModel.load(model, "cpu") as loaded:
        result = loaded(pictures[0])
    box = result.hottest_region()
    everything = (0, 0, *result.frame_wh)
    assert 0 < result.share(box).evidence_for <= result.share(everything).evidence_for
    assert replace(result, heatmap=np.zeros_like(result.heatmap)).hottest_region() is None
