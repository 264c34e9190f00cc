"""Verify passes for an honest file and fails for every doctored one."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from foldcam.export.banks.objectives.directions import parse_objective
from foldcam.export.banks.objectives.kernel import parse_kernel
from foldcam.export.datasets import load_dataset
from foldcam.export.exporting.exporter import export_model
from foldcam.export.grafting import constants as storing
from foldcam.export.grafting.fold import FoldOptions
from foldcam.export.grafting.options import StorageOptions, parse_compression, parse_search
from foldcam.export.models.spec import LoadedModel
from foldcam.export.networks.torch_cut import TorchNetwork
from foldcam.export.verification.images import images_to_verify
from foldcam.export.verification.run import verify_model
from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.system.errors import FoldcamError


@pytest.fixture(scope="session")
def network(networks):
    """The network that the folded models of these tests come from."""
    return TorchNetwork(networks.make_tiny(), networks.SIZE)


@pytest.fixture(scope="session")
def images(folded_file, shared_photos):
    return list(images_to_verify(load_dataset(shared_photos), read_contract(folded_file), 12))


def _verify(model, network, images, tmp_path):
    path = tmp_path / "doctored.onnx"
    onnx.save(model, path)
    return verify_model(path, network, images).main


def test_an_honest_file_passes(folded_file, network, images):
    whole = verify_model(folded_file, network, images, batch_size=5)
    assert whole.passed, whole.failures
    assert whole.reference == "the network it came from"
    report = whole.main
    assert (report.images, report.precision, report.bank) == (12, "fp32", "its own")
    assert report.embedding_cosine_worst > 0.99999
    assert report.heatmap_difference_worst < 1e-4
    assert report.similarity_difference_worst < 1e-5
    assert report.same_neighbor == 1
    assert report.heatmaps_vary
    assert report.bank_intact
    assert report.label_agreement == 1
    assert report.heatmap_correlation_worst == 1
    assert whole.document()["passed"] is True


@pytest.mark.parametrize(
    "options",
    [
        FoldOptions(transfer=3, neighbors=4, heatmap_size="input", input_type="uint8"),
        FoldOptions(neighbors=12, heatmap_size=(31, 9)),
    ],
)
def test_every_option_verifies(
    options, network, networks, preprocessing, shared_photos, images, tmp_path
):
    loaded = LoadedModel(networks.make_tiny(), replace(preprocessing, color="bgr"), "n:m", "")
    goal = parse_objective("sampled:9")
    out = tmp_path / "m.onnx"
    export_model(loaded, load_dataset(shared_photos), out, goal, options=options)
    report = verify_model(out, network, images)
    assert report.passed, report.failures


@pytest.mark.parametrize(
    ("search", "precision", "compress"),
    [
        ("lists:2", "float32", "none"),
        ("lists:2", "float16", "rank:3"),
        ("lists:1", "int8", "prototypes:2"),
        ("exhaustive", "float16", "prototypes:1"),
        ("auto", "auto", "rank:2"),
    ],
)
def test_every_way_of_storing_the_bank_verifies(
    search,
    precision,
    compress,
    networks,
    network,
    preprocessing,
    shared_photos,
    images,
    tmp_path,
    monkeypatch,
):
    monkeypatch.setattr(storing, "_LIST_ROWS", 3)
    storage = StorageOptions(parse_search(search), precision, parse_compression(compress))
    options = FoldOptions(transfer=2, neighbors=3, storage=storage)
    loaded = LoadedModel(networks.make_tiny(), preprocessing, "n:m", "")
    goal = parse_objective("sampled:9")
    out = tmp_path / "m.onnx"
    done = export_model(loaded, load_dataset(shared_photos), out, goal, options=options)
    report = verify_model(out, network, images).main
    assert not report.failures
    assert report.same_neighbor == 1
    assert done.fidelity.queries == 12
    model = onnx.load(out)
    _edit(model, "foldcam.bank_embeddings", lambda a: a[::-1].copy())
    assert not _verify(model, network, images, tmp_path).bank_intact


def test_another_network_is_refused(folded_file, networks, images):
    with pytest.raises(FoldcamError, match="was made from another network"):
        verify_model(folded_file, TorchNetwork(networks.make_tiny(seed=1), networks.SIZE), images)


def _constant(model, name):
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def _edit(model, name, change):
    tensor = _constant(model, name)
    value = change(numpy_helper.to_array(tensor).copy())
    tensor.CopyFrom(numpy_helper.from_array(value, name))


def _after(model, output, *operators):
    """Replace an output by a function of itself, so that its shape stays."""
    for node in model.graph.node:
        for names in (node.input, node.output):
            for position, name in enumerate(names):
                if name == output:
                    names[position] = "honest"
    source = "honest"
    for number, (op, *inputs) in enumerate(operators):
        target = output if number == len(operators) - 1 else f"step{number}"
        model.graph.node.append(helper.make_node(op, [source, *inputs], [target]))
        source = target


def _add(model, name, value):
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def _swap_rows(bank):
    bank[[0, -1]] = bank[[-1, 0]]
    return bank


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("foldcam.bank_grad_weights", lambda a: a[::-1].copy()),
        ("foldcam.bank_grad_weights", lambda a: a * np.float32(1.0001)),
        ("foldcam.bank_embeddings", lambda a: a[:, ::-1].copy()),
        ("foldcam.bank_grad_index", _swap_rows),
    ],
)
def test_a_tampered_bank_fails(name, change, folded_model, network, images, tmp_path):
    _edit(folded_model, name, change)
    report = _verify(folded_model, network, images, tmp_path)
    assert not report.bank_intact
    assert "the bank in the graph is not the one" in "; ".join(report.failures)


def test_tampered_weights_fail(folded_model, network, images, tmp_path):
    _edit(folded_model, "fc.weight", lambda a: a[::-1].copy())
    report = _verify(folded_model, network, images, tmp_path)
    assert "embedding cosine" in "; ".join(report.failures)


@pytest.mark.parametrize("factor", [0.0, 0.99, 1.01])
def test_a_doctored_heatmap_fails(factor, folded_model, network, images, tmp_path):
    _after(folded_model, "heatmap", ("Mul", _add(folded_model, "f", np.float32(factor))))
    report = _verify(folded_model, network, images, tmp_path)
    assert "heatmap difference" in "; ".join(report.failures)
    assert report.heatmaps_vary == (factor > 0)


def test_doctored_similarities_fail(folded_model, network, images, tmp_path):
    _after(folded_model, "similarity", ("Mul", _add(folded_model, "f", np.float32(0.9))))
    report = _verify(folded_model, network, images, tmp_path)
    assert report.failures
    assert all("similarity" in failure for failure in report.failures)


def test_another_neighbor_fails(folded_model, network, images, tmp_path):
    eleven = _add(folded_model, "eleven", np.int32(11))
    _after(folded_model, "neighbor", ("Neg",), ("Add", eleven))
    report = _verify(folded_model, network, images, tmp_path)
    assert report.same_neighbor == 0
    assert "another neighbor was chosen" in "; ".join(report.failures)


def test_values_that_are_not_finite_fail(folded_model, network, images, tmp_path):
    _after(folded_model, "embedding", ("Log",))
    report = _verify(folded_model, network, images, tmp_path)
    assert not report.finite
    assert not report.passed


def test_the_same_image_twice_may_have_the_same_heatmap_twice(folded_file, network, images):
    assert verify_model(folded_file, network, [images[0]] * 3).passed


def test_images_are_spread_over_the_labels(shared_photos, folded_file):
    dataset = load_dataset(shared_photos)
    found = images_to_verify(dataset, read_contract(folded_file), 3)
    expected = [cv2.imread(str(dataset.samples[i].path))[..., ::-1] for i in (0, 4, 8)]
    assert all(np.array_equal(a.image, b) for a, b in zip(found, expected, strict=True))


def test_without_images_the_noise_is_the_same_every_time(folded_file, network):
    contract = read_contract(folded_file)
    first, again = (images_to_verify(None, contract, 64) for _ in range(2))
    assert all(np.array_equal(a.image, b.image) for a, b in zip(first, again, strict=True))
    assert verify_model(folded_file, network, first).passed


def test_only_unreadable_images_are_refused(photos, folded_file):
    for path in photos.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(FoldcamError, match="None of the images could be read"):
        list(images_to_verify(load_dataset(photos), read_contract(folded_file), 5))


@pytest.fixture(scope="session")
def priced_file(networks, shared_photos, preprocessing, tmp_path_factory):
    """A folded model whose photographs have a price each; not to be changed."""
    dataset = load_dataset(shared_photos)
    samples = tuple(replace(s, value=float(2**n)) for n, s in enumerate(dataset.samples))
    out = tmp_path_factory.mktemp("priced") / "model.onnx"
    loaded = LoadedModel(networks.make_tiny(), preprocessing, "tinynet:make", "")
    options = FoldOptions(transfer=2, neighbors=3, heatmap_size="input")
    goal = parse_kernel("kernel:tau=0.05", "log")
    export_model(loaded, replace(dataset, samples=samples), out, goal, options=options)
    return out


def test_an_honest_file_of_a_continuous_outcome_passes(priced_file, network, images):
    report = verify_model(priced_file, network, images, batch_size=5).main
    assert report.passed, report.failures
    assert report.estimate_difference_worst < 1e-5
    assert report.heatmap_difference_worst < 1e-4
    assert report.bank_intact
    assert report.document()["estimate_difference_worst"] == report.estimate_difference_worst


def test_a_model_of_labels_has_no_estimate_to_compare(folded_file, network, images):
    assert verify_model(folded_file, network, images).main.estimate_difference_worst is None


@pytest.mark.parametrize(
    ("output", "factor", "sentence"),
    [
        ("estimate", 1.02, "estimate is off"),
        ("estimate", -1.0, "estimate is off"),
        ("heatmap_lower", 0.99, "heatmap difference"),
        ("heatmap", 0.99, "heatmap difference"),
    ],
)
def test_a_doctored_output_of_a_continuous_outcome_fails(
    output, factor, sentence, priced_file, network, images, tmp_path
):
    model = onnx.load(priced_file)
    _after(model, output, ("Mul", _add(model, "f", np.float32(factor))))
    report = _verify(model, network, images, tmp_path)
    assert sentence in "; ".join(report.failures)


def test_tampered_values_fail(priced_file, network, images, tmp_path):
    model = onnx.load(priced_file)
    _edit(model, "foldcam.bank_values", lambda a: a[::-1].copy())
    report = _verify(model, network, images, tmp_path)
    assert not report.bank_intact


def test_the_nearest_price_rules_a_cold_kernel(priced_file, images):
    from foldcam.runtime.model.folded_model import FoldedModel

    with FoldedModel.load(priced_file) as model:
        results = [model(item.image) for item in images]
    # Training images: the estimate lies near their own price, over a range of 2^11.
    errors = [abs(np.log2(r.estimate) - n) for n, r in enumerate(results)]
    assert np.median(errors) < 3
    assert all(r.labels == [] and r.heatmap_lower.shape == r.heatmap.shape for r in results)
