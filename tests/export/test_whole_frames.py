"""`export --frame` and `fold --frame` on the workstation: every command, and the heat's place."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from foldcam.benchmarks.cost.gate.subject import subject_of
from foldcam.benchmarks.evaluation.retrieval.study import folded_subject
from foldcam.export.banks.bank import Bank
from foldcam.export.banks.objectives.directions import parse_objective
from foldcam.export.datasets import load_dataset
from foldcam.export.exporting.exporter import export_model
from foldcam.export.exporting.gallery import make_gallery
from foldcam.export.exporting.threshold import choose_threshold
from foldcam.export.grafting.fold import FoldOptions
from foldcam.export.grafting.frame import frameless
from foldcam.export.grafting.refold import fold_file, stored_options
from foldcam.export.verification.images import images_to_verify
from foldcam.export.verification.run import verify_model
from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.images.files import read_image
from foldcam.runtime.measurement.comparison.gate import check_pair
from foldcam.runtime.model.enrolling import enroll, pictures_of
from foldcam.runtime.model.folded_model import FoldedModel
from foldcam.runtime.system.errors import FoldcamError

FRAME = (160, 90)
GOAL = parse_objective("all-triplets")


@pytest.fixture(scope="session")
def exported(loaded, preprocessing, shared_photos, tmp_path_factory):
    """`exported(rule, frame)`: a folded model and its bank beside it; made once."""
    made = {}

    def make(rule="letterbox", frame=FRAME):
        if (rule, frame) not in made:
            folder = tmp_path_factory.mktemp("whole")
            export_model(
                loaded,
                load_dataset(shared_photos),
                folder / "model.onnx",
                GOAL,
                preprocessing=replace(preprocessing, resize=rule),
                options=FoldOptions(input_type="uint8", frame=frame),
                bank_out=folder / "bank.safetensors",
            )
            made[rule, frame] = folder / "model.onnx"
        return made[rule, frame]

    return make


def _scene(seed, width=FRAME[0], height=FRAME[1]):
    generator = np.random.default_rng(seed)
    image = generator.integers(0, 60, (height, width, 3)).astype(np.uint8)
    top, left = generator.integers(5, 40, 2)
    image[top : top + 40, left + 30 : left + 70] = [(30, 60, 220), (220, 40, 30)][seed % 2]
    return image


@pytest.mark.parametrize("rule", ["stretch", "crop", "letterbox"])
def test_answers_and_heat_on_the_frame_are_those_of_the_hosts_preprocessing(rule, exported):
    with (
        FoldedModel.load(exported(rule), "cpu", 1) as graph,
        FoldedModel.load(exported(rule, None), "cpu", 1) as host,
    ):
        for seed in range(4):
            found, expected = graph(_scene(seed)), host(_scene(seed))
            assert found.labels == expected.labels
            assert found.affine == expected.affine
            np.testing.assert_allclose(found.similarities, expected.similarities, atol=1e-3)
            heat, wanted = found.heat_on_frame(), expected.heat_on_frame()
            np.testing.assert_allclose(heat, wanted, atol=0.02)
            hottest = np.unravel_index(heat.argmax(), heat.shape)
            assert wanted[hottest] > 0.98 * wanted.max()


@pytest.mark.parametrize("rule", ["stretch", "crop", "letterbox"])
def test_verify_compares_the_input_with_the_hosts(rule, exported, loaded, shared_photos):
    path = exported(rule)
    contract = read_contract(path)
    images = list(images_to_verify(load_dataset(shared_photos), contract, 12))
    size = (contract.preprocessing.height, contract.preprocessing.width)
    network = loaded.network(contract.layer, size, exact=True, summands=True)
    for reference in (network, None):
        report = verify_model(path, reference, images)
        assert report.passed, report.failures
        assert report.frame_difference <= 1
        assert report.document()["frame_difference"] == report.frame_difference
    plain = verify_model(exported(rule, None), None, images)
    assert plain.frame_difference is None


def test_verify_fails_where_the_graph_makes_another_input(exported, shared_photos, tmp_path):
    model = onnx.load(exported("stretch"))
    weights = next(t for t in model.graph.initializer if t.name.endswith("row_weights"))
    shifted = np.roll(numpy_helper.to_array(weights), 8, axis=1)
    weights.CopyFrom(numpy_helper.from_array(shifted, weights.name))
    onnx.save(model, tmp_path / "shifted.onnx")
    contract = read_contract(tmp_path / "shifted.onnx")
    images = list(images_to_verify(load_dataset(shared_photos), contract, 6))
    report = verify_model(tmp_path / "shifted.onnx", None, images)
    assert not report.passed
    (failure,) = report.failures
    assert "grey levels from the host's preprocessing" in failure


def test_models_of_other_sizes_are_not_compared(exported):
    whole, plain = exported(), exported(frame=None)
    with pytest.raises(FoldcamError, match="the size of images is 160 x 90"):
        verify_model(plain, None, [], against=[whole])
    with pytest.raises(FoldcamError, match="another size of images"):
        check_pair(read_contract(plain), read_contract(whole))


def test_photographs_of_a_data_set_are_no_frames(exported, shared_photos, tmp_path):
    data, whole, plain = load_dataset(shared_photos), exported(), exported(frame=None)
    galleries = [
        make_gallery(path, data, tmp_path / f"{number}.gallery")
        for number, path in enumerate((whole, plain))
    ]
    assert [report.others for report in galleries] == [0, 0]
    for path in (whole, plain):
        with folded_subject(path, None, data) as subject:
            results = subject.model.run_batch([sample.path for sample in data.samples])
            assert all(round(float(result.similarities[0]), 4) == 1 for result in results)


def test_a_threshold_is_the_one_of_the_model_without_a_frame(exported, write_photos, tmp_path):
    held_out = load_dataset(write_photos(tmp_path / "held out", 8, 1))
    rules = [
        choose_threshold(path, tmp_path / "ruled.onnx", held_out).rule
        for path in (exported(), exported(frame=None))
    ]
    assert rules[0].threshold == pytest.approx(rules[1].threshold, abs=1e-6)
    assert read_contract(tmp_path / "ruled.onnx").unknown is not None


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_probe_pictures_are_frames_of_the_size_that_the_model_takes(precision, exported, tmp_path):
    path, bank = exported(), Bank.load(exported().with_name("bank.safetensors"))
    fold_file(path, bank, tmp_path / "a.onnx", replace(stored_options(path), precision=precision))
    for name, frame in (("b", (64, 48)), ("c", None)):
        options = replace(stored_options(tmp_path / "a.onnx"), frame=frame)
        fold_file(tmp_path / "a.onnx", bank, tmp_path / f"{name}.onnx", options)
    for name in "abc":
        # Opening shows them to the library, and refuses one that answers otherwise.
        with FoldedModel.load(tmp_path / f"{name}.onnx", "cpu", 1) as model:
            assert model.contract.canary is not None
            assert model(_scene(0)).valid
    with frameless(tmp_path / "a.onnx") as file:
        assert read_contract(file).canary is None


def test_without_a_frame_nothing_is_copied(exported):
    plain = exported(frame=None)
    with frameless(plain) as path:
        assert path == plain
    with frameless(exported()) as path:
        assert read_contract(path).frame is None
        copy = path
    assert not copy.exists()


def test_the_bank_of_a_model_of_whole_frames_goes_with_it(exported, tmp_path):
    path, bank = exported(), Bank.load(exported().with_name("bank.safetensors"))
    options = replace(stored_options(path), bank_input=True)
    fold_file(path, bank, tmp_path / "live.onnx", options)
    with frameless(tmp_path / "live.onnx") as file, FoldedModel.load(file, "cpu", 1) as model:
        assert model.contract.bank.rows == 12


@pytest.mark.parametrize(("rule", "smaller"), [("letterbox", 2), ("stretch", 0)])
def test_enrolling_says_which_pictures_are_shown_smaller(
    rule, smaller, exported, write_photos, tmp_path
):
    path = exported(rule)
    bank = Bank.load(path.with_name("bank.safetensors"))
    out = tmp_path / "live.onnx"
    fold_file(path, bank, out, replace(stored_options(path), bank_input=True))
    photos = write_photos(tmp_path / "new", 2, 7)
    files = sorted((photos / "red").glob("*.png"))
    with FoldedModel.load(out, "cpu", 1) as model:
        pictures = pictures_of(model, files, photos)
        enrolled = enroll(out.with_suffix(".bank"), model.contract, "new", pictures)
    assert enrolled.added.rows == 2
    assert len(enrolled.smaller) == smaller


def test_the_bank_is_swapped_and_the_frame_stays(exported, tmp_path):
    path = exported()
    report = fold_file(path, Bank.load(path.with_name("bank.safetensors")), tmp_path / "again.onnx")
    assert report.contract.frame == FRAME
    assert (tmp_path / "again.onnx").read_bytes() == path.read_bytes()


def test_fold_gives_changes_and_takes_the_frame(exported, foldcam, tmp_path):
    plain = exported(frame=None)
    bank = plain.with_name("bank.safetensors")
    size = ("--frame", "160x90")
    arguments = ("fold", plain, "--bank", bank, "--out", tmp_path / "whole.onnx")
    status, out, err = foldcam(*arguments, *size, "--json")
    assert status == 0, err
    assert json.loads(out)["frame"] == [160, 90]
    assert (tmp_path / "whole.onnx").read_bytes() == exported().read_bytes()
    back = ("fold", tmp_path / "whole.onnx", "--bank", bank, "--out", tmp_path / "back.onnx")
    assert foldcam(*back, "--frame", "none")[0] == 0
    assert (tmp_path / "back.onnx").read_bytes() == plain.read_bytes()
    status, _, err = foldcam(*back, "--input", "float32")
    assert (status, "or --frame none with" in " ".join(err.split())) == (1, True)
    assert foldcam(*back, "--frame", "160")[0] == 2
    assert foldcam(*back, "--frame", "160x0")[0] == 1


def test_the_gate_names_the_frames_that_it_times(exported, tmp_path):
    title = subject_of(exported(), tmp_path).title
    assert title.endswith("whole frames of 160 x 90")


def test_training_images_themselves_are_recognised(exported, shared_photos):
    # Frames of the camera's size, of which the graph makes what the bank was built of.
    data = load_dataset(shared_photos)
    with FoldedModel.load(exported("stretch"), "cpu", 1) as model:
        for sample in data.samples:
            result = model(read_image(sample.path))
            assert result.labels[0] == sample.label
