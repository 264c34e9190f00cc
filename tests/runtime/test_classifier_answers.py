"""What the device says of a classifier: scores of any size, and never cosines."""

from __future__ import annotations

import json

import numpy as np
import pytest
from onnx import numpy_helper

from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.contract.reading import parse_contract
from foldcam.runtime.images.files import read_image
from foldcam.runtime.model.folded_model import FoldedModel
from foldcam.runtime.system.errors import FoldcamError


def times_eight(model):
    """Similarities of up to 8, as logits may be."""
    for tensor in model.graph.initializer:
        if tensor.name == "bank_t":
            tensor.CopyFrom(numpy_helper.from_array(8 * numpy_helper.to_array(tensor), "bank_t"))


@pytest.fixture
def classifier(make_model, explained):
    return make_model(
        contract=explained("contribution", "contrast", scores="logits"), change=times_eight
    )


def test_scores_are_not_cut_off_at_one(classifier, photo):
    with FoldedModel.load(classifier, "cpu", 1) as model:
        result = model(read_image(photo("red.png", (200, 30, 20))))
    assert result.valid
    assert result.scores == "logits"
    assert result.labels[0] == "red"
    assert result.similarities[0] > 7
    assert 0 < result.runner_up_similarity < 8


def test_a_similarity_beyond_one_is_no_answer_of_an_embedding_network(make_model, photo):
    with FoldedModel.load(make_model(change=times_eight), "cpu", 1) as model:
        result = model(read_image(photo("red.png", (200, 30, 20))))
    assert result.error == "the network returned a similarity that is no cosine"


def test_scores_of_zero_are_an_answer(classifier):
    with FoldedModel.load(classifier, "cpu", 1) as model:
        result = model(np.zeros((8, 8, 3), np.uint8))
    assert result.valid
    assert not result.embedding.any()


def test_the_run_says_score_and_class(runtime, classifier, photo, tmp_path):
    red = photo("red.png", (200, 30, 20))
    lines = tmp_path / "x.jsonl"
    done = runtime("run", classifier, "--file", red, "--jsonl", lines)
    assert done.returncode == 0, done.stderr
    assert "classes: red (1)\n" in done.stdout
    line = json.loads(lines.read_text())
    assert line["neighbors"][0] == {
        "row": 2, "label": "red", "score": line["neighbors"][0]["score"],
    }  # fmt: skip
    assert line["neighbors"][0]["score"] > 7
    assert {"row", "label", "score"} == set(line["runner_up"])
    table = runtime("run", classifier, "--file", red)
    assert "best class" in table.stdout + table.stderr
    assert "similarity" not in table.stdout + table.stderr


def test_inspect_says_what_the_scores_are(runtime, classifier):
    done = runtime("inspect", classifier)
    assert "embedding and similarity are logits" in done.stdout
    assert "the classifier's last layers: 3 classes" in done.stdout
    assert "blue, green, red\n" in done.stdout


def test_its_bank_is_not_changed_on_the_device(runtime, classifier):
    done = runtime("bank", "list", classifier)
    assert done.returncode == 1
    assert "is a classifier, whose bank is its own last layer" in done.stderr


def test_a_contract_without_scores_is_read_as_before_and_an_unknown_kind_is_refused(
    contract_with, classifier
):
    before = contract_with()
    assert "scores" not in json.loads(before.to_json())
    assert parse_contract(before.to_json(), "file").scores is None
    contract = read_contract(classifier)
    assert contract.scores == "logits"
    text = contract.to_json().replace('"logits"', '"guesses"')
    with pytest.raises(FoldcamError, match="scores"):
        parse_contract(text, "file")
