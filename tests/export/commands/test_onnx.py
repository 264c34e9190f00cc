"""`foldcam export NETWORK.onnx`, `verify`, and what the file's user is told."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from foldcam.export.models.spec import load_model
from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.errors import FoldcamError


@pytest.mark.parametrize(
    "style", ["face", "channels last", "transformer", "squeeze and excitation", "two pools"]
)
def test_a_file_from_elsewhere_is_folded_and_verified(
    style, onnx_files, shared_photos, foldcam, working_directory
):
    onnx_files.save(onnx_files.STYLES[style](), working_directory)
    size = ("--size", "16x12")
    status, out, err = foldcam(
        "export", "embedding.onnx", "--images", shared_photos, "--json", *size
    )
    assert status == 0, err
    summary = json.loads(out)
    assert summary["rows"] == 12
    contract = read_contract(working_directory / "model.onnx")
    assert contract.origin.network == "embedding.onnx"
    onnx.checker.check_model(str(working_directory / "model.onnx"), full_check=True)
    status, out, err = foldcam(
        "verify", "model.onnx", "--images", shared_photos, "--trust-origin", "--json"
    )
    assert status == 0, err
    assert json.loads(out)["passed"]


def test_another_file_is_not_taken_for_the_network(
    onnx_files, shared_photos, foldcam, working_directory
):
    onnx_files.save(onnx_files.plain(), working_directory)
    assert foldcam("export", "embedding.onnx", "--images", shared_photos)[0] == 0
    other = onnx_files.plain(w1=onnx_files.weights(9, 4, 3))
    onnx_files.save(other, working_directory)
    status, _, err = foldcam("verify", "model.onnx", "--images", shared_photos, "--trust-origin")
    assert status == 1
    assert "was made from another network" in err


def test_one_output_of_several_is_chosen_and_remembered(
    onnx_files, shared_photos, foldcam, working_directory
):
    onnx_files.save(onnx_files.plain(outputs={"y": ("N", 3), "f": ("N", 4)}), working_directory)
    status, _, err = foldcam("export", "embedding.onnx", "--images", shared_photos)
    assert status == 1
    assert "--output" in err
    status, _, err = foldcam("export", "embedding.onnx", "--images", shared_photos, "--output", "f")
    assert status == 0, err
    contract = read_contract(working_directory / "model.onnx")
    assert contract.origin.network == "embedding.onnx#f"
    assert contract.bank.embedding_size == 4
    assert foldcam("verify", "model.onnx", "--images", shared_photos, "--trust-origin")[0] == 0


def test_a_head_without_a_gradient_is_folded_with_a_fitted_map(
    onnx_files, shared_photos, foldcam, working_directory
):
    head = ["GlobalAveragePool map -> p", "Flatten p -> f", "Gemm f,w1 -> g"]
    head.append("CumSum g,one -> y reverse=1")
    made = onnx_files.plain(head, one=np.array(1, np.int64))
    onnx_files.save(made, working_directory)
    status, _, err = foldcam("export", "embedding.onnx", "--images", shared_photos)
    assert status == 1
    assert "CumSum (node 'n_y')" in err
    assert "--head fitted" in err
    assert "Traceback" not in err
    arguments = ("embedding.onnx", "--images", shared_photos, "--head", "fitted", "--json")
    status, out, err = foldcam("export", *arguments)
    assert status == 0, err
    notes = json.loads(out)["notes"]
    assert any("--head fitted" in note for note in notes)
    assert any("ImageNet's mean" in note for note in notes)
    status, out, _ = foldcam("export", *arguments, "--mean", "0.5", "--std", "0.5")
    assert not any("ImageNet's mean" in note for note in json.loads(out)["notes"])
    assert foldcam("verify", "model.onnx", "--images", shared_photos, "--trust-origin")[0] == 0


def test_a_head_that_is_neither_exact_nor_fitted_is_wrong_usage(shared_photos, foldcam):
    assert foldcam("export", "demo", "--images", shared_photos, "--head", "linear")[0] == 2


def test_the_size_is_the_files_own(onnx_files, tmp_path):
    loaded = load_model(str(onnx_files.save(onnx_files.plain(), tmp_path)))
    assert (loaded.preprocessing.height, loaded.preprocessing.width) == onnx_files.SIZE
    open_size = load_model(str(onnx_files.save(onnx_files.two_pools(), tmp_path, "b.onnx")))
    assert open_size.preprocessing == Preprocessing()


def test_a_file_is_no_torch_module(onnx_files, tmp_path):
    loaded = load_model(str(onnx_files.save(onnx_files.plain(), tmp_path)))
    with pytest.raises(FoldcamError, match=r"embedding\.onnx is an ONNX file"):
        _ = loaded.module


def test_flags_that_do_not_fit_the_model_are_refused(onnx_files, tmp_path):
    path = onnx_files.save(onnx_files.plain(), tmp_path)
    with pytest.raises(FoldcamError, match="carries its weights"):
        load_model(str(path), tmp_path / "w.safetensors")
