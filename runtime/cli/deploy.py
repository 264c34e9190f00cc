"""`runtime deploy`."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from foldcam.runtime.system.command import print_json, print_text


class PlatformChoice(str, Enum):
    """What runs the model in Triton."""

    onnx = "onnx"
    tensorrt = "tensorrt"


def deploy(
    model: Annotated[Path, typer.Argument(help="A folded model (.onnx).", show_default=False)],
    triton: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Writes the model into this model repository of Triton Inference Server.",
        ),
    ] = None,
    deepstream: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Writes a secondary nvinfer of DeepStream into a folder here: its configuration, "
            "the model, and a probe that reads label, similarity and map.",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="The name of the served model; the file's unless given."),
    ] = None,
    platform: Annotated[
        PlatformChoice,
        typer.Option(
            help="What runs the model in Triton: ONNX Runtime, or TensorRT with an engine that is "
            "built on the server's machine by the command in the README."
        ),
    ] = PlatformChoice.onnx,
    max_batch: Annotated[
        int, typer.Option(help="Images that share a pass at most.", min=1, max=1024)
    ] = 8,
    delay: Annotated[
        int,
        typer.Option(
            help="Microseconds that a picture waits for others to share a pass with.",
            min=0,
            max=1_000_000,
        ),
    ] = 500,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Write what a serving stack needs to run a folded model.

    Example: runtime deploy birds.onnx --triton models/ --platform tensorrt

    Example: runtime deploy birds.onnx --deepstream pipeline/
    """  # fmt: skip
    from foldcam.runtime.engine.deploy.deepstream import DeepStreamOptions, write_deepstream
    from foldcam.runtime.engine.deploy.triton import TritonOptions, write_repository

    if triton is None and deepstream is None:
        raise typer.BadParameter("give --triton DIR or --deepstream DIR.")
    written: dict[str, str] = {}
    if triton is not None:
        options = TritonOptions(platform.value, name, max_batch, delay)
        written["triton"] = str(write_repository(model, triton, options))
    if deepstream is not None:
        folder, note = write_deepstream(model, deepstream, DeepStreamOptions(name, max_batch))
        written["deepstream"] = str(folder)
        print(f"note: {note}", file=sys.stderr)
    if json:
        print_json(written)
    else:
        print_text("\n".join(f"wrote {path}" for path in written.values()))
