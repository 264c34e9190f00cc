"""`foldcam bench latency`: flags turned into calls."""

from __future__ import annotations

from pathlib import Path

from foldcam.benchmarks.cli_support import JsonOption, OutOption
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
from foldcam.runtime.system.command import print_json, print_text


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
