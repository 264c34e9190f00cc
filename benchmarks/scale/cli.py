"""`foldcam bench scale`: flags turned into a call."""

from __future__ import annotations

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
from foldcam.runtime.system.command import print_json, print_text


def scale(
    data: DataOption = None,
    out: OutOption = Path("results/scale"),
    rows: Annotated[
        str, typer.Option(help="Bank sizes, by commas.")
    ] = "100,1000,10000,100000,1000000",
    augmented: Annotated[
        int,
        typer.Option(help="Rows that pass through the network; those beyond are interpolated."),
    ] = 100_000,
    sizes: Annotated[str, typer.Option(help="Of the embedding, by commas.")] = "32,128,512,2048",
    heatmaps: Annotated[
        str, typer.Option(help="Sides of the heatmap, 0 for the feature map's, by commas.")
    ] = "0,28,56,112,224",
    batches: Annotated[str, typer.Option(help="Images in a pass, by commas.")] = "1,2,4,8,16",
    cameras: Annotated[str, typer.Option(help="Numbers of cameras, by commas.")] = "1,2,4,8",
    images: Annotated[
        str, typer.Option(help="Numbers of training images, by commas.")
    ] = "25,50,100,200",
    model: Annotated[
        str | None,
        typer.Option(help="MODEL to fold; without it, one with D = 128 is trained in --out."),
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Weights of that MODEL.")] = None,
    size: Annotated[str | None, typer.Option(help="Input size, 256 or WIDTHxHEIGHT.")] = None,
    epochs: Annotated[int, typer.Option(help="Of training.", min=1)] = 30,
    rounds: Annotated[int, typer.Option(help="Paired runs of each.", min=5)] = 100,
    seed: Annotated[int, typer.Option(help="Of everything random.", min=0)] = 0,
    as_json: JsonOption = False,
) -> None:
    """What folding costs as rows, sizes, batches, cameras and images grow, and where it goes."""
    from foldcam.benchmarks.scale.report import plot, text
    from foldcam.benchmarks.scale.study import ScaleOptions, run_scale
    from foldcam.export.progress import ProgressBar

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
