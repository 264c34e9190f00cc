"""The overhead study on a world where the right answers are known: coloured squares."""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from foldcam.benchmarks.commands.cli import bench
from foldcam.benchmarks.cost.overhead.rows import REGIONS, augmented_rows
from foldcam.benchmarks.cost.overhead.study import (
    OverheadOptions,
    run_overhead,
    text_table,
)
from foldcam.benchmarks.evaluation.graphs import NetworkChoice
from foldcam.benchmarks.evaluation.interleaved import interleaved, median_ratio
from foldcam.benchmarks.studies.tables import overhead_probes, overhead_setting, overhead_table
from foldcam.export.datasets import load_dataset
from foldcam.export.grafting import constants as storing
from foldcam.export.grafting.options import SearchOptions, StorageOptions
from foldcam.export.models.spec import load_model
from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.images.files import read_image
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.command import run_app
from foldcam.runtime.system.errors import FoldcamError

RECIPE = Preprocessing(width=32, height=32, mean=(0.0,) * 3, std=(1.0,) * 3)
MODULE = "overhead_squares"


@pytest.fixture(scope="module")
def document(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("results")
    options = OverheadOptions(
        rows=(30, 700),
        network=NetworkChoice(f"{MODULE}:make", preprocessing=RECIPE),
        storage=StorageOptions(SearchOptions("lists", 3), "int8"),
        rounds=12,
        draws=40,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(squares)
        patch.setattr(storing, "_LIST_ROWS", 10)
        written = run_overhead(squares / "squares.csv", out, options, lambda *_: None)
    written["out"] = out
    return written


def test_every_size_has_its_ratio_its_bytes_and_its_answers(document: dict[str, Any]) -> None:
    assert list(document["rows"]) == ["30", "700"]
    for count, row in document["rows"].items():
        assert 0 < row["low"] <= row["ratio"] <= row["high"]
        assert row["processor_ratio"]["low"] > 0
        folded = document["out"] / f"folded-{count}.onnx"
        plain = document["out"] / "plain.onnx"
        assert row["bytes_added"] == folded.stat().st_size - plain.stat().st_size > 0
        contract = read_contract(folded)
        assert contract.bank.rows == int(count)
        assert contract.bank.storage is not None
        assert (row["search"], row["embeddings"]) == ("lists", "int8")
    assert document["rows"]["700"]["bytes_added"] > document["rows"]["30"]["bytes_added"]
    written = json.loads((document["out"] / "overhead.json").read_text())
    assert written == {key: value for key, value in document.items() if key != "out"}


def test_colours_are_found_however_the_bank_is_searched(document: dict[str, Any]) -> None:
    for row in document["rows"].values():
        assert row["recall_at_1"]["mean"] == 1
        assert row["recall_at_1_lost"] == {"mean": 0, "low": 0, "high": 0}
        assert row["grid_pointing"]["mean"] > 0.95
        assert abs(row["grid_pointing_lost"]["mean"]) < 0.01
        assert 0 <= row["same_row"] <= 1


def test_more_lists_searched_lose_no_more(document: dict[str, Any]) -> None:
    assert list(document["rows"]["30"]["probes"]) == ["1", "2"]
    lost = [row["similarity_lost_mean"] for row in document["rows"]["700"]["probes"].values()]
    assert len(lost) == 7
    assert all(later <= before + 1e-6 for before, later in pairwise(lost))
    assert overhead_probes(document).count("\n| ") == 9
    assert "24 views" not in overhead_setting(document)


def test_the_plain_graph_answers_with_the_embedding_alone(document: dict[str, Any]) -> None:
    plain = onnx.load(document["out"] / "plain.onnx")
    assert [value.name for value in plain.graph.output] == ["embedding"]


def test_the_tables_name_every_size(document: dict[str, Any]) -> None:
    markdown, text = overhead_table(document), text_table(document)
    assert markdown.count("\n") == 3
    stored = json.loads((document["out"] / "overhead.json").read_text())
    assert overhead_table(stored) == markdown
    assert overhead_probes(stored) == overhead_probes(document)
    assert "| 700 | lists, int8 |" in markdown
    assert len(text.splitlines()) == 3
    assert "-0.0000" not in markdown


def test_rows_are_photographs_then_views_then_regions(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(squares)
    network = load_model(f"{MODULE}:make").network(None, (32, 32))
    samples = load_dataset(squares / "squares.csv", "all", boxes="truth").samples
    few = samples[:4]
    wanted = 2 * 4 * REGIONS
    told: list[str] = []
    rows = augmented_rows(
        *(network, RECIPE, few, wanted, tmp_path / "cache"),
        progress=lambda stage, done, total: told.append(f"{done}/{total}"),
    )
    assert rows.embeddings.shape == (wanted, 4)
    assert rows.views == 2
    assert told[-1] == "2/2"
    np.testing.assert_allclose(np.linalg.norm(rows.embeddings, axis=1), 1, atol=1e-5)
    # The photographs themselves, by hand: mean of each detector, over the norm.
    for position, sample in enumerate(few):
        pixels = read_image(sample.path).astype(np.float32) / 255
        detector = 1.5 * pixels - 0.5 * pixels.sum(axis=2, keepdims=True) - 0.6
        # 1.5 on the colour and -0.5 on all three.
        expected = np.append(np.maximum(detector, 0).mean(axis=(0, 1)), 0.05)
        np.testing.assert_allclose(
            rows.embeddings[position], expected / np.linalg.norm(expected), atol=1e-4
        )
    assert rows.labels[:8] == tuple(sample.label for sample in few) * 2
    # Regions differ from one another, and a larger count begins with the same rows.
    assert len(np.unique(rows.embeddings.round(5), axis=0)) > wanted // 2
    monkeypatch.delattr(type(network), "_trunk")
    fewer = augmented_rows(*(network, RECIPE, few, wanted - 30, tmp_path / "cache"))
    np.testing.assert_array_equal(fewer.embeddings, rows.embeddings[: wanted - 30])


def test_a_head_that_regions_do_not_fit_is_refused(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(squares)
    options = OverheadOptions(network=NetworkChoice(f"{MODULE}:squared", preprocessing=RECIPE))
    with pytest.raises(FoldcamError, match="needs a head of average pooling and a linear layer"):
        run_overhead(squares / "squares.csv", tmp_path, options, lambda *_: None)


def test_every_session_meets_every_image_in_every_round() -> None:
    calls: list[tuple[str, int]] = []

    class Session:
        def __init__(self, name: str) -> None:
            self.name = name

        def run(self, _: None, given: dict[str, Any]) -> None:
            calls.append((self.name, int(given["image"][0])))

    images = [np.full(1, number, np.float32) for number in range(3)]
    found = interleaved({name: Session(name) for name in "abc"}, images, 6)  # type: ignore[misc]
    assert all(len(timed.wall) == len(timed.processor) == 6 for timed in found.values())
    rounds = [calls[n : n + 3] for n in range(0, len(calls), 3)]
    assert all(sorted(name for name, _ in one) == ["a", "b", "c"] for one in rounds)
    assert all(len({image for _, image in one}) == 1 for one in rounds)
    assert len({tuple(name for name, _ in one) for one in rounds}) > 1


def test_the_ratio_is_the_median_of_the_rounds_ratios() -> None:
    plain = np.array([1.0, 2.0, 10.0])
    interval = median_ratio(plain * np.array([1.0, 1.5, 3.0]), plain, draws=50)
    assert interval.mean == 1.5
    assert 1 <= interval.low <= interval.high <= 3


@pytest.mark.parametrize("rows", ["", "300,", "a", "-3", "1,300", "300;400"])
def test_sizes_that_are_none_are_wrong_usage(
    rows: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["foldcam", "overhead", "--data", "x", "--rows", rows]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as caught:
        run_app(bench, "foldcam")
    assert caught.value.code == 2
    assert "--rows" in capfd.readouterr().err


def test_the_command_prints_one_document(
    squares: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(squares)
    flags = f"--data squares.csv --model {MODULE}:make --size 32 --rows 300 --rounds 3 --draws 9"
    arguments = ["foldcam", "overhead", *flags.split(), "--out", str(tmp_path / "out"), "--json"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as caught:
        run_app(bench, "foldcam")
    out, err = capfd.readouterr()
    assert caught.value.code == 0, err
    row = json.loads(out)["rows"]["300"]
    assert (row["search"], row["embeddings"]) == ("exhaustive", "float32")
    assert row["low"] <= row["ratio"] <= row["high"]


def test_without_data_the_usual_place_is_named(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("FOLDCAM_DATA", raising=False)
    monkeypatch.setattr(sys, "argv", ["foldcam", "overhead"])
    with pytest.raises(SystemExit) as caught:
        run_app(bench, "foldcam")
    assert caught.value.code == 2
    assert "FOLDCAM_DATA" in capfd.readouterr().err
