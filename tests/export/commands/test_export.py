"""`foldcam export`, from flags to files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import onnx
import pytest

from foldcam.export.banks import embedding_pass
from foldcam.export.banks.bank import Bank
from foldcam.export.datasets import reading
from foldcam.runtime.contract.onnx_file import read_contract


def test_the_commands_are_declared(commands):
    text = (Path(__file__).resolve().parents[3] / "pyproject.toml").read_text()
    assert all(f'{name} = "{value}"\n' in text for name, value in commands.items())


def test_the_chosen_output_of_several_is_remembered(
    model, shared_photos, foldcam, working_directory
):
    arguments = ("export", f"{model}:several", "--images", shared_photos)
    status, _, err = foldcam(*arguments)
    assert status == 1
    assert "choose one with --output: mine [N x 3], other [N x 3]" in " ".join(err.split())
    status, _, err = foldcam(*arguments, "--output", "other")
    assert status == 0, err
    contract = read_contract(working_directory / "model.onnx")
    assert contract.origin.network == f"{model}:several#other"
    assert foldcam("verify", "model.onnx", "--images", shared_photos, "--trust-origin")[0] == 0
    status, _, err = foldcam("verify", "model.onnx", "--against", f"{model}:several#mine")
    assert status == 1
    assert "was made from another network" in " ".join(err.split())


def test_export_says_that_it_kept_the_bank(model, shared_photos, foldcam, working_directory):
    arguments = ("export", f"{model}:make", "--images", shared_photos)
    status, out, err = foldcam(*arguments, "--bank", "rows.safetensors")
    assert status == 0, err
    assert re.search(r"bank file +rows\.safetensors: \d", out)
    assert (working_directory / "rows.safetensors").is_file()
    status, out, _ = foldcam(*arguments)
    assert "bank file" not in out
    assert json.loads(foldcam(*arguments, "--json")[1])["bank_file"] is None


def test_export_writes_the_gallery_that_is_asked_for(
    model, shared_photos, foldcam, working_directory
):
    arguments = ("export", f"{model}:make", "--images", shared_photos)
    assert foldcam(*arguments)[0] == 0
    assert not (working_directory / "model.gallery").exists()
    status, out, err = foldcam(*arguments, "--gallery", "--json")
    assert status == 0, err
    assert json.loads(out)["gallery_file"] == "model.gallery"
    assert (working_directory / "model.gallery").is_file()


def test_export_prints_one_json_document(model, shared_photos, foldcam):
    status, out, _ = foldcam(
        "export", f"{model}:flat", "--images", shared_photos, "--bank", "b.safetensors", "--json"
    )
    assert status == 0
    document = json.loads(out)
    assert document["rows"] == 12
    assert document["labels"] == 3
    # W_p A_p of the flattened map: as many numbers a position as the embedding has.
    assert document["feature_map"] == [3, 5, 7]
    assert document["explanation"] == {
        "summands": "linear",
        "baseline": "mean",
        "grad_weights": "transferred",
        "query": 0,
    }
    assert document["optional_outputs"] == ["contribution"]
    assert document["head_linear"] is True
    assert document["skipped"] == []
    assert not any("positions differently" in note for note in document["notes"])
    bank = Bank.load(Path("b.safetensors"))
    assert bank.rows == 12
    assert (bank.summands, bank.rule) == ("linear", "transferred")
    assert bank.mean_summands.shape == (3, 5, 7)


def test_a_layer_further_ahead_is_cut_where_it_was_asked_for(model, shared_photos, foldcam):
    arguments = ("export", f"{model}:flat", "--images", shared_photos, "--json")
    status, out, _ = foldcam(*arguments, "--layer", "trunk.conv")
    assert status == 0
    document = json.loads(out)
    assert document["layer"] == "trunk.conv"
    assert document["feature_map"] == [4, 5, 7]
    assert document["explanation"]["summands"] == "none"
    assert any("positions differently" in note for note in document["notes"])
    assert foldcam("verify", "model.onnx")[0] == 0


def test_what_the_network_prints_goes_to_standard_error(model, shared_photos, foldcam):
    arguments = ("export", f"{model}:make", "--images", shared_photos)
    _, out, err = foldcam(*arguments, "--json")
    json.loads(out)
    assert "loading my weights" in err
    _, out, err = foldcam("verify", "model.onnx", "--trust-origin", "--json")
    assert json.loads(out)["passed"] is True
    assert "loading my weights" in err


def test_every_flag_reaches_the_file(model, shared_photos, foldcam, working_directory):
    flags = "--transfer 2 --neighbors 4 --heatmap-size 30x20 --input uint8 --channels positive"
    flags += " --objective sampled:3 --layer trunk --color bgr --resize letterbox --mean 0.5"
    flags += " --std 0.25 --opset 17 --batch-size 5 --size 16x12 --out deep/er/m.onnx"
    status, _, err = foldcam("export", f"{model}:make", "--images", shared_photos, *flags.split())
    assert status == 0, err
    out = working_directory / "deep" / "er" / "m.onnx"
    contract = read_contract(out)
    assert (contract.transfer, contract.neighbors) == (2, 4)
    assert contract.heatmap_size == (20, 30)
    assert contract.input_type == "uint8"
    assert (contract.bank.channel_rule, contract.bank.objective) == ("positive", "sampled:3")
    assert contract.layer == "trunk"
    recipe = contract.preprocessing
    assert (recipe.width, recipe.height, recipe.color, recipe.resize) == (
        16,
        12,
        "bgr",
        "letterbox",
    )
    assert (recipe.mean, recipe.std) == ((0.5,) * 3, (0.25,) * 3)
    assert foldcam("verify", out, "--images", shared_photos, "--trust-origin")[0] == 0


def test_half_precision_reaches_the_file_and_verifies(
    model, shared_photos, foldcam, working_directory
):
    for precision in ("fp32", "fp16"):
        flags = f"--precision {precision} --opset 17 --out {precision}.onnx --json"
        status, out, err = foldcam(
            "export", f"{model}:make", "--images", shared_photos, *flags.split()
        )
        assert status == 0, err
        assert json.loads(out)["precision"] == precision
        assert read_contract(working_directory / f"{precision}.onnx").precision == precision
        assert foldcam("verify", f"{precision}.onnx", "--images", shared_photos)[0] == 0
    weights = [
        {
            t.data_type
            for t in onnx.load(f"{p}.onnx").graph.initializer
            if t.name.startswith("trunk")
        }
        for p in ("fp32", "fp16")
    ]
    assert weights == [{onnx.TensorProto.FLOAT}, {onnx.TensorProto.FLOAT16}]


def test_how_the_bank_is_stored_is_reported_with_what_it_costs(
    model, shared_photos, foldcam, working_directory
):
    arguments = ("export", f"{model}:make", "--images", shared_photos, "--objective", "sampled:4")
    flags = ("--search", "lists:1", "--compress", "rank:2", "--bank-precision", "float16")
    status, out, err = foldcam(*arguments, *flags, "--json")
    assert status == 0, err
    document = json.loads(out)
    assert document["compression"] == "rank:2"
    storage, fidelity = document["storage"], document["fidelity"]
    assert (storage["search"], storage["lists"], storage["probes"]) == ("lists", 1, 1)
    assert (storage["embeddings"], storage["grad_weights"]) == ("float16", "float16")
    assert storage["rank"] == 2
    assert fidelity["queries"] == 12
    assert fidelity["same_row"] == fidelity["same_label"] == 1
    assert 0.5 < fidelity["grad_weights_cosine_worst"] < 1
    assert foldcam("verify", "model.onnx", "--images", shared_photos)[0] == 0
    _, out, _ = foldcam(*arguments, *flags)
    assert "1 of 1 lists searched, 12 rows each; embeddings float16" in out
    assert "against all rows in float32: same row 100.0%, same label 100.0%" in out
    document = json.loads(foldcam(*arguments, "--json")[1])
    assert (document["compression"], document["storage"]) == ("none", None)
    assert document["fidelity"] is None


def test_skipped_files_are_counted_and_named_at_the_end(model, photos, foldcam):
    (photos / "red" / "0.png").write_bytes(b"nonsense")
    arguments = ("export", f"{model}:make", "--images", photos)
    status, out, _ = foldcam(*arguments)
    assert status == 0
    assert "skipped" in out
    assert str(photos / "red" / "0.png") in out.replace("\n", "")
    status, out, _ = foldcam(*arguments, "--json")
    (skipped,) = json.loads(out)["skipped"]
    assert skipped["path"] == str(photos / "red" / "0.png")


def test_an_interrupted_export_resumes_and_cleans_up(
    model, shared_photos, foldcam, working_directory, monkeypatch
):
    monkeypatch.setattr(embedding_pass, "BLOCK", 3)
    honest, seen = reading.image_bytes, []

    def read(path):
        seen.append(path)
        if len(seen) == 8:
            raise KeyboardInterrupt
        return honest(path)

    monkeypatch.setattr(reading, "image_bytes", read)
    arguments = ("export", f"{model}:make", "--images", shared_photos)
    status, out, err = foldcam(*arguments)
    assert (status, out) == (130, "")
    assert "Traceback" not in err
    assert not (working_directory / "model.onnx").exists()
    assert (working_directory / ".model.onnx.resume").is_dir()
    assert foldcam(*arguments)[0] == 0
    # Two blocks of three were kept, and the head is tried on the images of the first.
    assert len(seen) == 8 + 6 + 3
    assert not list(working_directory.glob(".*"))


def test_a_continuous_outcome_is_exported_and_verified(model, prices, shared_photos, foldcam):
    arguments = ("export", f"{model}:make", "--images", prices, "--continuous", "--log")
    status, out, err = foldcam(*arguments, "--json", "--bank", "b.safetensors")
    assert status == 0, err
    document = json.loads(out)
    outcome = document["outcome"]
    assert (outcome["tau"], outcome["transform"]) == (0.1, "log")
    assert outcome["low"] == pytest.approx(1000, rel=1e-5)
    assert outcome["high"] == pytest.approx(1000 * 2**11, rel=1e-5)
    assert (document["labels"], document["rows"]) == (0, 12)
    assert document["objective"] == "kernel:tau=0.1"
    assert Bank.load(Path("b.safetensors")).outcome.transform == "log"
    status, out, _ = foldcam("verify", "model.onnx", "--images", shared_photos)
    assert status == 0
    assert "estimate difference" in out
    status, out, _ = foldcam(*arguments)
    assert status == 0
    assert "with values from 1,000 to 2,048,000" in out


def test_the_same_export_gives_the_same_bytes(model, prices, foldcam, torch_exports):
    arguments = ("export", f"{model}:make", "--images", prices, "--continuous", "--out")
    assert foldcam(*arguments, "a.onnx")[0] == 0
    assert torch_exports
    torch_exports.clear()
    assert foldcam(*arguments, "b.onnx")[0] == 0
    assert Path("a.onnx").read_bytes() == Path("b.onnx").read_bytes()


def test_a_classifier_is_exported_without_images_and_verified(foldcam, model, classes, photos):
    status, out, err = foldcam(
        "export", f"{model}:flat", "--classes", classes, "--out", "c.onnx", "--json"
    )
    assert status == 0, err
    report = json.loads(out)
    assert (report["classes"], report["scores"]) == (3, "logits")
    assert read_contract(Path("c.onnx")).labels[2].name == "class 2"
    status, out, _ = foldcam("verify", "c.onnx")
    assert status == 0
    assert "score off by" in out
    assert "similarity" not in out
    Path("x.bank").write_bytes(b"")
    status, _, err = foldcam("bank", "build", "c.onnx", "--images", photos, "--out", "x.bank")
    assert status == 1
    assert "folded already" in err


def test_a_model_of_whole_frames_is_exported_and_verified(
    model, shared_photos, foldcam, working_directory
):
    arguments = ("export", f"{model}:make", "--images", shared_photos, "--frame", "64x48")
    status, out, err = foldcam(*arguments, "--gallery", "--resize", "letterbox", "--json")
    assert status == 0, err
    contract = read_contract(working_directory / "model.onnx")
    assert (contract.frame, contract.input_type) == ((64, 48), "uint8")
    status, out, err = foldcam("verify", "model.onnx", "--images", shared_photos, "--trust-origin")
    assert status == 0, err
    assert re.search(r"input of frames +off by [01] of 255 grey levels", out)
    for wrong, expected in (("64", 2), ("64x48x3", 2), ("64x0", 1), ("99999x9", 1)):
        assert foldcam(*arguments[:-1], wrong)[0] == expected
