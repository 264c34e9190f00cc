"""The workstation's commands leave alone what they read."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("model.onnx", "bank.safetensors", "net.pt2", "a.float.onnx", "list.csv"):
        (tmp_path / name).write_bytes(b"mine")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.png").write_bytes(b"mine")
    (tmp_path / "link.onnx").symlink_to("model.onnx")
    return tmp_path


@pytest.mark.parametrize(
    "arguments",
    [
        ["export", "model.onnx", "--images", "photos"],  # the default output has its name
        ["export", "model.onnx", "--images", "photos", "--out", "link.onnx"],
        ["export", "link.onnx", "--images", "photos"],
        ["export", "demo", "--images", "photos", "--weights", "model.onnx"],
        ["export", "demo", "--images", "photos", "--out", "z.onnx", "--bank", "./z.onnx"],
        ["export", "demo", "--images", "photos", "--bank", "photos/1.png"],
        ["export", "demo", "--images", "list.csv", "--bank", "list.csv"],
        ["fold", "model.onnx", "--bank", "bank.safetensors"],
        ["fold", "a.onnx", "--bank", "bank.safetensors", "--out", "bank.safetensors"],
        ["bank", "build", "net.pt2", "--images", "photos", "--out", "net.pt2"],
        ["bank", "add", "bank.safetensors", "demo", "--images", "photos", "--out",
         "bank.safetensors"],
        ["bank", "merge", "bank.safetensors", "b.safetensors", "--out", "bank.safetensors"],
        ["bank", "remove", "bank.safetensors", "--label", "x", "--out", "b.safetensors",
         "--report", "bank.safetensors"],
        ["bank", "stats", "bank.safetensors", "--map", "bank.safetensors"],
        ["train", "demo", "--images", "photos", "--weights", "bank.safetensors", "--out",
         "bank.safetensors"],
        ["verify", "model.onnx", "--images", "photos", "--picture", "photos/1.png"],
        ["verify", "model.onnx", "--against", "link.onnx", "--picture", "model.onnx"],
    ],
)  # fmt: skip
def test_an_output_that_is_an_input_is_refused_before_any_work(arguments, here, foldcam):
    status, out, err = foldcam(*arguments)
    assert (status, out) in ((1, ""), (2, ""))
    assert "give another name" in err or "a name of its own" in err or "no image suffix" in err
    assert {path.read_bytes() for path in here.rglob("*") if path.is_file()} == {b"mine"}


def test_a_network_that_is_not_even_read_is_not_replaced(here, foldcam, tiny_network):
    """`export demo` in a folder that holds a network of the default name."""
    (here / "model.onnx").write_bytes(tiny_network)
    status, _, err = foldcam("export", "demo", "--images", "photos")
    assert status == 1
    assert "is a network without a bank, which would be lost" in err
    assert "model.folded.onnx" in err
    assert (here / "model.onnx").read_bytes() == tiny_network


@pytest.fixture
def tiny_network() -> bytes:
    import onnx
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value], [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    return onnx.load_from_string(model.SerializeToString()).SerializeToString()
