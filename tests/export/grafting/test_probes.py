"""What is exported, folded or calibrated holds probe pictures with the float model's answers."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from foldcam.export.banks.bank import Bank
from foldcam.export.banks.objectives.directions import parse_objective
from foldcam.export.datasets import load_dataset
from foldcam.export.exporting.bank_files import build_bank_file
from foldcam.export.exporting.exporter import export_model
from foldcam.export.grafting import fold as fold_module
from foldcam.export.grafting.fold import FoldOptions
from foldcam.export.grafting.probes import add_probes, write_canary
from foldcam.export.grafting.refold import fold_file
from foldcam.runtime.backends import open_backend
from foldcam.runtime.cli.machine import diagnose
from foldcam.runtime.contract.canary import unpacked
from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.engine.canary.check import WrongAnswersError, probe
from foldcam.runtime.model.folded_model import FoldedModel
from foldcam.runtime.system.errors import FoldcamError


@pytest.fixture(autouse=True)
def cache_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def export(loaded, shared_photos, tmp_path):
    """`export("m.onnx", precision="fp16")`: of all photographs, with the options of a fold."""

    def make(name, **options):
        data = load_dataset(shared_photos)
        bank = tmp_path / f"{name}.safetensors"
        export_model(loaded, data, tmp_path / name, options=FoldOptions(**options), bank_out=bank)
        return tmp_path / name

    return make


def canary_of_file(path):
    canary = read_contract(path).canary
    assert canary is not None
    return canary


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"input_type": "uint8"},
        {"contrast": True, "heatmap_size": "input", "neighbors": 3},
        {"bank_input": True, "query": True, "contrast": True},
    ],
)
def test_an_export_answers_its_own_probes_rightly(options, export):
    path = export("m.onnx", **options)
    canary = canary_of_file(path)
    assert len({answer.seed for answer in canary.answers}) == 3
    backend = open_backend(path, "cpu")
    verdict = probe(backend)
    assert verdict is not None
    assert verdict.right
    assert verdict.cosine > 0.999999
    maps = {"heatmap", "contribution"} | ({"contrast"} if "contrast" in options else set())
    assert all(set(answer.maps) == maps for answer in canary.answers)
    with FoldedModel.load(path, "cpu") as model:
        # The user's own bank answers, not the one of the probes.
        assert [run.name for run in model.contract.labels] == ["blue", "green", "red"]


def test_a_model_of_values_answers_with_both_maps_and_its_estimate(loaded, shared_photos, tmp_path):
    data = load_dataset(shared_photos)
    samples = tuple(
        replace(sample, label="", value=float(number)) for number, sample in enumerate(data.samples)
    )
    path = tmp_path / "price.onnx"
    export_model(loaded, replace(data, samples=samples), path)
    answer = canary_of_file(path).answers[0]
    assert set(answer.maps) == {"heatmap", "heatmap_lower", "contribution"}
    assert "estimate" in answer.numbers
    open_backend(path, "cpu").close()
    model = onnx.load(path)
    values = next(t for t in model.graph.initializer if "values" in t.name)
    values.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(values) + 5, values.name))
    onnx.save(model, path)
    with pytest.raises(WrongAnswersError, match="its estimate is"):
        open_backend(path, "cpu")


def test_float16_holds_the_answers_of_float32(export):
    single, half = export("m.onnx"), export("m.fp16.onnx", precision="fp16")
    assert canary_of_file(half) == replace(canary_of_file(single), precision="fp16")


def test_float16_that_answers_wrongly_is_not_exported(export, monkeypatch, tmp_path):
    made = fold_module.to_float16

    def spoilt(model, **options):
        half = made(model, **options)
        tensor = next(t for t in half.graph.initializer if len(t.dims) == 4)
        values = np.ascontiguousarray(numpy_helper.to_array(tensor)[::-1])
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        return half

    monkeypatch.setattr(fold_module, "to_float16", spoilt)
    with pytest.raises(FoldcamError, match=r"in float16 answers 3 probe pictures wrongly"):
        export("m.onnx", precision="fp16")
    assert not (tmp_path / "m.onnx").exists()


def test_float16_of_a_model_that_is_too_large_in_float32_has_its_own_answers(export, monkeypatch):
    sizes = []

    def check(network_bytes, bank_bytes, rows):
        sizes.append(network_bytes)
        if network_bytes > min(sizes):
            raise FoldcamError("The folded model would be 3 GB.")

    half = export("m.fp16.onnx", precision="fp16")
    monkeypatch.setattr(fold_module, "check_file_size", check)
    canary = canary_of_file(export("large.onnx", precision="fp16"))
    assert len(set(sizes)) == 2
    assert canary.precision == "fp16"
    assert canary != canary_of_file(half)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_another_bank_has_other_answers_by_the_same_embeddings(
    precision, export, loaded, shared_photos, tmp_path
):
    path = export("m.onnx", precision=precision)
    before = canary_of_file(path)
    bank = Bank.load(tmp_path / "m.onnx.safetensors")
    fold_file(path, bank, tmp_path / "same.onnx")
    assert canary_of_file(tmp_path / "same.onnx") == before
    data = load_dataset(shared_photos)
    kept = tuple(sample for sample in data.samples if sample.label != "green")
    build_bank_file(loaded, replace(data, samples=kept), tmp_path / "fewer.safetensors",
                    parse_objective("all-triplets"))  # fmt: skip
    fold_file(path, Bank.load(tmp_path / "fewer.safetensors"), tmp_path / "fewer.onnx")
    after = canary_of_file(tmp_path / "fewer.onnx")
    embeddings = [{a.seed: a.embedding for a in canary.answers} for canary in (before, after)]
    shared = embeddings[0].keys() & embeddings[1].keys()
    assert shared
    assert all(embeddings[0][seed] == embeddings[1][seed] for seed in shared)
    assert after != before
    open_backend(tmp_path / "fewer.onnx", "cpu").close()


def test_a_graph_that_was_changed_afterwards_is_refused(export):
    path = export("m.onnx")
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if len(tensor.dims) != 4:
            continue
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        same = next(t for t in changed.graph.initializer if t.name == tensor.name)
        values = np.ascontiguousarray(numpy_helper.to_array(tensor)[::-1])
        same.CopyFrom(numpy_helper.from_array(values, tensor.name))
        onnx.save(changed, path)
        with pytest.raises(WrongAnswersError, match="cosine of its embeddings"):
            open_backend(path, "cpu")


def test_the_command_that_is_advised_gives_an_older_file_its_probes(export, foldcam):
    path = export("m.onnx")
    whole, canary = path.read_bytes(), canary_of_file(path)
    model = onnx.load(path)
    write_canary(model, None)
    onnx.save(model, path)
    advice = diagnose(path)[-1].advice
    assert advice.endswith(f"foldcam probes {path} adds some")
    status, out, _ = foldcam("probes", path, "--json")
    assert status == 0
    assert json.loads(out) == {"model": str(path), "pictures": 3, "precision": "fp32"}
    assert canary_of_file(path) == canary
    assert path.read_bytes() == whole
    assert diagnose(path)[-1].status == "ok"


def test_float16_needs_its_float32_model_for_probes(export, tmp_path):
    single, half = export("m.onnx"), export("m.fp16.onnx", precision="fp16")
    with pytest.raises(FoldcamError, match="name the float32 model"):
        add_probes(half, half)
    with pytest.raises(FoldcamError, match="leave --reference out"):
        add_probes(single, single, half)
    with pytest.raises(FoldcamError, match="is not the float32 model"):
        add_probes(half, half, half)
    added = add_probes(half, tmp_path / "again.onnx", single)
    assert added == canary_of_file(half)


def test_probes_are_pictures_that_the_network_tells_apart(export):
    """A library that always returns the same embedding is wrong for one of them."""
    embeddings = [unpacked(answer.embedding) for answer in canary_of_file(export("m.onnx")).answers]
    units = np.array([each / np.linalg.norm(each) for each in embeddings])
    assert (units @ units.T).min() < 0.98


@pytest.mark.data
def test_a_face_network_is_recognised_and_its_faults_are_refused(data_root, tmp_path, foldcam):
    """A real network: every convolution in turn returns its channels in another order."""
    network = data_root / "networks" / "MobileFaceNet.onnx"
    if not network.is_file():
        pytest.skip("needs networks and faces: set FOLDCAM_DATA to the folder with them")
    path, few = tmp_path / "faces.onnx", tmp_path / "few"
    few.mkdir()
    for person in sorted((data_root / "faces" / "train").iterdir())[:4]:
        (few / person.name).symlink_to(person)
    status, _, err = foldcam(
        "export", network, "--images", few, "--out", path, "--mean",
        "0.5,0.5,0.5", "--std", "0.5,0.5,0.5",
    )  # fmt: skip
    assert status == 0, err
    assert read_contract(path).canary.answers
    assert diagnose(path)[-1].status == "ok"
    model = onnx.load(path)
    layers = [node for node in model.graph.node if node.op_type == "Conv"]
    for node in layers[:: len(layers) // 8]:
        tensor = next(t for t in model.graph.initializer if t.name == node.input[1])
        before = tensor.SerializeToString()
        values = np.ascontiguousarray(np.roll(numpy_helper.to_array(tensor), 1, axis=0))
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        onnx.save(model, path)
        with pytest.raises(WrongAnswersError):
            open_backend(path, "cpu")
        tensor.ParseFromString(before)
