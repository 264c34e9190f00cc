"""Embeddings as Parquet: exact, bounded in memory, whole or not there."""

from __future__ import annotations

import numpy as np
import pytest

from foldcam.runtime.sinks import open_outputs
from foldcam.runtime.sinks.options import OutputOptions, RecordingOptions
from foldcam.runtime.sinks.parquet import ParquetSink, is_whole_parquet
from foldcam.runtime.system.errors import FoldcamError

pq = pytest.importorskip("pyarrow.parquet")


def test_rows_are_exactly_what_was_seen(tmp_path, make_item, make_result):
    path = tmp_path / "e.parquet"
    values = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    values[1, 2] = np.nan
    with ParquetSink(path, 5) as sink:
        first = make_item(4, make_result("öwl", 0.25, embedding=values[0]), seconds=1.5, stream=1)
        sink.write(first)
        boxes = [(1, 2, 3, 4), (5, 6, 7, 8)]
        sink.write(
            make_item(5, *[make_result(embedding=values[1 + n], box=boxes[n]) for n in (0, 1)])
        )
        sink.write(make_item(6, make_result(embedding=values[0], estimate=12.5)))
        assert not path.exists()
    table = pq.read_table(path)
    assert table.num_rows == 4
    got = np.stack(table["embedding"].to_numpy())
    np.testing.assert_array_equal(got, values[[0, 1, 2, 0]])
    rows = table.to_pylist()
    assert (rows[0]["source"], rows[0]["stream"], rows[0]["frame"]) == ("cam", 1, 4)
    assert (rows[0]["timestamp"], rows[0]["labels"]) == (1.5, ["öwl", "other"])
    assert (rows[0]["neighbors"], rows[0]["box"]) == ([7, 8], None)
    assert rows[0]["similarities"] == pytest.approx([0.25, 0.1])
    assert rows[2]["box"] == {"x": 5, "y": 6, "width": 7, "height": 8}
    assert (rows[3]["estimate"], rows[3]["labels"], rows[0]["estimate"]) == (12.5, [], None)
    assert rows[0]["time"].tzinfo is not None
    metadata = pq.read_schema(path).metadata
    assert metadata[b"embedding_size"] == b"5"
    assert metadata[b"foldcam_schema"] == b"1"


def test_row_groups_are_bounded_and_arrays_are_copied(tmp_path, make_item, make_result):
    path = tmp_path / "e.parquet"
    reused = np.zeros(3, np.float32)
    result = make_result(embedding=reused)
    with ParquetSink(path, 3, flush_rows=4) as sink:
        for index in range(10):
            result.embedding[:] = index
            sink.write(make_item(index, result))
    file = pq.ParquetFile(path)
    assert [file.metadata.row_group(n).num_rows for n in range(3)] == [4, 4, 2]
    assert [row[0] for row in file.read()["embedding"].to_pylist()] == list(range(10))
    assert ParquetSink(tmp_path / "big.parquet", 1 << 20)._embeddings.nbytes <= 8 << 20


def test_a_failed_run_leaves_nothing_and_a_run_without_frames_an_empty_table(
    tmp_path, make_item, make_result
):
    sink = ParquetSink(tmp_path / "a" / "e.parquet", 3)
    sink.write(make_item(0))
    sink.__exit__(RuntimeError, RuntimeError(), None)
    assert list((tmp_path / "a").iterdir()) == []
    with ParquetSink(tmp_path / "empty.parquet", 3):
        pass
    assert pq.read_table(tmp_path / "empty.parquet").num_rows == 0


def test_another_embedding_size_is_refused(tmp_path, make_item):
    with (
        pytest.raises(FoldcamError, match="has 3 numbers where the file has 4"),
        ParquetSink(tmp_path / "e.parquet", 4) as sink,
    ):
        sink.write(make_item(0))
    assert list(tmp_path.iterdir()) == []


def test_segments_of_a_live_run(tmp_path, make_item, make_source, tiny_model):
    from foldcam.runtime import FoldedModel

    with FoldedModel.load(tiny_model) as model:
        (sink,) = open_outputs(
            [make_source()],
            OutputOptions(parquet=str(tmp_path / "e.parquet")),
            RecordingOptions(rotate_minutes=1),
            contract=model.contract,
        )
    with sink:
        for index in range(7):
            sink.write(make_item(index, seconds=30.0 * index))
    frames = [pq.read_table(path)["frame"].to_pylist() for path in sorted(tmp_path.iterdir())]
    assert frames == [[0, 1], [2, 3], [4, 5], [6]]


def test_a_cut_file_is_not_whole(tmp_path, make_item):
    path = tmp_path / "e.parquet"
    with ParquetSink(path, 3) as sink:
        sink.write(make_item(0))
    assert is_whole_parquet(path)
    path.write_bytes(path.read_bytes()[:-5])
    assert not is_whole_parquet(path)
    path.write_bytes(b"")
    assert not is_whole_parquet(path)


def test_the_command_writes_it(runtime, tiny_model, photo, tmp_path):
    photo("a.png", (255, 0, 0)), photo("b.png", (0, 0, 255))
    done = runtime("run", tiny_model, "--file", tmp_path / "photos", "--parquet", "e.parquet")
    assert done.returncode == 0, done.stderr
    assert "wrote e.parquet" in done.stdout
    table = pq.read_table(tmp_path / "working" / "e.parquet")
    assert table["embedding"].to_pylist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    assert [labels[0] for labels in table["labels"].to_pylist()] == ["red", "blue"]
