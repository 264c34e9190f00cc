"""`runtime run` and `runtime inspect` of models whose maps are explained."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from foldcam.runtime.contract.explanation import coarse_text, explanation_text, is_coarse
from foldcam.runtime.contract.schema import Explanation
from foldcam.runtime.images.files import read_image


def against_green(model: onnx.ModelProto) -> None:
    """What is green speaks against the label green: such a picture has no evidence for it."""
    for tensor in model.graph.initializer:
        if tensor.name == "weights":
            weights = numpy_helper.to_array(tensor).copy()
            weights[1] = -weights[1]
            tensor.CopyFrom(numpy_helper.from_array(weights, "weights"))


@pytest.fixture
def explained_model(make_model, explained):
    return make_model(contract=explained("contribution", "contrast"), change=against_green)


def test_frames_without_evidence_are_counted_and_their_lines_say_zero(
    runtime, explained_model, photo, tmp_path
):
    red, green = photo("a.png", (200, 30, 20)), photo("b.png", (20, 200, 30))
    lines = tmp_path / "x.jsonl"
    done = runtime("run", explained_model, "--file", red.parent, "--jsonl", lines)
    assert done.returncode == 0, done.stderr
    assert "1 of 2 frames had no evidence for the label\n" in done.stderr
    first, second = map(json.loads, lines.read_text().splitlines())
    assert first["evidence_for"] == pytest.approx(first["neighbors"][0]["similarity"], abs=1e-5)
    assert (second["evidence_for"], second["hottest"]) == (0, None)
    assert second["evidence_against"] == pytest.approx(
        second["neighbors"][0]["similarity"], abs=1e-5
    )
    assert second["runner_up"]["label"] == "blue"
    done = runtime("run", explained_model, "--file", green, "--json")
    summary = json.loads(done.stdout)
    assert (summary["answered"], summary["no_evidence"]) == (1, 1)
    done = runtime("run", explained_model, "--file", red)
    assert "no evidence" not in done.stderr


def test_the_map_is_chosen_by_flag_and_by_file(runtime, explained_model, photo, tmp_path):
    green = photo("b.png", (20, 200, 30))
    file = tmp_path / "run.toml"
    file.write_text('[style]\nmap = "contribution"\ncaption = false\n')
    outs = {name: tmp_path / f"{name}.png" for name in ("heat", "flag", "file")}
    plain = ("run", explained_model, "--file", green, "--no-caption", "--save")
    assert runtime(*plain, outs["heat"]).returncode == 0
    assert runtime(*plain, outs["flag"], "--map", "contribution").returncode == 0
    done = runtime(
        "run", explained_model, "--file", green, "--save", outs["file"], "--config", file
    )
    assert done.returncode == 0, done.stderr
    heat, flag, config = (read_image(path).astype(int) for path in outs.values())
    np.testing.assert_array_equal(heat[0, 0], (20, 200, 30))
    np.testing.assert_array_equal(flag, config)
    # All of it speaks against its label, in the cold colour.
    assert flag[0, 0, 2] > flag[0, 0, 0] + 50


def test_a_map_that_the_model_does_not_have_is_refused_before_the_run(
    runtime, tiny_model, photo, tmp_path
):
    out = tmp_path / "out"
    done = runtime(
        "run", tiny_model, "--file", photo("a.png"), "--save", out, "--map", "contrast"
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: The model has no map 'contrast': export the model again")
    assert done.stderr.count("\n") == 1
    assert not out.exists()


def test_a_coarse_feature_map_is_said_once_unless_the_run_is_quiet(runtime, tiny_model, photo):
    photo("a.png")
    folder = photo("b.png").parent
    said = "note: The feature map has 2 x 2 cells only, so that the heatmaps say little of where."
    done = runtime("run", tiny_model, "--file", folder)
    assert done.stderr.count(said) == 1
    assert said not in runtime("run", tiny_model, "--file", folder, "--quiet").stderr
    assert said.removeprefix("note: ") in runtime("inspect", tiny_model).stdout


def test_five_by_five_cells_are_not_coarse(contract_with):
    assert not is_coarse(contract_with(feature_map=(3, 5, 5)))
    assert not is_coarse(contract_with(feature_map=(3, 1, 25)))
    assert is_coarse(contract_with(feature_map=(3, 4, 6)))
    assert "4 x 6 cells" in coarse_text(contract_with(feature_map=(3, 4, 6)))


def test_inspect_says_what_the_maps_are_made_of_and_which_outputs_there_are(
    runtime, explained_model, tiny_model, make_model, explained
):
    text = runtime("inspect", explained_model).stdout
    assert "output        contrast: float32 [N, 1, 2, 2]" in text
    assert "maps          what each position adds to the comparison through the pooling" in text
    assert "optional      contribution, contrast" in text
    own = Explanation("attention", "mean", "own")
    model = make_model(contract=replace(explained("contribution"), explanation=own))
    report = json.loads(runtime("inspect", model, "--json").stdout)
    assert report["explanation"] == (
        "what each position adds to the comparison through the last attention, less what it adds "
        "on average over the training images; grad-weights of the image itself, computed in the "
        "graph"
    )
    assert report["contract"]["optional_outputs"] == ["contribution"]
    text = runtime("inspect", tiny_model).stdout
    assert "\nmaps " not in text
    assert "\noptional " not in text
    assert json.loads(runtime("inspect", tiny_model, "--json").stdout)["explanation"] is None


def test_a_network_without_a_sum_over_positions_is_said_to_have_none():
    text = explanation_text(Explanation("none", "none", "transferred"))
    assert "the network has no sum over positions" in text
    assert "average over the training images" not in text
