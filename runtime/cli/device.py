"""`runtime doctor` looks at a device, `self-test` compares processors, `gate` judges a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foldcam.runtime.cli.options import Json
from foldcam.runtime.contract.at_stake import Read, Written, check_outputs
from foldcam.runtime.measurement.comparison.verdict import GateLimits
from foldcam.runtime.system.command import print_report
from foldcam.runtime.system.errors import FoldcamError

_LIMITS = GateLimits()
# What was a flag of this command and is a command of its own.
_MOVED = {
    "--gate": "gate MODEL --images DIR",
    "--self-test": "self-test MODEL",
}


def doctor(
    context: typer.Context,
    source: Annotated[
        str | None,
        typer.Option(
            help="Says how this source would be read, without opening it; for csi:// with the "
            "GStreamer pipeline.",
            show_default="the machine is looked at",
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            help="Shows the probe pictures of this folded model (.onnx) or engine to the library "
            "that runs it here.",
            show_default="the model that `runtime run` takes",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Look at this machine: what is there, what is missing, and what to do about it.

    The model and the engine beside it are shown the model's probe pictures; exit status 3 if they
    answer wrongly. `runtime self-test` compares all of the GPU's answers with the processor's, and
    `runtime gate` judges a quantized model.

    Example: runtime doctor

    Example: runtime doctor --model birds.engine

    Example: runtime doctor --source "csi://0?size=1920x1080&rate=30"
    """
    for flag, command in _MOVED.items():
        if flag in context.args:
            raise FoldcamError(f"`runtime doctor {flag}` is a command now: runtime {command}.")
    if context.args:
        raise typer.BadParameter(f"doctor does not take {context.args[0]}: see --help.")
    from dataclasses import asdict

    from foldcam.runtime.cli.machine import WRONG, diagnose, diagnose_source, diagnosis_text

    checks = diagnose(model) if source is None else diagnose_source(source)
    document = {"checks": [asdict(check) for check in checks]}
    passed = all(check.status != WRONG for check in checks)
    print_report(document, diagnosis_text(checks), json, passed)


def self_test(
    model: Annotated[
        Path | None,
        typer.Argument(
            help="Names the folded model (.onnx) to test.",
            show_default="the one that `runtime run` takes",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Compare the GPU's answers with the processor's.

    An engine is built, and it and ONNX Runtime with CUDA answer the same images as ONNX Runtime
    on the processor. The report is made for bug reports and holds no path of this machine. Exit
    status 3 if an answer is wrong.

    Example: runtime self-test model.onnx
    """
    from foldcam.runtime.measurement.comparison.self_test import self_test, self_test_text
    from foldcam.runtime.pipeline.default_model import find_model

    report = self_test(model if model is not None else find_model())
    print_report(report, self_test_text(report), json, report["passed"])


def gate(
    model: Annotated[
        Path,
        typer.Argument(
            help="Names the quantized model (.onnx), as `foldcam calibrate` writes it.",
            show_default=False,
        ),
    ],
    images: Annotated[
        Path,
        typer.Option(
            help="Reads photographs that took no part in export and calibration from this folder. "
            "Those in folders named by a label of the bank count for recall.",
        ),
    ],
    reference: Annotated[
        Path | None,
        typer.Option(
            help="Compares with this float32 model, from which MODEL was calibrated.",
            show_default="birds.onnx beside birds.int8.onnx",
        ),
    ] = None,
    engine: Annotated[
        Path | None,
        typer.Option(
            help="Judges this engine, which was built from MODEL.",
            show_default="the one beside MODEL where TensorRT and a GPU are here, else the file in "
            "ONNX Runtime",
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            help="Names the engine of the float model (fp16, say) that the other one has to be "
            "faster than.",
            show_default="the one beside the reference",
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            help="Writes the report to this file.",
            show_default="birds.int8.gate.json beside birds.int8.onnx",
        ),
    ] = None,
    recall_lost: Annotated[
        float, typer.Option(help="Sets how many points of recall@1 may be lost at most.")
    ] = 100 * _LIMITS.recall_lost,
    heatmap_mean: Annotated[
        float, typer.Option(help="Sets the least mean correlation of the heatmaps that passes.")
    ] = _LIMITS.heatmap_correlation_mean,
    heatmap_p5: Annotated[
        float,
        typer.Option(
            help="Sets the least correlation of the heatmaps that passes at the 5th percentile."
        ),
    ] = _LIMITS.heatmap_correlation_p5,
    threads: Annotated[
        int | None,
        typer.Option(
            help="Sets the number of threads that ONNX Runtime uses on the processor.",
            min=1,
            show_default="the library decides",
        ),
    ] = None,
    accept_wrong: Annotated[
        bool,
        typer.Option(
            "--accept-wrong",
            help="Judges what answers its probe pictures wrongly here all the same, with a "
            "warning.",
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Judge a quantized model on this device: recall, heatmaps and speed against the float model.

    Its engine is judged where TensorRT and a GPU are here, and otherwise the file in ONNX
    Runtime. The report is written with a digest of it and of all files. Exit status 3 if a limit
    is not met.

    Example: runtime gate model.int8.onnx --images photos/ --reference model.onnx
    """
    from foldcam.runtime.engine.builder import engine_path
    from foldcam.runtime.measurement.comparison.gate import (
        GateFiles,
        GateSettings,
        float_model_of,
        gate_on_device,
        gate_text,
    )
    from foldcam.runtime.system.files import write_document
    from foldcam.runtime.system.standard_streams import ProgressLine

    floats = reference or float_model_of(model)
    engine = engine or _engine_here(model)
    if engine is not None and against is None and engine_path(floats).is_file():
        against = engine_path(floats)
    if engine is None and against is not None:
        raise FoldcamError(
            f"--against {against} is an engine, and there is no TensorRT with a GPU here."
        )
    path = report or model.with_suffix(".gate.json")
    check_outputs(
        [
            Read("MODEL", model),
            Read("--reference", floats),
            Read("--images", images),
            Read("--engine", engine),
            Read("--against", against),
        ],
        [Written("--report", path)],
    )
    limits = GateLimits(
        recall_lost=recall_lost / 100,
        heatmap_correlation_mean=heatmap_mean,
        heatmap_correlation_p5=heatmap_p5,
    )
    files = GateFiles(model, floats, images, engine, against)
    settings = GateSettings(limits=limits, threads=threads, accept_wrong=accept_wrong)
    with ProgressLine() as progress:
        document = gate_on_device(files, settings, progress)
    write_document(path, document)
    text = f"{gate_text(document)}\nwrote      {path}"
    print_report(document, text, json, document["report"]["passed"])


def _engine_here(model: Path) -> Path | None:
    """The engine beside a model, where TensorRT and a GPU are here; None for ONNX Runtime."""
    from foldcam.runtime.contract.onnx_file import read_contract
    from foldcam.runtime.engine.device import find_gpu
    from foldcam.runtime.engine.flavours import installed_versions

    calibration = read_contract(model).calibration
    # A file in the form for CPUs has no engine.
    if calibration is not None and calibration.target == "cpu":
        return None
    if find_gpu() is None or not installed_versions():
        return None
    from foldcam.runtime.backends.tensorrt.opening import engine_for

    return engine_for(model, build=False)
