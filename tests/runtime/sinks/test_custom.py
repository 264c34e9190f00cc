"""Sinks that users write, beginning with the one that the documents show."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from foldcam.runtime.sinks import Sink
from foldcam.runtime.sinks.custom import CustomSink

DOCUMENT = Path(__file__).parents[3] / "docs" / "sinks.md"


def test_the_example_of_the_documents_runs(runtime, tiny_model, photo, tmp_path):
    text = DOCUMENT.read_text(encoding="utf-8")
    (code,) = re.findall(r"<!-- example: sink -->\n```python\n(.*?)```", text, re.DOTALL)
    (line,) = re.findall(r"^runtime (run .* --sink .*)$", text, re.MULTILINE)
    working = tmp_path / "working"
    (working / "counting.py").write_text(code)
    for name, color in (("a", (255, 0, 0)), ("b", (250, 5, 5)), ("c", (0, 0, 255))):
        photo(f"{name}.png", color)
    words = line.replace("model.onnx", str(tiny_model)).replace("photos/", str(tmp_path / "photos"))
    done = runtime(*words.split())
    assert done.returncode == 0, done.stderr
    assert (working / "counts.txt").read_text() == "red 2\nblue 1\n"
    assert "wrote counts.txt" in done.stdout


@pytest.mark.parametrize(
    ("sink", "code", "message"),
    [
        ("mine", "", "is not written as module:function"),
        (
            "none_such:make",
            "",
            "cannot be imported: ModuleNotFoundError: No module named 'none_such'",
        ),
        ("mine:make", "", "cannot be imported: AttributeError: module 'mine' has no attribute"),
        ("mine:make", "1/0", "cannot be imported: ZeroDivisionError"),
        (
            "mine:make",
            "import none_such",
            "cannot be imported: ModuleNotFoundError: No module named 'none_such'",
        ),
        ("mine:make", "def make(sources): return 1/0", "failed when it was opened: ZeroDivision"),
        ("mine:make", "def make(sources): return 3", "returned no sink: it has no name"),
    ],
)
def test_what_is_no_sink_is_refused(runtime, tiny_model, photo, tmp_path, sink, code, message):
    (tmp_path / "working" / "mine.py").write_text(code)
    done = runtime("run", tiny_model, "--file", photo("a.png"), "--sink", sink, "--save", "out")
    assert done.returncode == 1, done.stderr
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_user_s_sink_may_only_remember():
    class Remembers(Sink):
        passive = True

        def write(self, item):
            pass

    assert CustomSink(Remembers(), "--sink mine:make").passive
