"""`runtime doctor` looks at a device, `self-test` compares processors, `gate` judges a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from foldcam.runtime.contract.at_stake import Read, Written, check_outputs
from foldcam.runtime.measurement.comparison.verdict import GateLimits
from foldcam.runtime.system.command import print_json, print_text
from foldcam.runtime.system.errors import ExitStatus, FoldcamError

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
            help="Say how this source would be read, without opening it. For csi:// this prints "
            "the GStreamer pipeline. Without it the machine is looked at.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            help="A folded model (.onnx) or engine whose probe pictures are shown to the library "
            "that runs it here. Without it that is done for the model that `runtime run` takes.",
            show_default=False,
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
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
    if json:
        print_json({"checks": [asdict(check) for check in checks]})
    else:
        print_text(diagnosis_text(checks))
    if any(check.status == WRONG for check in checks):
        raise typer.Exit(ExitStatus.GATE_FAILED)


def self_test(
    model: Annotated[
        Path | None,
        typer.Argument(
            help="A folded model (.onnx). Without it the one that `runtime run` takes is tested.",
            show_default=False,
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
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
    _end(report, self_test_text(report), report["passed"], json)


def gate(
    model: Annotated[
        Path,
        typer.Argument(
            help="A quantized model (.onnx), as `foldcam calibrate` writes it.", show_default=False
        ),
    ],
    images: Annotated[
        Path,
        typer.Option(
            help="A folder of photographs that took no part in export and calibration. Those in "
            "folders named by a label of the bank count for recall.",
            show_default=False,
        ),
    ],
    reference: Annotated[
        Path | None,
        typer.Option(
            help="The float32 model that MODEL was calibrated from. Without it birds.onnx is "
            "taken beside birds.int8.onnx.",
            show_default=False,
        ),
    ] = None,
    engine: Annotated[
        Path | None,
        typer.Option(
            help="The engine that was built from MODEL. Without it the one beside MODEL is taken "
            "where TensorRT and a GPU are here, and ONNX Runtime elsewhere.",
            show_default=False,
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            help="An engine of the float model (fp16, say) that the other one has to be faster "
            "than. Without it the one beside the reference is taken.",
            show_default=False,
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            help="The file that the report is written to. Without it birds.int8.gate.json is "
            "written beside birds.int8.onnx.",
            show_default=False,
        ),
    ] = None,
    recall_lost: Annotated[
        float, typer.Option(help="How many points of recall@1 may be lost at most.")
    ] = 100 * _LIMITS.recall_lost,
    heatmap_mean: Annotated[
        float, typer.Option(help="The least mean correlation of the heatmaps that passes.")
    ] = _LIMITS.heatmap_correlation_mean,
    heatmap_p5: Annotated[
        float,
        typer.Option(
            help="The least correlation of the heatmaps that passes at the 5th percentile."
        ),
    ] = _LIMITS.heatmap_correlation_p5,
    threads: Annotated[
        int | None,
        typer.Option(
            help="How many threads ONNX Runtime uses on the processor. Without it the library "
            "decides.",
            min=1,
            show_default=False,
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
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
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
    _end(document, text, document["report"]["passed"], json)


def _end(document: dict[str, Any], text: str, passed: bool, json: bool) -> None:
    """Print a report, and end with the status of its verdict."""
    if json:
        print_json(document)
    else:
        print_text(text)
    if not passed:
        raise typer.Exit(ExitStatus.GATE_FAILED)


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
