"""`foldcam bench peers`: flags turned into a call."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foldcam.benchmarks.cli_support import (
    DataOption,
    JsonOption,
    OutOption,
    network_choice,
    usual_data,
)
from foldcam.runtime.system.command import print_json, print_text


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
    weights: Annotated[Path | None, typer.Option(help="Weights of that MODEL.")] = None,
    size: Annotated[str | None, typer.Option(help="Input size, 256 or WIDTHxHEIGHT.")] = None,
    epochs: Annotated[int, typer.Option(help="Of training.", min=1)] = 30,
    rounds: Annotated[int, typer.Option(help="Timed runs of each.", min=5)] = 60,
    openvino: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a virtual environment for openvino_xai; made and filled where there "
            "is none."
        ),
    ] = None,
    score_cam: Annotated[
        int, typer.Option(help="Images that Score-CAM explains, half a minute each.", min=0)
    ] = 6,
    images: Annotated[
        int | None, typer.Option(help="Test images that are explained; all unless given.", min=4)
    ] = None,
    memory: Annotated[bool, typer.Option(help="Measure memory in fresh processes.")] = True,
    seed: Annotated[int, typer.Option(help="Of training, grids and triplets.", min=0)] = 0,
    as_json: JsonOption = False,
) -> None:
    """Time, memory and localization of foldcam, Grad-CAM in torch, and other tools."""
    from foldcam.benchmarks.peers.report import plot, text_table
    from foldcam.benchmarks.peers.study import PeersOptions, run_peers
    from foldcam.export.progress import ProgressBar

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
