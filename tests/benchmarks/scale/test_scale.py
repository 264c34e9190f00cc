"""Growth that can be computed by hand, and the study on coloured squares."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foldcam.benchmarks.evaluation.graphs import NetworkChoice
from foldcam.benchmarks.studies.scale import study
from foldcam.benchmarks.studies.scale.graphs import grown
from foldcam.benchmarks.studies.scale.report import plot, predictions_table, text
from foldcam.benchmarks.studies.scale.study import ScaleOptions, run_scale
from foldcam.benchmarks.studies.scale.work import (
    DATA_SHEETS,
    Roofline,
    least_microseconds,
    measured_roofline,
    parts_of,
    power_law,
)
from foldcam.runtime.contract.bank_storage import BankStorage
from foldcam.runtime.contract.schema import BankSummary, Contract, LabelRun, Origin
from foldcam.runtime.images.preprocess import Preprocessing

RECIPE = Preprocessing(width=32, height=32, mean=(0.0,) * 3, std=(1.0,) * 3)


def contract(rows: int, storage: BankStorage | None = None) -> Contract:
    bank = BankSummary(rows, 128, 1280, 7, "all-triplets", "all", "none", "0" * 64)
    return Contract(
        preprocessing=RECIPE,
        input_type="float32",
        layer="map",
        feature_map=(1280, 8, 8),
        normalized=True,
        heatmap_size=(8, 8),
        transfer=1,
        neighbors=1,
        bank=dataclasses.replace(bank, storage=storage),
        labels=(LabelRun("one", rows),),
        origin=Origin("n", "", "1" * 64, "d", "train", "2" * 64),
        versions={},
    )


def test_an_exhaustive_search_reads_every_number_of_the_bank() -> None:
    search, transfer, heatmap = parts_of(contract(1000))
    assert (search.bytes_read, search.operations) == (4 * 1000 * 128, 2 * 1000 * 128)
    assert transfer.bytes_read == 4 * 1280
    assert (heatmap.bytes_read, heatmap.operations) == (4 * 1280 * 64, 2 * 1280 * 64)


def test_a_search_in_lists_reads_centroids_and_the_probed_lists() -> None:
    storage = BankStorage(
        search="lists", lists=1000, list_rows=100, probes=12, embeddings="int8",
        grad_weights="float32", rank=0, sha256="0" * 64,
    )  # fmt: skip
    search = parts_of(contract(100_000, storage))[0]
    assert search.bytes_read == 4 * 1000 * 128 + 12 * 100 * 128
    assert search.resident == 100_000 * 128


def test_the_least_time_is_that_of_the_scarcer_of_bytes_and_operations() -> None:
    roofline = Roofline(gigaflops=10.0, memory_gigabytes=1.0, cache_gigabytes=100.0)
    # 4 MB from memory at 1 GB/s take 4 ms; a million operations at 10 Gflop/s a tenth.
    assert roofline.microseconds(4e6, 1e6, cached=False) == pytest.approx(4000)
    assert roofline.microseconds(4e6, 1e6, cached=True) == pytest.approx(100)


def test_a_large_bank_is_read_from_memory_and_a_small_one_from_the_cache() -> None:
    roofline = Roofline(1e6, 1.0, 10.0)
    small = least_microseconds(contract(1000), roofline)["search"]
    large = least_microseconds(contract(100_000), roofline)["search"]
    assert large == pytest.approx(1000 * small)


@pytest.fixture(scope="module")
def roofline() -> Roofline:
    return measured_roofline()


def test_this_processor_has_a_roofline(roofline: Roofline) -> None:
    found = roofline
    assert found.gigaflops > 0.1
    assert found.memory_gigabytes > 0.1
    assert found.cache_gigabytes > 0.1


def test_a_power_law_is_found_again() -> None:
    law = power_law([1, 10, 100], [2, 2 * 10**0.5, 20])
    assert law is not None
    assert law.exponent == pytest.approx(0.5)
    assert law.factor == pytest.approx(2)
    assert law.r2 == pytest.approx(1)


def test_values_that_are_not_positive_are_left_out_of_a_fit() -> None:
    law = power_law([1, 10, 100], [-3, 10, 100])
    assert law is not None
    assert (law.exponent, law.points) == (pytest.approx(1), 2)
    assert power_law([1, 10], [0, 5]) is None
    assert power_law([5, 5], [1, 2]) is None


def test_grown_rows_begin_with_the_real_ones_and_lie_between_rows_of_one_label() -> None:
    generator = np.random.default_rng(0)
    rows = np.zeros((6, 16), np.float32)
    # Two labels far apart: along the first four and the last four axes.
    rows[:3, :4], rows[3:, -4:] = generator.random((2, 3, 4))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    labels = ["a"] * 3 + ["b"] * 3
    found = grown(rows, labels, 500)
    assert (found.real, found.embeddings.shape) == (6, (500, 16))
    np.testing.assert_array_equal(found.embeddings[:6], rows)
    np.testing.assert_allclose(np.linalg.norm(found.embeddings, axis=1), 1, atol=1e-5)
    nearest = (found.embeddings @ rows.T).argmax(axis=1) // 3
    assert ["ab"[n] for n in nearest] == list(found.labels)
    assert len(np.unique(found.embeddings, axis=0)) == 500


def test_fewer_rows_than_there_are_is_the_first_of_them() -> None:
    rows = np.eye(4, dtype=np.float32)
    found = grown(rows, list("abab"), 3)
    assert (found.real, found.labels) == (3, ("a", "b", "a"))


@pytest.fixture(scope="module")
def document(
    squares: Path, roofline: Roofline, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("scale")
    options = ScaleOptions(
        network=NetworkChoice("overhead_squares:make", preprocessing=RECIPE),
        rows=(20, 60), augmented=40, exhaustive=20, sizes=(8, 16), heatmaps=(0, 14),
        batches=(1, 2), cameras=(1, 2), images=(6, 12), rounds=5, draws=20,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(squares)
        patch.setattr(study, "measured_roofline", lambda: roofline)
        found = run_scale(Path("squares.csv"), out, options, lambda *_: None)
        again = json.loads((out / "folded-60.json").read_text())
        stamp = (out / "folded-60.onnx").stat().st_mtime_ns
        once = dataclasses.replace(
            options, sizes=(8,), heatmaps=(0,), batches=(1,), cameras=(1,), images=(6,), rounds=2
        )
        run_scale(Path("squares.csv"), out, once, lambda *_: None)
    assert json.loads((out / "folded-60.json").read_text()) == again
    assert (out / "folded-60.onnx").stat().st_mtime_ns == stamp, "what is there is taken"
    return {**found, "out": out}


def test_every_curve_has_its_points(document: dict[str, Any]) -> None:
    assert {"20", "60", "plain_milliseconds"} == set(document["rows"])
    assert document["rows"]["60"]["real_rows"] == 40
    assert document["rows"]["60"]["interpolated_rows"] == 20
    assert document["rows"]["60"]["bytes_added"] > document["rows"]["20"]["bytes_added"] > 0
    for curve, keys in (
        ("exhaustive_rows", {"20"}), ("embedding_sizes", {"8", "16"}),
        ("heatmap_sizes", {"0", "14"}), ("batches", {"1", "2"}), ("cameras", {"1", "2"}),
        ("bank_building", {"6", "12"}),
    ):  # fmt: skip
        assert set(document[curve]) == keys
    assert "bytes added, by bank rows" in document["exponents"]
    assert document["heatmap_sizes"]["14"]["heatmap_side"] == 14


def test_predictions_are_called_predictions(document: dict[str, Any]) -> None:
    table = predictions_table(document)
    assert table.count("PREDICTED") == len(DATA_SHEETS) == 2
    assert "102 GB/s" in table
    assert "PREDICTED" in text(document)


def test_the_plot_is_written(document: dict[str, Any]) -> None:
    path = document["out"] / "scale.png"
    plot(document, path)
    assert path.read_bytes().startswith(b"\x89PNG")
