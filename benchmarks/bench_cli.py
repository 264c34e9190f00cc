"""`foldcam bench`: flags turned into calls of public functions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.cli_support import (
    DataOption,
    JsonOption,
    OutOption,
    counts,
    network_choice,
    usual_data,
)
from benchmarks.gate.cli import gate
from benchmarks.latency.cli import latency
from benchmarks.peers.cli import peers
from benchmarks.scale.cli import scale
from runtime.cli_support import print_json

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
    from benchmarks.overhead.report import text_table
    from benchmarks.overhead.study import OverheadOptions, run_overhead
    from export.cli_options import choice
    from export.progress import ProgressBar
    from export.storage_options import PRECISION_CHOICES, StorageOptions, parse_search

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
    from benchmarks.gpu.report import text_table
    from benchmarks.gpu.study import NETWORKS, GpuOptions, run_gpu
    from export.cli_options import choice
    from export.progress import ProgressBar

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
