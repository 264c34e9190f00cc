"""The demo's data are what the demo says they are, and its report counts what it says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("skimage", reason="the demo's photographs come with scikit-image")

from foldcam.benchmarks.commands.demo import run
from foldcam.benchmarks.commands.demo.photographs import OBJECTS, SCENES_PER_OBJECT, Photographs
from foldcam.benchmarks.commands.demo.run import DemoReport, run_demo
from foldcam.runtime.contract.onnx_file import read_contract


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoReport:
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        # The video is for the eye.
        patch.setattr(run, "_FRAMES_PER_SCENE", 2)
        return run_demo(tmp_path_factory.mktemp("demo") / "out", lines.append)


def test_scenes_show_each_object_as_the_larger_one_and_never_overlap() -> None:
    scenes = list(Photographs().scenes())
    larger = [scene.placements[0].label for scene in scenes]
    assert sorted(larger) == sorted(list(OBJECTS) * SCENES_PER_OBJECT)
    for scene in scenes:
        first, second = scene.placements
        assert first.label != second.label
        covered = np.zeros(scene.image.shape[:2], int)
        for place in scene.placements:
            x0, y0, x1, y1 = place.box
            assert 0 <= x0 < x1 <= scene.image.shape[1]
            assert 0 <= y0 < y1 <= scene.image.shape[0]
            covered[y0:y1, x0:x1] += 1
        assert covered.max() == 1


def test_the_same_seed_gives_the_same_data_and_another_seed_gives_others() -> None:
    first, again, other = (
        np.concatenate([image.ravel() for _, image in Photographs(seed).views()])
        for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_heat_lies_on_the_object_that_was_found_more_than_on_any_map_that_asks_nothing(
    demo: DemoReport,
) -> None:
    means = demo.means()
    assert means["heat_in_box"] > means["mean_activation"]
    assert means["heat_in_box"] > means["centred_blob"]
    assert means["heat_in_box"] > means["uniform"]


def test_the_demo_model_is_verified_and_names_its_network(demo: DemoReport) -> None:
    assert demo.verified.passed
    contract = read_contract(demo.model)
    assert contract.origin.network == "demo"
    assert contract.feature_map == (1280, 7, 7)
    assert contract.layer == "backbone._swish"
    assert contract.normalized


def test_everything_the_demo_promises_lies_in_its_folder(demo: DemoReport) -> None:
    out: Path = demo.model.parent
    scenes = len(demo.scores)
    assert scenes == len(OBJECTS) * SCENES_PER_OBJECT
    assert len(list((out / "overlays").rglob("*.png"))) == scenes
    lines = (out / "scenes.jsonl").read_text().splitlines()
    assert len(lines) == scenes
    found = [json.loads(line)["neighbors"][0]["label"] for line in lines]
    assert found == [score.label for score in demo.scores]
    assert (out / "annotated.mp4").stat().st_size > 0
    assert demo.contact_sheet.exists()


def test_the_report_of_the_demo_is_json(demo: DemoReport) -> None:
    document = json.loads(json.dumps(demo.document()))
    assert document["label_found"] == sum(s.heat_in_box is not None for s in demo.scores)
