"""`foldcam verify`, from flags to exit statuses."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from foldcam.runtime.contract.onnx_file import read_contract


def test_export_then_verify(exported, model, shared_photos, foldcam, working_directory):
    contract = read_contract(exported)
    assert contract.origin.network == f"{model}:make"
    assert contract.bank.grad_weight_rows == 3
    status, out, _ = foldcam("verify", exported, "--images", shared_photos, "--trust-origin")
    assert status == 0
    assert "passed" in out
    assert [p.name for p in working_directory.iterdir() if p.name.startswith(".")] == []


def test_verify_has_a_word_before_it_loads_anything_large(
    exported, shared_photos, foldcam, monkeypatch
):
    def interrupt(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("foldcam.export.models.named.load_origin", interrupt)
    status, out, err = foldcam(
        "verify", exported, "--trust-origin", "--images", shared_photos, "--json"
    )
    assert status == 130
    assert out == ""
    assert f"Verifying {exported} ..." in " ".join(err.split())


def test_weights_and_programs_are_found_beside_the_model(
    model, networks, shared_photos, foldcam, working_directory
):
    torch.save(networks.make_tiny(5).state_dict(), working_directory / "w.pt")
    status, _, err = foldcam(
        "export", f"{model}:make", "--images", shared_photos, "--weights", "w.pt"
    )
    assert status == 0, err
    arguments = ("verify", "model.onnx", "--json")
    document = json.loads(foldcam(*arguments, "--trust-origin")[1])
    assert (document["network_compared"], document["notes"]) == (True, [])
    (working_directory / "w.pt").unlink()
    # What the user asks for must be there.
    status, _, err = foldcam(*arguments, "--trust-origin")
    assert status == 1
    assert "neither beside it nor in the working directory" in err
    assert "--weights PATH" in err
    status, _, err = foldcam(*arguments, "--against", f"{model}:make", "--weights", "w.pt")
    assert status == 1
    assert "w.pt does not exist" in err


def test_verify_without_a_network_says_what_it_could_not_show(exported, model, foldcam):
    status, out, _ = foldcam("verify", exported)
    assert status == 0
    assert "against its own network, unfolded" in out
    assert f"--against MODEL (the file says {model}:make; --trust-origin takes its word)" in out
    assert out.endswith("passed, as far as the file itself can show\n")
    document = json.loads(foldcam("verify", exported, "--json")[1])
    assert (document["passed"], document["network_compared"]) == (True, False)
    assert foldcam("verify", exported, "--against", f"{model}:make")[1].endswith("passed\n")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--weights", "w.pt"), "--weights belongs to a network"),
        (("--output", "y"), "--output belongs to a network"),
        (("--against", "demo", "--trust-origin"), "leave --trust-origin out"),
    ],
)
def test_flags_of_a_network_that_nobody_named_are_wrong_usage(flags, sentence, exported, foldcam):
    status, _, err = foldcam("verify", exported, *flags)
    assert status == 2
    assert sentence in " ".join(err.replace("│", " ").split())


def test_a_tampered_file_fails_the_gate(exported, foldcam):
    made = onnx.load(exported)
    tensor = next(t for t in made.graph.initializer if t.name == "foldcam.bank_grad_weights")
    value = np.roll(numpy_helper.to_array(tensor), 1, axis=0)
    tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    onnx.save(made, exported)
    status, out, _ = foldcam("verify", exported, "--json")
    assert status == 3
    document = json.loads(out)
    assert document["passed"] is False
    assert document["failures"]
    status, out, _ = foldcam("verify", exported)
    assert status == 3
    assert "FAILED" in out


def test_another_network_is_refused_in_one_sentence(exported, model, foldcam):
    status, out, err = foldcam("verify", exported, "--against", f"{model}:other", "--json")
    assert status == 1
    assert out == ""
    assert "was made from another network" in err
    assert "Traceback" not in err


def test_a_file_that_is_not_a_folded_model_cannot_be_verified(
    foldcam, working_directory, hand_built
):
    onnx.save(hand_built.embedding_model(), working_directory / "plain.onnx")
    (working_directory / "junk.onnx").write_bytes(b"junk")
    for name, sentence in (
        ("plain.onnx", "not a folded one"),
        ("junk.onnx", "not an ONNX file"),
        ("none.onnx", "does not exist"),
    ):
        status, out, err = foldcam("verify", name)
        assert (status, out) == (1, "")
        assert sentence in err
