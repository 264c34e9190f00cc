"""`foldcam bench ray`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foldcam.runtime.at_stake import Read, Written, check_outputs
from foldcam.runtime.system.command import print_json


def ray(
    data: Annotated[Path, typer.Option(help="Labelled images, as for foldcam bank build.")],
    model: Annotated[str, typer.Option(help="MODEL.")] = "demo",
    out: Annotated[Path, typer.Option(help="Folder of results.")] = Path("results/ray"),
    workers: Annotated[str, typer.Option(help="Numbers of workers, by commas.")] = "1,2",
    rounds: Annotated[int, typer.Option(help="Builds of each; they alternate.", min=1)] = 5,
    shard_rows: Annotated[int, typer.Option(help="Images per shard.", min=1)] = 16,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Time of bank building by the number of workers, and equality with the local engine."""
    from foldcam.benchmarks.ray.report import text_table
    from foldcam.benchmarks.ray.study import RayOptions, run_ray
    from foldcam.export.commands.options import stdout_kept
    from foldcam.export.progress import ProgressBar

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
