"""`runtime`: the program of the device. Flags in, calls of public functions out."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from runtime.bench.cli import bench
from runtime.cli_support import print_json, print_text, run_app
from runtime.engine.cli import build
from runtime.errors import ExitStatus
from runtime.text import number_text, printable

if TYPE_CHECKING:
    from runtime.backends import Library, Provider
    from runtime.model import FoldedModel
    from runtime.pipeline import Summary
    from runtime.sinks.table import TableSink

app = typer.Typer(
    name="runtime",
    help="Run a folded model on photographs, videos and cameras: embedding and heatmap from one "
    "forward pass.\n\nExample: runtime run model.onnx --file photos/ --save out/",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


app.command()(build)
app.command()(bench)


class ProviderName(str, Enum):
    """What ONNX Runtime computes on."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    tensorrt = "tensorrt"


class BackendChoice(str, Enum):
    """Which library runs a model."""

    auto = "auto"
    tensorrt = "tensorrt"
    onnxruntime = "onnxruntime"


def _version(wanted: bool) -> None:
    if wanted:
        from runtime.version import version

        print_text(f"foldcam {version()}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command()
def run(
    model: Annotated[
        Path | None,
        typer.Argument(
            help="A folded model (.onnx) or its engine (.engine). Without it: $FOLDCAM_MODEL, the "
            "only one in this folder, or the demo's.",
            show_default=False,
        ),
    ] = None,
    camera: Annotated[
        int | None,
        typer.Option(help="A camera of this machine, by number.", min=0),
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(help="An image, a folder, a pattern in quotes, or a video."),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(help="A path, /dev/videoN, or file:// rtsp:// http:// tcp:// udp://."),
    ] = None,
    save: Annotated[
        str | None,
        typer.Option(help="Where overlays go: a folder, or a video file (.mp4 .avi .mkv)."),
    ] = None,
    jsonl: Annotated[
        str | None,
        typer.Option(help="One JSON line per frame to this file, or to standard output with -."),
    ] = None,
    embedding: Annotated[
        bool, typer.Option(help="Whether the JSON lines carry the embedding.")
    ] = True,
    show: Annotated[bool, typer.Option("--show", help="Open a window.")] = False,
    backend: Annotated[
        BackendChoice | None,
        typer.Option(
            help="Which library runs it. Unless given: TensorRT an .engine, ONNX Runtime an "
            ".onnx. auto tries TensorRT, CUDA and the CPU in turn, and says so.",
            show_default=False,
        ),
    ] = None,
    provider: Annotated[
        ProviderName,
        typer.Option(
            help="What ONNX Runtime computes on: auto is CUDA where it works, else the CPU; "
            "tensorrt is ONNX Runtime's own."
        ),
    ] = ProviderName.auto,
    cuda_graph: Annotated[
        bool | None,
        typer.Option(
            help="Whether runs on a GPU are captured and replayed. [default: in TensorRT only]",
            show_default=False,
        ),
    ] = None,
    build: Annotated[
        bool,
        typer.Option("--build", help="Let --backend tensorrt build a missing engine: minutes."),
    ] = False,
    threads: Annotated[
        int | None,
        typer.Option(help="Threads on the CPU.", min=1),
    ] = None,
    opacity: Annotated[
        float, typer.Option(help="Of the heat at its hottest place.", min=0.0, max=1.0)
    ] = 0.6,
    quiet: Annotated[bool, typer.Option("--quiet", help="No status line.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print the summary as one JSON document.")
    ] = False,
) -> None:
    """Show what a folded model sees, and where it looks.

    Example: runtime run model.onnx --camera 0 --save out/

    Example: runtime run model.onnx --file photos/ --save out/ --jsonl out/results.jsonl

    Example: runtime run model.engine --camera 0
    """
    if sum(value is not None for value in (camera, file, source)) != 1:
        raise typer.BadParameter("give exactly one of --camera, --file and --source.")
    if json and jsonl == "-":
        raise typer.BadParameter("--json and --jsonl - both write to standard output.")
    if build and backend not in (BackendChoice.auto, BackendChoice.tensorrt):
        raise typer.BadParameter("--build needs --backend tensorrt or auto.")
    from runtime.default_model import find_model
    from runtime.pipeline import run as run_pipeline
    from runtime.sinks import open_sinks
    from runtime.sinks.table import TableSink
    from runtime.sources import open_source
    from runtime.status import StatusLine

    # The source first: that no camera is there can be said before a model is loaded.
    with open_source(camera=camera, file=file, source=source) as opened, ExitStack() as stack:
        path = model if model is not None else find_model()
        if model is None and not quiet:
            print(f"model: {printable(str(path))}", file=sys.stderr)
        library: Library | None = None
        if backend is not None:
            library = backend.value
        folded = stack.enter_context(
            _load(path, provider.value, threads, library, cuda_graph, build)
        )
        sinks = open_sinks(opened, save=save, jsonl=jsonl, show=show, embedding=embedding)
        table = None
        if not sinks and not json and opened.stills:
            table = TableSink()
            sinks.append(table)
        status = None if quiet else StatusLine()
        try:
            summary = run_pipeline(opened, folded, sinks, status, opacity=opacity)
        finally:
            if status is not None:
                status.clear()
    if json:
        print_json({"model": str(path), **summary.to_dict()})
        return
    _report(summary, table, to_stderr=jsonl == "-", quiet=quiet)


@app.command()
def inspect(
    file: Annotated[
        Path,
        typer.Argument(help="A folded model (.onnx) or an engine (.engine).", show_default=False),
    ],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Print what a folded model promises: tensors, preprocessing, bank, labels, origin.

    Of an engine also what it was built with and for; nothing of it is deserialised.

    Example: runtime inspect model.onnx
    """
    from runtime.inspect import inspect_model, inspection_text

    report = inspect_model(file)
    if json:
        print_json(report)
    else:
        print_text(inspection_text(report))


@app.command()
def doctor(
    model: Annotated[
        Path | None,
        typer.Argument(
            help="For --self-test: a folded .onnx; without it the one that `run` takes.",
            show_default=False,
        ),
    ] = None,
    self_test: Annotated[
        bool,
        typer.Option(
            "--self-test", help="Build an engine and compare the GPU's answers with the CPU's."
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Look at this machine: what is there, what is missing, and what to do about it.

    With --self-test, run a model on the GPU: the report is made for bug reports. Exit
    status 3 if an answer is wrong.

    Example: runtime doctor

    Example: runtime doctor --self-test model.onnx
    """
    if self_test:
        _self_test(model, json)
        return
    if model is not None:
        raise typer.BadParameter("a model is only for --self-test.")
    from dataclasses import asdict

    from runtime.doctor import diagnose, diagnosis_text

    checks = diagnose()
    if json:
        print_json({"checks": [asdict(check) for check in checks]})
    else:
        print_text(diagnosis_text(checks))


def _self_test(model: Path | None, json: bool) -> None:
    from runtime.default_model import find_model
    from runtime.self_test import self_test, self_test_text

    report = self_test(model if model is not None else find_model())
    if json:
        print_json(report)
    else:
        print_text(self_test_text(report))
    if not report["passed"]:
        raise typer.Exit(ExitStatus.GATE_FAILED)


def _load(
    path: Path,
    provider: Provider,
    threads: int | None,
    library: Library | None,
    cuda_graph: bool | None,
    build: bool,
) -> FoldedModel:
    from runtime.backends import open_backend
    from runtime.engine.builder import BuildAbandonedError
    from runtime.engine.progress import BuildLine
    from runtime.model import FoldedModel

    try:
        backend = open_backend(
            path, provider, threads, library=library, cuda_graph=cuda_graph, build=build,
            line=BuildLine(),
        )  # fmt: skip
    except BuildAbandonedError:
        # The interpreter's own end would free what the builder's thread still uses.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(130)
    return FoldedModel(backend)


def _report(summary: Summary, table: TableSink | None, *, to_stderr: bool, quiet: bool) -> None:
    """The end of a run in words; skipped files are counted and named even when quiet."""
    lines: list[str] = []
    if table is not None:
        lines += [str(table), ""]
    frames = f"{summary.frames} frame{'' if summary.frames == 1 else 's'}"
    lines.append(
        f"{frames} in {summary.seconds:.1f} s ({summary.fps:.1f} fps), latency p50 "
        f"{summary.latency_ms['p50']:.1f} ms, p99 {summary.latency_ms['p99']:.1f} ms"
        + (", stopped by the user" if summary.interrupted else "")
    )
    if table is None and summary.labels:
        seen = ", ".join(f"{label} ({count})" for label, count in summary.labels.items())
        lines.append(f"nearest: {printable(seen)}")
    if table is None and summary.estimate is not None:
        mean, low, high = (number_text(summary.estimate[key]) for key in ("mean", "low", "high"))
        lines.append(f"estimate: {mean} on average ({low} to {high})")
    lines += [f"wrote {printable(output)}" for output in summary.outputs]
    if not quiet or table is not None:
        text = "\n".join(lines)
        if to_stderr:
            print(text, file=sys.stderr)
        else:
            print_text(text)
    if summary.skipped:
        print(f"skipped {len(summary.skipped)}:", file=sys.stderr)
        for skip in summary.skipped:
            print(f"  {printable(skip.path)}: {printable(skip.reason)}", file=sys.stderr)


def main() -> NoReturn:
    """The console script `runtime`."""
    run_app(app, "runtime")


if __name__ == "__main__":
    main()
