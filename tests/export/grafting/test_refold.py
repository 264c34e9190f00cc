"""`foldcam fold`: the bank of a model is swapped, without torch, and nothing else fits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from foldcam.export.banks.bank import Bank
from foldcam.export.banks.objectives.directions import parse_objective
from foldcam.export.commands.fold import app
from foldcam.export.datasets import Dataset, load_dataset
from foldcam.export.exporting.bank_files import add_to_bank_file, build_bank_file
from foldcam.export.exporting.exporter import export_model
from foldcam.export.grafting.fold import FoldOptions
from foldcam.export.grafting.refold import fold_file, stored_options
from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.images.files import read_image
from foldcam.runtime.model.folded_model import FoldedModel
from foldcam.runtime.system.errors import FoldcamError

ROOT = Path(__file__).resolve().parents[3]
GOAL = parse_objective("all-triplets")


@pytest.fixture(scope="session")
def two_labels(shared_photos):
    dataset = load_dataset(shared_photos)
    return Dataset("two", "train", tuple(s for s in dataset.samples if s.label != "green"))


@pytest.fixture(scope="session")
def bank_file(loaded, two_labels, tmp_path_factory):
    """A bank of blue and red for `folded_file`'s network; not to be changed."""
    out = tmp_path_factory.mktemp("bank") / "two.safetensors"
    build_bank_file(loaded, two_labels, out, GOAL)
    return out


def test_the_bank_is_swapped_and_equals_an_export(
    folded_file, bank_file, loaded, two_labels, tmp_path
):
    out = tmp_path / "two.onnx"
    report = fold_file(folded_file, Bank.load(bank_file), out)
    export_model(loaded, two_labels, tmp_path / "direct.onnx", GOAL)
    assert out.read_bytes() == (tmp_path / "direct.onnx").read_bytes()
    assert (report.contract.bank.rows, report.replaced.bank.rows) == (8, 12)
    with FoldedModel.load(out) as model:
        results = [model(read_image(sample.path)) for sample in two_labels.samples]
    assert [r.labels[0] for r in results] == ["blue"] * 4 + ["red"] * 4


def test_a_bank_that_grew_equals_an_export_of_everything(
    folded_file, bank_file, loaded, shared_photos, tmp_path
):
    everything = load_dataset(shared_photos)
    green = tuple(s for s in everything.samples if s.label == "green")
    more = replace(everything, name="green", samples=green)
    report = add_to_bank_file(Bank.load(bank_file), loaded, more, tmp_path / "three.safetensors")
    assert report.added == 4
    contract = fold_file(
        folded_file, Bank.load(tmp_path / "three.safetensors"), tmp_path / "three.onnx"
    ).contract
    original = read_contract(folded_file)
    assert contract.labels == original.labels
    assert contract.origin.data == "two + green"
    assert contract.origin.data_sha256 == original.origin.data_sha256
    with FoldedModel.load(tmp_path / "three.onnx") as ours, FoldedModel.load(folded_file) as theirs:
        for sample in everything.samples:
            got, expected = ours(read_image(sample.path)), theirs(read_image(sample.path))
            np.testing.assert_allclose(got.heatmap, expected.heatmap, atol=1e-5)
            np.testing.assert_array_equal(got.neighbors, expected.neighbors)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("input_type", ["float32", "uint8"])
def test_the_models_own_options_are_the_default(
    input_type, precision, loaded, two_labels, bank_file, tmp_path
):
    path = tmp_path / "m.onnx"
    options = FoldOptions(
        transfer=2,
        neighbors=3,
        heatmap_size="input",
        input_type=input_type,  # type: ignore[arg-type]
        precision=precision,  # type: ignore[arg-type]
    )
    export_model(loaded, two_labels, path, GOAL, options=options)
    before = onnx.load(path)
    fold_file(path, Bank.load(bank_file), path)
    after = onnx.load(path)
    assert after.metadata_props == before.metadata_props
    assert [n.name for n in after.graph.node] == [n.name for n in before.graph.node]
    named = ({t.name: t for t in m.graph.initializer} for m in (before, after))
    assert next(named) == next(named)
    options = replace(stored_options(path), transfer=1, neighbors=5, heatmap_size=(8, 9))
    contract = fold_file(path, Bank.load(bank_file), tmp_path / "other.onnx", options).contract
    assert (contract.transfer, contract.neighbors) == (1, 5)
    assert (contract.heatmap_size, contract.input_type) == ((8, 9), input_type)
    assert contract.precision == precision


def test_a_network_that_absorbed_its_normalisation_stays_with_uint8(
    loaded, two_labels, bank_file, tmp_path
):
    path = tmp_path / "m.onnx"
    export_model(loaded, two_labels, path, GOAL, options=FoldOptions(input_type="uint8"))
    with pytest.raises(FoldcamError, match="in its first convolution: pass --input uint8"):
        fold_file(
            path,
            Bank.load(bank_file),
            tmp_path / "o.onnx",
            replace(stored_options(path), input_type="float32"),
        )


def test_an_embedding_network_that_says_which_it_is(
    loaded, two_labels, bank_file, networks, tmp_path
):
    plain = tmp_path / "embedding.onnx"
    onnx.save(loaded.network().to_onnx(), plain)
    report = fold_file(plain, Bank.load(bank_file), tmp_path / "m.onnx")
    export_model(loaded, two_labels, tmp_path / "direct.onnx", GOAL)
    assert report.replaced is None
    assert (tmp_path / "m.onnx").read_bytes() == (tmp_path / "direct.onnx").read_bytes()
    other = replace(loaded, source=networks.make_tiny(seed=1)).network().to_onnx()
    onnx.save(other, plain)
    with pytest.raises(FoldcamError, match=r"made by the network \w{12}\.\.\. and .* holds \w{12}"):
        fold_file(plain, Bank.load(bank_file), tmp_path / "m2.onnx")
    assert not (tmp_path / "m2.onnx").exists()


def _with_source(bank, **changes):
    return replace(bank, source=replace(bank.source, **changes))


CHANGES = {
    "another network": (
        lambda b: replace(b, network_sha256="ab" * 32),
        r"made by the network abababababab\.\.\. and .*model.onnx holds \w{12}\.\.\.: build the "
        "bank with this network",
    ),
    "another D": (
        lambda b: replace(b, embeddings=np.eye(8, 5, dtype=np.float32)),
        "bank has D = 5 and the network in .* has D = 4: it was made by another network",
    ),
    "another K": (
        lambda b: replace(b, grad_weights=np.ones((2, 7), np.float32)),
        "bank has K = 7 and the network in .* has K = 6: it was made by another network",
    ),
    "another layer": (
        lambda b: _with_source(b, layer="conv3"),
        "those of the layer 'conv3' and .*model.onnx was folded at",
    ),
    "another size": (
        lambda b: _with_source(b, preprocessing=replace(b.source.preprocessing, width=99)),
        r"images were 99 x 12 and the network in .* takes 16 x 12: build .* --size 16x12",
    ),
    "an older file": (lambda b: replace(b, source=None), "foldcam bank build"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_bank_that_does_not_fit_is_one_sentence(name, folded_file, bank_file, tmp_path):
    change, sentence = CHANGES[name]
    with pytest.raises(FoldcamError, match=sentence):
        fold_file(folded_file, change(Bank.load(bank_file)), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_other_colours_of_the_same_network_are_the_banks(folded_file, bank_file, tmp_path):
    bank = Bank.load(bank_file)
    dark = replace(bank.source.preprocessing, mean=(0.1, 0.2, 0.3))
    contract = fold_file(
        folded_file, _with_source(bank, preprocessing=dark), tmp_path / "m.onnx"
    ).contract
    assert contract.preprocessing.mean == (0.1, 0.2, 0.3)


def _run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_prints_one_document(folded_file, bank_file, tmp_path):
    out = tmp_path / "m.onnx"
    ran = _run(folded_file, "--bank", bank_file, "--out", out, "--neighbors", 99, "--json")
    assert ran.exit_code == 0, ran.output
    document = json.loads(ran.stdout)
    assert (document["rows"], document["replaced_rows"], document["labels"]) == (8, 12, 2)
    assert document["neighbors"] == 8
    assert document["bank_sha256"] == Bank.load(bank_file).sha256()
    ran = _run(folded_file, "--bank", bank_file, "--out", out)
    assert "8 rows of two" in ran.stdout
    assert "12 rows of photos" in ran.stdout


@pytest.mark.parametrize(
    ("flags", "status", "sentence"),
    [
        (["--heatmap-size", "7"], 2, "WIDTHxHEIGHT"),
        (["--input", "float16"], 2, "not one of float32, uint8"),
        (["--out", "m.bin"], 1, "is an .onnx file"),
        (["--bank", "none.safetensors"], 1, "does not exist"),
    ],
)
def test_mistakes_are_named(flags, status, sentence, folded_file, bank_file, tmp_path):
    ran = _run(folded_file, "--bank", bank_file, "--out", tmp_path / "m.onnx", *flags)
    said = str(ran.exception) if isinstance(ran.exception, FoldcamError) else ran.output
    assert ran.exit_code == status
    assert sentence in said


def test_a_file_that_is_no_network_is_one_sentence(bank_file, tmp_path):
    junk = tmp_path / "junk.onnx"
    junk.write_bytes(b"junk")
    with pytest.raises(FoldcamError, match="not an ONNX file"):
        fold_file(junk, Bank.load(bank_file), tmp_path / "m.onnx")
    with pytest.raises(FoldcamError, match="does not exist"):
        fold_file(tmp_path / "none.onnx", Bank.load(bank_file), tmp_path / "m.onnx")


def test_swapping_a_bank_never_loads_torch(folded_file, bank_file, tmp_path):
    """In a fresh process in which importing torch would fail."""
    program = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "from foldcam.export.commands.fold import app\n"
        "app(sys.argv[1:], standalone_mode=False)\n"
        "assert not [name for name in sys.modules if name.startswith('torch.')]\n"
    )
    arguments = [str(folded_file), "--bank", str(bank_file), "--out", str(tmp_path / "m.onnx")]
    ran = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert read_contract(tmp_path / "m.onnx").bank.rows == 8
