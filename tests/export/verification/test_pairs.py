"""Several folded models beside one reference: rounded, quantized, of another bank."""

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
from onnx import TensorProto, helper, numpy_helper

from foldcam.export.banks.objectives.directions import parse_objective
from foldcam.export.banks.objectives.kernel import parse_kernel
from foldcam.export.datasets import Dataset, load_dataset
from foldcam.export.exporting.bank_files import build_bank_file
from foldcam.export.exporting.exporter import export_model
from foldcam.export.grafting.fold import FoldOptions
from foldcam.export.grafting.refold import fold_file, stored_options
from foldcam.export.models.spec import LoadedModel
from foldcam.export.networks.torch_cut import TorchNetwork
from foldcam.export.verification.images import images_to_verify
from foldcam.export.verification.pair_report import precision_of
from foldcam.export.verification.run import verify_model
from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.contract.schema import METADATA_KEY
from foldcam.runtime.system.errors import FoldcamError

ROOT = Path(__file__).resolve().parents[3]
GOAL = parse_objective("all-triplets")


@pytest.fixture(scope="session")
def network(networks):
    return TorchNetwork(networks.make_tiny(), networks.SIZE)


@pytest.fixture(scope="session")
def images(folded_file, shared_photos):
    return list(images_to_verify(load_dataset(shared_photos), read_contract(folded_file), 12))


def _rounded(model, name, stored, extra=()):
    """The weights `name` kept in another form, and made float32 by nodes at the start."""
    graph = model.graph
    for position, tensor in enumerate(graph.initializer):
        if tensor.name == name:
            del graph.initializer[position]
            break
    graph.initializer.append(numpy_helper.from_array(stored, f"{name}.stored"))
    nodes = list(graph.node)
    del graph.node[:]
    if stored.dtype == np.float16:
        inputs, op, options = [f"{name}.stored"], "Cast", {"to": TensorProto.FLOAT}
    else:
        for suffix, value in extra:
            graph.initializer.append(numpy_helper.from_array(value, f"{name}.{suffix}"))
        inputs = [f"{name}.stored", *(f"{name}.{suffix}" for suffix, _ in extra)]
        op, options = "DequantizeLinear", {}
    graph.node.append(helper.make_node(op, inputs, [name], **options))
    graph.node.extend(nodes)


def _weights(model, name):
    return numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name))


def _half(path, out, name="trunk.conv.weight"):
    model = onnx.load(path)
    _rounded(model, name, _weights(model, name).astype(np.float16))
    onnx.save(model, out)
    return out


def _eighth(path, out, name="trunk.conv.weight", steps=127):
    model = onnx.load(path)
    weights = _weights(model, name)
    scale = np.float32(np.abs(weights).max() / steps)
    codes = np.rint(weights / scale).astype(np.int8)
    _rounded(model, name, codes, [("scale", scale), ("zero", np.int8(0))])
    onnx.save(model, out)
    return out


def test_rounded_models_have_looser_limits(folded_file, network, images, tmp_path):
    half = _half(folded_file, tmp_path / "half.onnx")
    eighth = _eighth(folded_file, tmp_path / "eighth.onnx")
    report = verify_model(folded_file, network, images, against=[half, eighth])
    assert report.passed, report.failures
    assert [pair.precision for pair in report.pairs] == ["fp32", "fp16", "int8"]
    assert [pair.name for pair in report.pairs] == ["model.onnx", "half.onnx", "eighth.onnx"]
    assert [pair.bank for pair in report.pairs] == ["its own", "the model's", "the model's"]
    exact, rounded, quantized = (pair.heatmap_difference_worst for pair in report.pairs)
    assert exact < 1e-5 < rounded < quantized
    assert all(pair.bank_intact for pair in report.pairs)


def test_a_model_rounded_too_coarsely_fails_and_is_named(folded_file, network, images, tmp_path):
    coarse = _eighth(folded_file, tmp_path / "coarse.onnx", "fc.weight", steps=1)
    report = verify_model(folded_file, network, images, against=[coarse])
    assert report.main.passed
    assert not report.passed
    assert all(text.startswith("coarse.onnx: ") for text in report.failures)
    assert report.document()["against"][0]["passed"] is False


def test_a_half_models_difference_would_fail_an_exact_one(folded_file, network, images, tmp_path):
    model = onnx.load(folded_file)
    tensor = next(t for t in model.graph.initializer if t.name == "trunk.conv.weight")
    factors = np.linspace(0.99, 1.01, 6, dtype=np.float32).reshape(6, 1, 1, 1)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * factors, tensor.name))
    onnx.save(model, tmp_path / "pretends.onnx")
    report = verify_model(folded_file, network, images, against=[tmp_path / "pretends.onnx"])
    assert report.pairs[1].precision == "fp32"
    assert not report.passed


def test_other_options_of_one_bank_are_compared_each_at_its_own(
    folded_file, network, images, networks, preprocessing, shared_photos, tmp_path
):
    loaded = LoadedModel(networks.make_tiny(), preprocessing, "tinynet:make", "")
    options = FoldOptions(transfer=2, neighbors=3, heatmap_size=(20, 9), input_type="uint8")
    other = tmp_path / "other.onnx"
    export_model(loaded, load_dataset(shared_photos), other, GOAL, options=options)
    report = verify_model(folded_file, network, images, against=[other])
    assert report.passed, report.failures
    assert report.pairs[1].bank == "the model's"
    assert report.pairs[1].heatmap_difference_worst < 1e-4


def test_another_bank_is_compared_with_itself(
    folded_file, network, images, networks, preprocessing, shared_photos, tmp_path
):
    loaded = LoadedModel(networks.make_tiny(), preprocessing, "tinynet:make", "")
    few = tuple(s for s in load_dataset(shared_photos).samples if s.label != "red")
    built = build_bank_file(
        loaded, Dataset("few", "train", few), tmp_path / "few.safetensors", GOAL
    )
    fold_file(
        folded_file,
        built.report.bank,
        tmp_path / "few.onnx",
        replace(stored_options(folded_file), neighbors=2),
    )
    report = verify_model(folded_file, network, images, against=[tmp_path / "few.onnx"])
    assert report.passed, report.failures
    assert report.pairs[1].bank == "its own"
    assert report.pairs[1].label_agreement == 1


def _with_metadata(path, out, change):
    model = onnx.load(path)
    entry = next(e for e in model.metadata_props if e.key == METADATA_KEY)
    document = json.loads(entry.value)
    change(document)
    entry.value = json.dumps(document)
    onnx.save(model, out)
    return out


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda d: d["origin"].update(network_sha256="ab" * 32),
            "cannot be compared: the network is abababababab in the one and",
        ),
        (lambda d: d.update(layer="conv9"), "the layer is conv9 in the one"),
        (lambda d: d["preprocessing"].update(mean=[0, 0, 0]), "the preprocessing is"),
    ],
)
def test_models_of_other_networks_are_refused(
    change, sentence, folded_file, network, images, tmp_path
):
    other = _with_metadata(folded_file, tmp_path / "other.onnx", change)
    with pytest.raises(FoldcamError, match=sentence):
        verify_model(folded_file, network, images, against=[other])


def test_an_outcome_and_labels_are_not_compared(
    folded_file, network, images, networks, preprocessing, shared_photos, tmp_path
):
    dataset = load_dataset(shared_photos)
    samples = tuple(replace(s, value=float(n)) for n, s in enumerate(dataset.samples))
    loaded = LoadedModel(networks.make_tiny(), preprocessing, "tinynet:make", "")
    priced = tmp_path / "priced.onnx"
    export_model(loaded, replace(dataset, samples=samples), priced, parse_kernel("kernel"))
    with pytest.raises(FoldcamError, match="the outcome is True in the one and False"):
        verify_model(folded_file, network, images, against=[priced])


def test_an_engine_has_the_backends_own_answer(folded_file, network, images, tmp_path):
    (tmp_path / "m.engine").write_bytes(b"plan")
    with pytest.raises(FoldcamError, match="has no manifest"):
        verify_model(folded_file, network, images, against=[tmp_path / "m.engine"])


def test_the_network_inside_stands_in_for_the_one_that_is_gone(folded_file, images):
    report = verify_model(folded_file, None, images)
    assert report.passed, report.failures
    assert report.reference == "its own network, unfolded"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("foldcam.bank_grad_weights", lambda a: a[::-1].copy()),
        ("foldcam.bank_embeddings", lambda a: -a),
        ("foldcam.tiny_heat", lambda a: a + np.float32(5)),
    ],
)
def test_what_was_grafted_is_verified_without_the_network(
    name, change, folded_model, images, tmp_path
):
    tensor = next(t for t in folded_model.graph.initializer if t.name == name)
    value = np.asarray(change(numpy_helper.to_array(tensor).copy()))
    tensor.CopyFrom(numpy_helper.from_array(value, name))
    onnx.save(folded_model, tmp_path / "m.onnx")
    assert not verify_model(tmp_path / "m.onnx", None, images).passed


def test_a_neighbor_that_is_no_row_fails(folded_model, network, images, tmp_path):
    for node in folded_model.graph.node:
        for position, name in enumerate(node.output):
            if name == "neighbor":
                node.output[position] = "honest"
    folded_model.graph.initializer.append(numpy_helper.from_array(np.int32(500), "far"))
    folded_model.graph.node.append(helper.make_node("Add", ["honest", "far"], ["neighbor"]))
    onnx.save(folded_model, tmp_path / "m.onnx")
    report = verify_model(tmp_path / "m.onnx", network, images).main
    assert not report.rows_exist
    assert "a neighbor is no row of the bank" in report.failures


def test_no_images_are_one_sentence(folded_file, network):
    with pytest.raises(FoldcamError, match="no images to compare on"):
        verify_model(folded_file, network, [])


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_the_batch_size_changes_nothing(batch_size, folded_file, network, images):
    reference = verify_model(folded_file, network, images, batch_size=12).main
    other = verify_model(folded_file, network, images, batch_size=batch_size).main
    for name in ("embedding_cosine_mean", "same_neighbor", "heatmap_correlation_mean", "images"):
        assert getattr(other, name) == pytest.approx(getattr(reference, name), abs=1e-6)


def test_images_are_asked_for_batch_by_batch(folded_file, network, images):
    """Memory: no more than a batch is taken from the images at once."""
    held, most = [], 0

    class Watched:
        def __init__(self, item):
            self.name, self.image = item.name, item.image
            held.append(1)

        def __del__(self):
            held.pop()

    def stream():
        nonlocal most
        for _ in range(5):
            for item in images:
                watched = Watched(item)
                most = max(most, len(held))
                yield watched
                del watched

    assert verify_model(folded_file, network, stream(), batch_size=4).main.images == 60
    assert most <= 9  # the batch that is leaving, the one that comes, and the one in hand


def test_the_banks_storage_counts_where_the_bank_is_anothers(folded_model):
    assert precision_of(folded_model, with_bank=True) == "fp32"
    name = "foldcam.bank_grad_weights"
    values = numpy_helper.to_array(
        next(t for t in folded_model.graph.initializer if t.name == name)
    )
    kept = [t for t in folded_model.graph.initializer if t.name != name]
    del folded_model.graph.initializer[:]
    folded_model.graph.initializer.extend(kept)
    half = numpy_helper.from_array(values.astype(np.float16), "foldcam.half")
    folded_model.graph.initializer.append(half)
    cast = helper.make_node(
        "Cast", ["foldcam.half"], [name], name="foldcam.cast", to=TensorProto.FLOAT
    )
    folded_model.graph.node.insert(0, cast)
    assert precision_of(folded_model, with_bank=True) == "fp16"
    assert precision_of(folded_model, with_bank=False) == "fp32"


def test_without_torch_there_is_still_something_to_verify(folded_file, shared_photos):
    """In a fresh process in which importing torch fails, as where only onnx is installed."""
    program = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "from foldcam.export.commands.verify import app\n"
        "app(sys.argv[1:], standalone_mode=False)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, str(folded_file), "--images", str(shared_photos), "--json"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    document = json.loads(ran.stdout)
    assert document["passed"] is True
    assert document["reference"] == "its own network, unfolded"
    assert document["network_compared"] is False
