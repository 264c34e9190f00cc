"""`foldcam bench gate`: flags turned into calls."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foldcam.benchmarks.evaluation.cli_support import JsonOption, OutOption, study
from foldcam.runtime.contract.at_stake import Read, Written, check_outputs


def gate(
    baseline: Annotated[
        Path | None,
        typer.Option(
            help="File with what this device measured before.",
            show_default="the one of this machine's class (device, hardware, library version, "
            "power mode): in benchmarks/baselines/, or of --model beside it",
        ),
    ] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Measure, and write the baseline again.")
    ] = False,
    prove: Annotated[
        bool,
        typer.Option(
            "--prove",
            help="In a checkout, check the gate itself: it must catch a graph that is slowed "
            "down by 5 %, and pass others.",
        ),
    ] = False,
    model: Annotated[
        Path | None,
        typer.Option(
            help="Folded .onnx file; without it, EfficientNet-Lite0 with 300 random rows is timed."
        ),
    ] = None,
    graphs: Annotated[
        Path | None,
        typer.Option(
            help="Folder of --write-graphs, for a device without torch and onnx, in place of "
            "--model."
        ),
    ] = None,
    write_graphs: Annotated[
        Path | None,
        typer.Option(help="Write the graphs of --model into this folder, and measure nothing."),
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option(
            help="Folder of --write-graphs of the commit to compare with: its graphs are timed "
            "along where this machine's class has no baseline."
        ),
    ] = None,
    int8: Annotated[
        Path | None, typer.Option(help="INT8 model or engine that is timed against --fp16.")
    ] = None,
    fp16: Annotated[
        Path | None, typer.Option(help="FP16 model or engine that --int8 is compared with.")
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            help="Where to run: cpu or cuda in ONNX Runtime; tensorrt or rtx as engines, which "
            "are built first."
        ),
    ] = "cpu",
    clock: Annotated[
        str | None,
        typer.Option(
            help="Clock in MHz that the GPU was locked at, or any to measure at any clock.",
            show_default="the target that a Jetson says itself; on a desktop, one that does not "
            "move",
        ),
    ] = None,
    repeats: Annotated[
        int, typer.Option(help="Number of times that the graphs are opened again.", min=1)
    ] = 10,
    rounds: Annotated[int, typer.Option(help="Number of paired runs in each repeat.", min=5)] = 60,
    margin: Annotated[
        float, typer.Option(help="How far a ratio may rise, as a share of it.", min=0.0)
    ] = 0.025,
    absolute_margin: Annotated[
        float,
        typer.Option(help="How far a time in milliseconds may rise, as a share of it.", min=0.0),
    ] = 0.15,
    clean: Annotated[
        int, typer.Option(help="Number of runs of --prove on the graph as it is.", min=1)
    ] = 20,
    slowed: Annotated[
        int, typer.Option(help="Number of runs of --prove on the slowed graph.", min=1)
    ] = 10,
    out: OutOption = Path("results/gate"),
    markdown: Annotated[
        Path | None,
        typer.Option(
            help="File to write the verdict into as Markdown, for a job summary or a comment."
        ),
    ] = None,
    history: Annotated[
        Path | None, typer.Option(help="File of JSON lines that the run's ratios are added to.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="PNG that all runs of --history are drawn into.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Is the folded graph as fast beside the plain one as it was? Exit status 3 if not."""
    from foldcam.benchmarks.cost.gate.command import (
        GateFiles,
        prove_gate,
        run_gate,
        update_baseline,
        write_graphs_of,
    )
    from foldcam.benchmarks.cost.gate.judging import GateOptions, bound_rank
    from foldcam.benchmarks.cost.gate.machine import DEVICES, check_device
    from foldcam.export.commands.options import choice

    if prove and update:
        raise typer.BadParameter("--prove measures a baseline of its own: leave --update out.")
    if plot and not history:
        raise typer.BadParameter("--plot draws a history: give --history as well.")
    if model and graphs:
        raise typer.BadParameter("--graphs is in place of --model: give one of them.")
    options = GateOptions(
        device=choice("--device", device, DEVICES),
        repeats=repeats,
        rounds=rounds,
        margin=margin,
        absolute_margin=absolute_margin,
        clock=_megahertz(clock),
        any_clock=clock == "any",
    )
    # First what can fail at once.
    if prove:
        study("gate", "foldcam bench gate --prove")
    check_outputs(
        [Read("--model", model), Read("--int8", int8), Read("--fp16", fp16),
         Read("--baseline", None if update else baseline)],
        [Written("--markdown", markdown), Written("--baseline", baseline if update else None),
         Written("--history", history), Written("--plot", plot)],
    )  # fmt: skip
    bound_rank(options.repeats)
    files = GateFiles(model, graphs, int8, fp16, baseline, base, out, markdown, history, plot)
    if write_graphs:
        write_graphs_of(model, write_graphs)
        return
    check_device(options.device)
    if prove:
        prove_gate(files, options, clean, slowed, as_json)
    elif update:
        update_baseline(files, options, as_json)
    else:
        run_gate(files, options, clock, as_json)


def _megahertz(clock: str | None) -> float | None:
    if clock is None or clock == "any":
        return None
    if not (clock.isascii() and clock.isdigit() and 0 < int(clock) < 10_000):
        raise typer.BadParameter(f"--clock {clock!r} is neither any nor whole MHz, such as 1980.")
    return float(clock)
