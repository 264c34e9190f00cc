"""`foldcam export` and `foldcam verify`, from flags to files and exit statuses."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from foldcam.export.bank import Bank
from foldcam.export.banks import embedding_pass
from foldcam.export.datasets import reading
from foldcam.runtime.contract.onnx_file import read_contract

SOURCE = """
import sys
from pathlib import Path
sys.path.insert(0, {folder!r})
from networks import make_tiny, SIZE
from foldcam.runtime.images.preprocess import Preprocessing
sys.path.pop(0)

def make(seed=0):
    print("loading my weights ...")
    module = make_tiny(seed)
    module.preprocessing = Preprocessing(SIZE[1], SIZE[0])
    return module

def other():
    return make(1)

def flat():
    from networks import FlattenHead
    module = FlattenHead()
    module.preprocessing = Preprocessing(SIZE[1], SIZE[0])
    return module

def several():
    from networks import PlainConv
    class Several(PlainConv):
        def forward(self, image):
            embedding = super().forward(image)
            return {{"mine": embedding, "other": -embedding.flip(1)}}
    import torch
    torch.manual_seed(0)
    module = Several()
    module.preprocessing = Preprocessing(SIZE[1], SIZE[0])
    return module
"""


def test_the_commands_are_declared(commands):
    text = (Path(__file__).resolve().parents[3] / "pyproject.toml").read_text()
    assert all(f'{name} = "{value}"\n' in text for name, value in commands.items())


@pytest.fixture
def model(working_directory, networks, request):
    """A module file in the working directory; returns its name, one per test."""
    name = f"cli_net_{abs(hash(request.node.name))}"
    folder = working_directory / "helpers"
    folder.mkdir()
    shutil.copy(networks.__file__, folder / "networks.py")
    (working_directory / f"{name}.py").write_text(SOURCE.format(folder=str(folder)))
    return name


@pytest.fixture
def exported(model, shared_photos, foldcam, working_directory):
    """`model.onnx` in the working directory."""
    status, _, err = foldcam("export", f"{model}:make", "--images", shared_photos)
    assert status == 0, err
    return working_directory / "model.onnx"


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


def test_export_then_verify(exported, model, shared_photos, foldcam, working_directory):
    contract = read_contract(exported)
    assert contract.origin.network == f"{model}:make"
    assert contract.bank.grad_weight_rows == 3
    status, out, _ = foldcam("verify", exported, "--images", shared_photos, "--trust-origin")
    assert status == 0
    assert "passed" in out
    assert [p.name for p in working_directory.iterdir() if p.name.startswith(".")] == []


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


def test_an_unknown_precision_is_wrong_usage(model, shared_photos, foldcam):
    status, _, err = foldcam(
        "export", f"{model}:make", "--images", shared_photos, "--precision", "int8"
    )
    assert status == 2
    assert "'int8' is not one of fp32, fp16" in " ".join(err.split())


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


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--search", "tree"), "--search 'tree' is not auto"),
        (("--compress", "rank:0"), "--compress 'rank:0' is not none"),
        (("--compress", "rank:3"), "rank must be below"),
        (("--bank-precision", "int8"), "int8 needs --search lists"),
    ],
)
def test_storage_that_cannot_be_is_one_sentence(flags, sentence, model, shared_photos, foldcam):
    status, _, err = foldcam("export", f"{model}:make", "--images", shared_photos, *flags)
    assert status == 1
    assert sentence in err
    assert "Traceback" not in err


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


@pytest.fixture
def prices(shared_photos, working_directory):
    """`prices.csv`: each photograph with a price."""
    lines = [f"{path},{1000 * 2**n}" for n, path in enumerate(sorted(shared_photos.rglob("*.png")))]
    csv = working_directory / "prices.csv"
    csv.write_text("path,label\n" + "\n".join(lines) + "\n")
    return csv


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


def test_the_same_export_gives_the_same_bytes(model, prices, foldcam):
    arguments = ("export", f"{model}:make", "--images", prices, "--continuous", "--out")
    assert foldcam(*arguments, "a.onnx")[0] == 0
    assert foldcam(*arguments, "b.onnx")[0] == 0
    assert Path("a.onnx").read_bytes() == Path("b.onnx").read_bytes()


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


@pytest.fixture
def classes(working_directory):
    path = working_directory / "classes.txt"
    path.write_text("".join(f"class {number}\n" for number in range(3)))
    return path


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
