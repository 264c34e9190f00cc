"""How a data set was understood is said by every command, before the work, and in its JSON."""

from __future__ import annotations

import json
import shutil

import pytest

from foldcam.export.banks.bank import Bank

SOURCE = """
import torch
from torch import nn
from foldcam.runtime.images.preprocess import Preprocessing


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2)
        self.head = nn.Linear(6, 4)
        self.preprocessing = Preprocessing(16, 12)

    def forward(self, image):
        return self.head(torch.relu(self.conv(image)).mean((2, 3)))


def make():
    torch.manual_seed(0)
    return Net()
"""


@pytest.fixture
def roboflow(photos, working_directory):
    (working_directory / "plainnet.py").write_text(SOURCE)
    root = working_directory / "export"
    shutil.copytree(photos, root / "train")
    shutil.copytree(photos, root / "valid")
    shutil.copytree(photos, root / "__MACOSX" / "train")
    (root / "train" / "red" / "later.xyz").write_bytes(b"x")
    return root


def test_export_and_bank_build_say_splits_labels_and_what_is_left_out(roboflow, foldcam):
    for command, out in (("export", "m.onnx"), ("bank build", "b.safetensors")):
        status, text, err = foldcam(
            *command.split(), "plainnet:make", "--images", roboflow, "--out", out, "--json"
        )
        assert status == 0, err
        document = json.loads(text)
        assert document["data_notes"][0].startswith("train/ (3 labels, 12 images), valid/ (3")
        assert {item["reason"] for item in document["left_out"]} == {
            "a folder of the system",
            "of a format that is not read (.xyz)",
        }
        for note in document["data_notes"]:
            assert f"note: export: {note}" in err
    assert Bank.load("b.safetensors").rows == 12


def test_bank_add_says_it_too_and_takes_any_word_for_a_split(roboflow, foldcam):
    status, _, err = foldcam(
        "bank", "build", "plainnet:make", "--images", roboflow, "--out", "b.safetensors"
    )
    assert status == 0, err
    for path in (roboflow / "valid").rglob("*.png"):
        path.write_bytes(path.read_bytes() + b"another file")
    status, text, err = foldcam(
        "bank", "add", "b.safetensors", "plainnet:make", "--images", roboflow, "--split",
        "Validation", "--out", "c.safetensors", "--json",
    )  # fmt: skip
    assert status == 0, err
    assert json.loads(text)["added"] == 12
    assert "of which valid was taken" in err


def test_verify_says_what_it_leaves_out(roboflow, foldcam):
    foldcam("export", "plainnet:make", "--images", roboflow, "--out", "m.onnx")
    status, _, err = foldcam("verify", "m.onnx", "--images", roboflow)
    assert status == 0, err
    assert "are splits, and all of them were taken" in err
    assert "later.xyz" in err


def test_a_split_that_is_no_word_for_one_is_wrong_usage(roboflow, foldcam):
    status, _, err = foldcam("export", "plainnet:make", "--images", roboflow, "--split", "holdout")
    assert status == 2
    assert "train, valid, test, all" in err


def test_bank_remove_takes_one_crop_by_name(roboflow, foldcam, working_directory):
    rows = []
    for path in sorted((roboflow / "train").rglob("*.png")):
        rows += [f"{path},{path.parent.name},0,0,12,20", f"{path},{path.parent.name},12,0,12,20"]
    table = working_directory / "crops.csv"
    table.write_text("path,label,x,y,w,h\n" + "\n".join(rows) + "\n")
    status, _, err = foldcam(
        "bank", "build", "plainnet:make", "--images", table, "--out", "b.safetensors"
    )
    assert status == 0, err
    assert "24 of 24 rows have a box (x,y,w,h)" in err
    first = rows[0].partition(",")[0]
    for name, left in ((f"{first}#12,0,12,20", 23), (first, 22)):
        status, text, err = foldcam(
            "bank", "remove", "b.safetensors", "--image", name, "--out", "c.safetensors", "--json"
        )
        assert status == 0, err
        assert json.loads(text)["rows_after"] == left
