"""`foldcam demo`, `evaluate` and `bench`: options turned into calls of public functions."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foldcam.benchmarks.commands.evaluate_cli import evaluate
from foldcam.benchmarks.cost.gate.cli import gate
from foldcam.benchmarks.evaluation import cli_support as shared
from foldcam.export.commands import options as flags
from foldcam.runtime.measurement.bench import cli as timing
from foldcam.runtime.system.command import print_report

if TYPE_CHECKING:
    from foldcam.benchmarks.commands.demo.run import DemoReport

app = typer.Typer(no_args_is_help=True)
bench = typer.Typer(no_args_is_help=True, help="Measure what folding costs.")
app.add_typer(evaluate, name="evaluate")
app.add_typer(bench, name="bench")
bench.command(epilog="Example: foldcam bench gate --device tensorrt --model birds.onnx")(gate)


@app.command(epilog="Example: foldcam demo --out demo-output")
def demo(
    out: Annotated[Path, typer.Option(help="Writes everything into this folder.")] = Path(
        "demo-output"
    ),
    seed: shared.Seed = 0,
    as_json: flags.Json = False,
) -> None:
    """Export, verify and run a folded model, end to end, on photographs that a package carries."""
    from foldcam.benchmarks.commands.demo.run import run_demo

    report = run_demo(out, lambda line: print(line, file=sys.stderr, flush=True), seed)
    print_report(report.document(), _demo_text(report), as_json, report.verified.passed)


@bench.command(epilog="Example: foldcam bench latency model.onnx --threads 1 --batch 1,8")
def latency(
    files: timing.FilesArgument,
    out: shared.Out = Path("results/latency"),
    backend: timing.BackendsOption = None,
    provider: timing.ProvidersOption = "auto",
    batch: timing.BatchesOption = "1",
    threads: timing.ThreadsOption = None,
    pin: timing.PinOption = None,
    passes: timing.PassesOption = 300,
    warm_up: timing.WarmUpOption = 30,
    rate: timing.RateOption = 30.0,
    frame: timing.FrameOption = None,
    cuda_graph: timing.CudaGraphOption = None,
    as_json: flags.Json = False,
) -> None:
    """Time folded models as `runtime bench` does, and write table and plot as well."""
    from foldcam.benchmarks.cost.latency import markdown_table, plot, setting
    from foldcam.benchmarks.evaluation.documents import provenance, write_text
    from foldcam.export.commands.progress import ProgressBar
    from foldcam.runtime.measurement.bench.report import text
    from foldcam.runtime.measurement.bench.run import run_bench
    from foldcam.runtime.system.files import write_document

    options = timing.bench_options(
        backend, provider, batch, threads, pin, passes, warm_up, rate, frame, cuda_graph
    )
    with ProgressBar() as progress:
        document = {**run_bench(files, options, progress), **provenance()}
    write_document(out / "latency.json", document)
    write_text(out / "latency.md", f"{setting(document)}\n\n{markdown_table(document)}\n")
    plot(document, out / "latency.png")
    written = f"Written to {out}: latency.json, latency.md, latency.png"
    print_report(document, f"{text(document)}\n{written}", as_json)


@bench.command(epilog="Example: foldcam bench overhead --data CUB_200_2011 --rows 300,10000,100000")
def overhead(
    data: shared.Data = None,
    rows: shared.Rows = "300,10000,100000",
    out: shared.Out = Path("results/overhead"),
    model: shared.FoldedModel = None,
    weights: flags.Weights = None,
    size: shared.Size = None,
    epochs: shared.Epochs = 30,
    search: Annotated[
        str, typer.Option(help="Chooses how the bank is searched, as foldcam export --search does.")
    ] = "auto",
    bank_precision: Annotated[
        str,
        typer.Option(
            help="Sets the type in which the bank is stored, as foldcam export --bank-precision "
            "does."
        ),
    ] = "auto",
    rounds: Annotated[
        int, typer.Option(help="Sets the number of timed runs of each graph.", min=1)
    ] = 300,
    seed: shared.Seed = 0,
    draws: shared.Draws = 2000,
    as_json: flags.Json = False,
) -> None:
    """Measure what a bank of each size costs: time over the plain graph's, and answers lost."""
    from foldcam.benchmarks.cost.overhead.study import OverheadOptions, run_overhead, text_table
    from foldcam.export.commands.progress import ProgressBar
    from foldcam.export.grafting.options import PRECISION_CHOICES, StorageOptions, parse_search

    storage = StorageOptions(
        search=parse_search(search),
        precision=flags.choice("--bank-precision", bank_precision, PRECISION_CHOICES),
    )
    options = OverheadOptions(
        rows=shared.counts(rows),
        network=shared.network_choice(model, weights, size, epochs, seed),
        storage=storage,
        rounds=rounds,
        seed=seed,
        draws=draws,
    )
    with ProgressBar() as progress:
        document = run_overhead(data or shared.usual_data(), out, options, progress)
    text = (
        f"{text_table(document)}\n\nplain graph {document['plain_milliseconds']} ms on one thread\n"
        f"Written to {out}/overhead.json"
    )
    print_report(document, text, as_json)


@bench.command(epilog="Example: foldcam bench gpu --out results/gpu")
def gpu(
    out: shared.Out = Path("results/gpu"),
    device: Annotated[
        str, typer.Option(help="Chooses where to run: cuda, or cpu to try it without a GPU.")
    ] = "cuda",
    rows: shared.Rows = "300,10000,100000",
    batches: shared.ImagesPerPass = "1,8",
    networks: Annotated[
        str,
        typer.Option(
            help="Chooses the networks: EfficientNet-Lite0, ResNet-50 (needs transformers), or "
            "both with a comma."
        ),
    ] = "EfficientNet-Lite0,ResNet-50",
    rounds: Annotated[
        int, typer.Option(help="Sets the number of timed runs of each method.", min=1)
    ] = 200,
    size: Annotated[
        int, typer.Option(help="Sets the side of the square input in pixels.", min=32)
    ] = 224,
    peers: Annotated[
        bool,
        typer.Option(
            "--peers",
            help="Runs Grad-CAM in torch also channels last and compiled, as bench peers does on a "
            "processor.",
        ),
    ] = False,
    seed: shared.Seed = 0,
    as_json: flags.Json = False,
) -> None:
    """Measure folded graphs and Grad-CAM in torch on one GPU: parity with the CPU, and time."""
    from foldcam.benchmarks.cost.gpu.study import NETWORKS, GpuOptions, run_gpu, text_table
    from foldcam.export.commands.progress import ProgressBar

    options = GpuOptions(
        device=flags.choice("--device", device, ("cuda", "cpu")),
        networks=tuple(
            flags.choice("--networks", name, tuple(NETWORKS)) for name in networks.split(",")
        ),
        rows=shared.counts(rows),
        batches=shared.counts(batches, "--batches", 1),
        rounds=rounds,
        size=size,
        seed=seed,
        peers=peers,
    )
    with ProgressBar() as progress:
        document = run_gpu(out, options, progress)
    print_report(document, text_table(document), as_json)


def _demo_text(report: DemoReport) -> str:
    lines = [
        "\nShare of heat in the box of the object that was found",
        f"{'scene':<14}{'label found':<14}{'similarity':>10}{'heat in box':>13}{'ms':>8}",
    ]
    for score in report.scores:
        share = "not in scene" if score.heat_in_box is None else f"{score.heat_in_box:.0%}"
        lines.append(
            f"{score.scene:<14}{score.label:<14}{score.similarity:>10.2f}{share:>13}"
            f"{score.milliseconds:>8.1f}"
        )
    found = sum(score.heat_in_box is not None for score in report.scores)
    lines.append(f"\nlabel found in the scene: {found} of {len(report.scores)}")
    if means := report.means():
        lines += [
            "mean share of heat in that box:",
            f"  folded model     {means['heat_in_box']:.0%}",
            f"  mean activation  {means['mean_activation']:.0%}  (sees objects, asks nothing)",
            f"  centred blob     {means['centred_blob']:.0%}",
            f"  uniform          {means['uniform']:.0%}",
        ]
    # Where the programs are, as long as the environment is not activated.
    programs = Path(sys.executable).parent
    here = "" if shutil.which("runtime") == str(programs / "runtime") else f"{_short(programs)}/"
    lines += [
        f"\nLook at {report.contact_sheet}",
        f"Your camera:  {here}runtime run {report.model} --camera 0 --save out/",
        f"Your network: {here}foldcam export package.module:factory --images DATA --out my.onnx",
    ]
    return "\n".join(lines)


def _short(folder: Path) -> Path:
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


# The commands of the studies, which the wheel does not hold.
STUDIES = {
    "bench": ("int8", "peers", "pipeline", "ray", "scale"),
    "evaluate": ("architectures", "transfer"),
}


def _add_studies() -> None:
    """Add the commands of a checkout, or hidden ones that say where they run."""
    if shared.has_studies():
        shared.study("cli", "foldcam").add_commands(bench, evaluate)
        return
    for group_app, group_name in ((bench, "bench"), (evaluate, "evaluate")):
        for name in STUDIES[group_name]:
            _add_missing_study(group_app, f"foldcam {group_name} {name}")


def _add_missing_study(group_app: typer.Typer, command: str) -> None:
    def explain() -> None:
        shared.study("cli", command)

    group_app.command(
        command.rpartition(" ")[2],
        hidden=True,
        add_help_option=False,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )(explain)


_add_studies()
