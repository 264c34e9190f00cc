"""foldcam threshold: the rule is in the file, the graph gives its score, a bank keeps its own."""

from __future__ import annotations

import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from foldcam.export.banks.bank import Bank
from foldcam.export.banks.objectives.directions import parse_objective
from foldcam.export.banks.unknown.images import any_images
from foldcam.export.banks.unknown.rows import Rows, label_space
from foldcam.export.datasets import Dataset, load_dataset
from foldcam.export.exporting.bank_files import build_bank_file
from foldcam.export.exporting.exporter import export_model
from foldcam.export.exporting.threshold import choose_threshold
from foldcam.export.grafting.fold import FoldOptions
from foldcam.export.grafting.in_graph import bank_of
from foldcam.export.grafting.refold import fold_file, stored_options
from foldcam.export.grafting.unfold import unfold
from foldcam.runtime.backends import open_backend
from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.contract.schema import LabelRun
from foldcam.runtime.images.files import read_image
from foldcam.runtime.measurement.comparison.self_test import compare
from foldcam.runtime.model.folded_model import FoldedModel
from foldcam.runtime.system.errors import FoldcamError

GOAL = parse_objective("all-triplets")


@pytest.fixture(scope="module")
def held_out(write_photos, tmp_path_factory):
    """Other photographs of the colours of `shared_photos`, and of a fourth."""
    root = tmp_path_factory.mktemp("held-out")
    return write_photos(root, each=8, seed=7, white=(240, 240, 240))


@pytest.fixture(scope="module")
def with_whitened(folded_file, held_out, tmp_path_factory):
    out = tmp_path_factory.mktemp("rule") / "model.onnx"
    dataset = load_dataset(held_out, "all")
    choose_threshold(folded_file, out, dataset, accept=0.9, score="whitened")
    return out


def test_the_rule_and_its_rates_are_in_the_file(folded_file, held_out, tmp_path):
    out = tmp_path / "out.onnx"
    report = choose_threshold(folded_file, out, load_dataset(held_out, "all"), accept=0.9)
    rule = read_contract(out).unknown
    assert rule == report.rule
    assert (rule.known_images, rule.unknown_images) == (24, 8)
    assert (rule.source, rule.unknown_source) == ("held-out images", "images")
    assert rule.known_accepted >= 0.9
    assert {candidate.score for candidate in report.candidates} == {"similarity", "whitened"}
    aurocs = [candidate.auroc for candidate in report.candidates]
    assert aurocs == sorted(aurocs, reverse=True)
    assert any("8 images have labels" in note for note in report.notes)


def test_the_model_reaches_on_the_device_what_was_chosen(with_whitened, held_out):
    rule = read_contract(with_whitened).unknown
    images = [read_image(s.path) for s in load_dataset(held_out, "all").samples]
    labels = [s.label for s in load_dataset(held_out, "all").samples]
    with FoldedModel.load(with_whitened, provider="cpu") as model:
        results = model.run_batch(images)
    known = [not r.unknown for r, label in zip(results, labels, strict=True) if label != "white"]
    assert np.mean(known) == pytest.approx(rule.known_accepted)
    strange = [not r.unknown for r, label in zip(results, labels, strict=True) if label == "white"]
    assert np.mean(strange) == pytest.approx(rule.unknown_accepted)
    assert {r.answer for r in results if r.unknown} <= {"unknown"}


def test_the_graph_gives_the_score_of_the_label_space(with_whitened, held_out):
    bank = bank_of(onnx.load(with_whitened), read_contract(with_whitened))
    rows = Rows.of(bank)
    space = label_space(rows.units, rows.labels)
    images = [read_image(s.path) for s in load_dataset(held_out, "all").samples]
    with FoldedModel.load(with_whitened, provider="cpu") as model:
        results = model.run_batch(images)
    units = np.stack([r.embedding / np.linalg.norm(r.embedding) for r in results])
    given = [r.known_score for r in results]
    np.testing.assert_allclose(given, space.scores(units), atol=1e-4)


def test_choosing_again_replaces_the_rule_and_its_nodes(with_whitened, folded_file, tmp_path):
    out = tmp_path / "again.onnx"
    choose_threshold(with_whitened, out, accept=0.5, score="similarity")
    assert read_contract(out).unknown.score == "similarity"
    names = {value.name for value in onnx.load(out).graph.output}
    assert names == {value.name for value in onnx.load(folded_file).graph.output}


def test_rows_left_out_are_said_to_be_no_new_images(folded_file, tmp_path):
    report = choose_threshold(folded_file, tmp_path / "out.onnx", accept=0.8)
    assert report.rule.source == "bank rows left out"
    assert report.rule.known_images == 12
    assert any("knows them better than new images" in note for note in report.notes)


def test_a_folder_of_pictures_without_labels_is_unknown(folded_file, held_out, tmp_path):
    strange = any_images(held_out / "white")
    known = load_dataset(held_out, "all")
    known = Dataset(known.name, "all", tuple(s for s in known.samples if s.label != "white"))
    report = choose_threshold(folded_file, tmp_path / "out.onnx", known, strange, accept=0.9)
    assert (report.rule.known_images, report.rule.unknown_images) == (24, 8)


def test_images_of_the_bank_are_refused(folded_file, shared_photos, tmp_path):
    with pytest.raises(FoldcamError, match="all of them being in it"):
        choose_threshold(folded_file, tmp_path / "out.onnx", load_dataset(shared_photos, "all"))
    assert not (tmp_path / "out.onnx").exists()


def test_too_few_images_leave_no_file(folded_file, held_out, tmp_path):
    with pytest.raises(FoldcamError, match="at least 99 of them, and there are 24"):
        choose_threshold(folded_file, tmp_path / "out.onnx", load_dataset(held_out, "all"),
                         accept=0.99)  # fmt: skip
    assert not (tmp_path / "out.onnx").exists()


def test_the_margin_needs_the_runner_up(folded_file, held_out, tmp_path):
    with pytest.raises(FoldcamError, match="--contrast"):
        choose_threshold(folded_file, tmp_path / "out.onnx", load_dataset(held_out, "all"),
                         accept=0.9, score="similarity_and_margin")  # fmt: skip


def test_a_bank_of_one_label_knows_the_similarity_alone(folded_file, held_out, tmp_path):
    bank = unfold(onnx.load(folded_file), read_contract(folded_file)).bank
    bank_one = tmp_path / "one.onnx"
    fold_file(folded_file, replace(bank, labels=(LabelRun("red", 12),)), bank_one)
    known = load_dataset(held_out, "all")
    known = Dataset(known.name, "all", tuple(s for s in known.samples if s.label == "red"))
    report = choose_threshold(bank_one, tmp_path / "out.onnx", known, accept=0.8)
    assert report.rule.score == "similarity"
    assert report.candidates[0].auroc is None
    assert any("one label" in note for note in report.notes)
    with pytest.raises(FoldcamError, match="at least two labels"):
        choose_threshold(bank_one, tmp_path / "x.onnx", known, accept=0.8, score="whitened")


def test_a_continuous_outcome_has_no_rule(loaded, shared_photos, tmp_path):
    samples = load_dataset(shared_photos).samples
    valued = tuple(replace(s, value=float(n), label=str(n)) for n, s in enumerate(samples))
    out = tmp_path / "price.onnx"
    export_model(loaded, Dataset("prices", "train", valued), out)
    with pytest.raises(FoldcamError, match="only a model of labels"):
        choose_threshold(out, tmp_path / "out.onnx")


def test_the_same_bank_folded_otherwise_keeps_its_rule(with_whitened, tmp_path):
    bank = unfold(onnx.load(with_whitened), read_contract(with_whitened)).bank
    options = replace(stored_options(with_whitened), neighbors=2, input_type="uint8")
    report = fold_file(with_whitened, bank, tmp_path / "two.onnx", options)
    assert not report.rule_dropped
    assert report.contract.unknown == read_contract(with_whitened).unknown
    with FoldedModel.load(tmp_path / "two.onnx", provider="cpu") as model:
        assert model(np.zeros((8, 8, 3), np.uint8) + 90).known_score is not None


def test_another_bank_drops_the_rule_and_says_so(
    with_whitened, loaded, shared_photos, tmp_path, foldcam
):
    two = tuple(s for s in load_dataset(shared_photos).samples if s.label != "green")
    bank = tmp_path / "two.safetensors"
    build_bank_file(loaded, Dataset("two", "train", two), bank, GOAL)
    report = fold_file(with_whitened, Bank.load(bank), tmp_path / "two.onnx")
    assert report.rule_dropped
    assert report.contract.unknown is None
    assert "known_score" not in {v.name for v in onnx.load(tmp_path / "two.onnx").graph.output}
    status, out, _ = foldcam("fold", with_whitened, "--bank", bank, "--out", tmp_path / "b.onnx")
    assert status == 0
    assert "chosen for another bank and is left out" in out


def test_a_rule_with_the_margin_is_given_where_the_runner_up_is(
    loaded, shared_photos, held_out, tmp_path
):
    plain = tmp_path / "contrast.onnx"
    options = FoldOptions(contrast=True)
    export_model(loaded, load_dataset(shared_photos), plain, GOAL, options=options)
    choose_threshold(plain, plain, load_dataset(held_out, "all"), accept=0.9,
                     score="similarity_and_margin")  # fmt: skip
    image = read_image(next((held_out / "red").iterdir()))
    with FoldedModel.load(plain, provider="cpu") as model:
        result = model(image)
    margin = result.similarities[0] - result.runner_up_similarity
    assert result.known_score == pytest.approx(result.similarities[0] + margin, abs=1e-6)
    bank = unfold(onnx.load(plain), read_contract(plain)).bank
    without = replace(stored_options(plain), contrast=False)
    assert fold_file(plain, bank, tmp_path / "none.onnx", without).rule_dropped


def test_the_command_prints_the_rule(foldcam, folded_file, held_out, tmp_path):
    status, out, _ = foldcam("threshold", folded_file, "--images", held_out, "--split", "all",
                             "--accept", "0.9", "--out", tmp_path / "out.onnx")  # fmt: skip
    assert status == 0
    assert "unknown if" in out
    assert "of 24 known images" in out


def test_export_chooses_a_rule_too(foldcam, networks, photos, held_out, working_directory):
    many = working_directory / "many"
    for label in ("blue", "green", "red"):
        for number, path in enumerate((held_out / label).iterdir()):
            (many / label).mkdir(parents=True, exist_ok=True)
            (many / label / f"{number}.png").write_bytes(path.read_bytes())
    shutil.copy(Path(networks.__file__), "tinynet.py")
    status, out, err = foldcam("export", "tinynet:make_tiny", "--images", photos, "--size", "32",
                               "--calibrate-unknown", many, "--out", "model.onnx")  # fmt: skip
    assert status == 0, err
    assert "unknown if" in out
    assert read_contract(working_directory / "model.onnx").unknown.known_images >= 19
    # Of too few the model is there, and it is said that it has no rule.
    shutil.rmtree(many / "red")
    shutil.rmtree(many / "green")
    status, _, err = foldcam("export", "tinynet:make_tiny", "--images", photos, "--size", "32",
                             "--calibrate-unknown", many, "--out", "less.onnx")  # fmt: skip
    assert (status, err.count("error:")) == (1, 1)
    assert "less.onnx is written, but has no rule for unknown images" in err
    assert read_contract(working_directory / "less.onnx").unknown is None


def test_the_self_test_of_another_library_compares_the_score(with_whitened):
    with closing(open_backend(with_whitened, "cpu")) as backend:
        found = {each.output: each for each in compare(backend, backend, "fp16")}
    assert found["known_score"].worst == 0.0
    assert found["known_score"].allowed > 0.0


def test_a_bank_that_may_change_has_no_rule(with_whitened, held_out, tmp_path):
    bank = unfold(onnx.load(with_whitened), read_contract(with_whitened)).bank
    live = tmp_path / "live.onnx"
    report = fold_file(with_whitened, bank, live,
                       replace(stored_options(with_whitened), bank_input=True))  # fmt: skip
    assert report.rule_dropped
    with pytest.raises(FoldcamError, match="--unknown-below"):
        choose_threshold(live, tmp_path / "out.onnx", load_dataset(held_out, "all"))
