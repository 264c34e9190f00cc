"""Building a bank: values, interruption, unreadable images."""

from __future__ import annotations

import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from foldcam.export.banks import embedding_pass
from foldcam.export.banks.builder import build_bank
from foldcam.export.banks.head_trial import FeatureCache
from foldcam.export.banks.objectives.directions import parse_objective
from foldcam.export.banks.objectives.kernel import KernelObjective, parse_kernel
from foldcam.export.datasets import Sample, load_dataset, reading
from foldcam.export.networks.cut import Activations
from foldcam.runtime.images.files import image_bytes, read_image
from foldcam.runtime.system.errors import FoldcamError


@pytest.fixture
def samples(photos):
    return load_dataset(photos).samples


@pytest.fixture
def build(cut, preprocessing):
    def call(samples, name="Normalized", objective="all-triplets", **settings):
        goal = parse_objective(objective)
        return build_bank(cut(name), preprocessing, samples, goal, batch_size=5, **settings)

    return call


def _inputs(samples, preprocessing):
    resized = [preprocessing.resized(read_image(sample.path))[0] for sample in samples]
    return torch.from_numpy(np.stack([preprocessing.normalized(image) for image in resized]))


def _one_by_one(module, samples, preprocessing, directions):
    """Grad-weights by autograd through the eager module, image by image."""
    rows = []
    for image, direction in zip(_inputs(samples, preprocessing), directions, strict=True):
        kept = module.feature(image[None]).detach().requires_grad_(True)
        (module.head(kept).flatten(1) * torch.from_numpy(direction)).sum().backward()
        rows.append(kept.grad.mean(dim=(2, 3))[0].numpy())
    return np.stack(rows)


def _assert_rows_alike(found, expected, share):
    """Rows that differ by no more than a share of their own greatest number."""
    greatest = np.abs(expected).max(axis=1, keepdims=True)
    np.testing.assert_allclose(found / greatest, expected / greatest, atol=share)


@pytest.mark.parametrize(
    ("name", "objective", "distinct"),
    [
        ("Normalized", "all-triplets", 3),
        ("Normalized", "sampled:7", 12),
        ("MlpHead", "all-triplets", 12),
        ("FlattenHead", "all-triplets", 3),
    ],
)
def test_rows_equal_the_image_by_image_computation(
    name, objective, distinct, samples, build, networks, preprocessing
):
    torch.manual_seed(0)
    module = getattr(networks, name)().eval()
    report = build(samples, name, objective)
    bank = report.bank
    assert bank.grad_weights.shape == (distinct, 4)
    embeddings = module(_inputs(samples, preprocessing)).detach()
    unit = torch.nn.functional.normalize(embeddings).numpy()
    np.testing.assert_allclose(bank.embeddings, unit, atol=1e-6)
    labels = np.repeat([0, 1, 2], 4)
    directions = parse_objective(objective).directions(unit, labels).values
    expected = _one_by_one(module, samples, preprocessing, directions)
    _assert_rows_alike(bank.row_grad_weights(), expected, 1e-4)
    assert bank.row_labels() == ["blue"] * 4 + ["green"] * 4 + ["red"] * 4


def test_rows_are_sorted_by_label_whatever_the_order_of_the_images(samples, build):
    mixed = [samples[i] for i in np.random.default_rng(0).permutation(12)]
    bank = build(mixed).bank
    assert bank.row_labels() == sorted(bank.row_labels())
    expected = build(samples).bank
    assert sorted(map(bytes, bank.embeddings)) == sorted(map(bytes, expected.embeddings))


def test_the_channel_rule_drops_the_evidence_against(samples, build):
    everything = build(samples).bank
    positive = build(samples, channel_rule="positive").bank
    assert (everything.grad_weights < 0).any()
    assert (positive.grad_weights >= 0).all()
    assert positive.channel_rule == "positive"


def test_the_batch_size_changes_nothing(samples, cut, preprocessing):
    goal = parse_objective("all-triplets")
    one, many = (
        build_bank(cut("MlpHead"), preprocessing, samples, goal, batch_size=size).bank
        for size in (1, 100)
    )
    np.testing.assert_allclose(one.embeddings, many.embeddings, atol=1e-6)
    np.testing.assert_allclose(one.grad_weights, many.grad_weights, atol=1e-5)


def test_progress_grows_to_the_number_of_images(samples, build):
    samples[1].path.write_bytes(b"")
    samples[7].path.write_bytes(b"nonsense")
    seen = []
    build(samples, "MlpHead", progress=lambda *state: seen.append(state))
    for stage, total in (("embedding", 12), ("grad-weights", 10)):
        done = [state[1] for state in seen if state[0] == stage]
        assert done == sorted(done)
        assert done[-1] == total
        assert {state[2] for state in seen if state[0] == stage} == {total}


class _Interrupter:
    def __init__(self, after):
        self.after = after

    def __call__(self, stage, done, total):
        if stage == "embedding" and done >= self.after:
            raise KeyboardInterrupt


def _count_reads(monkeypatch):
    reads = []

    def read(path):
        reads.append(path)
        return image_bytes(path)

    monkeypatch.setattr(reading, "image_bytes", read)
    return reads


def test_an_interrupted_build_goes_on_where_it_stopped(samples, build, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding_pass, "BLOCK", 3)
    expected = build(samples)
    resume = tmp_path / "resume"
    with pytest.raises(KeyboardInterrupt):
        build(samples, resume_folder=resume, progress=_Interrupter(8))
    reads = _count_reads(monkeypatch)
    report = build(samples, resume_folder=resume)
    assert report.bank.sha256() == expected.bank.sha256()
    np.testing.assert_array_equal(report.bank.mean_summands, expected.bank.mean_summands)
    assert report.data_sha256 == expected.data_sha256
    # The head is tried on the first three again, whose block is not run again.
    assert sorted(reads) == sorted(sample.path for sample in (*samples[:3], *samples[6:]))
    assert not resume.exists()


@pytest.mark.parametrize("size", [1, 5, 12])
def test_the_mean_is_over_the_images_that_were_read(size, samples, cut, preprocessing):
    samples[1].path.write_bytes(b"")
    network = cut("Normalized")
    goal = parse_objective("all-triplets")
    bank = build_bank(network, preprocessing, samples, goal, batch_size=size).bank
    read = [sample for sample in samples if sample is not samples[1]]
    maps = network.forward(_inputs(read, preprocessing)).feature_map.numpy()
    np.testing.assert_allclose(bank.mean_summands, maps.mean(axis=0), atol=1e-6)


def test_a_changed_file_is_computed_again(samples, build, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding_pass, "BLOCK", 3)
    resume = tmp_path / "resume"
    with pytest.raises(KeyboardInterrupt):
        build(samples, resume_folder=resume, progress=_Interrupter(8))
    shutil.copy(samples[11].path, samples[0].path)
    report = build(samples, resume_folder=resume)
    assert report.bank.sha256() == build(samples).bank.sha256()


def test_a_damaged_block_is_computed_again(samples, build, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding_pass, "BLOCK", 3)
    resume = tmp_path / "resume"
    with pytest.raises(KeyboardInterrupt):
        build(samples, resume_folder=resume, progress=_Interrupter(8))
    blocks = sorted(resume.rglob("*.safetensors"))
    assert len(blocks) == 2
    blocks[0].write_bytes(blocks[0].read_bytes()[:40])
    blocks[1].write_bytes(b"")
    report = build(samples, resume_folder=resume)
    assert report.bank.sha256() == build(samples).bank.sha256()


def test_unreadable_images_are_skipped_and_named(samples, build):
    bad = {samples[1].path: "empty", samples[6].path: "not an image", samples[11].path: ""}
    samples[1].path.write_bytes(b"")
    samples[6].path.write_bytes(b"hello")
    samples[11].path.unlink()
    report = build(samples)
    assert {item.path for item in report.skipped} == set(bad)
    assert all(bad[item.path] in item.reason for item in report.skipped)
    assert report.bank.rows == 9
    good = build([sample for sample in samples if sample.path not in bad]).bank
    assert report.bank.labels == good.labels
    np.testing.assert_allclose(report.bank.embeddings, good.embeddings, atol=1e-6)
    np.testing.assert_allclose(report.bank.grad_weights, good.grad_weights, atol=1e-5)


def test_only_unreadable_images_are_one_sentence(samples, build):
    for sample in samples:
        sample.path.write_bytes(b"")
    with pytest.raises(
        FoldcamError, match=r"None of the 12 images could be read; the first: .*empty"
    ):
        build(samples)


def test_the_data_hash_knows_bytes_and_labels(samples, build):
    first = build(samples).data_sha256
    assert build(samples).data_sha256 == first
    relabelled = [*samples[:-1], Sample(samples[-1].path, "green")]
    assert build(relabelled).data_sha256 != first
    image = cv2.imread(str(samples[0].path))
    image[0, 0] ^= 1
    cv2.imwrite(str(samples[0].path), image)
    assert build(samples).data_sha256 != first


def test_one_label_alone_is_refused(samples, build):
    with pytest.raises(FoldcamError, match="All images have one label"):
        build(samples[:4])


def test_a_head_without_a_gradient_is_refused(samples, build):
    with pytest.raises(FoldcamError, match="no gradient path to the embedding"):
        build(samples, "Detached")


def test_names_that_are_not_utf8_are_taken(samples, build, tmp_path):
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    odd = samples[0].path.with_name(name)
    samples[0].path.rename(odd)
    changed = [Sample(odd, samples[0].label), *samples[1:]]
    assert build(changed, resume_folder=tmp_path / "resume").bank.rows == 12


@pytest.fixture
def priced(samples):
    """Twelve images with a value each, dear and cheap mixed."""
    values = np.random.default_rng(1).permutation(12) * 10.0 + 5
    return [replace(s, value=float(v)) for s, v in zip(samples, values, strict=True)]


@pytest.fixture
def build_priced(cut, preprocessing):
    def call(samples, name="Normalized", transform="none", **settings):
        goal = KernelObjective("kernel:tau=0.1", 0.1, transform)
        return build_bank(cut(name), preprocessing, samples, goal, batch_size=5, **settings)

    return call


@pytest.mark.parametrize("name", ["Normalized", "MlpHead", "FlattenHead"])
def test_rows_of_values_equal_the_image_by_image_computation(
    name, priced, build_priced, networks, preprocessing
):
    torch.manual_seed(0)
    module = getattr(networks, name)().eval()
    bank = build_priced(priced, name).bank
    ordered = sorted(priced, key=lambda sample: sample.value)
    values = np.array([sample.value for sample in ordered], np.float32)
    np.testing.assert_array_equal(bank.outcome.values, values)
    embeddings = module(_inputs(ordered, preprocessing)).detach()
    unit = torch.nn.functional.normalize(embeddings).numpy()
    np.testing.assert_allclose(bank.embeddings, unit, atol=1e-6)
    directions = parse_kernel("kernel").directions(unit, values).values
    expected = _one_by_one(module, ordered, preprocessing, directions)
    _assert_rows_alike(bank.row_grad_weights(), expected, 1e-3)
    assert bank.grad_weights.shape == (12, 4)
    assert bank.labels == ()


def test_rows_of_values_keep_their_order_whatever_the_order_of_the_images(priced, build_priced):
    first, mixed = (build_priced(images).bank for images in (priced, priced[::-1]))
    np.testing.assert_array_equal(first.outcome.values, np.sort(first.outcome.values))
    np.testing.assert_allclose(first.embeddings, mixed.embeddings, atol=1e-6)
    assert build_priced(priced).bank.sha256() == first.sha256()


def test_logarithms_are_kept_and_told_in_the_values_unit(priced, build_priced):
    bank = build_priced(priced, transform="log").bank
    np.testing.assert_allclose(bank.outcome.in_units(), np.arange(12) * 10 + 5, rtol=1e-5)


def test_values_of_unreadable_images_are_left_out_with_them(priced, build_priced):
    priced[3].path.write_bytes(b"")
    report = build_priced(priced)
    assert [item.path for item in report.skipped] == [priced[3].path]
    left = sorted(sample.value for sample in priced if sample is not priced[3])
    np.testing.assert_array_equal(report.bank.outcome.values, np.float32(left))


@pytest.mark.parametrize(
    ("value", "transform", "sentence"),
    [
        (5.0, "none", "All images have one value"),
        (-1.0, "log", "no logarithm"),
        (None, "none", "12 of 12 images have a label and no value"),
    ],
)
def test_values_that_cannot_be_used_are_refused_before_the_pass(
    value, transform, sentence, samples, build_priced
):
    def never(*_):
        raise AssertionError("the pass began")

    images = [replace(sample, value=value) for sample in samples]
    with pytest.raises(FoldcamError, match=sentence):
        build_priced(images, transform=transform, progress=never)


def test_positive_channels_alone_are_refused_for_values(priced, build_priced):
    with pytest.raises(FoldcamError, match="leaves nothing that lowers"):
        build_priced(priced, channel_rule="positive")


@pytest.mark.parametrize(("limit", "passes"), [(1 << 30, 1), (0, 2)])
def test_a_head_that_is_not_linear_needs_a_second_pass_only_beyond_the_cache(
    samples, build, monkeypatch, limit, passes
):
    expected = build(samples, "MlpHead").bank.sha256()
    monkeypatch.setattr(
        "foldcam.export.banks.head_trial.FeatureCache", lambda: FeatureCache(limit_bytes=limit)
    )
    reads = _count_reads(monkeypatch)
    assert build(samples, "MlpHead").bank.sha256() == expected
    assert len(reads) == passes * len(samples)


def test_a_cache_keeps_what_fits_and_lets_the_rest_go():
    def batch(count):
        return Activations(torch.zeros(count, 2, 4, 4), torch.zeros(count, 3), ())

    size = 2 * (2 * 16 + 3) * 4
    cache = FeatureCache(limit_bytes=size)
    cache.keep([0, 1], batch(2))
    cache.keep([2, 3], batch(2))
    assert [positions for positions, _ in cache] == [[0, 1]]
