"""Pipes, devices and long names in place of files: one sentence, and nothing waits for ever."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from foldcam.runtime.sinks import jsonl
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import atomic_path, hidden_beside, refuse_special, temporary_stem


@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect", "pipe.onnx"),
        ("run", "pipe.onnx", "--source", "test://?frames=2"),
        ("bench", "pipe.onnx"),
        ("build", "pipe.onnx"),
        ("config", "check", "pipe.toml"),
        ("run", "MODEL", "--config", "pipe.toml"),
        ("run", "MODEL", "--source", "test://?frames=2", "--boxes", "pipe.txt"),
        ("run", "MODEL", "--source", "test://?", "--serve", "0", "--token-file", "pipe.txt"),
        ("run", "MODEL", "--source", "test://?frames=2", "--parquet", "pipe.parquet"),
        ("run", "MODEL", "--source", "test://?frames=2", "--save", "pipe.mp4"),
    ],
)  # fmt: skip
def test_a_pipe_in_place_of_a_file_is_refused_at_once(
    runtime_process, tiny_model, tmp_path, arguments
):
    for name in ("pipe.onnx", "pipe.toml", "pipe.txt", "pipe.parquet", "pipe.mp4"):
        os.mkfifo(tmp_path / name)
    done = runtime_process(
        *(str(tiny_model) if word == "MODEL" else word for word in arguments), cwd=tmp_path
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr


def test_what_is_no_regular_file_is_refused_and_what_is_missing_left_to_others(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FoldcamError, match=r"pipe is a pipe, a device or a socket"):
        refuse_special(tmp_path / "pipe")
    with pytest.raises(FoldcamError, match=r"/dev/null is a pipe, a device or a socket"):
        refuse_special(Path("/dev/null"))
    refuse_special(tmp_path)
    refuse_special(tmp_path / "missing")
    refuse_special(Path(__file__))
    refuse_special(Path("a\0b"))


def test_results_for_a_pipe_wait_for_its_reader_and_not_for_ever(tmp_path, monkeypatch):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()), daemon=True)
    threading.Timer(0.2, reader.start).start()
    sink = jsonl.JsonlSink(str(pipe))
    assert os.get_blocking(sink._stream.fileno())
    sink._stream.write(b"{}\n")
    with sink:
        pass
    reader.join(10)
    assert got == [b"{}\n"]
    monkeypatch.setattr(jsonl, "READER_SECONDS", 0.2)
    with pytest.raises(FoldcamError, match=r"^Nobody reads the pipe .*pipe: start its reader"):
        jsonl.JsonlSink(str(pipe))


@pytest.mark.parametrize("stem", ["n" * 246, "ü" * 123, "n"])
def test_a_name_as_long_as_it_may_be_can_be_written(tmp_path, stem):
    path = tmp_path / f"{stem}.jsonl"
    with atomic_path(path) as temporary:
        assert temporary.parent == tmp_path
        temporary.write_text("x")
    assert [found.name for found in tmp_path.iterdir()] == [path.name]
    assert stem.startswith(temporary_stem(path))


def test_what_is_kept_beside_files_of_long_names_is_kept_apart(tmp_path):
    short = hidden_beside(tmp_path / "birds.onnx", "resume")
    assert short == tmp_path / ".birds.onnx.resume"
    long = [hidden_beside(tmp_path / f"{'ü' * 123}{end}", "resume") for end in ("a.onnx", "b.onnx")]
    assert long[0] != long[1]
    for folder in long:
        folder.mkdir()
