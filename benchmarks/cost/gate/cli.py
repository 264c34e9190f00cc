"""`foldcam bench gate`: files read, engines built, verdicts written."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foldcam.benchmarks.evaluation.cli_support import Out, study
from foldcam.export.commands import options as flags
from foldcam.runtime.contract.at_stake import Read, Written, check_outputs
from foldcam.runtime.system.command import print_report, print_text
from foldcam.runtime.system.errors import FoldcamError

if TYPE_CHECKING:
    from foldcam.benchmarks.cost.gate.judging import GateOptions
    from foldcam.benchmarks.cost.gate.machine import Baseline, MachineClass
    from foldcam.benchmarks.cost.gate.subject import Subject


def gate(
    baseline: Annotated[
        Path | None,
        typer.Option(
            help="Compares with this file of what this device measured before.",
            show_default="the one of this machine's class (device, hardware, library version, "
            "power mode): in benchmarks/baselines/, or of --model beside it",
        ),
    ] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Measures, and writes the baseline again.")
    ] = False,
    prove: Annotated[
        bool,
        typer.Option(
            "--prove",
            help="In a checkout, checks the gate itself: it must catch a graph that is slowed "
            "down by 5 %, and pass others.",
        ),
    ] = False,
    model: Annotated[
        Path | None,
        typer.Option(
            help="Times this folded .onnx file.",
            show_default="EfficientNet-Lite0 with 300 random rows",
        ),
    ] = None,
    graphs: Annotated[
        Path | None,
        typer.Option(
            help="Times the graphs in this folder of --write-graphs in place of --model, on a "
            "device without torch and onnx.",
            show_default="none",
        ),
    ] = None,
    write_graphs: Annotated[
        Path | None,
        typer.Option(
            help="Writes the graphs of --model into this folder, and measures nothing.",
            show_default="none",
        ),
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option(
            help="Times the graphs in this folder, which --write-graphs wrote for the commit to "
            "compare with, along where this machine's class has no baseline.",
            show_default="none",
        ),
    ] = None,
    int8: Annotated[
        Path | None,
        typer.Option(
            help="Times this INT8 model or engine against that of --fp16.", show_default="none"
        ),
    ] = None,
    fp16: Annotated[
        Path | None,
        typer.Option(
            help="Times this FP16 model or engine for --int8 to be compared with.",
            show_default="none",
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            help="Chooses where to run: cpu or cuda in ONNX Runtime; tensorrt or rtx as engines, "
            "which are built first."
        ),
    ] = "cpu",
    clock: Annotated[
        str | None,
        typer.Option(
            help="Names the clock in MHz that the GPU was locked at, or any to measure at any "
            "clock.",
            show_default="the target that a Jetson says itself; on a desktop, one that does not "
            "move",
        ),
    ] = None,
    repeats: Annotated[
        int, typer.Option(help="Sets the number of times that the graphs are opened again.", min=1)
    ] = 10,
    rounds: Annotated[
        int, typer.Option(help="Sets the number of paired runs in each repeat.", min=5)
    ] = 60,
    margin: Annotated[
        float, typer.Option(help="Sets how far a ratio may rise, as a share of it.", min=0.0)
    ] = 0.025,
    absolute_margin: Annotated[
        float,
        typer.Option(
            help="Sets how far a time in milliseconds may rise, as a share of it.", min=0.0
        ),
    ] = 0.15,
    clean: Annotated[
        int, typer.Option(help="Sets the number of runs of --prove on the graph as it is.", min=1)
    ] = 20,
    slowed: Annotated[
        int, typer.Option(help="Sets the number of runs of --prove on the slowed graph.", min=1)
    ] = 10,
    out: Out = Path("results/gate"),
    markdown: Annotated[
        Path | None,
        typer.Option(
            help="Writes the verdict to this file as Markdown, for a job summary or a comment.",
            show_default="none",
        ),
    ] = None,
    history: Annotated[
        Path | None,
        typer.Option(help="Adds the run's ratios to this file of JSON lines.", show_default="none"),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draws all runs of --history into this PNG file.", show_default="none"),
    ] = None,
    as_json: flags.Json = False,
) -> None:
    """Compare the folded graph's time over the plain one's with a baseline; status 3 if it rose."""
    from foldcam.benchmarks.cost.gate.judging import GateOptions, bound_rank
    from foldcam.benchmarks.cost.gate.machine import DEVICES, check_device

    if prove and update:
        raise typer.BadParameter("--prove measures a baseline of its own: leave --update out.")
    if plot and not history:
        raise typer.BadParameter("--plot draws a history: give --history as well.")
    if model and graphs:
        raise typer.BadParameter("--graphs is in place of --model: give one of them.")
    options = GateOptions(
        device=flags.choice("--device", device, DEVICES),
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


@dataclass(frozen=True)
class GateFiles:
    """What the flags name."""

    # model, graphs: what is gated; without either EfficientNet-Lite0
    model: Path | None
    graphs: Path | None
    # int8, fp16: models or engines that are compared with each other
    int8: Path | None
    fp16: Path | None
    baseline: Path | None  # to compare with, or to write; None is the one of this machine's class
    base: Path | None  # graphs of another commit
    out: Path  # folder of `gate.json`
    # markdown, history, plot: further outputs
    markdown: Path | None
    history: Path | None
    plot: Path | None

    def baseline_of(self, machine: MachineClass) -> Path:
        """Where the baseline of a class of machines lies: of a model of the user's beside it."""
        from foldcam.benchmarks.cost.gate.machine import FOLDER

        if self.baseline is not None:
            return self.baseline
        if self.model is not None:
            return self.model.with_name(f"{self.model.stem}.{machine.file_name}")
        return FOLDER / machine.file_name

    def command(self, device: str, clock: str | None) -> str:
        """The command that writes the baseline of what is gated here."""
        words = ["foldcam", "bench", "gate", "--device", device, "--update"]
        for flag, value in (
            ("--model", self.model), ("--graphs", self.graphs), ("--int8", self.int8),
            ("--fp16", self.fp16), ("--baseline", self.baseline), ("--clock", clock),
        ):  # fmt: skip
            words += [] if value is None else [flag, str(value)]
        return shlex.join(words)


def write_graphs_of(model: Path | None, folder: Path) -> None:
    """Fold, and leave the graphs in a folder."""
    from foldcam.benchmarks.cost.gate.subject import (
        scratch,
        standard_subject,
        subject_of,
        write_graphs,
    )

    with scratch() as place:
        made = subject_of(model, Path(place)) if model else standard_subject(Path(place))
        write_graphs(made, folder)
    print_text(f"Written: {folder}, for foldcam bench gate --graphs {folder}")


def _subject(files: GateFiles, place: Path) -> Subject:
    from foldcam.benchmarks.cost.gate.subject import (
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


def update_baseline(files: GateFiles, options: GateOptions, as_json: bool) -> None:
    """Measure, and write the baseline."""
    from foldcam.benchmarks.cost.gate.engines import with_engines
    from foldcam.benchmarks.cost.gate.judging import measure_subject
    from foldcam.benchmarks.cost.gate.machine import class_of, write_baseline
    from foldcam.benchmarks.cost.gate.subject import scratch

    with scratch() as folder:
        subject = with_engines(_subject(files, Path(folder)), options.device, Path(folder))
        # What everything is compared with is measured twice as long.
        found = measure_subject(subject, replace(options, repeats=2 * options.repeats))
    path = files.baseline_of(class_of(options.device, found["machine"], found["versions"]))
    write_baseline(path, found)
    print_report(found, f"Written: {path}", as_json)


def run_gate(files: GateFiles, options: GateOptions, clock: str | None, as_json: bool) -> None:
    """Measure, judge, and leave everything that was asked for."""
    from foldcam.benchmarks.cost.gate.engines import with_engines
    from foldcam.benchmarks.cost.gate.judging import base_of, gate_document, measure_subject
    from foldcam.benchmarks.cost.gate.report import add_run, plot, read_history, text
    from foldcam.benchmarks.cost.gate.report import markdown as in_markdown
    from foldcam.benchmarks.cost.gate.subject import read_graphs, scratch, with_base
    from foldcam.benchmarks.evaluation.documents import write_text
    from foldcam.runtime.system.files import write_document

    # First what can fail at once, then the builds and the measurement.
    if files.history and files.history.exists():
        read_history(files.history)
    if files.plot is not None:
        import matplotlib  # noqa: F401
    with scratch() as folder:
        place = Path(folder)
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
        write_text(files.markdown, in_markdown(document))
    if files.history is not None:
        add_run(files.history, document)
        if files.plot is not None:
            plot(files.plot, read_history(files.history))
    print_report(document, text(document), as_json, document["passed"])


def _stored(files: GateFiles, options: GateOptions, command: str) -> Baseline | None:
    """The baseline of this machine's class; None where the base is measured in its place."""
    from foldcam.benchmarks.cost.gate.machine import (
        class_of,
        library_versions,
        machine_now,
        read_baseline,
    )

    now = class_of(options.device, machine_now(options.device), library_versions(options.device))
    path = files.baseline_of(now)
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
    from foldcam.benchmarks.cost.gate.machine import class_of, library_versions, machine_now

    machine = machine_now(options.device)
    try:
        stored.check(
            subject.title, class_of(options.device, machine, library_versions(options.device))
        )
    except FoldcamError as error:
        raise FoldcamError(f"{str(error).rstrip('.')}: `{command}`.") from None


def prove_gate(
    files: GateFiles, options: GateOptions, clean: int, slowed: int, as_json: bool
) -> None:
    """Let the gate prove that it fails where it should, and passes elsewhere."""
    from foldcam.benchmarks.cost.gate.engines import with_engines
    from foldcam.benchmarks.cost.gate.subject import scratch

    proof = study("gate", "foldcam bench gate --prove")
    from foldcam.export.commands.progress import ProgressBar

    with scratch() as folder, ProgressBar() as progress:
        subject = with_engines(_subject(files, Path(folder)), options.device, Path(folder))
        document = proof.prove(
            subject, files.out, proof.ProofOptions(options, clean, slowed), progress
        )
    print_report(document, proof.proof_text(document), as_json, document["passed"])
