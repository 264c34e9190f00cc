"""`foldcam export` and `foldcam verify`: flags turned into calls of public functions."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from export.cli_options import choice
from runtime.cli_support import print_json
from runtime.errors import ExitStatus, FoldcamError

if TYPE_CHECKING:
    from export.fold import HeatmapSize

app = typer.Typer(no_args_is_help=True)


@app.command(
    epilog="Example: foldcam export demo --images CUB_200_2011 --out birds.onnx",
)
def export(
    model: Annotated[
        str,
        typer.Argument(
            help="demo, package.module:factory, a .pt2 file, or a network in .onnx.",
            metavar="MODEL",
        ),
    ],
    images: Annotated[
        Path, typer.Option(help="Training images: class folders, a CSV, or a CUB-200-2011 folder.")
    ],
    out: Annotated[Path, typer.Option(help="The folded model to write.")] = Path("model.onnx"),
    weights: Annotated[
        Path | None,
        typer.Option(help="safetensors, or a state dict of plain tensors."),
    ] = None,
    layer: Annotated[
        str | None, typer.Option(help="Name of the feature map; found by itself if left out.")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            help="Which output is the embedding, if several could be; of an .onnx any value in it."
        ),
    ] = None,
    head: Annotated[
        str,
        typer.Option(help="exact, or fitted: a linear map where the head has no gradient."),
    ] = "exact",
    split: Annotated[str, typer.Option(help="train, test or all.")] = "train",
    objective: Annotated[
        str | None,
        typer.Option(
            help="all-triplets, sampled:50, or pml:LOSS; with --continuous kernel:tau=0.1.",
            show_default="all-triplets",
        ),
    ] = None,
    continuous: Annotated[
        bool, typer.Option("--continuous", help="Labels are numbers, such as prices: estimate.")
    ] = False,
    log: Annotated[
        bool, typer.Option("--log", help="Estimate logarithms (prices), answer in the unit.")
    ] = False,
    channels: Annotated[str, typer.Option(help="all, or positive.")] = "all",
    transfer: Annotated[
        int, typer.Option(help="Nearest rows whose grad-weights are used.", min=1)
    ] = 1,
    neighbors: Annotated[int, typer.Option(help="Nearest rows reported.", min=1)] = 1,
    heatmap_size: Annotated[
        str, typer.Option(help="native (the feature map's), input, or WIDTHxHEIGHT.")
    ] = "native",
    input_type: Annotated[
        str, typer.Option("--input", help="float32, or uint8 with normalisation in the graph.")
    ] = "float32",
    size: Annotated[str | None, typer.Option(help="Input size, 224 or WIDTHxHEIGHT.")] = None,
    resize: Annotated[str | None, typer.Option(help="stretch, crop or letterbox.")] = None,
    color: Annotated[str | None, typer.Option(help="Channel order: rgb or bgr.")] = None,
    mean: Annotated[str | None, typer.Option(help="Per channel, for pixels in [0, 1].")] = None,
    std: Annotated[str | None, typer.Option(help="Per channel, for pixels in [0, 1].")] = None,
    singletons: Annotated[
        str, typer.Option(help="Labels with one image: refuse, keep or drop.")
    ] = "refuse",
    opset: Annotated[int, typer.Option(help="ONNX operator set of the file.")] = 18,
    batch_size: Annotated[int, typer.Option(help="Images per pass.", min=1)] = 16,
    bank: Annotated[
        Path | None,
        typer.Option(help="Keep the bank in this file, too."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of sampled triplets.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Fold a network and its training images into one ONNX file."""
    from dataclasses import replace

    from export.datasets import SINGLETON_POLICIES, SPLITS, handle_singletons, load_dataset
    from export.exporter import HEAD_RULES, export_model, skipped_lines
    from export.fold import FoldOptions
    from export.grad_weights import CHANNEL_RULES
    from export.kernel import DEFAULT_KERNEL, KernelObjective, parse_kernel
    from export.model_spec import load_model, with_overrides
    from export.objectives import Objective, parse_objective
    from export.progress import ProgressBar
    from runtime.contract import INPUT_TYPES
    from runtime.preprocess import COLOR_ORDERS, RESIZE_RULES
    from runtime.text import number_text

    chosen_split = choice("--split", split, SPLITS)
    rule = choice("--channels", channels, CHANNEL_RULES)
    head_rule = choice("--head", head, HEAD_RULES)
    policy = choice("--singletons", singletons, SINGLETON_POLICIES)
    options = FoldOptions(
        transfer=transfer,
        neighbors=neighbors,
        heatmap_size=_heatmap_size(heatmap_size),
        input_type=choice("--input", input_type, INPUT_TYPES),
    )
    if resize is not None:
        choice("--resize", resize, RESIZE_RULES)
    if color is not None:
        choice("--color", color, COLOR_ORDERS)
    if log and not continuous:
        raise typer.BadParameter("--log needs --continuous.")
    goal: Objective | KernelObjective
    if continuous:
        goal = parse_kernel(objective or DEFAULT_KERNEL, "log" if log else "none")
    else:
        goal = parse_objective(objective or "all-triplets", seed)
    dataset = load_dataset(images, chosen_split, continuous=continuous)
    if not continuous:
        dataset = replace(dataset, samples=handle_singletons(dataset.samples, policy))
    with _stdout_kept(), ProgressBar() as progress:
        loaded = load_model(model, weights, output)
        report = export_model(
            loaded,
            dataset,
            out,
            goal,
            preprocessing=with_overrides(
                loaded.preprocessing, size=size, resize=resize, color=color, mean=mean, std=std
            ),
            layer=layer,
            head_rule=head_rule,
            channel_rule=rule,
            options=options,
            opset=opset,
            batch_size=batch_size,
            bank_out=bank,
            progress=progress,
        )
    contract = report.contract
    summary = {
        "model": str(report.path),
        "bytes": report.path.stat().st_size,
        "layer": contract.layer,
        "feature_map": list(contract.feature_map),
        "embedding_size": contract.bank.embedding_size,
        "normalized": contract.normalized,
        "head_linear": report.bank.head.linear,
        "rows": contract.bank.rows,
        "grad_weight_rows": contract.bank.grad_weight_rows,
        "labels": len({run.name for run in contract.labels}),
        "outcome": None if contract.outcome is None else vars(contract.outcome),
        "objective": contract.bank.objective,
        "fallback_rows": report.bank.fallback_rows,
        "skipped": [{"path": str(s.path), "reason": s.reason} for s in report.bank.skipped],
        "notes": report.notes,
    }
    if as_json:
        print_json(summary)
        return
    channels_count, height, width = contract.feature_map
    print(f"{report.path}: {report.path.stat().st_size / 1e6:.1f} MB")
    print(f"  feature map  {contract.layer} [{channels_count} x {height} x {width}]")
    print(f"  embedding    {contract.bank.embedding_size} numbers")
    what = f"of {summary['labels']} labels"
    if contract.outcome is not None:
        low, high = number_text(contract.outcome.low), number_text(contract.outcome.high)
        what = f"with values from {low} to {high}"
    print(
        f"  bank         {contract.bank.rows} images {what}, "
        f"{contract.bank.grad_weight_rows} distinct rows of grad-weights"
    )
    for note in report.notes:
        print(f"  note: {note}")
    for line in skipped_lines(report.bank):
        print(f"  {line}")
    print(f"Next: runtime run {report.path} --file PHOTO --save out/")


@app.command(epilog="Example: foldcam verify birds.onnx --images CUB_200_2011 --json")
def verify(
    model: Annotated[Path, typer.Argument(help="A folded model.", metavar="MODEL.onnx")],
    against: Annotated[
        str | None,
        typer.Option(help="MODEL to compare with; by default the one its metadata names."),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="Weights of that network."),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Images to compare on; seeded noise if left out."),
    ] = None,
    split: Annotated[str, typer.Option(help="train, test or all.")] = "all",
    most: Annotated[int, typer.Option(help="Images at most.", min=1)] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Compare a folded model in ONNX Runtime with the network it came from."""
    from export.datasets import SPLITS, load_dataset
    from export.model_spec import load_model
    from export.verify import images_to_verify
    from export.verify import verify as compare
    from runtime.onnx_file import read_contract

    contract = read_contract(model)
    spec, weights_file = _network_of(model, against, weights)
    dataset = load_dataset(images, choice("--split", split, SPLITS)) if images else None
    with _stdout_kept():
        loaded = load_model(spec, weights_file)
        size = (contract.preprocessing.height, contract.preprocessing.width)
        network = loaded.network(contract.layer, size, exact=False)
        report = compare(model, network, images_to_verify(dataset, contract, most))
    if as_json:
        print_json(report.document())
    else:
        print(f"{model} against {spec} on {report.images} {'images' if images else 'noise images'}")
        print(
            f"  embedding cosine     {report.embedding_cosine_mean:.7f} mean, "
            f"{report.embedding_cosine_worst:.7f} worst"
        )
        print(
            f"  heatmap difference   {report.heatmap_difference_mean:.2g} mean, "
            f"{report.heatmap_difference_worst:.2g} worst"
        )
        print(f"  same neighbor        {report.same_neighbor:.1%}")
        if report.estimate_difference_worst is not None:
            print(
                f"  estimate difference  {report.estimate_difference_worst:.2g} of the values' "
                "range, worst"
            )
        print("passed" if report.passed else f"FAILED: {'; '.join(report.failures)}")
    if not report.passed:
        raise typer.Exit(ExitStatus.GATE_FAILED)


@contextmanager
def _stdout_kept() -> Iterator[None]:
    """A user's network may print: standard output is for this program's report alone."""
    with redirect_stdout(sys.stderr):
        yield


def _network_of(model: Path, against: str | None, weights: Path | None) -> tuple[str, Path | None]:
    """The network to compare with: what the user says, else what the metadata names."""
    from runtime.onnx_file import read_contract

    if against is not None:
        return against, weights
    origin = read_contract(model).origin
    spec = origin.network
    file, mark, output = spec.partition("#")
    if file.endswith((".pt2", ".safetensors", ".onnx")):
        spec = f"{_beside(model, file, '--against')}{mark}{output}"
    if origin.weights and weights is None:
        weights = _beside(model, origin.weights, "--weights")
    return spec, weights


def _beside(model: Path, name: str, flag: str) -> Path:
    """A file that the metadata names without its folder: beside the model, or here."""
    for folder in (model.parent, Path()):
        if (folder / name).is_file():
            return folder / name
    raise FoldcamError(
        f"{model} was made from {name}, which is neither beside it nor in the working directory: "
        f"say where it is with {flag} PATH."
    )


def _heatmap_size(text: str) -> HeatmapSize:
    if text in ("native", "input"):
        return "native" if text == "native" else "input"
    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise typer.BadParameter(f"--heatmap-size {text!r} is not native, input or WIDTHxHEIGHT.")
    return int(height), int(width)


if __name__ == "__main__":
    app()
