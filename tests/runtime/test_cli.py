"""The program as its users meet it: exit statuses, one sentence, clean standard output."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from foldcam.runtime.contract.bank_storage import BankStorage
from foldcam.runtime.system.command import print_json


def test_table_of_photographs(runtime, tiny_model, photo, tmp_path):
    photo("a.png", (250, 5, 5)), photo("b.png", (5, 250, 5))
    (tmp_path / "photos" / "c.png").write_bytes(b"x")
    done = runtime("run", tiny_model, "--file", tmp_path / "photos")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["image", "nearest", "label", "similarity", "ms"]
    assert lines[1].split()[:2] == ["a.png", "red"]
    assert lines[2].split()[:2] == ["b.png", "green"]
    assert "2 frames" in done.stdout
    assert "skipped 1:" in done.stderr
    assert "c.png: not an image" in done.stderr


def test_video_summary(runtime, tiny_model, video):
    done = runtime("run", tiny_model, "--file", video(frames=10))
    assert done.returncode == 0, done.stderr
    assert "10 frames" in done.stdout
    assert "nearest: " in done.stdout


def test_json_summary_is_alone_on_standard_output(runtime, tiny_model, photo, tmp_path):
    done = runtime("run", tiny_model, "--file", photo("a.png"), "--save", "out", "--json")
    summary = json.loads(done.stdout)
    assert summary["frames"] == 1
    assert summary["labels"] == {"red": 1}
    assert summary["outputs"] == ["out/"]
    assert {"source", "preprocess", "inference", "sinks"} <= set(summary["stages_ms"])
    assert (tmp_path / "working" / "out" / "a.png").is_file()


def test_json_lines_on_standard_output(runtime, tiny_model, photo):
    done = runtime("run", tiny_model, "--file", photo("a.png"), "--jsonl", "-", "--no-embedding")
    assert json.loads(done.stdout)["neighbors"][0]["label"] == "red"
    assert "1 frame " in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["run"],
        ["run", "--camera", "0", "--file", "x"],
        ["run", "--file", "x", "--json", "--jsonl", "-"],
        ["run", "--file", "x", "--opacity", "7"],
        ["run", "--file", "x", "--threads", "0"],
        ["run", "--file", "x", "--provider", "abacus"],
        ["run", "--file", "x", "--backend", "abacus"],
        ["run", "--file", "x", "--build"],
        ["run", "--file", "x", "--build", "--backend", "onnxruntime"],
        ["doctor", "model.onnx"],
        ["run", "--camera", "-1"],
        ["dance"],
        ["inspect"],
    ],
)
def test_wrong_usage_exits_2(runtime, arguments):
    done = runtime(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "MODEL", "--camera", "77"], "Camera 77 cannot be opened: "),
        (["run", "MODEL", "--file", "none.jpg"], "none.jpg does not exist"),
        (["run", "MODEL", "--file", "."], "holds no image"),
        (["run", "MODEL", "--source", "csi://0"], "csi://0 cannot be opened: "),
        (["run", "none.onnx", "--file", "PHOTO"], "none.onnx does not exist"),
        (["run", "--file", "PHOTO"], "make demo"),
        (["run", "PHOTO", "--file", "PHOTO"], "not an ONNX file"),
        (["run", "MODEL", "--file", "PHOTO", "--save", "PHOTO/x"], "is a file where a folder"),
        (["run", "MODEL", "--file", "PHOTO", "--show"], "--show cannot open a window"),
        (["run", "none.engine", "--file", "PHOTO"], "none.engine does not exist: build it"),
        (
            ["run", "none.engine", "--file", "PHOTO", "--provider", "cpu"],
            "provider cpu is ONNX Runtime's",
        ),
        (["inspect", "none.onnx"], "does not exist"),
        (["inspect", "PHOTO"], "not an ONNX file"),
    ],
)
def test_mistake_gives_one_sentence_and_exit_1(runtime, tiny_model, photo, arguments, message):
    path = str(photo("a.png"))
    given = [
        argument.replace("MODEL", str(tiny_model)).replace("PHOTO", path) for argument in arguments
    ]
    done = runtime(*given)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert done.stdout == ""


def test_camera_without_a_camera_needs_no_model(runtime):
    if Path("/dev/video0").exists():
        pytest.skip("this machine has a camera")
    done = runtime("run", "--camera", "0")
    assert done.returncode == 1
    assert done.stderr.startswith("error: Camera 0 cannot be opened: ")


def test_hostile_labels_cannot_steer_the_terminal(runtime, make_model, contract_with, photo):
    from foldcam.runtime.contract.schema import LabelRun

    labels = tuple(LabelRun(f"\x1b[2J\n{i}\ud800", 1) for i in range(3))
    text = contract_with(labels=labels).to_json().encode("utf-8", "backslashreplace").decode()
    model = make_model(metadata=text)
    for arguments in (["run", model, "--file", photo("a.png")], ["inspect", model]):
        done = runtime(*arguments)
        assert done.returncode == 0, done.stderr
        assert "\x1b" not in done.stdout
        assert "\\x1b[2J\\n" in done.stdout
    done = runtime("run", model, "--file", photo("a.png"), "--jsonl", "-", "--save", "out")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["neighbors"][0]["label"].startswith("\x1b[2J")


def test_reader_that_goes_away(tiny_model, video, child_environment):
    """`runtime ... | head -1` ends with one sentence."""
    child = subprocess.Popen(
        [sys.executable, "-m", "foldcam.runtime", "run", str(tiny_model),
         "--file", str(video(frames=400)), "--jsonl", "-", "--quiet"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=child_environment(),
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.readline()
    child.stdout.close()
    assert child.wait(timeout=30) == 1
    assert child.stderr.read() == (
        "error: Whoever read the results has gone, which ended the run.\n"
    )
    child.stderr.close()


def test_inspect(runtime, tiny_model):
    done = runtime("inspect", tiny_model)
    assert done.returncode == 0, done.stderr
    for text in (
        "image: float32 [N, 3, 8, 8]",
        "opset 18",
        "blue (1), green (1), red (1)",
        "3 rows",
    ):
        assert text in done.stdout
    report = json.loads(runtime("inspect", tiny_model, "--json").stdout)
    assert report["contract"]["labels"] == [["blue", 1], ["green", 1], ["red", 1]]
    assert report["outputs"][2] == {"name": "neighbor", "dtype": "int32", "shape": ["N", 2]}
    assert report["problem"] is None
    assert report["bytes"] == tiny_model.stat().st_size


def test_inspect_says_how_a_large_bank_is_stored(runtime, make_model, contract_with):
    storage = BankStorage("lists", 2, 2, 1, "int8", "float16", 0, "0" * 64)
    bank = replace(contract_with().bank, storage=storage)
    done = runtime("inspect", make_model(contract=contract_with(bank=bank)))
    assert done.returncode == 0, done.stderr
    assert "1 of 2 lists searched, 2 rows each; embeddings int8" in done.stdout


def test_inspect_says_how_a_model_was_quantized(runtime, make_model, contract_with):
    from foldcam.runtime.contract.schema import Calibration

    model = make_model(contract=contract_with(calibration=Calibration("k", "ab" * 32, 1, "cpu")))
    (line,) = [x for x in runtime("inspect", model).stdout.splitlines() if "quantized" in x]
    assert "int8 for cpu, 1 layer in float, report abababababababab..." in line


def test_inspect_names_a_graph_that_was_changed(runtime, make_model):
    model = make_model(change=lambda model: model.graph.output.pop())
    done = runtime("inspect", model)
    assert done.returncode == 0
    assert "output 'similarity' is missing" in done.stdout


def test_doctor(runtime):
    done = runtime("doctor")
    assert done.returncode == 0, done.stderr
    for name in ("python", "numpy", "opencv ffmpeg", "onnxruntime", "tensorrt", "cameras"):
        assert name in done.stdout
    checks = json.loads(runtime("doctor", "--json").stdout)["checks"]
    assert {check["status"] for check in checks} <= {"ok", "missing", "optional"}
    assert all(check["advice"] for check in checks if check["status"] == "missing")


def test_default_model(runtime, tiny_model, photo, tmp_path):
    working, path = tmp_path / "working", photo("a.png")
    (working / "plain.onnx").write_bytes(b"not folded")
    demo = working / "demo-output" / "model.onnx"
    demo.parent.mkdir()
    demo.write_bytes(tiny_model.read_bytes())
    assert "model: demo-output/model.onnx" in runtime("run", "--file", path).stderr
    (working / "one.onnx").write_bytes(tiny_model.read_bytes())
    assert "model: one.onnx" in runtime("run", "--file", path).stderr
    (working / "two.onnx").write_bytes(tiny_model.read_bytes())
    several = runtime("run", "--file", path)
    assert several.returncode == 1
    assert "one.onnx, two.onnx" in several.stderr
    named = {"FOLDCAM_MODEL": str(tiny_model)}
    assert f"model: {tiny_model}" in runtime("run", "--file", path, env=named).stderr
    gone = runtime("run", "--file", path, env={"FOLDCAM_MODEL": "gone.onnx"})
    assert gone.returncode == 1
    assert "FOLDCAM_MODEL names gone.onnx" in gone.stderr


@pytest.mark.parametrize("command", [[], ["run"], ["inspect"], ["doctor"]])
def test_help_has_an_example(runtime, command):
    done = runtime(*command, "--help")
    assert done.returncode == 0
    assert "Example: runtime " in done.stdout


def test_version(runtime):
    assert runtime("--version").stdout.startswith("foldcam ")


def test_help_takes_little_processor_time(child_environment):
    import resource

    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    command = [sys.executable, "-m", "foldcam.runtime", "--help"]
    times = []
    for _ in range(3):
        before = spent()
        subprocess.run(command, env=child_environment(), check=True, capture_output=True)
        times.append(spent() - before)
    assert min(times) < 0.5


def test_status_line(tiny_model, video):
    import io

    from foldcam.runtime import FoldedModel
    from foldcam.runtime.pipeline.run import run
    from foldcam.runtime.pipeline.status import StatusLine
    from foldcam.runtime.sources import open_source

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    status = StatusLine(terminal)
    run(open_source(file=str(video(frames=10))), FoldedModel.load(tiny_model), on_progress=status)
    assert re.match(r"\r\x1b\[Kframe \d+/10  ", terminal.getvalue())
    assert re.search(r" fps  network \d+\.\d ms  nearest: ", terminal.getvalue())
    assert "p50" not in terminal.getvalue()  # of a file that would be the time in a queue
    assert "nearest: " in terminal.getvalue()
    log = io.StringIO()
    begun = time.monotonic()
    status = StatusLine(log)
    run(open_source(file=str(video(frames=10))), FoldedModel.load(tiny_model), on_progress=status)
    assert time.monotonic() - begun > 4 or log.getvalue() == ""


def test_inspect_tells_a_continuous_outcome(runtime, tiny_estimator):
    done = runtime("inspect", tiny_estimator)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    (line,) = [line for line in lines if line.startswith("outcome")]
    assert line.split(maxsplit=1)[1] == "10 to 60, median 20; kernel over values, tau 0.5"
    assert not any(line.startswith("labels") for line in lines)
    assert any("estimate: float32 [N]" in line for line in lines)
    report = json.loads(runtime("inspect", tiny_estimator, "--json").stdout)
    assert report["contract"]["outcome"]["median"] == 20
    assert (report["label_count"], report["problem"]) == (0, None)


def test_run_reports_estimates(runtime, tiny_estimator, photo, tmp_path):
    photo("a.png", (255, 0, 0)), photo("b.png", (0, 0, 255))
    done = runtime("run", tiny_estimator, "--file", tmp_path / "photos", "--save", tmp_path / "out")
    assert done.returncode == 0
    assert "estimate: 33.4 on average (16.39 to 50.41)" in done.stdout
    assert "nearest" not in done.stdout
    done = runtime("run", tiny_estimator, "--file", tmp_path / "photos", "--json")
    assert json.loads(done.stdout)["estimate"]["high"] > 50


def test_numbers_that_are_not_finite_are_null_in_json(capsys):
    print_json({"a": [1.5, float("nan")], "b": {"c": float("inf")}, "d": (2, "x")})
    assert json.loads(capsys.readouterr().out) == {
        "a": [1.5, None],
        "b": {"c": None},
        "d": [2, "x"],
    }
