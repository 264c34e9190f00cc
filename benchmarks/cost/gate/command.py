"""What `foldcam bench gate` does with its flags: files read, engines built, verdicts written."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from foldcam.benchmarks.evaluation.cli_support import study
from foldcam.runtime.system.command import print_json, print_text
from foldcam.runtime.system.errors import ExitStatus, FoldcamError
from foldcam.runtime.system.files import atomic_path

if TYPE_CHECKING:
    from foldcam.benchmarks.cost.gate.baseline import Baseline
    from foldcam.benchmarks.cost.gate.machine import MachineClass
    from foldcam.benchmarks.cost.gate.run import GateOptions
    from foldcam.benchmarks.cost.gate.subject import Subject


@dataclass(frozen=True)
class GateFiles:
    """What the flags name.

    Attributes:
        model, graphs: what is gated; without either EfficientNet-Lite0.
        int8, fp16: models or engines that are compared with each other.
        baseline: to compare with, or to write; None is the one of this machine's class.
        base: graphs of another commit.
        out: folder of `gate.json`.
        markdown, history, plot: further outputs.
    """

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

    def baseline_of(self, machine: MachineClass) -> Path:
        """Where the baseline of a class of machines lies: of a model of the user's beside it."""
        from foldcam.benchmarks.cost.gate.baseline import FOLDER

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
    from foldcam.benchmarks.cost.gate.baseline import write_baseline
    from foldcam.benchmarks.cost.gate.engines import with_engines
    from foldcam.benchmarks.cost.gate.machine import class_of
    from foldcam.benchmarks.cost.gate.run import measure_subject
    from foldcam.benchmarks.cost.gate.subject import scratch

    with scratch() as folder:
        subject = with_engines(_subject(files, Path(folder)), options.device, Path(folder))
        # What everything is compared with is measured twice as long.
        found = measure_subject(subject, replace(options, repeats=2 * options.repeats))
    path = files.baseline_of(class_of(options.device, found["machine"], found["versions"]))
    write_baseline(path, found)
    if as_json:
        print_json(found)
    else:
        print_text(f"Written: {path}")


def run_gate(files: GateFiles, options: GateOptions, clock: str | None, as_json: bool) -> None:
    """Measure, judge, and leave everything that was asked for.

    Raises:
        FoldcamError: there is nothing to compare with, or nothing can be measured.
        typer.Exit: something became slower.
    """
    from foldcam.benchmarks.cost.gate.engines import with_engines
    from foldcam.benchmarks.cost.gate.history import add_run, plot, read_history
    from foldcam.benchmarks.cost.gate.report import markdown as in_markdown
    from foldcam.benchmarks.cost.gate.report import text
    from foldcam.benchmarks.cost.gate.run import base_of, gate_document, measure_subject
    from foldcam.benchmarks.cost.gate.subject import read_graphs, scratch, with_base
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


def _stored(files: GateFiles, options: GateOptions, command: str) -> Baseline | None:
    """The baseline of this machine's class; None where the base is measured in its place."""
    from foldcam.benchmarks.cost.gate.baseline import read_baseline
    from foldcam.benchmarks.cost.gate.machine import class_of, library_versions, machine_now

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
    if as_json:
        print_json(document)
    else:
        print_text(proof.proof_text(document))
    if not document["passed"]:
        raise typer.Exit(ExitStatus.GATE_FAILED)
