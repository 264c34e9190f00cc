"""The commands of the studies: `foldcam bench peers` and others, in a checkout."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from foldcam.benchmarks.evaluation.cli_support import (
    BoxesOption,
    DataOption,
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
    network_choice,
    usual_data,
)
from foldcam.runtime.contract.at_stake import Read, Written, check_outputs
from foldcam.runtime.system.command import print_json, print_text
from foldcam.runtime.system.errors import ExitStatus

bench = typer.Typer()
evaluate = typer.Typer()


def add_commands(bench_app: typer.Typer, evaluate_app: typer.Typer) -> None:
    """Add every study to `foldcam bench` and `foldcam evaluate`."""
    bench_app.registered_commands.extend(bench.registered_commands)
    evaluate_app.registered_commands.extend(evaluate.registered_commands)


@bench.command(epilog="Example: foldcam bench peers --data CUB_200_2011 --openvino .venv-openvino")
def peers(
    data: DataOption = None,
    out: OutOption = Path("results/peers"),
    model: Annotated[
        str | None,
        typer.Option(
            help="MODEL to measure (a torch network); without it, one with D = 128 is trained in "
            "--out."
        ),
    ] = None,
    weights: WeightsOption = None,
    size: SizeOption = None,
    epochs: EpochsOption = 30,
    rounds: Annotated[int, typer.Option(help="Number of timed runs of each method.", min=5)] = 60,
    openvino: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a virtual environment for openvino_xai; it is made and filled where "
            "there is none."
        ),
    ] = None,
    score_cam: Annotated[
        int,
        typer.Option(
            help="Number of images that Score-CAM explains, at half a minute each.", min=0
        ),
    ] = 6,
    images: Annotated[
        int | None,
        typer.Option(help="Number of test images to explain; without it, all of them.", min=4),
    ] = None,
    memory: Annotated[
        bool, typer.Option(help="Measure the memory of each method in a process of its own.")
    ] = True,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Time, memory and localization of foldcam, Grad-CAM in torch, and other tools."""
    from foldcam.benchmarks.studies.peers.report import plot, text_table
    from foldcam.benchmarks.studies.peers.study import PeersOptions, run_peers
    from foldcam.export.commands.progress import ProgressBar

    options = PeersOptions(
        network=network_choice(model, weights, size, epochs, seed),
        rounds=rounds,
        openvino=openvino,
        score_cam=score_cam,
        images=images,
        memory=memory,
        seed=seed,
    )
    with ProgressBar() as progress:
        document = run_peers(data or usual_data(), out, options, progress)
    plot(document, out / "peers.png")
    if as_json:
        print_json(document)
        return
    print_text(text_table(document))
    print_text(f"\n{document['minutes']} minutes. Written to {out}: peers.json, peers.png")


@bench.command(epilog="Example: foldcam bench scale --data CUB_200_2011 --out results/scale")
def scale(
    data: DataOption = None,
    out: OutOption = Path("results/scale"),
    rows: RowsOption = "100,1000,10000,100000,1000000",
    augmented: Annotated[
        int,
        typer.Option(
            help="Number of rows that the network computes; rows beyond are interpolated."
        ),
    ] = 100_000,
    sizes: Annotated[
        str, typer.Option(help="Embedding sizes, separated by commas.")
    ] = "32,128,512,2048",
    heatmaps: Annotated[
        str,
        typer.Option(
            help="Sides of the heatmap in pixels, separated by commas; 0 is the feature map's."
        ),
    ] = "0,28,56,112,224",
    batches: ImagesPerPassOption = "1,2,4,8,16",
    cameras: Annotated[
        str, typer.Option(help="Numbers of cameras, separated by commas.")
    ] = "1,2,4,8",
    images: Annotated[
        str, typer.Option(help="Numbers of training images, separated by commas.")
    ] = "25,50,100,200",
    model: FoldedModelOption = None,
    weights: WeightsOption = None,
    size: SizeOption = None,
    epochs: EpochsOption = 30,
    rounds: Annotated[int, typer.Option(help="Number of paired runs of each graph.", min=5)] = 100,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """What folding costs as rows, sizes, batches, cameras and images grow, and where it goes."""
    from foldcam.benchmarks.studies.scale.report import plot, text
    from foldcam.benchmarks.studies.scale.study import ScaleOptions, run_scale
    from foldcam.export.commands.progress import ProgressBar

    options = ScaleOptions(
        network=network_choice(model, weights, size, epochs, seed),
        rows=tuple(sorted(counts(rows))),
        augmented=augmented,
        sizes=counts(sizes, "--sizes"),
        heatmaps=counts(heatmaps, "--heatmaps", 0),
        batches=counts(batches, "--batches", 1),
        cameras=counts(cameras, "--cameras", 1),
        images=counts(images, "--images", 4),
        rounds=rounds,
        seed=seed,
    )
    with ProgressBar() as progress:
        document = run_scale(data or usual_data(), out, options, progress)
    plot(document, out / "scale.png")
    if as_json:
        print_json(document)
        return
    print_text(text(document))
    print_text(f"\nWritten to {out}: scale.json, scale.png")


@bench.command(epilog="Example: foldcam bench ray --data CUB_200_2011 --workers 1,2")
def ray(
    data: Annotated[Path, typer.Option(help="Labelled images, as for foldcam bank build.")],
    model: Annotated[str, typer.Option(help="MODEL whose bank is built.")] = "demo",
    out: OutOption = Path("results/ray"),
    workers: Annotated[str, typer.Option(help="Numbers of workers, separated by commas.")] = "1,2",
    rounds: Annotated[
        int,
        typer.Option(help="Number of builds with each number of workers; they alternate.", min=1),
    ] = 5,
    shard_rows: Annotated[int, typer.Option(help="Number of images per shard.", min=1)] = 16,
    as_json: JsonOption = False,
) -> None:
    """Time of bank building by the number of workers, and equality with the local engine."""
    from foldcam.benchmarks.studies.ray.report import text_table
    from foldcam.benchmarks.studies.ray.study import RayOptions, run_ray
    from foldcam.export.commands.options import stdout_kept
    from foldcam.export.commands.progress import ProgressBar

    counts = workers.split(",")
    if not all(part.isascii() and part.isdigit() and 0 < int(part) < 1000 for part in counts):
        raise typer.BadParameter(f"--workers {workers!r} is not numbers with commas: 1,2.")
    check_outputs([Read("--data", data)], [Written("--out", out)])
    options = RayOptions(
        workers=tuple(dict.fromkeys(map(int, counts))), rounds=rounds, shard_rows=shard_rows
    )
    with stdout_kept(), ProgressBar() as progress:
        document = run_ray(model, data, out, options, progress)
    if as_json:
        print_json(document)
    else:
        print(text_table(document))


@bench.command(epilog="Example: foldcam bench pipeline --out results/pipeline")
def pipeline(
    out: OutOption = Path("results/pipeline"),
    model: Annotated[
        Path | None,
        typer.Option(help="Folded model to run; without it, the demo's is made in --out."),
    ] = None,
    video: Annotated[
        Path | None,
        typer.Option(help="Video to run on; without it, one is made of the demo's scenes."),
    ] = None,
    frames: Annotated[
        int, typer.Option(help="Number of frames of the video to use at most.", min=1)
    ] = 480,
    batch: Annotated[int, typer.Option(help="Number of images per forward pass.", min=1)] = 1,
    threads: Annotated[int, typer.Option(help="Number of threads of the backend.", min=1)] = 1,
    rounds: Annotated[
        int, typer.Option(help="Number of repeats of every measurement.", min=1)
    ] = 15,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Frames per second of a whole run over those of the backend alone on the same frames.

    Exit status 3 if the ratio misses its goal.
    """
    from foldcam.benchmarks.studies.pipeline.study import (
        RESULT,
        PipelineOptions,
        run_pipeline_study,
        text_table,
    )
    from foldcam.export.commands.progress import ProgressBar
    from foldcam.runtime.system.files import atomic_path

    options = PipelineOptions(
        model=model, video=video, frames=frames, batch=batch, threads=threads, rounds=rounds,
        seed=seed,
    )  # fmt: skip
    with ProgressBar() as progress:
        document = run_pipeline_study(out, options, progress)
    with atomic_path(out / RESULT) as temporary:
        temporary.write_text(dumps(document, indent=2) + "\n", encoding="utf-8")
    if as_json:
        print_json(document)
    else:
        print(text_table(document))
    if not document["passed"]:
        raise typer.Exit(ExitStatus.GATE_FAILED)


@bench.command(epilog="Example: foldcam bench int8 --out results/int8")
def int8(
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder that holds CUB_200_2011 and houses.",
            show_default="the folder that FOLDCAM_DATA names",
        ),
    ] = None,
    out: OutOption = Path("results/int8"),
    networks: Annotated[
        str,
        typer.Option(
            help="EfficientNet-Lite0, ResNet and ViT, or some of them, separated by commas."
        ),
    ] = "EfficientNet-Lite0,ResNet,ViT",
    on: Annotated[
        str, typer.Option(help="Data sets: birds and houses, or one of them.")
    ] = "birds,houses",
    rounds: Annotated[int, typer.Option(help="Number of timed runs of each model.", min=1)] = 60,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Three networks on birds and houses, quantized naively and by foldcam: cost and gain."""
    from foldcam.benchmarks.studies.int8.report import text_table
    from foldcam.benchmarks.studies.int8.study import Int8Options, run_int8
    from foldcam.benchmarks.studies.int8.subjects import SUBJECTS
    from foldcam.export.commands.options import choice
    from foldcam.export.commands.progress import ProgressBar

    known = tuple(dict.fromkeys(subject.network for subject in SUBJECTS))
    wanted = {choice("--networks", name, known) for name in networks.split(",")}
    data_sets = {choice("--on", name, ("birds", "houses")) for name in on.split(",")}
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
        document = run_int8(data or usual_data().parent, out, options, progress)
    if as_json:
        print_json(document)
        return
    print(text_table(document))
    print(f"\nWritten to {out}/int8.json")


@evaluate.command(
    epilog="Example: foldcam evaluate transfer --data CUB_200_2011 --out results/transfer"
)
def transfer(
    data: BoxesOption,
    out: OutOption = Path("results/transfer"),
    epochs: EpochsOption = 15,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Which rows, channels, objective, baseline and gradient, on the training half alone."""
    from dataclasses import replace

    from foldcam.benchmarks.studies.transfer.study import run_transfer_study
    from foldcam.export.commands.options import say_notes
    from foldcam.export.commands.progress import ProgressBar
    from foldcam.export.datasets import load_dataset
    from foldcam.export.models.training.trainer import TrainingOptions

    check_outputs([Read("--data", data)], [Written("--out", out)])
    say_notes(load_dataset(data, "all", boxes="truth"))
    training = replace(TrainingOptions(), epochs=epochs, seed=seed, views=5, mosaics=200)
    with ProgressBar() as progress:
        document = run_transfer_study(data, out, training, progress)
    if as_json:
        print_json(document)
        return
    for name, row in document["variants"].items():
        value, gap = row["grid_pointing"], row["difference"]
        print(
            f"{name:<48}{value['mean']:6.3f}  {gap['mean']:+.3f} [{gap['low']:+.3f}, "
            f"{gap['high']:+.3f}]"
        )
    print()
    for name, row in document["heads"].items():
        print(
            f"{name:<17} transferred {row['transferred']['mean']:.3f}, own gradient "
            f"{row['aggregated_backprop']['mean']:.3f}, maps correlate "
            f"{row['map_correlation']:.3f}; with the gradient by position "
            f"{row['position_correlation']:.3f}"
        )
    print()
    for name, row in document["summands"]["heads"].items():
        for pair, gaps in row["differences"].items():
            parts = [
                f"{measure} {gap['mean']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}]"
                for measure, gap in gaps.items()
            ]
            print(f"{name:<17} {pair:<26} {'  '.join(parts)}")
    print(f"Written to {out}/transfer.json")


@evaluate.command(epilog="Example: foldcam evaluate architectures --out results/architectures")
def architectures(
    out: OutOption = Path("results/architectures"),
    as_json: JsonOption = False,
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
    if as_json:
        print_json(document)
    else:
        print(markdown_table(document))
    if failed(document):
        raise typer.Exit(ExitStatus.GATE_FAILED)


@evaluate.command(
    epilog="Example: foldcam evaluate audit birds.safetensors faces.safetensors --out results/audit"
)
def audit(
    banks: Annotated[
        list[Path], typer.Argument(help="Banks in which wrong labels are planted.", metavar="BANKS")
    ],
    out: OutOption = Path("results/audit"),
    draws: Annotated[int, typer.Option(help="Number of draws for each bank.", min=2)] = 200,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Which score finds planted wrong labels in a bank: what `foldcam bank audit` rests on."""
    from foldcam.benchmarks.evaluation.documents import provenance, write_json
    from foldcam.benchmarks.studies.audit import page, try_scores
    from foldcam.export.banks.bank import Bank
    from foldcam.runtime.system.files import atomic_path

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
    with atomic_path(out / "audit.md") as temporary:
        temporary.write_text(page(document), encoding="utf-8")
    if as_json:
        print_json(document)
    else:
        print_text(page(document))
