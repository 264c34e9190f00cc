"""README and docs say what the stored results say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from foldcam.benchmarks.evaluation.figure import new_figure, save_figure
from foldcam.benchmarks.studies import tables
from foldcam.benchmarks.studies.plots import PLOTS, source_of, stale
from foldcam.benchmarks.studies.tables import RESULTS, ROOT, documents, rewritten


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_the_tables_of_a_document_are_those_of_the_results(path) -> None:
    text = path.read_text(encoding="utf-8")
    assert rewritten(text) == text, "run make figures"


def test_a_marker_of_a_table_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(KeyError):
        rewritten("<!-- table: nothing -->\n<!-- /table -->")


def test_every_plot_was_drawn_from_the_stored_result() -> None:
    assert stale() == [], "run make figures"


def test_a_plot_carries_the_hash_of_its_result(tmp_path: Path) -> None:
    figure, axis = new_figure(1, 1)
    axis.plot([1, 2])
    save_figure(figure, tmp_path / "with.png", "abc123")
    assert source_of(tmp_path / "with.png") == "abc123"
    figure, _ = new_figure(1, 1)
    save_figure(figure, tmp_path / "without.png")
    assert source_of(tmp_path / "without.png") == ""


def test_every_plot_is_shown_in_a_document() -> None:
    shown = "".join(path.read_text(encoding="utf-8") for path in documents())
    for name, (result, _) in PLOTS.items():
        assert (f"images/{name}" in shown) == (RESULTS / result).is_file(), name


def test_the_readme_says_which_tables_are_of_a_processor_alone() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    devices = [
        json.loads(path.read_text()) for path in (ROOT / "benchmarks/results").rglob("*.json")
    ]
    on_gpu = any(
        "gpu" in (found.get("device") or {}) for found in devices if isinstance(found, dict)
    )
    assert on_gpu or "measured on a processor" in text


BENCHES = [
    path
    for folder in ("peers", "scale", "gate", "latency")
    for path in sorted((RESULTS / folder).glob("*.json"))
]


@pytest.mark.parametrize("path", BENCHES, ids=lambda path: path.stem)
def test_a_result_says_where_it_comes_from(path: Path) -> None:
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["command"].startswith("foldcam bench ")
    assert {"date", "commit"} <= set(found)
    assert (found.get("device") or found["machine"])["processor"]


def test_a_table_without_a_result_names_the_command_that_writes_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    text = tables.rewritten("<!-- table: scale-rows -->\n<!-- /table -->")
    assert "Not measured yet: `foldcam bench scale` writes" in text
