"""`runtime doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foldcam.runtime.at_stake import Read, Written, check_outputs
from foldcam.runtime.errors import ExitStatus, FoldcamError
from foldcam.runtime.system.command import print_json, print_text

if TYPE_CHECKING:
    from foldcam.runtime.gate.verdict import GateLimits


def doctor(
    model: Annotated[
        Path | None,
        typer.Argument(
            help="For --self-test: a folded .onnx; without it the one that `run` takes. For "
            "--gate: a quantized one.",
            show_default=False,
        ),
    ] = None,
    self_test: Annotated[
        bool,
        typer.Option(
            "--self-test", help="Build an engine and compare the GPU's answers with the CPU's."
        ),
    ] = False,
    gate: Annotated[
        bool,
        typer.Option(
            "--gate",
            help="Judge a quantized model on this device: its engine where TensorRT and a GPU are "
            "here, else the model in ONNX Runtime.",
        ),
    ] = False,
    images: Annotated[
        Path | None,
        typer.Option(
            help="For --gate: photographs that took no part in export and calibration, in folders "
            "named by label where recall is to be measured."
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(help="For --gate: the float32 model; birds.onnx beside birds.int8.onnx."),
    ] = None,
    engine: Annotated[
        Path | None,
        typer.Option(help="For --gate: of the quantized model; the one beside it if left out."),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            help="For --gate: an engine of the float model (fp16, say) that the other has to be "
            "faster than; the one beside --reference if left out."
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="For --gate: where the report goes; birds.int8.gate.json if left out."),
    ] = None,
    recall_lost: Annotated[
        float, typer.Option(help="For --gate: limit, in points of recall@1.")
    ] = 1.0,
    heatmap_mean: Annotated[
        float, typer.Option(help="For --gate: limit, mean heatmap correlation.")
    ] = 0.98,
    heatmap_p5: Annotated[
        float, typer.Option(help="For --gate: limit, heatmap correlation at the 5th percentile.")
    ] = 0.9,
    threads: Annotated[
        int | None, typer.Option(help="For --gate: threads of ONNX Runtime on the CPU.", min=1)
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            help="Say how this source would be read, without opening it; of csi:// the "
            "GStreamer pipeline.",
            show_default=False,
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Look at this machine: what is there, what is missing, and what to do about it.

    With --self-test, run a model on the GPU: the report is made for bug reports. With
    --gate, measure what a quantized model costs here in recall and heatmaps, and whether it
    is faster; the report is written with a digest of it and of all files. Exit status 3 if an
    answer is wrong or the gate fails.

    Example: runtime doctor

    Example: runtime doctor --self-test model.onnx

    Example: runtime doctor --gate model.int8.onnx --images photos/ --reference model.onnx

    Example: runtime doctor --source "csi://0?size=1920x1080&rate=30"
    """
    if self_test and gate:
        raise typer.BadParameter("--self-test and --gate are two commands: give one.")
    if source is not None and (self_test or gate):
        raise typer.BadParameter("--self-test and --gate read no source.")
    if not gate and any(option is not None for option in (images, reference, engine, against,
                                                          report, threads)):  # fmt: skip
        raise typer.BadParameter("--images and the options about a gate need --gate.")
    if self_test:
        _self_test(model, json)
        return
    if gate:
        if model is None or images is None:
            raise typer.BadParameter("--gate needs a quantized model and --images.")
        from foldcam.runtime.gate.verdict import GateLimits

        limits = GateLimits(
            recall_lost=recall_lost / 100,
            heatmap_correlation_mean=heatmap_mean,
            heatmap_correlation_p5=heatmap_p5,
        )
        _gate(model, images, reference, engine, against, report, limits, threads, json)
        return
    if model is not None:
        raise typer.BadParameter("a model is only for --self-test and --gate.")
    from dataclasses import asdict

    from foldcam.runtime.cli.machine import diagnose, diagnose_source, diagnosis_text

    checks = diagnose() if source is None else diagnose_source(source)
    if json:
        print_json({"checks": [asdict(check) for check in checks]})
    else:
        print_text(diagnosis_text(checks))


def _self_test(model: Path | None, json: bool) -> None:
    from foldcam.runtime.gate.self_test import self_test, self_test_text
    from foldcam.runtime.pipeline.default_model import find_model

    report = self_test(model if model is not None else find_model())
    if json:
        print_json(report)
    else:
        print_text(self_test_text(report))
    if not report["passed"]:
        raise typer.Exit(ExitStatus.GATE_FAILED)


def _gate(
    model: Path,
    images: Path,
    reference: Path | None,
    engine: Path | None,
    against: Path | None,
    report: Path | None,
    limits: GateLimits,
    threads: int | None,
    json: bool,
) -> None:
    from foldcam.runtime.engine.builder import engine_path
    from foldcam.runtime.gate.doctor import (
        GateFiles,
        GateSettings,
        float_model_of,
        gate_on_device,
        gate_text,
    )
    from foldcam.runtime.gate.signed_report import write_signed
    from foldcam.runtime.system.progress_line import ProgressLine

    floats = reference or float_model_of(model)
    if engine is None:
        engine = _engine_here(model)
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
    files = GateFiles(model, floats, images, engine, against)
    with ProgressLine() as progress:
        document = gate_on_device(files, GateSettings(limits=limits, threads=threads), progress)
    write_signed(path, document)
    if json:
        print_json(document)
    else:
        print_text(f"{gate_text(document)}\nwrote      {path}")
    if not document["report"]["passed"]:
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
