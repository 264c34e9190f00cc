"""`foldcam bench`: flags turned into calls of public functions."""

from __future__ import annotations

from collections.abc import Callable
from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from foldcam.benchmarks.cli_support import (
    DataOption,
    JsonOption,
    OutOption,
    counts,
    network_choice,
    usual_data,
)
from foldcam.benchmarks.gate.cli import gate
from foldcam.benchmarks.latency.cli import latency
from foldcam.benchmarks.peers.cli import peers
from foldcam.benchmarks.scale.cli import scale
from foldcam.runtime.errors import ExitStatus
from foldcam.runtime.system.command import print_json

bench = typer.Typer(no_args_is_help=True, help="Measure what folding costs.")


@bench.callback()
def group() -> None:
    """Measure what folding costs."""


_COMMANDS: tuple[tuple[Callable[..., None], str], ...] = (
    (latency, "foldcam bench latency model.onnx --threads 1 --batch 1,8"),
    (peers, "foldcam bench peers --data CUB_200_2011 --openvino .venv-openvino"),
    (scale, "foldcam bench scale --data CUB_200_2011 --out results/scale"),
    (gate, "foldcam bench gate --baseline benchmarks/baselines/cpu-amd-epyc.json"),
)
for _command, _example in _COMMANDS:
    bench.command(epilog=f"Example: {_example}")(_command)


@bench.command(epilog="Example: foldcam bench overhead --data CUB_200_2011 --rows 300,10000,100000")
def overhead(
    data: DataOption = None,
    rows: Annotated[str, typer.Option(help="Bank sizes, by commas.")] = "300,10000,100000",
    out: OutOption = Path("results/overhead"),
    model: Annotated[
        str | None,
        typer.Option(help="MODEL to fold; without it, one with D = 128 is trained in --out."),
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Weights of that MODEL.")] = None,
    size: Annotated[str | None, typer.Option(help="Input size, 256 or WIDTHxHEIGHT.")] = None,
    epochs: Annotated[int, typer.Option(help="Of training.", min=1)] = 30,
    search: Annotated[str, typer.Option(help="As foldcam export --search.")] = "auto",
    bank_precision: Annotated[
        str, typer.Option(help="As foldcam export --bank-precision.")
    ] = "auto",
    rounds: Annotated[int, typer.Option(help="Timed runs of each graph.", min=1)] = 300,
    seed: Annotated[int, typer.Option(help="Of views, regions and grids.", min=0)] = 0,
    draws: Annotated[int, typer.Option(help="Of the bootstrap.", min=1)] = 2000,
    as_json: JsonOption = False,
) -> None:
    """Time of the folded graph over the plain one by bank size, and the answers it loses."""
    from foldcam.benchmarks.overhead.report import text_table
    from foldcam.benchmarks.overhead.study import OverheadOptions, run_overhead
    from foldcam.export.commands.options import choice
    from foldcam.export.progress import ProgressBar
    from foldcam.export.storage.options import PRECISION_CHOICES, StorageOptions, parse_search

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
    device: Annotated[str, typer.Option(help="cuda, or cpu to try it without a GPU.")] = "cuda",
    rows: Annotated[str, typer.Option(help="Bank sizes, by commas.")] = "300,10000,100000",
    batches: Annotated[str, typer.Option(help="Images per pass, by commas.")] = "1,8",
    networks: Annotated[
        str, typer.Option(help="EfficientNet-Lite0, ResNet-50 (needs transformers), by commas.")
    ] = "EfficientNet-Lite0,ResNet-50",
    rounds: Annotated[int, typer.Option(help="Timed runs of each.", min=1)] = 200,
    size: Annotated[int, typer.Option(help="Of the square input in pixels.", min=32)] = 224,
    seed: Annotated[int, typer.Option(help="Of images and banks.", min=0)] = 0,
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


@bench.command(epilog="Example: foldcam bench pipeline --out results/pipeline")
def pipeline(
    out: Annotated[Path, typer.Option(help="Folder of results.")] = Path("results/pipeline"),
    model: Annotated[
        Path | None, typer.Option(help="A folded model; without it, the demo's is made in --out.")
    ] = None,
    video: Annotated[
        Path | None, typer.Option(help="A film; without it, one of the demo's scenes.")
    ] = None,
    frames: Annotated[int, typer.Option(help="Of the film at most.", min=1)] = 480,
    batch: Annotated[int, typer.Option(help="Images per forward pass.", min=1)] = 1,
    threads: Annotated[int, typer.Option(help="Of the backend.", min=1)] = 1,
    rounds: Annotated[int, typer.Option(help="Repeats of everything.", min=1)] = 15,
    seed: Annotated[int, typer.Option(help="Of the order within a round.", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Frames per second of a whole run over those of the backend alone on the same frames.

    Exit status 3 if the ratio misses its goal.
    """
    from foldcam.benchmarks.pipeline.study import (
        RESULT,
        PipelineOptions,
        run_pipeline_study,
        text_table,
    )
    from foldcam.export.progress import ProgressBar
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
            help="Folder with CUB_200_2011 and houses.",
            show_default="the folder that FOLDCAM_DATA names",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of results.")] = Path("results/int8"),
    networks: Annotated[
        str, typer.Option(help="EfficientNet-Lite0, ResNet, ViT, by commas.")
    ] = "EfficientNet-Lite0,ResNet,ViT",
    on: Annotated[str, typer.Option(help="birds, houses, by commas.")] = "birds,houses",
    rounds: Annotated[int, typer.Option(help="Timed runs of each model.", min=1)] = 60,
    seed: Annotated[int, typer.Option(help="Of the choice of images.", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Three networks on birds and houses, quantized naively and by foldcam: cost and gain."""
    from foldcam.benchmarks.int8.report import text_table
    from foldcam.benchmarks.int8.study import Int8Options, run_int8
    from foldcam.benchmarks.int8.subjects import SUBJECTS
    from foldcam.export.commands.options import choice
    from foldcam.export.progress import ProgressBar

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
