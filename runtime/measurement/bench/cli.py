"""`runtime bench`: flags turned into a call."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foldcam.runtime.contract.at_stake import Read, Written, check_outputs
from foldcam.runtime.system.command import print_json, print_text
from foldcam.runtime.system.standard_streams import ProgressLine

if TYPE_CHECKING:
    from foldcam.runtime.measurement.bench.run import BenchOptions

FilesArgument = Annotated[
    list[Path],
    typer.Argument(
        help="Names the folded models (.onnx) and engines (.engine), say of several precisions.",
        metavar="FILE...",
        show_default=False,
    ),
]
BackendsOption = Annotated[
    str | None,
    typer.Option(
        help="Chooses the libraries, separated by commas: onnxruntime, tensorrt.",
        show_default="the one for the file",
    ),
]
ProvidersOption = Annotated[
    str,
    typer.Option(
        help="Chooses what ONNX Runtime computes on, by commas: auto, cpu, cuda, tensorrt."
    ),
]
BatchesOption = Annotated[
    str, typer.Option(help="Sets the numbers of images per pass, separated by commas.")
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        help="Sets the number of threads on the CPU.", min=1, show_default="the library decides"
    ),
]
PinOption = Annotated[
    str | None,
    typer.Option(
        help="Binds the measurement to these processors, by their numbers: 0,1.",
        show_default="none",
    ),
]
PassesOption = Annotated[int, typer.Option(help="Sets the number of timed passes of each.", min=1)]
WarmUpOption = Annotated[
    int, typer.Option(help="Sets the number of passes before them, which are not timed.", min=0)
]
RateOption = Annotated[
    float,
    typer.Option(help="Sets the passes per second of the paced run; 0 leaves it out.", min=0.0),
]
FrameOption = Annotated[
    str | None,
    typer.Option(
        help="Sets the size of the frames in pixels, WIDTHxHEIGHT.",
        show_default="what a model exported with --frame takes, else 1280x720",
    ),
]
CudaGraphOption = Annotated[
    bool | None,
    typer.Option(
        help="Captures runs on a GPU as a CUDA graph and replays them.",
        show_default="in TensorRT only",
    ),
]
AcceptWrongOption = Annotated[
    bool,
    typer.Option(
        "--accept-wrong",
        help="Times files that answer their probe pictures wrongly here, with a warning each time.",
    ),
]


def bench(
    files: FilesArgument,
    backend: BackendsOption = None,
    provider: ProvidersOption = "auto",
    batch: BatchesOption = "1",
    threads: ThreadsOption = None,
    pin: PinOption = None,
    passes: PassesOption = 300,
    warm_up: WarmUpOption = 30,
    rate: RateOption = 30.0,
    frame: FrameOption = None,
    cuda_graph: CudaGraphOption = None,
    accept_wrong: AcceptWrongOption = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Writes everything, raw samples too, as JSON to this file.", show_default="none"
        ),
    ] = None,
    json: Annotated[
        bool,
        typer.Option(
            "--json", help="Prints one JSON document to standard output in place of text."
        ),
    ] = False,
) -> None:
    """Time folded models on this device: percentiles, drift, energy, and what the device was.

    Example: runtime bench model.onnx --batch 1,8 --threads 1 --rate 30

    Example: runtime bench model.fp16.engine model.int8.engine --out timings.json
    """
    from foldcam.runtime.measurement.bench.report import text
    from foldcam.runtime.measurement.bench.run import run_bench
    from foldcam.runtime.system.files import write_document

    options = bench_options(
        backend, provider, batch, threads, pin, passes, warm_up, rate, frame, cuda_graph,
        accept_wrong,
    )  # fmt: skip
    check_outputs([Read("MODEL", file) for file in files], [Written("--out", out)])
    with ProgressLine() as progress:
        document = run_bench(files, options, progress)
    if out is not None:
        write_document(out, document)
    if json:
        print_json(document)
    else:
        print_text(text(document))


def bench_options(
    backend: str | None,
    provider: str,
    batch: str,
    threads: int | None,
    pin: str | None,
    passes: int,
    warm_up: int,
    rate: float,
    frame: str | None,
    cuda_graph: bool | None,
    accept_wrong: bool = False,
) -> BenchOptions:
    """The options that the flags name."""
    from foldcam.runtime.backends import LIBRARIES, PROVIDERS, Library, Provider
    from foldcam.runtime.measurement.bench.run import BenchOptions, Target

    libraries: list[Library | None] = [None]
    if backend is not None:
        libraries = [
            known for word in backend.split(",") for known in LIBRARIES if known == word.strip()
        ]
        if len(libraries) != len(backend.split(",")) or "auto" in libraries:
            raise typer.BadParameter(f"--backend {backend}: onnxruntime, tensorrt, or both.")
    providers: list[Provider] = [
        known for word in provider.split(",") for known in PROVIDERS if known == word.strip()
    ]
    if len(providers) != len(provider.split(",")):
        raise typer.BadParameter(f"--provider {provider}: of {', '.join(PROVIDERS)}, by commas.")
    targets: list[Target] = []
    for library in libraries:
        # Providers are ONNX Runtime's.
        names: list[Provider] = ["auto"] if library == "tensorrt" else providers
        targets += [Target(library, name) for name in names]
    return BenchOptions(
        targets=tuple(targets),
        batches=_numbers(batch, "--batch", 1),
        threads=threads,
        pin=_numbers(pin, "--pin", 0) if pin else (),
        passes=passes,
        warm_up=warm_up,
        rate=rate,
        frame=None if frame is None else _size(frame),
        cuda_graph=cuda_graph,
        accept_wrong=accept_wrong,
    )


def _numbers(text: str, flag: str, least: int) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 7 for part in parts):
        raise typer.BadParameter(f"{flag} {text!r} is not numbers with commas: 1,8.")
    found = tuple(dict.fromkeys(int(part) for part in parts))
    if min(found) < least:
        raise typer.BadParameter(f"{flag} {text!r}: each must be at least {least}.")
    return found


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isascii() and width.isdigit() and height.isascii() and height.isdigit()):
        raise typer.BadParameter(f"--frame {text!r} is not WIDTHxHEIGHT, such as 1280x720.")
    if not (1 <= int(width) <= 16384 and 1 <= int(height) <= 16384):
        raise typer.BadParameter(f"--frame {text!r}: each side from 1 to 16384.")
    return int(width), int(height)
