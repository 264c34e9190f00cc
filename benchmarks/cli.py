"""`foldcam demo`, `evaluate` and `bench`: options turned into calls of public functions."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foldcam.benchmarks.cli_support import (
    DataOption,
    DrawsOption,
    EpochsOption,
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
from foldcam.benchmarks.gate.cli import gate
from foldcam.export.commands.options import (
    BaselineText,
    Color,
    DeviceText,
    GradWeightsText,
    Layer,
    Mean,
    Model,
    Output,
    Resize,
    Singletons,
    Std,
    check_image_flags,
    choice,
    device_of,
    grad_weights_of,
    stdout_kept,
)
from foldcam.runtime.at_stake import Read, Written, check_outputs, network_file
from foldcam.runtime.bench.cli import (
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
    write_document,
)
from foldcam.runtime.errors import ExitStatus
from foldcam.runtime.system.command import print_json, print_text

if TYPE_CHECKING:
    from foldcam.benchmarks.demo.run import DemoReport

app = typer.Typer(no_args_is_help=True)
evaluate = typer.Typer(no_args_is_help=True, help="Measure a folded model on labelled images.")
bench = typer.Typer(no_args_is_help=True, help="Measure what folding costs.")
app.add_typer(evaluate, name="evaluate")
app.add_typer(bench, name="bench")
bench.command(
    epilog="Example: foldcam bench gate --baseline benchmarks/baselines/cpu-amd-epyc.json"
)(gate)


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
    from foldcam.benchmarks.demo.run import run_demo

    report = run_demo(out, lambda line: print(line, file=sys.stderr, flush=True), seed)
    if as_json:
        print_json(report.document())
    else:
        _print_demo(report)
    if not report.verified.passed:
        raise typer.Exit(ExitStatus.GATE_FAILED)


@evaluate.command(
    epilog="Example: foldcam evaluate retrieval birds.onnx --images CUB_200_2011 --split test"
)
def retrieval(
    model: Annotated[
        Path, typer.Argument(help="The folded model to measure.", metavar="MODEL.onnx")
    ],
    images: Annotated[
        Path, typer.Option(help="Labelled images to measure on, which are not in the bank.")
    ],
    split: Annotated[
        str, typer.Option(help="Split of the images to measure on: train, valid, test or all.")
    ] = "test",
    bank: Annotated[
        Path | None,
        typer.Option(
            help="Bank of the model; its own images are then recognised by the hashes of their "
            "files instead of by their embeddings."
        ),
    ] = None,
    device: DeviceText = "auto",
    as_json: JsonOption = False,
) -> None:
    """The share of images whose nearest bank row, other than their own, has the right label."""
    from foldcam.benchmarks.retrieval import evaluate_retrieval, load_folded, rows_of_model
    from foldcam.export.commands.options import data_document, say_notes, split_of
    from foldcam.export.datasets import load_dataset
    from foldcam.export.progress import ProgressBar

    dataset = load_dataset(images, split_of(split))
    say_notes(dataset)
    with load_folded(model, device_of(device)) as folded, ProgressBar() as progress:
        report = evaluate_retrieval(folded, dataset, progress, rows_of_model(model, bank))
    if as_json:
        print_json({**report.document(), **data_document(dataset)})
        return
    for note in report.notes:
        print(f"note: {note}")
    for label, (count, share) in report.per_label.items():
        print(f"{label:<32} {share:6.1%} of {count}")
    low, high = report.recall_at_1.low, report.recall_at_1.high
    print(
        f"neighbor has the right label: {report.recall_at_1.mean:.1%} of {report.images} images "
        f"(95 % interval {low:.1%} to {high:.1%})"
    )
    if report.unknown_labels:
        print(f"left out: {report.unknown_labels} images of labels that the bank does not have")
    for path, reason in report.skipped:
        print(f"skipped {path}: {reason}")


@evaluate.command(
    epilog="Example: foldcam evaluate localization --data CUB_200_2011 --out results/cub"
)
def localization(
    data: Annotated[
        Path, typer.Option(help="Images with boxes: a CUB-200-2011 folder or a CSV file.")
    ],
    out: OutOption = Path("results/localization"),
    model: Annotated[
        str | None,
        typer.Option(help="MODEL to explain; without it, one is trained on the training split."),
    ] = None,
    weights: WeightsOption = None,
    size: Annotated[str, typer.Option(help="Input size in pixels: 256 or WIDTHxHEIGHT.")] = "256",
    epochs: EpochsOption = 30,
    grad_weights: GradWeightsText = "auto",
    baseline: BaselineText = "auto",
    device: DeviceText = "auto",
    seed: SeedOption = 0,
    draws: DrawsOption = 2000,
    unseen: Annotated[
        bool,
        typer.Option(help="Also train a network without two of the labels and measure it on them."),
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Grid pointing, insertion, deletion, pixel AP, boxes: every method, with intervals."""
    from dataclasses import replace

    from foldcam.benchmarks.localization.report import text_table
    from foldcam.benchmarks.localization.study import StudyOptions, run_study
    from foldcam.export.commands.options import say_notes
    from foldcam.export.datasets import load_dataset
    from foldcam.export.models.spec import load_model, with_overrides
    from foldcam.export.progress import ProgressBar
    from foldcam.export.training.trainer import TrainingOptions
    from foldcam.runtime.contract.schema import BASELINES

    check_outputs([Read("--data", data)], [Written("--out", out)])
    preprocessing = None
    say_notes(load_dataset(data, "all", boxes="truth"))
    if model is None:
        preprocessing = with_overrides(load_model("efficientnet-lite0").preprocessing, size=size)
    place = device_of(device)
    options = StudyOptions(
        model=model,
        weights=weights,
        preprocessing=preprocessing,
        training=replace(TrainingOptions(), epochs=epochs, seed=seed, device=device),
        seed=seed,
        draws=draws,
        unseen=unseen,
        device=place,
        grad_weights=grad_weights_of(grad_weights),
        baseline=None if baseline == "auto" else choice("--baseline", baseline, BASELINES),
    )
    with ProgressBar() as progress:
        document = run_study(data, out, options, progress)
    if as_json:
        print_json(document)
        return
    print(text_table(document))
    print(f"\nrecall@1 {document['recall_at_1']:.1%}, {document['minutes']} minutes")
    print(f"Written to {out}: localization.json, tables, plot and contact sheets")


@evaluate.command(
    epilog="Example: foldcam evaluate explanation faces.onnx --images faces/train "
    "--test faces/test --size 112 --sheet maps.png"
)
def explanation(
    model: Model,
    images: Annotated[
        Path,
        typer.Option(
            help="Labelled images: class folders, a CSV, or a CUB-200-2011 folder. Their training "
            "part is the bank."
        ),
    ],
    test: Annotated[
        Path | None,
        typer.Option(
            help="Labelled images to measure on, without those of the bank.",
            show_default="the test part of --images, or half of each label",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder that explanation.json and explanation.md are written into."),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(help="Writes pictures beside the maps of every method to this PNG or JPEG."),
    ] = None,
    weights: WeightsOption = None,
    layer: Layer = None,
    output: Output = None,
    head: Annotated[
        str,
        typer.Option(help="How directions pass the head, as in foldcam export: exact or fitted."),
    ] = "exact",
    grad_weights: GradWeightsText = "auto",
    baseline: BaselineText = "auto",
    size: SizeOption = None,
    resize: Resize = None,
    color: Color = None,
    mean: Mean = None,
    std: Std = None,
    singletons: Singletons = "refuse",
    most: Annotated[
        int | None,
        typer.Option(help="Limits the number of images to measure on.", min=2, show_default="all"),
    ] = None,
    device: DeviceText = "auto",
    seed: SeedOption = 0,
    draws: DrawsOption = 2000,
    as_json: JsonOption = False,
) -> None:
    """Is the heat worth something? Hide what is hot, beside another picture's map and a shift."""
    from foldcam.benchmarks.explanation.data import read_parts
    from foldcam.benchmarks.explanation.report import contact_sheet, text_table, write_results
    from foldcam.benchmarks.explanation.study import ExplanationOptions, run_explanation
    from foldcam.benchmarks.provenance import provenance
    from foldcam.export.commands.options import data_document, say_notes
    from foldcam.export.datasets import SINGLETON_POLICIES
    from foldcam.export.exporter import HEAD_RULES
    from foldcam.export.models.spec import load_model, with_overrides
    from foldcam.export.progress import ProgressBar
    from foldcam.runtime.contract.schema import BASELINES
    from foldcam.runtime.images.files import WRITTEN_SUFFIXES, write_image

    if sheet is not None and sheet.suffix.lower() not in WRITTEN_SUFFIXES:
        raise typer.BadParameter(f"--sheet {sheet} has no image suffix, such as .png.")
    check_image_flags(resize, color)
    policy = choice("--singletons", singletons, SINGLETON_POLICIES)
    head_rule = choice("--head", head, HEAD_RULES)
    check_outputs(
        [
            Read("MODEL", network_file(model)),
            Read("--weights", weights),
            Read("--images", images),
            Read("--test", test),
        ],
        [Written("--out", out), Written("--sheet", sheet)],
    )
    parts = read_parts(images, test, singletons=policy, most=most, seed=seed)
    for dataset in (parts.training, parts.testing):
        say_notes(dataset)
    place = device_of(device)
    with stdout_kept(), ProgressBar() as progress:
        loaded = load_model(model, weights, output, place)
        options = ExplanationOptions(
            preprocessing=with_overrides(
                loaded.preprocessing, size=size, resize=resize, color=color, mean=mean, std=std
            ),
            layer=layer,
            head_rule=head_rule,
            grad_weights=grad_weights_of(grad_weights),
            baseline=None if baseline == "auto" else choice("--baseline", baseline, BASELINES),
            seed=seed,
            draws=draws,
        )
        found = run_explanation(loaded, parts, options, progress)
    document = {**found.document, **data_document(parts.training), **provenance()}
    if out is not None:
        write_results(out, document)
    if sheet is not None:
        write_image(sheet, contact_sheet(found.shown))
    if as_json:
        print_json(document)
        return
    print_text(text_table(document))
    for note in document["notes"]:
        print_text(f"note: {note}")
    for item in document["skipped"][:10]:
        print_text(f"skipped {item['path']}: {item['reason']}")
    print_text(f"\n{document['verdict']}")


@evaluate.command(
    "house-price",
    epilog="Example: foldcam evaluate house-price --data houses --out results/houses",
)
def house_price(
    data: Annotated[
        Path, typer.Option(help="Folder of houses, with houses.csv or HousesInfo.txt in it.")
    ],
    out: OutOption = Path("results/houses"),
    epochs: EpochsOption = 8,
    device: DeviceText = "auto",
    seed: SeedOption = 0,
    draws: DrawsOption = 2000,
    as_json: JsonOption = False,
) -> None:
    """A price from photographs: estimates, and whether what raises and lowers them does."""
    from dataclasses import replace

    from foldcam.benchmarks.houses.report import text_table
    from foldcam.benchmarks.houses.study import TRAINING, StudyOptions, run_study
    from foldcam.export.progress import ProgressBar

    check_outputs([Read("--data", data)], [Written("--out", out)])
    options = StudyOptions(
        training=replace(TRAINING, epochs=epochs, seed=seed, device=device),
        seed=seed,
        draws=draws,
        device=device_of(device),
    )
    with ProgressBar() as progress:
        document = run_study(data, out, options, progress)
    if as_json:
        print_json(document)
        return
    print(text_table(document))
    print(f"\n{document['minutes']} minutes, of which {document['training_minutes']} of training")
    print(f"Written to {out}: house-price.json, tables, plot, contact sheet, folded models")


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
    frame: FrameOption = "1280x720",
    cuda_graph: CudaGraphOption = None,
    as_json: JsonOption = False,
) -> None:
    """Time folded models as `runtime bench` does, and write table and plot as well."""
    from foldcam.benchmarks.latency.report import markdown_table, plot, setting
    from foldcam.benchmarks.provenance import provenance
    from foldcam.export.progress import ProgressBar
    from foldcam.runtime.bench.report import text
    from foldcam.runtime.bench.run import run_bench
    from foldcam.runtime.system.files import atomic_path

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
    model: Annotated[
        str | None,
        typer.Option(help="MODEL to fold; without it, one with D = 128 is trained in --out."),
    ] = None,
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
    from foldcam.benchmarks.overhead.report import text_table
    from foldcam.benchmarks.overhead.study import OverheadOptions, run_overhead
    from foldcam.export.commands.options import choice
    from foldcam.export.grafting.options import PRECISION_CHOICES, StorageOptions, parse_search
    from foldcam.export.progress import ProgressBar

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
    batches: Annotated[
        str, typer.Option(help="Numbers of images per pass, separated by commas.")
    ] = "1,8",
    networks: Annotated[
        str,
        typer.Option(
            help="EfficientNet-Lite0, ResNet-50 (needs transformers), or both with a comma."
        ),
    ] = "EfficientNet-Lite0,ResNet-50",
    rounds: Annotated[int, typer.Option(help="Number of timed runs of each method.", min=1)] = 200,
    size: Annotated[int, typer.Option(help="Side of the square input in pixels.", min=32)] = 224,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Folded graphs and Grad-CAM in torch on one GPU: parity with the CPU, and time."""
    from foldcam.benchmarks.gpu.report import text_table
    from foldcam.benchmarks.gpu.study import NETWORKS, GpuOptions, run_gpu
    from foldcam.export.commands.options import choice
    from foldcam.export.progress import ProgressBar

    options = GpuOptions(
        device=choice("--device", device, ("cuda", "cpu")),
        networks=tuple(choice("--networks", name, tuple(NETWORKS)) for name in networks.split(",")),
        rows=counts(rows),
        batches=counts(batches, "--batches", 1),
        rounds=rounds,
        size=size,
        seed=seed,
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
