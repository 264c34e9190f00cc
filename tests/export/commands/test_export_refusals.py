"""What `foldcam export` refuses, each in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


def test_an_unknown_precision_is_wrong_usage(model, shared_photos, foldcam):
    status, _, err = foldcam(
        "export", f"{model}:make", "--images", shared_photos, "--precision", "int8"
    )
    assert status == 2
    assert "'int8' is not one of fp32, fp16" in " ".join(err.split())


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--search", "tree"), "--search 'tree' is not auto"),
        (("--compress", "rank:0"), "--compress 'rank:0' is not none"),
        (("--compress", "rank:3"), "rank must be below"),
        (("--bank-precision", "int8"), "int8 needs --search lists"),
        (("--gallery", "--query"), "and --bank-input (which --query includes) makes one"),
        (("--query", "--compress", "rank:1"), "--bank-input (which --query includes) holds"),
    ],
)
def test_storage_that_cannot_be_is_one_sentence(flags, sentence, model, shared_photos, foldcam):
    status, _, err = foldcam("export", f"{model}:make", "--images", shared_photos, *flags)
    assert status == 1
    assert sentence in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (["--images", "nowhere"], "nowhere does not exist"),
        (["--layer", "nope"], "no layer 'nope'"),
        (["--objective", "magic"], "is unknown"),
        (["--out", "model.bin"], "is an .onnx file"),
        (["--out", "file.txt/model.onnx"], "is a file where a folder is needed"),
        (["--out", "folder.onnx"], "is a folder"),
        (["--size", "big"], "--size 'big'"),
        (["--size", "3"], ""),
        (["--weights", "none.pt"], "none.pt does not exist"),
        (["--weights", "folder.onnx"], "is a folder"),
        (["--opset", "3"], "--opset 3: a folded model needs ONNX opset 17"),
        (["--opset", "16"], "needs ONNX opset 17"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing_behind(
    change, sentence, model, shared_photos, foldcam, working_directory
):
    (working_directory / "file.txt").write_text("x")
    (working_directory / "folder.onnx").mkdir()
    before = sorted(p.relative_to(working_directory) for p in working_directory.rglob("*"))
    flags = {"--images": str(shared_photos), "--out": "model.onnx", change[0]: change[1]}
    status, out, err = foldcam(
        "export", f"{model}:make", *[item for pair in flags.items() for item in pair]
    )
    assert status == 1, err
    assert out == ""
    assert sentence in err
    assert "Traceback" not in err
    after = sorted(p.relative_to(working_directory) for p in working_directory.rglob("*"))
    assert [p for p in after if p not in before and "__pycache__" not in str(p)] == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["--split", "holdout"],
        ["--channels", "some"],
        ["--input", "float16"],
        ["--heatmap-size", "7"],
        ["--transfer", "0"],
        ["--resize", "fit"],
        ["--singletons", "ignore"],
        ["--bank-precision", "int4"],
        ["--no-such-flag"],
    ],
)
def test_wrong_usage_has_its_own_status(arguments, shared_photos, foldcam):
    status, out, _ = foldcam("export", "demo", "--images", shared_photos, *arguments)
    assert status == 2
    assert out == ""


def test_a_singleton_is_refused_until_the_user_says_what_to_do(model, photos, foldcam):
    for path in sorted((photos / "red").iterdir())[1:]:
        path.unlink()
    arguments = ("export", f"{model}:make", "--images", photos, "--json")
    status, _, err = foldcam(*arguments)
    assert status == 1
    assert "--singletons drop" in err
    for policy, rows in (("drop", 8), ("keep", 9)):
        status, out, _ = foldcam(*arguments, "--singletons", policy)
        assert status == 0
        assert json.loads(out)["rows"] == rows


@pytest.mark.parametrize(
    ("flags", "status", "sentence"),
    [
        (["--log"], 2, "--log needs --continuous"),
        (["--continuous", "--objective", "all-triplets"], 1, "compares labels"),
        (["--continuous", "--objective", "kernel:tau=0"], 1, "temperature"),
        (["--objective", "kernel:tau=0.1"], 1, "pass --continuous"),
    ],
)
def test_flags_that_do_not_go_together_are_named(flags, status, sentence, model, prices, foldcam):
    found, out, err = foldcam("export", f"{model}:make", "--images", prices, *flags)
    assert (found, out) == (status, "")
    assert sentence in " ".join(err.replace("│", " ").split())


def test_labels_that_are_no_numbers_are_one_sentence(model, shared_photos, foldcam):
    arguments = ("export", f"{model}:make", "--images", shared_photos, "--continuous")
    status, out, err = foldcam(*arguments)
    assert (status, out) == (1, "")
    assert "the label 'blue' is not a finite number" in err


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--classes", "classes.txt", "--images", "photos"), "leave one of the two out"),
        (("--classes", "classes.txt", "--bank-input"), "--bank-input is about training images"),
        (
            ("--objective", "all-triplets", "--transfer", "3"),
            "leave --objective and --transfer out",
        ),
    ],
)
def test_flags_of_training_images_and_classes_exclude_each_other(
    flags, reason, foldcam, model, classes, photos
):
    status, _, err = foldcam("export", f"{model}:flat", *flags, "--out", "c.onnx")
    assert status == 1
    assert reason in err
    assert not Path("c.onnx").exists()


def test_a_wrong_number_of_classes_is_said_and_no_names_are_numbers(foldcam, model, classes):
    classes.write_text("one\ntwo\n")
    status, _, err = foldcam("export", f"{model}:flat", "--classes", classes, "--out", "c.onnx")
    assert status == 1
    assert "names 2 classes, and the network has 3 scores" in err
    status, out, err = foldcam("export", f"{model}:flat", "--out", "c.onnx")
    assert status == 0, err
    assert "its 3 classes are named by their numbers" in out
