"""A model of whole frames through every command of the device."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from foldcam.runtime.engine.inspect import inspect_model, inspection_text
from foldcam.runtime.measurement.bench.run import BenchOptions, run_bench
from foldcam.runtime.model.folded_model import FoldedModel
from foldcam.runtime.pipeline.run import run
from foldcam.runtime.sources import open_source
from foldcam.runtime.sources.options import RegionOptions
from foldcam.runtime.system.errors import FoldcamError

FRAME = (32, 16)


@pytest.fixture
def whole(make_model, contract_with):
    """A model that takes frames of 32 x 16 and averages areas of 4 x 2 by itself."""
    return make_model(contract=contract_with(input_type="uint8", frame=FRAME))


@pytest.fixture
def plain(make_model, contract_with):
    """The same without frames."""
    return make_model("plain.onnx", contract=contract_with(input_type="uint8"))


def _picture(width, height, seed=0):
    """One coloured corner on grey."""
    image = np.full((height, width, 3), 60, np.uint8)
    corner = np.random.default_rng(seed).integers(0, 2, 2)
    y, x = corner * (height // 2, width // 2)
    image[y : y + height // 2, x : x + width // 2] = (240, 30, 20)
    return image


@pytest.mark.parametrize("size", [FRAME, (64, 32), (50, 40), (16, 32)])
def test_heat_lands_where_the_hosts_preprocessing_puts_it(size, whole, plain):
    with FoldedModel.load(whole, "cpu", 1) as model, FoldedModel.load(plain, "cpu", 1) as host:
        for seed in range(4):
            image = _picture(*size, seed)
            found, expected = model(image), host(image)
            assert found.labels == expected.labels
            assert found.frame_wh == size
            assert found.affine == expected.affine
            heat, wanted = found.heat_on_frame(), expected.heat_on_frame()
            np.testing.assert_allclose(heat, wanted, atol=0.02)


def test_a_run_counts_and_says_what_had_another_size(runtime, whole, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, size in enumerate([FRAME, (64, 32), (50, 40)]):
        cv2.imwrite(str(folder / f"{number}.png"), _picture(*size)[..., ::-1])
    done = runtime("run", whole, "--file", folder, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["other_size"] == 2
    assert (
        "note: 2 of 3 frames had another size than the 32 x 16 that the model takes, and were "
        "resized to it first.\n"
    ) in done.stderr
    assert "smaller" not in done.stderr
    only = runtime("run", whole, "--file", folder / "0.png", "--json")
    assert json.loads(only.stdout)["other_size"] == 0
    assert "another size" not in only.stderr


def test_a_run_of_any_other_model_counts_no_sizes(runtime, tiny_model, photo):
    done = runtime("run", tiny_model, "--file", photo("a.png"), "--json")
    assert json.loads(done.stdout)["other_size"] is None


def test_a_letterbox_says_that_other_proportions_are_shown_smaller(
    runtime, make_model, contract_with, tmp_path
):
    model = make_model(contract=contract_with(input_type="uint8", frame=FRAME, resize="letterbox"))
    cv2.imwrite(str(tmp_path / "a.png"), _picture(40, 40))
    done = runtime("run", model, "--file", tmp_path / "a.png")
    assert "those of other proportions are shown smaller than in training." in done.stderr
    pair = runtime("compare", model, tmp_path / "a.png", tmp_path / "a.png")
    # It takes no query, which is said first.
    assert pair.returncode == 1


@pytest.mark.parametrize("regions", [["--grid", "2x2"], ["--boxes", "boxes.jsonl"]])
def test_regions_are_refused_before_anything_is_written(regions, runtime, whole, photo, tmp_path):
    (tmp_path / "working" / "boxes.jsonl").write_text('{"frame": 0, "boxes": [[0, 0, 4, 4]]}\n')
    done = runtime("run", whole, "--file", photo("a.png"), "--save", "out", *regions)
    assert done.returncode == 1
    assert done.stderr == (
        "error: The model takes whole frames of 32 x 16 (--frame), of which no regions can be cut "
        "out: export or fold it without --frame for boxes, grids and detectors.\n"
    )
    assert not (tmp_path / "working" / "out").exists()


def test_regions_are_refused_from_python_too(whole, photo):
    source = open_source(file=str(photo("a.png")))
    with (
        FoldedModel.load(whole, "cpu", 1) as model,
        pytest.raises(FoldcamError, match="whole frames of 32 x 16"),
    ):
        run(source, model, regions=RegionOptions(grid=(2, 2)))


def test_triton_gets_the_size_of_frames_and_deepstream_is_refused(runtime, whole, tmp_path):
    done = runtime("deploy", whole, "--triton", tmp_path / "models")
    assert done.returncode == 0, done.stderr
    config = next((tmp_path / "models").rglob("config.pbtxt")).read_text()
    assert 'input { name: "image" data_type: TYPE_UINT8 dims: [ 16, 32, 3 ] }' in config
    done = runtime("deploy", whole, "--deepstream", tmp_path / "pipeline")
    assert done.returncode == 1
    assert "takes whole frames (--frame), and nvinfer gives a model objects" in done.stderr
    assert not (tmp_path / "pipeline").exists()


def test_inspect_names_the_frame(whole, tiny_model):
    text = inspection_text(inspect_model(whole))
    assert "taken whole, 32 x 16; the graph preprocesses them" in text
    assert "image: uint8 [N, 16, 32, 3]" in text
    assert "taken whole" not in inspection_text(inspect_model(tiny_model))


def test_bench_gives_frames_of_the_size_that_the_model_takes(whole, tiny_model):
    options = BenchOptions(passes=5, warm_up=1, rate=0.0, threads=1)
    runs = run_bench([whole, tiny_model], options)["runs"]
    assert [run["frame"] for run in runs] == [[32, 16], [1280, 720]]
    other = BenchOptions(passes=5, warm_up=1, rate=0.0, threads=1, frame=(64, 64))
    assert run_bench([whole], other)["settings"]["frame"] == [64, 64]
