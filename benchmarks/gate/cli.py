"""`foldcam bench gate`: flags turned into calls."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foldcam.benchmarks.cli_support import JsonOption, OutOption, study
from foldcam.runtime.at_stake import Read, Written, check_outputs
from foldcam.runtime.errors import ExitStatus
from foldcam.runtime.system.command import print_json, print_text
from foldcam.runtime.system.files import atomic_path

if TYPE_CHECKING:
    from foldcam.benchmarks.gate.run import GateOptions
    from foldcam.benchmarks.gate.subject import Subject


def gate(
    baseline: Annotated[
        Path | None,
        typer.Option(
            help="File with what this device measured before.",
            show_default="benchmarks/baselines/, named after the device",
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
    int8: Annotated[
        Path | None, typer.Option(help="INT8 model or engine that is timed against --fp16.")
    ] = None,
    fp16: Annotated[
        Path | None, typer.Option(help="FP16 model or engine that --int8 is compared with.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where to run: cpu or cuda.")] = "cpu",
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
    as_json: JsonOption = False,
) -> None:
    """Is the folded graph as fast beside the plain one as it was? Exit status 3 if not."""
    if prove and device != "cpu":
        raise typer.BadParameter("--prove slows a graph on the CPU: leave --device out.")
    if prove and update:
        raise typer.BadParameter("--prove measures a baseline of its own: leave --update out.")
    from foldcam.benchmarks.gate.run import GateOptions
    from foldcam.benchmarks.gate.statistics import bound_rank
    from foldcam.benchmarks.gate.subject import (
        scratch,
        standard_subject,
        subject_of,
        with_precisions,
    )
    from foldcam.export.commands.options import choice

    options = GateOptions(
        device=choice("--device", device, ("cpu", "cuda")),
        repeats=repeats,
        rounds=rounds,
        margin=margin,
        absolute_margin=absolute_margin,
    )
    # First what can fail at once.
    if prove:
        study("gate", "foldcam bench gate --prove")
    check_outputs(
        [Read("--model", model), Read("--int8", int8), Read("--fp16", fp16),
         Read("--baseline", None if update else baseline)],
        [Written("--markdown", markdown), Written("--baseline", baseline if update else None)],
    )  # fmt: skip
    bound_rank(options.repeats)
    with scratch() as folder:
        place = Path(folder)
        subject = subject_of(model, place) if model else standard_subject(place)
        subject = with_precisions(subject, int8, fp16)
        if prove:
            _prove(subject, out, options, clean, slowed, as_json)
        else:
            _gate(subject, out, options, baseline, update, markdown, as_json)


def _gate(
    subject: Subject,
    out: Path,
    options: GateOptions,
    baseline: Path | None,
    update: bool,
    markdown: Path | None,
    as_json: bool,
) -> None:
    from dataclasses import replace

    from foldcam.benchmarks.gate.baseline import read_baseline, write_baseline
    from foldcam.benchmarks.gate.report import markdown as in_markdown
    from foldcam.benchmarks.gate.report import text
    from foldcam.benchmarks.gate.run import gate_document, measure_subject
    from foldcam.benchmarks.localization.report import write_json

    path = baseline or _usual_baseline(options.device)
    if update:
        # What everything is compared with is measured twice as long.
        found = measure_subject(subject, replace(options, repeats=2 * options.repeats))
        write_baseline(path, found)
        if as_json:
            print_json(found)
        else:
            print_text(f"Written: {path}")
        return
    # First what can fail at once, then the measurement.
    stored = read_baseline(path)
    document: dict[str, Any] = gate_document(measure_subject(subject, options), stored, options)
    write_json(out / "gate.json", document)
    if markdown is not None:
        with atomic_path(markdown) as temporary:
            temporary.write_text(in_markdown(document), encoding="utf-8")
    if as_json:
        print_json(document)
    else:
        print_text(text(document))
    if not document["passed"]:
        raise typer.Exit(ExitStatus.GATE_FAILED)


def _prove(
    subject: Subject, out: Path, options: GateOptions, clean: int, slowed: int, as_json: bool
) -> None:
    proof = study("gate", "foldcam bench gate --prove")
    from foldcam.export.progress import ProgressBar

    with ProgressBar() as progress:
        document = proof.prove(subject, out, proof.ProofOptions(options, clean, slowed), progress)
    if as_json:
        print_json(document)
    else:
        print_text(proof.proof_text(document))
    if not document["passed"]:
        raise typer.Exit(ExitStatus.GATE_FAILED)


def _usual_baseline(device: str) -> Path:
    from foldcam.benchmarks.gate.baseline import FOLDER
    from foldcam.runtime.bench.facts import device_name, machine_facts

    facts = machine_facts()
    if device == "cpu":
        facts.pop("gpu", None)
    return FOLDER / f"{device}-{device_name(facts)}.json"
