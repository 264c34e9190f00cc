"""`foldcam demo`, `evaluate` and `bench`: options turned into calls of public functions."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foldcam.benchmarks.commands.evaluate_cli import evaluate
from foldcam.benchmarks.cost.gate.cli import gate
from foldcam.benchmarks.evaluation.cli_support import (
    DataOption,
    DrawsOption,
    EpochsOption,
    FoldedModelOption,
    ImagesPerPassOption,
    JsonOption,
    OutOption,
    RowsOption,
    SeedOption,
    SizeOption,
    WeightsOption,
    counts,
    has_studies,
    network_choice,
    study,
    usual_data,
)
from foldcam.export.commands.options import choice
from foldcam.runtime.measurement.bench.cli import (
    BackendsOption,
    BatchesOption,
    CudaGraphOption,
    FilesArgument,
    FrameOption,
    PassesOption,
    PinOption,
    ProvidersOption,
    RateOption,
    ThreadsOption,
    WarmUpOption,
    bench_options,
)
from foldcam.runtime.system.command import print_json, print_text
from foldcam.runtime.system.errors import ExitStatus

if TYPE_CHECKING:
    from foldcam.benchmarks.commands.demo.run import DemoReport

app = typer.Typer(no_args_is_help=True)
bench = typer.Typer(no_args_is_help=True, help="Measure what folding costs.")
app.add_typer(evaluate, name="evaluate")
app.add_typer(bench, name="bench")
bench.command(epilog="Example: foldcam bench gate --device tensorrt --model birds.onnx")(gate)


@bench.callback()
def group() -> None:
    """Measure what folding costs."""


@app.command(epilog="Example: foldcam demo --out demo-output")
def demo(
    out: Annotated[Path, typer.Option(help="Folder that everything is written into.")] = Path(
        "demo-output"
    ),
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """The main job, end to end, on photographs that a package carries."""
    from foldcam.benchmarks.commands.demo.run import run_demo

    report = run_demo(out, lambda line: print(line, file=sys.stderr, flush=True), seed)
    if as_json:
        print_json(report.document())
    else:
        _print_demo(report)
    if not report.verified.passed:
        raise typer.Exit(ExitStatus.GATE_FAILED)


@bench.command(epilog="Example: foldcam bench latency model.onnx --threads 1 --batch 1,8")
def latency(
    files: FilesArgument,
    out: OutOption = Path("results/latency"),
    backend: BackendsOption = None,
    provider: ProvidersOption = "auto",
    batch: BatchesOption = "1",
    threads: ThreadsOption = None,
    pin: PinOption = None,
    passes: PassesOption = 300,
    warm_up: WarmUpOption = 30,
    rate: RateOption = 30.0,
    frame: FrameOption = None,
    cuda_graph: CudaGraphOption = None,
    as_json: JsonOption = False,
) -> None:
    """Time folded models as `runtime bench` does, and write table and plot as well."""
    from foldcam.benchmarks.cost.latency.report import markdown_table, plot, setting
    from foldcam.benchmarks.evaluation.provenance import provenance
    from foldcam.export.commands.progress import ProgressBar
    from foldcam.runtime.measurement.bench.report import text
    from foldcam.runtime.measurement.bench.run import run_bench
    from foldcam.runtime.system.files import atomic_path, write_document

    options = bench_options(
        backend, provider, batch, threads, pin, passes, warm_up, rate, frame, cuda_graph
    )
    with ProgressBar() as progress:
        document = {**run_bench(files, options, progress), **provenance()}
    write_document(out / "latency.json", document)
    with atomic_path(out / "latency.md") as temporary:
        page = f"{setting(document)}\n\n{markdown_table(document)}\n"
        temporary.write_text(page, encoding="utf-8")
    plot(document, out / "latency.png")
    if as_json:
        print_json(document)
    else:
        print_text(text(document))
        print_text(f"Written to {out}: latency.json, latency.md, latency.png")


@bench.command(epilog="Example: foldcam bench overhead --data CUB_200_2011 --rows 300,10000,100000")
def overhead(
    data: DataOption = None,
    rows: RowsOption = "300,10000,100000",
    out: OutOption = Path("results/overhead"),
    model: FoldedModelOption = None,
    weights: WeightsOption = None,
    size: SizeOption = None,
    epochs: EpochsOption = 30,
    search: Annotated[
        str, typer.Option(help="How the bank is searched, as in foldcam export --search.")
    ] = "auto",
    bank_precision: Annotated[
        str, typer.Option(help="Precision of the bank, as in foldcam export --bank-precision.")
    ] = "auto",
    rounds: Annotated[int, typer.Option(help="Number of timed runs of each graph.", min=1)] = 300,
    seed: SeedOption = 0,
    draws: DrawsOption = 2000,
    as_json: JsonOption = False,
) -> None:
    """Time of the folded graph over the plain one by bank size, and the answers it loses."""
    from foldcam.benchmarks.cost.overhead.report import text_table
    from foldcam.benchmarks.cost.overhead.study import OverheadOptions, run_overhead
    from foldcam.export.commands.progress import ProgressBar
    from foldcam.export.grafting.options import PRECISION_CHOICES, StorageOptions, parse_search

    storage = StorageOptions(
        search=parse_search(search),
        precision=choice("--bank-precision", bank_precision, PRECISION_CHOICES),
    )
    options = OverheadOptions(
        rows=counts(rows),
        network=network_choice(model, weights, size, epochs, seed),
        storage=storage,
        rounds=rounds,
        seed=seed,
        draws=draws,
    )
    with ProgressBar() as progress:
        document = run_overhead(data or usual_data(), out, options, progress)
    if as_json:
        print_json(document)
        return
    print(text_table(document))
    print(f"\nplain graph {document['plain_milliseconds']} ms on one thread")
    print(f"Written to {out}/overhead.json")


@bench.command(epilog="Example: foldcam bench gpu --out results/gpu")
def gpu(
    out: OutOption = Path("results/gpu"),
    device: Annotated[
        str, typer.Option(help="Where to run: cuda, or cpu to try it without a GPU.")
    ] = "cuda",
    rows: RowsOption = "300,10000,100000",
    batches: ImagesPerPassOption = "1,8",
    networks: Annotated[
        str,
        typer.Option(
            help="EfficientNet-Lite0, ResNet-50 (needs transformers), or both with a comma."
        ),
    ] = "EfficientNet-Lite0,ResNet-50",
    rounds: Annotated[int, typer.Option(help="Number of timed runs of each method.", min=1)] = 200,
    size: Annotated[int, typer.Option(help="Side of the square input in pixels.", min=32)] = 224,
    peers: Annotated[
        bool,
        typer.Option(
            "--peers",
            help="Run Grad-CAM in torch also channels last and compiled, as bench peers does on "
            "a processor.",
        ),
    ] = False,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Folded graphs and Grad-CAM in torch on one GPU: parity with the CPU, and time."""
    from foldcam.benchmarks.cost.gpu.report import text_table
    from foldcam.benchmarks.cost.gpu.study import NETWORKS, GpuOptions, run_gpu
    from foldcam.export.commands.progress import ProgressBar

    options = GpuOptions(
        device=choice("--device", device, ("cuda", "cpu")),
        networks=tuple(choice("--networks", name, tuple(NETWORKS)) for name in networks.split(",")),
        rows=counts(rows),
        batches=counts(batches, "--batches", 1),
        rounds=rounds,
        size=size,
        seed=seed,
        peers=peers,
    )
    with ProgressBar() as progress:
        document = run_gpu(out, options, progress)
    if as_json:
        print_json(document)
    else:
        print(text_table(document))


def _print_demo(report: DemoReport) -> None:
    print("\nShare of heat in the box of the object that was found")
    print(f"{'scene':<14}{'label found':<14}{'similarity':>10}{'heat in box':>13}{'ms':>8}")
    for score in report.scores:
        share = "not in scene" if score.heat_in_box is None else f"{score.heat_in_box:.0%}"
        print(
            f"{score.scene:<14}{score.label:<14}{score.similarity:>10.2f}{share:>13}"
            f"{score.milliseconds:>8.1f}"
        )
    found = sum(score.heat_in_box is not None for score in report.scores)
    means = report.means()
    print(f"\nlabel found in the scene: {found} of {len(report.scores)}")
    if means:
        print("mean share of heat in that box:")
        print(f"  folded model     {means['heat_in_box']:.0%}")
        print(f"  mean activation  {means['mean_activation']:.0%}  (sees objects, asks nothing)")
        print(f"  centred blob     {means['centred_blob']:.0%}")
        print(f"  uniform          {means['uniform']:.0%}")
    print(f"\nLook at {report.contact_sheet}")
    # Where the programs are, as long as the environment is not activated.
    programs = Path(sys.executable).parent
    here = "" if shutil.which("runtime") == str(programs / "runtime") else f"{_short(programs)}/"
    print(f"Your camera:  {here}runtime run {report.model} --camera 0 --save out/")
    print(f"Your network: {here}foldcam export package.module:factory --images DATA --out my.onnx")


def _short(folder: Path) -> Path:
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


# The commands of the studies, which the wheel does not hold.
STUDIES = {
    "bench": ("int8", "peers", "pipeline", "ray", "scale"),
    "evaluate": ("architectures", "transfer"),
}


def _add_studies() -> None:
    """Add the commands of a checkout, or hidden ones that say where they run."""
    if has_studies():
        study("cli", "foldcam").add_commands(bench, evaluate)
        return
    for group_app, group_name in ((bench, "bench"), (evaluate, "evaluate")):
        for name in STUDIES[group_name]:
            _add_missing_study(group_app, f"foldcam {group_name} {name}")


def _add_missing_study(group_app: typer.Typer, command: str) -> None:
    def explain() -> None:
        study("cli", command)

    group_app.command(
        command.rpartition(" ")[2],
        hidden=True,
        add_help_option=False,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )(explain)


_add_studies()


if __name__ == "__main__":
    app()
