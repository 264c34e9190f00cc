"""`foldcam bench gate`: flags turned into calls."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foldcam.benchmarks.cli_support import JsonOption, OutOption, study
from foldcam.runtime.at_stake import Read, Written, check_outputs
from foldcam.runtime.errors import ExitStatus, FoldcamError
from foldcam.runtime.system.command import print_json, print_text
from foldcam.runtime.system.files import atomic_path

if TYPE_CHECKING:
    from foldcam.benchmarks.gate.baseline import Baseline
    from foldcam.benchmarks.gate.run import GateOptions
    from foldcam.benchmarks.gate.subject import Subject


@dataclass(frozen=True)
class _Files:
    """What the flags name."""

    model: Path | None
    graphs: Path | None
    int8: Path | None
    fp16: Path | None
    baseline: Path | None
    base: Path | None
    out: Path
    markdown: Path | None
    history: Path | None
    plot: Path | None

    def command(self, device: str, clock: str | None) -> str:
        """The command that writes the baseline of what is gated here."""
        words = ["foldcam", "bench", "gate", "--device", device, "--update"]
        for flag, value in (
            ("--model", self.model), ("--graphs", self.graphs), ("--int8", self.int8),
            ("--fp16", self.fp16), ("--baseline", self.baseline), ("--clock", clock),
        ):  # fmt: skip
            words += [] if value is None else [flag, str(value)]
        return shlex.join(words)


def gate(
    baseline: Annotated[
        Path | None,
        typer.Option(
            help="File with what this device measured before.",
            show_default="the one in benchmarks/baselines/ of this machine's class: device, "
            "hardware, library version, power mode",
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
    from foldcam.benchmarks.gate.machine import DEVICES, check_device
    from foldcam.benchmarks.gate.run import GateOptions
    from foldcam.benchmarks.gate.statistics import bound_rank
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
    files = _Files(model, graphs, int8, fp16, baseline, base, out, markdown, history, plot)
    if write_graphs:
        _write_graphs(model, write_graphs)
        return
    check_device(options.device)
    if prove:
        _prove(files, options, clean, slowed, as_json)
    elif update:
        _update(files, options, as_json)
    else:
        _gate(files, options, clock, as_json)


def _megahertz(clock: str | None) -> float | None:
    if clock is None or clock == "any":
        return None
    if not (clock.isascii() and clock.isdigit() and 0 < int(clock) < 10_000):
        raise typer.BadParameter(f"--clock {clock!r} is neither any nor whole MHz, such as 1980.")
    return float(clock)


def _write_graphs(model: Path | None, folder: Path) -> None:
    from foldcam.benchmarks.gate.subject import scratch, standard_subject, subject_of, write_graphs

    with scratch() as place:
        made = subject_of(model, Path(place)) if model else standard_subject(Path(place))
        write_graphs(made, folder)
    print_text(f"Written: {folder}, for foldcam bench gate --graphs {folder}")


def _subject(files: _Files, place: Path) -> Subject:
    from foldcam.benchmarks.gate.subject import (
        read_graphs,
        standard_subject,
        subject_of,
        with_precisions,
    )

    if files.graphs:
        subject = read_graphs(files.graphs)
    else:
        subject = subject_of(files.model, place) if files.model else standard_subject(place)
    return with_precisions(subject, files.int8, files.fp16)


def _update(files: _Files, options: GateOptions, as_json: bool) -> None:
    from foldcam.benchmarks.gate.baseline import FOLDER, write_baseline
    from foldcam.benchmarks.gate.engines import with_engines
    from foldcam.benchmarks.gate.machine import class_of
    from foldcam.benchmarks.gate.run import measure_subject
    from foldcam.benchmarks.gate.subject import scratch

    with scratch() as folder:
        subject = with_engines(_subject(files, Path(folder)), options.device, Path(folder))
        # What everything is compared with is measured twice as long.
        found = measure_subject(subject, replace(options, repeats=2 * options.repeats))
    name = class_of(options.device, found["machine"], found["versions"]).file_name
    path = files.baseline or FOLDER / name
    write_baseline(path, found)
    if as_json:
        print_json(found)
    else:
        print_text(f"Written: {path}")


def _gate(files: _Files, options: GateOptions, clock: str | None, as_json: bool) -> None:
    from foldcam.benchmarks.gate.engines import with_engines
    from foldcam.benchmarks.gate.history import add_run, plot, read_history
    from foldcam.benchmarks.gate.report import markdown as in_markdown
    from foldcam.benchmarks.gate.report import text
    from foldcam.benchmarks.gate.run import base_of, gate_document, measure_subject
    from foldcam.benchmarks.gate.subject import read_graphs, scratch, with_base
    from foldcam.runtime.bench.cli import write_document

    if files.history and files.history.exists():
        read_history(files.history)
    with scratch() as folder:
        place = Path(folder)
        # First what can fail at once, then the builds and the measurement.
        stored = _stored(files, options, files.command(options.device, clock))
        subject = _subject(files, place)
        if stored is None:
            subject = with_base(subject, read_graphs(files.base or place))
        else:
            _check(stored, subject, options, files.command(options.device, clock))
        subject = with_engines(subject, options.device, place)
        found = measure_subject(subject, options)
    document: dict[str, Any] = gate_document(found, stored or base_of(found), options)
    write_document(files.out / "gate.json", document)
    if files.markdown is not None:
        with atomic_path(files.markdown) as temporary:
            temporary.write_text(in_markdown(document), encoding="utf-8")
    if files.history is not None:
        add_run(files.history, document)
        if files.plot is not None:
            plot(files.plot, read_history(files.history))
    if as_json:
        print_json(document)
    else:
        print_text(text(document))
    if not document["passed"]:
        raise typer.Exit(ExitStatus.GATE_FAILED)


def _stored(files: _Files, options: GateOptions, command: str) -> Baseline | None:
    """The baseline of this machine's class; None where the base is measured in its place."""
    from foldcam.benchmarks.gate.baseline import FOLDER, read_baseline
    from foldcam.benchmarks.gate.machine import class_of, library_versions, machine_now

    now = class_of(options.device, machine_now(options.device), library_versions(options.device))
    path = files.baseline or FOLDER / now.file_name
    if path.is_file():
        return read_baseline(path)
    if files.base is not None:
        return None
    raise FoldcamError(
        f"There is no baseline {path} for this machine ({now.title}): write it with `{command}`, "
        "or compare with another commit by --base and the folder that `foldcam bench gate "
        "--write-graphs` writes in its checkout."
    )


def _check(stored: Baseline, subject: Subject, options: GateOptions, command: str) -> None:
    from foldcam.benchmarks.gate.machine import class_of, library_versions, machine_now

    machine = machine_now(options.device)
    try:
        stored.check(
            subject.title, class_of(options.device, machine, library_versions(options.device))
        )
    except FoldcamError as error:
        raise FoldcamError(f"{str(error).rstrip('.')}: `{command}`.") from None


def _prove(files: _Files, options: GateOptions, clean: int, slowed: int, as_json: bool) -> None:
    from foldcam.benchmarks.gate.engines import with_engines
    from foldcam.benchmarks.gate.subject import scratch

    proof = study("gate", "foldcam bench gate --prove")
    from foldcam.export.progress import ProgressBar

    with scratch() as folder, ProgressBar() as progress:
        subject = with_engines(_subject(files, Path(folder)), options.device, Path(folder))
        document = proof.prove(
            subject, files.out, proof.ProofOptions(options, clean, slowed), progress
        )
    if as_json:
        print_json(document)
    else:
        print_text(proof.proof_text(document))
    if not document["passed"]:
        raise typer.Exit(ExitStatus.GATE_FAILED)
