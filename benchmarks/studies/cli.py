"""The commands of the studies: `foldcam bench peers` and others, in a checkout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foldcam.benchmarks.evaluation import cli_support as shared
from foldcam.export.commands import options as flags
from foldcam.runtime.contract.at_stake import Read, Written, check_outputs
from foldcam.runtime.system.command import print_report

bench = typer.Typer()
evaluate = typer.Typer()


def add_commands(bench_app: typer.Typer, evaluate_app: typer.Typer) -> None:
    """Add every study to `foldcam bench` and `foldcam evaluate`."""
    bench_app.registered_commands.extend(bench.registered_commands)
    evaluate_app.registered_commands.extend(evaluate.registered_commands)


@bench.command(epilog="Example: foldcam bench peers --data CUB_200_2011 --openvino .venv-openvino")
def peers(
    data: shared.Data = None,
    out: shared.Out = Path("results/peers"),
    model: Annotated[
        str | None,
        typer.Option(
            help="Measures this MODEL, a torch network.",
            show_default="one with embeddings of 128 numbers, which is trained in --out",
        ),
    ] = None,
    weights: flags.Weights = None,
    size: shared.Size = None,
    epochs: shared.Epochs = 30,
    rounds: Annotated[
        int, typer.Option(help="Sets the number of timed runs of each method.", min=5)
    ] = 60,
    openvino: Annotated[
        Path | None,
        typer.Option(
            help="Measures openvino_xai from the virtual environment in this folder, which is made "
            "and filled where there is none.",
            show_default="it is left out",
        ),
    ] = None,
    score_cam: Annotated[
        int,
        typer.Option(
            help="Sets the number of images that Score-CAM explains, at half a minute each.", min=0
        ),
    ] = 6,
    images: Annotated[
        int | None,
        typer.Option(
            help="Sets the number of test images to explain.", min=4, show_default="all of them"
        ),
    ] = None,
    memory: Annotated[
        bool, typer.Option(help="Measures the memory of each method in a process of its own.")
    ] = True,
    seed: shared.Seed = 0,
    as_json: flags.Json = False,
) -> None:
    """Measure time, memory and localization of foldcam, Grad-CAM in torch, and other tools."""
    from foldcam.benchmarks.studies.peers.report import plot, text_table
    from foldcam.benchmarks.studies.peers.study import PeersOptions, run_peers
    from foldcam.export.commands.progress import ProgressBar

    options = PeersOptions(
        network=shared.network_choice(model, weights, size, epochs, seed),
        rounds=rounds,
        openvino=openvino,
        score_cam=score_cam,
        images=images,
        memory=memory,
        seed=seed,
    )
    with ProgressBar() as progress:
        document = run_peers(data or shared.usual_data(), out, options, progress)
    plot(document, out / "peers.png")
    text = f"{document['minutes']} minutes. Written to {out}: peers.json, peers.png"
    print_report(document, f"{text_table(document)}\n\n{text}", as_json)


@bench.command(epilog="Example: foldcam bench scale --data CUB_200_2011 --out results/scale")
def scale(
    data: shared.Data = None,
    out: shared.Out = Path("results/scale"),
    rows: shared.Rows = "100,1000,10000,100000,1000000",
    augmented: Annotated[
        int,
        typer.Option(
            help="Sets the number of rows that the network computes; rows beyond are interpolated."
        ),
    ] = 100_000,
    sizes: Annotated[
        str, typer.Option(help="Sets the embedding sizes in numbers, separated by commas.")
    ] = "32,128,512,2048",
    heatmaps: Annotated[
        str,
        typer.Option(
            help="Sets the sides of the heatmap in pixels, separated by commas; 0 is the feature "
            "map's."
        ),
    ] = "0,28,56,112,224",
    batches: shared.ImagesPerPass = "1,2,4,8,16",
    cameras: Annotated[
        str, typer.Option(help="Sets the numbers of cameras, separated by commas.")
    ] = "1,2,4,8",
    images: Annotated[
        str, typer.Option(help="Sets the numbers of training images, separated by commas.")
    ] = "25,50,100,200",
    model: shared.FoldedModel = None,
    weights: flags.Weights = None,
    size: shared.Size = None,
    epochs: shared.Epochs = 30,
    rounds: Annotated[
        int, typer.Option(help="Sets the number of paired runs of each graph.", min=5)
    ] = 100,
    seed: shared.Seed = 0,
    as_json: flags.Json = False,
) -> None:
    """Measure what folding costs as rows, sizes, batches, cameras and images grow."""
    from foldcam.benchmarks.studies.scale.report import plot, text
    from foldcam.benchmarks.studies.scale.study import ScaleOptions, run_scale
    from foldcam.export.commands.progress import ProgressBar

    options = ScaleOptions(
        network=shared.network_choice(model, weights, size, epochs, seed),
        rows=tuple(sorted(shared.counts(rows))),
        augmented=augmented,
        sizes=shared.counts(sizes, "--sizes"),
        heatmaps=shared.counts(heatmaps, "--heatmaps", 0),
        batches=shared.counts(batches, "--batches", 1),
        cameras=shared.counts(cameras, "--cameras", 1),
        images=shared.counts(images, "--images", 4),
        rounds=rounds,
        seed=seed,
    )
    with ProgressBar() as progress:
        document = run_scale(data or shared.usual_data(), out, options, progress)
    plot(document, out / "scale.png")
    written = f"Written to {out}: scale.json, scale.png"
    print_report(document, f"{text(document)}\n\n{written}", as_json)


@bench.command(epilog="Example: foldcam bench ray --data CUB_200_2011 --workers 1,2")
def ray(
    data: Annotated[Path, typer.Option(help="Reads labelled images, as foldcam bank build does.")],
    model: Annotated[str, typer.Option(help="Names the MODEL whose bank is built.")] = "demo",
    out: shared.Out = Path("results/ray"),
    workers: Annotated[
        str, typer.Option(help="Sets the numbers of workers, separated by commas.")
    ] = "1,2",
    rounds: Annotated[
        int,
        typer.Option(
            help="Sets the number of builds with each number of workers; they alternate.", min=1
        ),
    ] = 5,
    shard_rows: Annotated[
        int, typer.Option(help="Sets the number of images per shard.", min=1)
    ] = 16,
    as_json: flags.Json = False,
) -> None:
    """Measure bank building by the number of workers, and compare with the local engine's bank."""
    from foldcam.benchmarks.studies.ray import RayOptions, run_ray, text_table
    from foldcam.export.commands.progress import ProgressBar

    check_outputs([Read("--data", data)], [Written("--out", out)])
    options = RayOptions(
        workers=shared.counts(workers, "--workers", 1), rounds=rounds, shard_rows=shard_rows
    )
    with flags.stdout_kept(), ProgressBar() as progress:
        document = run_ray(model, data, out, options, progress)
    print_report(document, text_table(document), as_json)


@bench.command(epilog="Example: foldcam bench pipeline --out results/pipeline")
def pipeline(
    out: shared.Out = Path("results/pipeline"),
    model: Annotated[
        Path | None,
        typer.Option(help="Runs this folded model.", show_default="the demo's, made in --out"),
    ] = None,
    video: Annotated[
        Path | None,
        typer.Option(help="Runs on this video.", show_default="one of the demo's scenes"),
    ] = None,
    frames: Annotated[
        int, typer.Option(help="Limits the number of frames of the video.", min=1)
    ] = 480,
    batch: Annotated[
        int, typer.Option(help="Sets the number of images per forward pass.", min=1)
    ] = 1,
    threads: Annotated[
        int, typer.Option(help="Sets the number of threads of the backend.", min=1)
    ] = 1,
    rounds: Annotated[
        int, typer.Option(help="Sets the number of repeats of every measurement.", min=1)
    ] = 15,
    seed: shared.Seed = 0,
    as_json: flags.Json = False,
) -> None:
    """Measure the frames per second of a whole run over those of the backend alone.

    Exit status 3 if the ratio misses its goal.
    """
    from foldcam.benchmarks.evaluation.documents import write_json
    from foldcam.benchmarks.studies.pipeline import (
        RESULT,
        PipelineOptions,
        run_pipeline_study,
        text_table,
    )
    from foldcam.export.commands.progress import ProgressBar

    options = PipelineOptions(
        model=model, video=video, frames=frames, batch=batch, threads=threads, rounds=rounds,
        seed=seed,
    )  # fmt: skip
    with ProgressBar() as progress:
        document = run_pipeline_study(out, options, progress)
    write_json(out / RESULT, document)
    print_report(document, text_table(document), as_json, document["passed"])


@bench.command(epilog="Example: foldcam bench int8 --out results/int8")
def int8(
    data: Annotated[
        Path | None,
        typer.Option(
            help="Reads CUB_200_2011 and houses from this folder.",
            show_default="the folder that FOLDCAM_DATA names",
        ),
    ] = None,
    out: shared.Out = Path("results/int8"),
    networks: Annotated[
        str,
        typer.Option(
            help="Chooses the networks: EfficientNet-Lite0, ResNet and ViT, or some of them, "
            "separated by commas."
        ),
    ] = "EfficientNet-Lite0,ResNet,ViT",
    on: Annotated[
        str, typer.Option(help="Chooses the data sets: birds and houses, or one of them.")
    ] = "birds,houses",
    rounds: Annotated[
        int, typer.Option(help="Sets the number of timed runs of each model.", min=1)
    ] = 60,
    seed: shared.Seed = 0,
    as_json: flags.Json = False,
) -> None:
    """Quantize three networks naively and by foldcam, and measure what that costs and gains."""
    from foldcam.benchmarks.studies.int8.study import Int8Options, run_int8, text_table
    from foldcam.benchmarks.studies.int8.subjects import SUBJECTS
    from foldcam.export.commands.progress import ProgressBar

    known = tuple(dict.fromkeys(subject.network for subject in SUBJECTS))
    wanted = {flags.choice("--networks", name, known) for name in networks.split(",")}
    data_sets = {flags.choice("--on", name, ("birds", "houses")) for name in on.split(",")}
    options = Int8Options(
        subjects=tuple(
            subject
            for subject in SUBJECTS
            if subject.network in wanted and subject.data in data_sets
        ),
        rounds=rounds,
        seed=seed,
    )
    with ProgressBar() as progress:
        document = run_int8(data or shared.usual_data().parent, out, options, progress)
    print_report(document, f"{text_table(document)}\n\nWritten to {out}/int8.json", as_json)


@evaluate.command(
    epilog="Example: foldcam evaluate transfer --data CUB_200_2011 --out results/transfer"
)
def transfer(
    data: shared.Boxes,
    out: shared.Out = Path("results/transfer"),
    epochs: shared.Epochs = 15,
    seed: shared.Seed = 0,
    as_json: flags.Json = False,
) -> None:
    """Compare rows, channels, objectives, baselines and gradients on the training half alone."""
    from dataclasses import replace

    from foldcam.benchmarks.studies.transfer.study import run_transfer_study, text
    from foldcam.export.commands.progress import ProgressBar
    from foldcam.export.datasets import load_dataset
    from foldcam.export.models.training.trainer import TrainingOptions

    check_outputs([Read("--data", data)], [Written("--out", out)])
    flags.say_notes(load_dataset(data, "all", boxes="truth"))
    training = replace(TrainingOptions(), epochs=epochs, seed=seed, views=5, mosaics=200)
    with ProgressBar() as progress:
        document = run_transfer_study(data, out, training, progress)
    print_report(document, f"{text(document)}\nWritten to {out}/transfer.json", as_json)


@evaluate.command(epilog="Example: foldcam evaluate architectures --out results/architectures")
def architectures(
    out: shared.Out = Path("results/architectures"),
    as_json: flags.Json = False,
) -> None:
    """Fold networks of many kinds, compare them with torch, and build them with TensorRT RTX."""
    from foldcam.benchmarks.studies.architectures.study import (
        failed,
        markdown_table,
        run_architectures,
    )
    from foldcam.export.commands.progress import ProgressBar

    with ProgressBar() as progress:
        document = run_architectures(out, progress)
    print_report(document, markdown_table(document), as_json, not failed(document))


@evaluate.command(
    epilog="Example: foldcam evaluate audit birds.safetensors faces.safetensors --out results/audit"
)
def audit(
    banks: Annotated[
        list[Path],
        typer.Argument(help="Names the banks in which wrong labels are planted.", metavar="BANKS"),
    ],
    out: shared.Out = Path("results/audit"),
    draws: Annotated[
        int, typer.Option(help="Sets the number of draws for each bank.", min=2)
    ] = 200,
    seed: shared.Seed = 0,
    as_json: flags.Json = False,
) -> None:
    """Measure which score finds planted wrong labels, on which `foldcam bank audit` rests."""
    from foldcam.benchmarks.evaluation.documents import provenance, write_json, write_text
    from foldcam.benchmarks.studies.audit import page, try_scores
    from foldcam.export.banks.bank import Bank

    check_outputs([Read("BANKS", bank) for bank in banks], [Written("--out", out)])
    names = [path.stem for path in banks]
    if len({*names}) < len(names):
        names = [str(path) for path in banks]
    found = {
        name: try_scores(Bank.load(path), draws, seed)
        for name, path in zip(names, banks, strict=True)
    }
    document = {"seed": seed, "banks": found, **provenance()}
    write_json(out / "audit.json", document)
    write_text(out / "audit.md", page(document))
    print_report(document, page(document), as_json)
