"""`foldcam bank`, `fold` and `verify --against`, from flags to files and exit statuses."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from safetensors.numpy import load_file, save_file

from foldcam.export.banks import embedding_pass
from foldcam.export.banks.bank import Bank
from foldcam.export.datasets import reading
from foldcam.runtime.contract.onnx_file import read_contract

COMMANDS = {
    "bank": "foldcam.export.commands.bank:app",
    "export": "foldcam.export.commands.export:app",
    "fold": "foldcam.export.commands.fold:app",
    "verify": "foldcam.export.commands.verify:app",
}


@pytest.fixture
def model(model):
    """A network that commands take by this name."""
    return f"{model}:make"


@pytest.fixture
def parts(shared_photos, working_directory):
    """`old/` with blue and green, `new/` with red and one more of blue."""
    for label, place in (("blue", "old"), ("green", "old"), ("red", "new")):
        shutil.copytree(shared_photos / label, working_directory / place / label)
    (working_directory / "new" / "blue").mkdir()
    shutil.move(working_directory / "old" / "blue" / "3.png", working_directory / "new" / "blue")
    return working_directory


@pytest.fixture
def bank(model, parts, foldcam, kept_files):
    path = parts / "old.safetensors"
    if path.name not in kept_files:
        status, out, err = foldcam("bank", "build", model, "--images", "old", "--out",
                                   path.name, "--json")  # fmt: skip
        assert status == 0, err
        document = json.loads(out)
        assert (document["rows"], document["grad_weight_rows"]) == (7, 2)
        assert document["labels"] == {"blue": 3, "green": 4}
        assert document["origin"]["data"] == "old"
        assert "loading my weights" in err
        kept_files[path.name] = path.read_bytes()
    path.write_bytes(kept_files[path.name])
    return path


def _added(foldcam, model, *flags):
    return foldcam("bank", "add", "old.safetensors", model, "--images", "new", "--out",
                   "all.safetensors", *flags)  # fmt: skip


def test_a_bank_is_built_extended_and_folded(bank, model, foldcam, shared_photos):
    # The lone blue image is no singleton: the bank knows blue.
    status, out, err = _added(foldcam, model, "--json")
    assert status == 0, err
    document = json.loads(out)
    assert (document["rows"], document["added"], document["rederived"]) == (12, 5, True)
    assert document["labels"] == {"blue": 4, "green": 4, "red": 4}
    assert (document["known"], document["skipped"], document["notes"]) == ([], [], [])
    export = ("export", model, "--images", shared_photos, "--out", "direct.onnx")
    assert foldcam(*export, "--bank", "direct.safetensors")[0] == 0
    np.testing.assert_allclose(
        Bank.load(Path("all.safetensors")).grad_weights,
        Bank.load(Path("direct.safetensors")).grad_weights,
        atol=1e-6,
    )
    status, out, err = foldcam("fold", "direct.onnx", "--bank", "all.safetensors", "--json")
    assert status == 0, err
    assert json.loads(out)["replaced_rows"] == 12
    status, out, _ = foldcam("verify", "model.onnx", "--images", "new", "--against", "direct.onnx")
    assert status == 0
    assert "direct.onnx (fp32, onnxruntime" in out
    assert read_contract(Path("model.onnx")).origin.data == "old + new"


def test_export_keeps_the_same_bank_as_bank_build(bank, model, foldcam):
    assert foldcam("export", model, "--images", "old", "--bank", "e.safetensors")[0] == 0
    assert Path("e.safetensors").read_bytes() == bank.read_bytes()


def test_statistics_are_told(bank, foldcam):
    status, out, _ = foldcam("bank", "stats", bank)
    assert status == 0
    for text in (
        "rows         7",
        "4 numbers, norm 1",
        "6 channels, 2 distinct rows",
        "all-triplets",
        "2: blue (3), green (4)",
        "layer trunk",
        "old (train)",
    ):
        assert text in out
    status, out, _ = foldcam("bank", "stats", bank, "--json")
    document = json.loads(out)
    assert document["sha256"] == Bank.load(bank).sha256()
    assert document["preprocessing"]["width"] == 16
    assert (document["embedding_size"], document["channels"]) == (4, 6)


def test_values_have_their_own_statistics(model, parts, foldcam):
    lines = [f"{path},{1000 * 2**n}" for n, path in enumerate(sorted(Path("old").rglob("*.png")))]
    Path("prices.csv").write_text("path,label\n" + "\n".join(lines[:5]) + "\n")
    Path("more.csv").write_text("path,label\n" + "\n".join(lines[5:]) + "\n")
    build = ("bank", "build", model, "--images", "prices.csv", "--continuous", "--log")
    assert foldcam(*build)[0] == 0
    status, out, err = foldcam("bank", "add", "bank.safetensors", model, "--images", "more.csv",
                               "--out", "all.safetensors")  # fmt: skip
    assert status == 0, err
    assert "from 1,000 to 64,000, median 8,000" in out
    status, _, err = foldcam("bank", "add", "bank.safetensors", model, "--images", "new",
                             "--out", "x.safetensors")  # fmt: skip
    assert status == 1
    assert "the label 'blue' is not a finite number" in err


def test_images_that_are_there_already_and_unreadable_ones_are_told(bank, model, foldcam):
    shutil.copy("old/green/0.png", "new/red/again.png")
    Path("new/red/broken.png").write_bytes(b"nonsense")
    status, out, _ = _added(foldcam, model)
    assert status == 0
    assert "12, 5 new" in out
    assert "1 images were in the bank already" in out
    assert "skipped new/red/broken.png" in out


def test_an_interrupted_build_resumes_and_cleans_up(model, parts, foldcam, monkeypatch):
    monkeypatch.setattr(embedding_pass, "BLOCK", 3)
    honest, seen = reading.image_bytes, []

    def read(path):
        seen.append(path)
        if len(seen) == 5:
            raise KeyboardInterrupt
        return honest(path)

    monkeypatch.setattr(reading, "image_bytes", read)
    build = ("bank", "build", model, "--images", "old", "--out", "deep/b.safetensors")
    status, _, err = foldcam(*build)
    assert status == 130
    assert "Traceback" not in err
    assert [path.name for path in Path("deep").iterdir()] == [".b.safetensors.resume"]
    assert foldcam(*build)[0] == 0
    # One block of three was kept, and the head is tried on its images.
    assert len(seen) == 5 + 4 + 3
    assert [path.name for path in Path("deep").iterdir()] == ["b.safetensors"]


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["bank", "add", "old.safetensors", "{other}", "--images", "new", "--out",
          "x.safetensors"], 1, "made by another network: it names"),
        (["bank", "add", "old.safetensors", "{wrapped}", "--images", "new", "--out",
          "x.safetensors"], 1, "The bank was made with another network: cli_net:wrapped"),
        (["bank", "stats", "folder.safetensors"], 1, "folder.safetensors is a folder"),
        (["bank", "add", "old.safetensors", "{model}", "--images", "old", "--out",
          "x.safetensors"], 1, "All 7 images are in the bank already"),
        (["bank", "add", "none.safetensors", "{model}", "--images", "new", "--out",
          "x.safetensors"], 1, "none.safetensors does not exist"),
        (["bank", "add", "older.safetensors", "{model}", "--images", "new", "--out",
          "x.safetensors"], 1, "build it again with foldcam bank build"),
        (["bank", "add", "old.safetensors", "{model}", "--images", "new", "--out", "x.bin"],
         1, "a bank is a .safetensors file"),
        (["bank", "build", "{model}", "--images", "old", "--out", "folder.safetensors"],
         1, "is a folder"),
        (["bank", "build", "{model}", "--images", "old", "--log"], 2, "--log needs --continuous"),
        (["bank", "build", "{model}", "--images", "old", "--channels", "some"], 2, "--channels"),
        (["bank", "stats", "junk.safetensors"], 1, "not a bank, or it is damaged"),
        (["fold", "m.onnx", "--bank", "older.safetensors"], 1, "build it again"),
        (["fold", "m.onnx", "--bank", "foreign.safetensors"], 1,
         "made by the network abababababab..."),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_and_leaves_nothing_behind(
    arguments, status, sentence, bank, model, foldcam, folded_file, parts
):
    (parts / "folder.safetensors").mkdir()
    (parts / "junk.safetensors").write_bytes(b"junk")
    shutil.copy(folded_file, "m.onnx")
    held = Bank.load(bank)
    replace(held, source=None).save(parts / "older.safetensors")
    replace(held, network_sha256="ab" * 32).save(parts / "foreign.safetensors")
    before = sorted(parts.rglob("*"))
    names = {"model": model, "other": model.replace(":make", ":other")}
    names["wrapped"] = model.replace(":make", ":wrapped")
    found, out, err = foldcam(*(text.format(**names) for text in arguments))
    assert (found, out) == (status, "")
    assert sentence in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err
    after = [p for p in sorted(parts.rglob("*")) if "__pycache__" not in str(p)]
    assert after == [p for p in before if "__pycache__" not in str(p)]


def test_a_file_of_the_first_banks_is_read_and_not_folded(bank, foldcam, folded_file):
    """Before banks knew their source, a file was the same without it."""
    with_header = Bank.load(bank)
    arrays = load_file(bank)
    del arrays["image_hashes"]
    header = {
        "schema_version": 1,
        "labels": [[run.name, run.count] for run in with_header.labels],
        "objective": "all-triplets",
        "channel_rule": "all",
        "compression": "none",
        "network_sha256": with_header.network_sha256,
    }
    save_file(arrays, "first.safetensors", metadata={"foldcam.bank": json.dumps(header)})
    status, out, _ = foldcam("bank", "stats", "first.safetensors")
    assert status == 0
    assert "source       unknown" in out
    status, _, err = foldcam("fold", folded_file, "--bank", "first.safetensors")
    assert status == 1
    assert "build it again" in err


@pytest.fixture
def exported(exported):
    """As it is called in the working directory."""
    return Path(exported.name)


PAIR_KEYS = {
    "name", "library", "precision", "bank", "images", "embedding_cosine_mean",
    "embedding_cosine_worst", "same_neighbor", "label_agreement",
    "neighbor_similarity_difference_worst", "similarity_difference_worst",
    "heatmaps_compared", "heatmaps_blank", "heatmap_correlation_mean", "heatmap_correlation_p5",
    "heatmap_correlation_worst",
    "heatmap_difference_mean", "heatmap_difference_worst", "heatmaps_vary", "finite", "not_finite",
    "rows_exist", "bank_intact", "estimate_difference_worst",
    "contribution_difference_worst", "contrast_difference_worst", "worst_image", "limits",
    "failures", "passed",
}  # fmt: skip


def test_verify_prints_one_json_document(exported, shared_photos, foldcam):
    shutil.copy(exported, "copy.onnx")
    status, out, _ = foldcam("verify", exported, "--against", "copy.onnx", "--against", "copy.onnx",
                             "--images", shared_photos, "--most", 5, "--trust-origin",
                             "--json")  # fmt: skip
    assert status == 0
    document = json.loads(out)
    keys = {"model", "reference", "network_compared", "frame_difference", "against", "skipped",
            "notes"}  # fmt: skip
    assert set(document) == PAIR_KEYS | keys
    assert [set(pair) for pair in document["against"]] == [PAIR_KEYS, PAIR_KEYS]
    assert document["reference"] == "the network it came from"
    assert document["images"] == document["against"][0]["images"] == 5
    assert document["label_agreement"] == 1


def test_a_network_that_is_gone_is_told_and_what_is_there_is_verified(
    exported, model, foldcam, shared_photos
):
    Path(model.replace(":make", ".py")).unlink()
    sys.modules.pop(model.partition(":")[0], None)
    status, out, _ = foldcam("verify", exported, "--images", shared_photos)
    assert status == 0
    assert "against its own network, unfolded" in out
    assert "note: Only what was folded onto the network is verified" in out
    assert foldcam("verify", exported, "--trust-origin")[0] == 1
    status, _, err = foldcam("verify", exported, "--against", model)
    assert status == 1
    assert "no module" in err


def test_one_doctored_file_among_others_is_named(exported, foldcam, shared_photos):
    made = onnx.load(exported)
    tensor = next(t for t in made.graph.initializer if t.name == "foldcam.bank_grad_weights")
    value = np.roll(numpy_helper.to_array(tensor), 1, axis=0)
    tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    onnx.save(made, "bad.onnx")
    arguments = ("verify", exported, "--against", "bad.onnx", "--images", shared_photos)
    status, out, _ = foldcam(*arguments)
    assert status == 3
    assert "FAILED: bad.onnx: " in out
    status, out, _ = foldcam(*arguments, "--json")
    document = json.loads(out)
    assert (document["passed"], document["against"][0]["passed"]) == (False, False)
    assert not document["against"][0]["bank_intact"]


def test_two_reference_networks_are_wrong_usage(exported, model, foldcam):
    status, _, err = foldcam("verify", exported, "--against", model, "--against", "demo")
    assert status == 2
    assert "names two networks" in " ".join(err.replace("│", " ").split())
    status, _, err = foldcam("verify", exported, "--against", "none.onnx")
    assert status == 1
    assert "none.onnx does not exist" in err
