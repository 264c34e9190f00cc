"""Adding images to a bank: the old rows are not embedded again, and the result is the same."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foldcam.export.banks import embedding_pass
from foldcam.export.banks.bank import Bank, BankSource
from foldcam.export.banks.builder import build_bank
from foldcam.export.banks.objectives.directions import parse_objective
from foldcam.export.banks.objectives.kernel import KernelObjective
from foldcam.export.banks.update import add_to_bank
from foldcam.export.datasets import Dataset, Sample, load_dataset, reading
from foldcam.export.networks.onnx_networks.summand_network import SummandNetwork
from foldcam.runtime.contract.schema import Origin
from foldcam.runtime.images.files import image_bytes
from foldcam.runtime.system.errors import FoldcamError


@pytest.fixture
def samples(shared_photos):
    """Twelve photographs: four blue, four green, four red."""
    return load_dataset(shared_photos).samples


@pytest.fixture(scope="session")
def make(cut, preprocessing):
    """A bank from scratch, with its source."""

    def call(samples, name="Normalized", objective="all-triplets", **options):
        goal = objective if isinstance(objective, KernelObjective) else parse_objective(objective)
        network = cut(name)
        report = build_bank(network, preprocessing, samples, goal, batch_size=5, **options)
        digest = network.sha256()
        origin = Origin("net", "", digest, "photos", "train", report.data_sha256)
        source = BankSource(origin, network.layer, preprocessing)
        return replace(report.bank, source=source)

    return call


def _data(samples, name="new"):
    return Dataset(name, "train", tuple(samples))


def _count_reads(monkeypatch):
    reads = []

    def read(path):
        reads.append(path)
        return image_bytes(path)

    monkeypatch.setattr(reading, "image_bytes", read)
    return reads


def _assert_equal(got: Bank, expected: Bank):
    assert got.labels == expected.labels
    np.testing.assert_allclose(got.embeddings, expected.embeddings, atol=1e-6)
    # Differences of a few sampled embeddings enlarge the rounding of one batch against another.
    loose = expected.objective.startswith(("sampled", "kernel"))
    np.testing.assert_allclose(
        got.grad_weights, expected.grad_weights, atol=1e-5 if loose else 1e-6
    )
    np.testing.assert_array_equal(got.grad_index, expected.grad_index)
    np.testing.assert_array_equal(got.image_hashes, expected.image_hashes)
    assert (got.summands, got.rule) == (expected.summands, expected.rule)
    np.testing.assert_allclose(got.mean_summands, expected.mean_summands, atol=1e-6)
    if expected.outcome is not None:
        np.testing.assert_array_equal(got.outcome.values, expected.outcome.values)
        assert (got.outcome.tau, got.outcome.transform) == (
            expected.outcome.tau,
            expected.outcome.transform,
        )


OLD_AND_NEW = {
    "a new label at the end": lambda s: (s[:8], s[8:]),
    "a new label at the beginning": lambda s: (s[4:], s[:4]),
    "a new label in the middle": lambda s: (s[:4] + s[8:], s[4:8]),
    "more of every label": lambda s: (s[::2], s[1::2]),
    "one image": lambda s: (s[:11], s[11:]),
    "a new label and more of an old one": lambda s: (s[:6], s[6:]),
}


@pytest.mark.parametrize("objective", ["all-triplets", "proxy", "sampled:4"])
@pytest.mark.parametrize("parts", OLD_AND_NEW.values(), ids=OLD_AND_NEW)
def test_adding_equals_building_from_scratch(parts, objective, samples, make, cut):
    before, new = parts(samples)
    report = add_to_bank(make(before, objective=objective), cut("Normalized"), _data(new))
    _assert_equal(report.bank, make([*before, *new], objective=objective))
    assert report.rederived
    assert report.notes() == []
    assert (report.added, report.bank.rows) == (len(new), 12)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chosen=st.lists(st.booleans(), min_size=12, max_size=12), names=st.permutations("abc"))
def test_any_split_of_the_images_gives_the_same_bank(chosen, names, shared_photos, make, cut):
    renamed = dict(zip(("blue", "green", "red"), names, strict=True))
    samples = [Sample(s.path, renamed[s.label]) for s in load_dataset(shared_photos).samples]
    before = [s for s, old in zip(samples, chosen, strict=True) if old]
    new = [s for s, old in zip(samples, chosen, strict=True) if not old]
    if not new or len({s.label for s in before}) < 2:
        return
    report = add_to_bank(make(before), cut("Normalized"), _data(new), batch_size=3)
    _assert_equal(report.bank, make([*before, *new]))


@pytest.mark.parametrize("name", ["FlattenHead", "MlpHead"])
@pytest.mark.parametrize("rule", ["transferred", "own"])
def test_adding_to_a_bank_of_summands_equals_building_from_scratch(
    name, rule, samples, preprocessing, cut
):
    network = SummandNetwork(cut(name))

    def make(some):
        goal = parse_objective("all-triplets")
        report = build_bank(network, preprocessing, some, goal, rule=rule, batch_size=5)
        origin = Origin("net", "", network.sha256(), "photos", "train", report.data_sha256)
        return replace(report.bank, source=BankSource(origin, network.layer, preprocessing))

    expected, before = make(samples), make(samples[:7])
    report = add_to_bank(before, network, _data(samples[7:]), batch_size=3)
    assert expected.summands == ("linear" if name == "FlattenHead" else "pool")
    assert expected.mean_summands.shape == network.feature_map_shape
    if name == "FlattenHead" or rule == "own":
        _assert_equal(report.bank, expected)
        assert report.rederived
        if rule == "own":
            assert expected.grad_weights.shape == (3, network.embedding_size)
    else:
        assert not report.rederived
        np.testing.assert_allclose(report.bank.mean_summands, expected.mean_summands, atol=1e-6)


def test_only_new_images_are_read(samples, make, cut, monkeypatch):
    bank = make(samples[:8])
    reads = _count_reads(monkeypatch)
    add_to_bank(bank, cut("Normalized"), _data(samples[8:]))
    assert sorted(reads) == sorted(sample.path for sample in samples[8:])


def test_the_channel_rule_is_the_banks(samples, make, cut):
    bank = make(samples[:8], channel_rule="positive")
    made = add_to_bank(bank, cut("Normalized"), _data(samples[8:])).bank
    _assert_equal(made, make(samples, channel_rule="positive"))
    assert (made.grad_weights >= 0).all()


def test_a_head_that_is_not_linear_keeps_the_old_rows(samples, make, cut):
    bank = make(samples[:8], "MlpHead")
    report = add_to_bank(bank, cut("MlpHead"), _data([samples[8], samples[0], *samples[9:]]))
    scratch = make(samples, "MlpHead")
    assert not report.rederived
    assert "old rows keep the grad-weights" in report.notes()[0]
    assert report.known == [str(samples[0].path)]
    np.testing.assert_allclose(report.bank.embeddings, scratch.embeddings, atol=1e-6)
    rows = report.bank.row_grad_weights()
    np.testing.assert_array_equal(rows[:8], bank.row_grad_weights())
    # The new rows know all images.
    np.testing.assert_allclose(rows[8:], scratch.row_grad_weights()[8:], atol=1e-5)
    off = np.abs(rows[:8] - scratch.row_grad_weights()[:8]).max()
    assert off > 1e-3 * np.abs(scratch.row_grad_weights()[:8]).max()
    np.testing.assert_array_equal(report.bank.grad_index, np.arange(12))


def test_new_rows_of_a_head_that_is_not_linear_find_their_place(samples, make, cut):
    bank = make(samples[4:], "MlpHead")
    made = add_to_bank(bank, cut("MlpHead"), _data(samples[:4])).bank
    scratch = make([*samples[4:], *samples[:4]], "MlpHead")
    np.testing.assert_allclose(
        made.row_grad_weights()[:4], scratch.row_grad_weights()[:4], atol=1e-5
    )
    np.testing.assert_array_equal(made.row_grad_weights()[4:], bank.row_grad_weights())
    assert made.row_labels() == scratch.row_labels()


@pytest.mark.parametrize("transform", ["none", "log"])
def test_values_are_put_in_order(transform, samples, make, cut):
    values = np.random.default_rng(1).permutation(12) * 10.0 + 5
    priced = [replace(s, value=float(v)) for s, v in zip(samples, values, strict=True)]
    goal = KernelObjective("kernel:tau=0.1", 0.1, transform)
    bank = make(priced[:7], objective=goal)
    report = add_to_bank(bank, cut("Normalized"), _data(priced[7:]))
    _assert_equal(report.bank, make(priced, objective=goal))
    alone = add_to_bank(bank, cut("Normalized"), _data(priced[7:8])).bank
    _assert_equal(alone, make(priced[:8], objective=goal))


def test_the_new_bank_knows_where_it_comes_from(samples, make, cut, tmp_path):
    bank = make(samples[:8])
    made = add_to_bank(bank, cut("Normalized"), _data(samples[8:], "more")).bank
    scratch = make(samples)
    assert made.source.origin.data == "photos + more"
    assert made.source.origin.split == "train"
    assert made.source.origin.data_sha256 == scratch.source.origin.data_sha256
    assert made.source.layer == bank.source.layer
    made.save(tmp_path / "bank.safetensors")
    again = Bank.load(tmp_path / "bank.safetensors")
    assert again.source == made.source
    np.testing.assert_array_equal(again.image_hashes, made.image_hashes)
    first = hashlib.sha256(samples[0].path.read_bytes()).digest()
    assert again.image_hashes[0].tobytes() == first


def test_an_image_that_is_there_already_is_left_out(samples, make, cut):
    bank = make(samples[:8])
    report = add_to_bank(bank, cut("Normalized"), _data(samples[4:]))
    assert report.known == [str(sample.path) for sample in samples[4:8]]
    _assert_equal(report.bank, make(samples))
    with pytest.raises(FoldcamError, match="All 8 images are in the bank already"):
        add_to_bank(bank, cut("Normalized"), _data(samples[:8]))


def test_an_interrupted_addition_goes_on(samples, make, cut, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding_pass, "BLOCK", 2)
    bank = make(samples[:6])
    resume = tmp_path / "resume"

    def interrupt(stage, done, total):
        if done >= 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        add_to_bank(
            bank, cut("Normalized"), _data(samples[6:]), resume_folder=resume, progress=interrupt
        )
    reads = _count_reads(monkeypatch)
    report = add_to_bank(bank, cut("Normalized"), _data(samples[6:]), resume_folder=resume)
    # The head is tried on the first two again, whose block is not run again.
    assert sorted(reads) == sorted(sample.path for sample in (*samples[6:8], *samples[10:]))
    assert not resume.exists()
    _assert_equal(report.bank, make(samples))


def test_unreadable_images_are_skipped_and_named(samples, make, cut, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"nonsense")
    new = [*samples[8:], Sample(broken, "red"), Sample(tmp_path / "gone.png", "red")]
    report = add_to_bank(make(samples[:8]), cut("Normalized"), _data(new))
    assert [item.path for item in report.skipped] == [broken, tmp_path / "gone.png"]
    _assert_equal(report.bank, make(samples))


@pytest.mark.parametrize(
    ("change", "network", "sentence"),
    [
        ({}, "PlainConv", r"made by another network: it names \w{12}\.\.\. and this one is \w{12}"),
        ({"compression": "rank:4"}, "Normalized", r"was compressed \(rank:4\)"),
        ({"source": None}, "Normalized", "which layer and preprocessing"),
        ({"layer": "conv9"}, "Normalized", "layer 'conv9' and the network is cut at"),
        ({"size": 99}, "Normalized", "images were 99 x 12 and the network takes 16 x 12"),
        ({"channel_rule": "odd"}, "Normalized", "channels 'odd'"),
    ],
)
def test_what_does_not_fit_is_refused(change, network, sentence, samples, make, cut):
    bank = make(samples[:8])
    if "layer" in change:
        bank = replace(bank, source=replace(bank.source, layer=change["layer"]))
    elif "size" in change:
        wide = replace(bank.source.preprocessing, width=change["size"])
        bank = replace(bank, source=replace(bank.source, preprocessing=wide))
    else:
        bank = replace(bank, **change)
    with pytest.raises(FoldcamError, match=sentence):
        add_to_bank(bank, cut(network), _data(samples[8:]))


def test_labels_and_values_do_not_mix(samples, make, cut):
    priced = [replace(s, value=float(n)) for n, s in enumerate(samples)]
    with pytest.raises(FoldcamError, match="has labels and the images have values"):
        add_to_bank(make(samples[:8]), cut("Normalized"), _data(priced[8:]))
    goal = KernelObjective("kernel:tau=0.1", 0.1)
    with pytest.raises(FoldcamError, match="1 of 1 images have a label and no value"):
        add_to_bank(make(priced[:8], objective=goal), cut("Normalized"), _data(samples[8:]))


def test_a_bank_without_hashes_can_grow(samples, make, cut):
    bank = replace(make(samples[:8]), image_hashes=None)
    made = add_to_bank(bank, cut("Normalized"), _data(samples[8:])).bank
    assert made.image_hashes is None
    assert made.source.origin.data_sha256 != bank.source.origin.data_sha256
    np.testing.assert_allclose(made.embeddings, make(samples).embeddings, atol=1e-6)
