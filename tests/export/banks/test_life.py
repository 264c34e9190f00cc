"""Merging banks, removing images from one, and drawing it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from foldcam.export.banks.bank import Bank
from foldcam.export.banks.join import merge_banks
from foldcam.export.banks.objectives.directions import parse_objective
from foldcam.export.banks.objectives.kernel import KernelObjective
from foldcam.export.banks.picture import bank_map, draw_map
from foldcam.export.banks.removal import remove_from_bank
from foldcam.export.banks.selection import Selection, image_hashes_of, selection_of
from foldcam.export.datasets import Dataset, load_dataset
from foldcam.export.exporting.bank_files import build_bank_file
from foldcam.export.models.spec import LoadedModel
from foldcam.runtime.system.errors import FoldcamError


@pytest.fixture
def samples(shared_photos):
    return load_dataset(shared_photos).samples


@pytest.fixture(scope="module")
def networks_of(networks, preprocessing):
    """`networks_of("Normalized")`: the loaded network of that class, made once."""

    @cache
    def load(name):
        torch.manual_seed(0)
        return LoadedModel(getattr(networks, name)().eval(), preprocessing, name, "")

    return load


@pytest.fixture(scope="module")
def built(networks_of, tmp_path_factory):
    """`built(samples, name, goal, data)`: the bank of these images, made once."""
    folder = tmp_path_factory.mktemp("banks")

    @cache
    def make(samples, name, goal, data):
        dataset, out = Dataset(data, "train", samples), folder / "made.safetensors"
        return build_bank_file(networks_of(name), dataset, out, goal).report.bank

    return make


@pytest.fixture
def build(built, networks_of):
    """`build(samples, "Normalized")`: a bank of these images, and `build.network`."""

    def make(samples, name="Normalized", goal=None, data="photos"):
        make.network = networks_of(name).network()
        return built(tuple(samples), name, goal or parse_objective("all-triplets"), data)

    return make


def _assert_equal(found: Bank, expected: Bank, atol: float = 1e-6):
    np.testing.assert_array_equal(found.image_hashes, expected.image_hashes)
    np.testing.assert_allclose(found.embeddings, expected.embeddings, atol=atol)
    np.testing.assert_allclose(found.row_grad_weights(), expected.row_grad_weights(), atol=1e-5)
    assert found.labels == expected.labels


# Merging


def test_banks_merged_with_their_network_are_one_built_over_all_images(samples, build):
    first, second = build(samples[:8]), build(samples[6:], data="more")
    report = merge_banks([first, second], ["a", "b"], build.network)
    expected = build(samples)
    _assert_equal(report.bank, expected)
    assert (report.duplicates, report.conflicts, report.rederived) == (2, 0, True)
    assert report.notes() == []
    assert report.bank.source.origin.data == "photos + more"
    assert report.bank.source.origin.data_sha256 == expected.source.origin.data_sha256
    assert report.bank.grad_weights.shape == expected.grad_weights.shape


@pytest.mark.parametrize("name", ["Normalized", "FlattenHead"])
def test_merged_banks_have_the_mean_over_all_their_images(name, samples, build):
    first, second = build(samples[:5], name), build(samples[5:], name)
    made = merge_banks([first, second], ["a", "b"], build.network).bank
    expected = build(samples, name)
    assert made.summands == expected.summands != "none"
    np.testing.assert_allclose(made.mean_summands, expected.mean_summands, atol=1e-6)
    unknown = replace(second, mean_summands=None)
    assert merge_banks([first, unknown], ["a", "b"]).bank.mean_summands is None


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"summands": "none"}, r"their sum over positions differs \(pool and none\)"),
        ({"rule": "own"}, r"their grad-weights differs \(transferred and own\)"),
    ],
)
def test_banks_of_two_cuts_are_not_merged(change, sentence, samples, build):
    first = build(samples[:8])
    with pytest.raises(FoldcamError, match=sentence):
        merge_banks([first, replace(first, **change)], ["a", "b"])


@pytest.mark.parametrize(("name", "given"), [("Normalized", False), ("MlpHead", True)])
def test_rows_keep_their_grad_weights_where_they_cannot_be_taken_again(samples, build, name, given):
    first, second = build(samples[:8], name), build(samples[4:], name)
    report = merge_banks([first, second], ["a", "b"], build.network if given else None)
    assert not report.rederived
    assert "keep the grad-weights of their own bank" in report.notes()[0]
    old = dict(
        zip((r.tobytes() for r in first.image_hashes), first.row_grad_weights(), strict=True)
    )
    for image, row in zip(report.bank.image_hashes, report.bank.row_grad_weights(), strict=True):
        if image.tobytes() in old:
            np.testing.assert_array_equal(row, old[image.tobytes()])


def test_one_image_under_two_labels_stays_twice_and_is_told(samples, build):
    other = [replace(samples[0], label="violet"), *samples[4:]]
    report = merge_banks([build(samples[:8]), build(other)], ["a", "b"])
    assert report.bank.rows == 13
    assert (report.duplicates, report.conflicts) == (4, 1)
    assert "1 images are in the bank under more than one label." in report.notes()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"network_sha256": "ab" * 32}, "network differs"),
        ({"objective": "proxy"}, "objective differs"),
        ({"channel_rule": "positive"}, "channel rule differs"),
        ({"compression": "rank:2"}, "compression differs"),
        ({"source": None}, "does not say which layer"),
    ],
)
def test_banks_that_do_not_fit_are_refused_by_what_differs(samples, build, change, what):
    bank = build(samples)
    with pytest.raises(FoldcamError, match=what):
        merge_banks([bank, replace(bank, **change)], ["a", "b"])


def test_banks_of_another_layer_or_of_values_or_compressed_are_refused(samples, build):
    bank = build(samples)
    elsewhere = replace(bank, source=replace(bank.source, layer="other"))
    with pytest.raises(FoldcamError, match="layer differs"):
        merge_banks([bank, elsewhere], ["a", "b"])
    smaller = replace(bank, compression="prototypes:1")
    with pytest.raises(FoldcamError, match="a is compressed"):
        merge_banks([smaller, smaller], ["a", "b"])


# Removing


def _priced(samples):
    return [replace(sample, value=float(n)) for n, sample in enumerate(samples)]


@pytest.mark.parametrize("goal", [None, KernelObjective("kernel:tau=0.1", 0.1)])
def test_with_its_network_the_bank_is_the_one_without_those_images(samples, build, goal):
    samples = _priced(samples) if goal else samples
    bank = build(samples, goal=goal)
    gone = [samples[1], samples[6]]
    report = remove_from_bank(
        bank, Selection(images=image_hashes_of(str(s.path) for s in gone)), build.network
    )
    _assert_equal(report.bank, build([s for s in samples if s not in gone], goal=goal))
    assert report.recomputed
    document = report.document()
    assert document["complete"]
    assert set(document["checks"].values()) == {True}
    assert document["traces_in_aggregates"][0].startswith("None: every row of grad-weights")
    hashes = {hashlib.sha256(s.path.read_bytes()).hexdigest() for s in gone}
    assert {item["image_sha256"] for item in document["removed"]} == hashes
    assert (document["rows_before"], document["rows_after"]) == (12, 10)


def test_a_label_goes_with_its_rows_and_what_others_keep_of_it_is_said(samples, build):
    bank = build(samples)
    report = remove_from_bank(bank, Selection(labels=frozenset(["green", "nobody"])))
    assert [run.name for run in report.bank.labels] == ["blue", "red"]
    assert report.bank.grad_weights.shape[0] == 2
    document = report.document()
    assert document["not_found"] == ["nobody"]
    assert document["complete"]
    assert not document["recomputed"]
    text = " ".join(document["traces_in_aggregates"])
    assert "4 of all 12 images were removed" in text
    assert "pass --model" in text
    np.testing.assert_array_equal(report.bank.grad_weights[0], bank.grad_weights[0])


def test_the_share_of_one_image_in_its_labels_mean_is_said(samples, build):
    report = remove_from_bank(
        build(samples, "MlpHead"), Selection(images=image_hashes_of([str(samples[0].path)])),
        build.network,
    )  # fmt: skip
    text = " ".join(report.traces())
    assert "label 'blue' come from a comparison with the mean over its 4 images, 1 of which" in text
    assert "the head is not linear" in text


def test_the_same_picture_under_another_hash_fails_the_removal(samples, build, tmp_path):
    again = tmp_path / "again.png"
    cv2.imwrite(str(again), cv2.imread(str(samples[0].path)), [cv2.IMWRITE_PNG_COMPRESSION, 0])
    assert again.read_bytes() != samples[0].path.read_bytes()
    bank = build([*samples, replace(samples[0], path=again)])
    report = remove_from_bank(bank, Selection(images=image_hashes_of([str(samples[0].path)])))
    document = report.document()
    assert not document["complete"]
    assert [name for name, held in document["checks"].items() if not held] == [
        "no_embedding_of_theirs"
    ]
    assert document["rows_that_look_alike"][0]["similarity"] == pytest.approx(1)
    assert (
        document["rows_that_look_alike"][0]["image_sha256"]
        == hashlib.sha256(again.read_bytes()).hexdigest()
    )


def test_what_cannot_be_removed_is_one_sentence(samples, build, tmp_path):
    bank = build(samples)
    some = Selection(images=frozenset(["ab" * 32]))
    for made, selection, sentence in [
        (bank, some, "has none of what is to be removed"),
        (bank, Selection(labels=frozenset(["bleu"])), "nothing was changed. Did you mean 'blue'?"),
        (bank, Selection(labels=frozenset(["red", "blue"])), "Fewer than two labels"),
        (replace(bank, image_hashes=None), some, "does not know its image files"),
    ]:
        with pytest.raises(FoldcamError, match=sentence):
            remove_from_bank(made, selection)
    with pytest.raises(FoldcamError, match="neither a readable image file"):
        image_hashes_of([str(tmp_path / "none.png")])


# Drawing


@pytest.mark.parametrize("method", ["tsne", "pca"])
def test_a_map_has_a_point_for_each_row(random_bank, method, tmp_path):
    bank = random_bank(60, 8, 5)
    layout = bank_map(bank, method)
    assert layout.points.shape == (60, 2)
    assert np.isfinite(layout.points).all()
    assert (layout.shown is None) == (method == "tsne")
    draw_map(bank, layout, tmp_path / "map.png")
    height, width, _ = cv2.imread(str(tmp_path / "map.png")).shape
    assert (width, height) == (1080, 840)


def test_a_large_bank_is_drawn_by_a_sample_and_values_by_colour(random_bank, tmp_path, monkeypatch):
    monkeypatch.setattr("foldcam.export.banks.picture._MOST_POINTS", 20)
    bank = random_bank(50, 4, 3, transform="log")
    layout = bank_map(bank, "pca")
    assert len(set(layout.rows.tolist())) == 20
    draw_map(bank, layout, tmp_path / "map.svg")
    assert (tmp_path / "map.svg").stat().st_size > 5000


def test_what_cannot_be_drawn_is_refused(random_bank, tmp_path):
    with pytest.raises(FoldcamError, match="the bank has 2"):
        bank_map(random_bank(2, 4, 3))
    bank = random_bank(9, 4, 3)
    with pytest.raises(FoldcamError, match=r"a map is a \.png"):
        draw_map(bank, bank_map(bank, "pca"), tmp_path / "map.txt")


# The commands


def test_the_commands_merge_remove_and_draw(samples, build, working_directory, foldcam):
    build(samples[:8]).save(Path("a.safetensors"))
    build(samples[4:]).save(Path("b.safetensors"))
    status, out, err = foldcam(
        "bank", "merge", "a.safetensors", "b.safetensors", "--out", "c.safetensors", "--json"
    )
    assert status == 0, err
    assert (json.loads(out)["rows"], json.loads(out)["duplicates"]) == (12, 4)
    Path("list.txt").write_text(f"{samples[0].path}\n\n{samples[1].path}\n")
    status, out, err = foldcam(
        "bank", "remove", "c.safetensors", "--images-from", "list.txt", "--label", "red",
        "--out", "d.safetensors", "--report", "report.json",
    )  # fmt: skip
    assert status == 0, err
    assert "6 of 12 rows stay" in out
    assert "proved       no image hash of theirs" in out
    assert "not covered  The old bank's file" in out
    document = json.loads(Path("report.json").read_text())
    assert document["sha256_after"] == Bank.load(Path("d.safetensors")).sha256()
    status, out, _ = foldcam("bank", "stats", "d.safetensors", "--map", "map.png", "--json")
    assert status == 0
    assert json.loads(out)["map"] == "map.png"
    assert Path("map.png").is_file()


def test_wrong_usage_is_said(samples, build, working_directory, foldcam):
    build(samples).save(Path("a.safetensors"))
    for arguments, sentence in [
        (["merge", "a.safetensors"], "two banks or more"),
        (["remove", "a.safetensors"], "--label, --image or --images-from"),
    ]:
        status, _, err = foldcam("bank", *arguments, "--out", "x.safetensors")
        assert status == 2
        assert sentence in " ".join(err.replace("│", " ").split())
    status, _, err = foldcam("bank", "remove", "a.safetensors", "--images-from", "none.txt",
                             "--out", "x.safetensors")  # fmt: skip
    assert status == 1
    assert "--images-from none.txt cannot be read" in err


# Names


def test_rows_keep_their_files_name_through_every_change(samples, build, tmp_path):
    first, second = build(samples[:8]), build(samples[6:], data="more")
    assert first.names == tuple(s.relative for s in samples[:8])
    assert first.names[:2] == ("blue/0.png", "blue/1.png")
    merged = merge_banks([first, second], ["a", "b"]).bank
    assert merged.names == build(samples).names == tuple(s.relative for s in samples)
    unknown = merge_banks([replace(first, names=None), second], ["a", "b"]).bank
    assert [unknown.names[0], unknown.names[-1]] == ["", "red/3.png"]
    less = remove_from_bank(merged, Selection(names=frozenset(["blue/1.png"])))
    assert less.bank.names == (merged.names[0], *merged.names[2:])
    less.bank.save(tmp_path / "less.safetensors")
    assert Bank.load(tmp_path / "less.safetensors").names == less.bank.names
    assert replace(merged, names=None).sha256() == merged.sha256()


@pytest.mark.parametrize(
    ("asked", "gone"),
    [
        ("blue/1.png", ["blue/1.png"]),
        ("./blue/1.png", ["blue/1.png"]),
        ("blue/*.png", [f"blue/{n}.png" for n in range(4)]),
        ("*/[12].png", [f"{c}/{n}.png" for c in ("blue", "green", "red") for n in (1, 2)]),
        ("**/0.png", [f"{c}/0.png" for c in ("blue", "green", "red")]),
    ],
)
def test_pictures_are_removed_by_name_and_by_pattern(samples, build, asked, gone):
    bank = build(samples)
    document = remove_from_bank(bank, selection_of([], [asked], bank)).document()
    assert [item["name"] for item in document["removed"]] == gone
    assert document["complete"]
    assert document["asked_for"]["names"] == sorted(gone)


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("1.png", r"did you mean '\*\*/1.png' \(3 pictures\)\?"),
        ("blue", r"did you mean 'blue/\*\*' \(4 pictures\)\?"),
        ("bleu/1.png", "did you mean 'blue/1.png'"),
        ("nothing/like/it.bmp", "the first of its images is 'blue/0.png'"),
    ],
)
def test_a_name_of_nothing_is_answered_with_what_may_be_meant(samples, build, asked, meant):
    with pytest.raises(FoldcamError, match=f"no image of the bank is called so: .*{meant}"):
        selection_of([], ["blue/0.png", asked], build(samples))


def test_a_bank_of_before_says_that_it_knows_no_names(samples, build):
    bank = replace(build(samples), names=None)
    with pytest.raises(FoldcamError, match="does not know what its images are called"):
        selection_of([], ["blue/0.png"], bank)


def test_a_file_is_known_by_its_bytes_before_its_name(samples, build, tmp_path, monkeypatch):
    bank = build(samples)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "blue").mkdir()
    there = tmp_path / "blue" / "0.png"
    there.write_bytes(samples[5].path.read_bytes())
    by_bytes = selection_of([], ["blue/0.png"], bank)
    removed = remove_from_bank(bank, by_bytes).document()["removed"]
    assert [item["name"] for item in removed] == [samples[5].relative]
    there.write_bytes(b"of no row")
    assert selection_of([], ["blue/0.png"], bank).names == {"blue/0.png"}


def test_one_of_two_names_of_a_picture_can_go_and_the_other_is_said(samples, build):
    wrong = replace(samples[0], label="red", relative="red/copy.png")
    bank = build([*samples, wrong])
    report = remove_from_bank(bank, selection_of([], ["red/copy.png"], bank))
    document = report.document()
    assert document["complete"]
    assert [item["name"] for item in document["removed"]] == ["red/copy.png"]
    assert [item["name"] for item in document["same_picture_stays"]] == ["blue/0.png"]
