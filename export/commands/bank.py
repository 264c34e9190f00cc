"""`foldcam bank build|add|merge|remove|stats|audit`: banks as files of their own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foldcam.export.commands.bank_audit import audit
from foldcam.export.commands.bank_life import merge, remove, stats
from foldcam.export.commands.bank_report import print_bank
from foldcam.export.commands.options import (
    BatchSize,
    Channels,
    Color,
    Continuous,
    DeviceText,
    GradWeightsText,
    Json,
    Layer,
    Log,
    Mean,
    Model,
    ObjectiveText,
    Output,
    Resize,
    Seed,
    Singletons,
    Size,
    Split,
    Std,
    Weights,
    check_image_flags,
    choice,
    data_document,
    device_of,
    goal_of,
    grad_weights_of,
    local_images,
    network_of,
    say_notes,
    singletons_of,
    split_of,
    stdout_kept,
    training_data,
)
from foldcam.export.commands.probes import probes
from foldcam.runtime.contract.at_stake import Read, Written, check_outputs, network_file

if TYPE_CHECKING:
    from foldcam.export.banks.objectives.directions import Objective
    from foldcam.export.banks.objectives.kernel import KernelObjective
    from foldcam.export.exporting.scale_out.engine import BankOnRay

app = typer.Typer(no_args_is_help=True)
group = typer.Typer(no_args_is_help=True)
app.add_typer(group, name="bank", help="Build, change and inspect banks of training images.")
# Beside the group: a file of one command has no room for a second.
app.command(epilog="Example: foldcam probes birds.onnx")(probes)


@app.callback()
def _program() -> None:
    """With a callback, the group keeps its name even where it is the only command."""


@group.command(epilog="Example: foldcam bank build demo --images photos/ --out bank.safetensors")
def build(
    model: Model,
    images: Annotated[
        str,
        typer.Option(
            help="Reads training images from class folders, a CSV, or a CUB-200-2011 folder. With "
            "--engine ray also from .tar files of WebDataset (a file, a folder of them, or "
            "URL/train-{000..099}.tar), and from CSVs with URLs.",
            metavar="DATA",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Writes the bank to this .safetensors file.")] = Path(
        "bank.safetensors"
    ),
    weights: Weights = None,
    layer: Layer = None,
    output: Output = None,
    split: Split = "train",
    objective: ObjectiveText = None,
    continuous: Continuous = False,
    log: Log = False,
    channels: Channels = "all",
    grad_weights: GradWeightsText = "auto",
    size: Size = None,
    resize: Resize = None,
    color: Color = None,
    mean: Mean = None,
    std: Std = None,
    singletons: Singletons = "refuse",
    batch_size: BatchSize = 16,
    device: DeviceText = "auto",
    seed: Seed = 0,
    engine: Annotated[
        str,
        typer.Option(
            help="Builds the bank with local, in this process, or with ray, in several "
            "processes or on several machines (--address)."
        ),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            help="Connects to a running Ray cluster at HOST:PORT, or finds one with auto.",
            show_default="this machine alone",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Sets the number of processes, each of which loads MODEL.", min=1, show_default="2"
        ),
    ] = None,
    shard_rows: Annotated[
        int | None,
        typer.Option(help="Sets the number of images per shard.", min=1, show_default="512"),
    ] = None,
    block_rows: Annotated[
        int | None,
        typer.Option(
            help="Sets the number of rows that are compared with each other, for objectives other "
            "than all-triplets.",
            min=4,
            show_default="8192",
        ),
    ] = None,
    compress: Annotated[
        str | None,
        typer.Option(
            help="Compresses the bank shard by shard: prototypes:5 (5 rows per label in place of "
            "its images), or rank:32 (32 numbers per row of grad-weights) (default: none).",
        ),
    ] = None,
    shards: Annotated[
        Path | None,
        typer.Option(
            help="Keeps the shards in this folder for another --compress later (default: removed).",
            metavar="FOLDER",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Build a bank. After an interruption the same command goes on where it stopped."""
    from foldcam.export.banks.grad_weights import CHANNEL_RULES
    from foldcam.export.commands.progress import ProgressBar
    from foldcam.export.exporting.bank_files import build_bank_file

    rule = choice("--channels", channels, CHANNEL_RULES)
    own = grad_weights_of(grad_weights)
    check_image_flags(resize, color)
    check_outputs(
        [
            Read("MODEL", network_file(model)),
            Read("--weights", weights),
            Read("--images", None if "://" in images else images),
        ],
        [Written("--out", out)],
    )
    goal = goal_of(objective, continuous=continuous, log=log, seed=seed)
    look = {"size": size, "resize": resize, "color": color, "mean": mean, "std": std}
    extra: dict[str, Any] = {}
    if choice("--engine", engine, ("local", "ray")) == "ray":
        if device == "cuda":
            raise typer.BadParameter("--engine ray embeds on processors: leave --device cuda out.")
        built, extra = _build_on_ray(
            model,
            images,
            out,
            goal,
            look,
            # Flags that are not given keep what the functions say.
            given={"workers": workers, "address": address, "block_rows": block_rows},
            shard_rows=shard_rows,
            compress=compress,
            split=split,
            singletons=singletons,
            continuous=continuous,
            weights=weights,
            output=output,
            layer=layer,
            channel_rule=rule,
            grad_weights=own,
            batch_size=batch_size,
            seed=seed,
            keep_shards=shards,
        )
    else:
        only_ray = (address, workers, shard_rows, block_rows, compress, shards)
        if any(value is not None for value in only_ray):
            raise typer.BadParameter(
                "--address, --workers, --shard-rows, --block-rows, --compress and --shards need "
                "--engine ray."
            )
        dataset = training_data(local_images(images), split, singletons, continuous=continuous)
        extra = data_document(dataset)
        place = device_of(device)
        with stdout_kept(), ProgressBar() as progress:
            loaded, recipe = network_of(model, weights, output, place, **look)
            built = build_bank_file(
                loaded,
                dataset,
                out,
                goal,
                preprocessing=recipe,
                layer=layer,
                channel_rule=rule,
                grad_weights=own,
                batch_size=batch_size,
                progress=progress,
            )
    report = built.report
    print_bank(
        out,
        report.bank,
        {
            **extra,
            "fallback_rows": report.fallback_rows,
            "skipped": [{"path": s.place, "reason": s.reason} for s in report.skipped],
            "notes": built.notes,
        },
        as_json,
    )


def _build_on_ray(
    model: str,
    images: str,
    out: Path,
    goal: Objective | KernelObjective,
    look: dict[str, str | None],
    *,
    given: dict[str, Any],
    shard_rows: int | None,
    compress: str | None,
    split: str,
    singletons: str,
    continuous: bool,
    weights: Path | None,
    output: str | None,
    seed: int,
    **same: Any,
) -> BankOnRay:
    from foldcam.export.commands.progress import ProgressBar
    from foldcam.export.datasets import handle_singletons
    from foldcam.export.exporting.scale_out.engine import SHARD_ROWS, build_bank_file_on_ray
    from foldcam.export.exporting.scale_out.sources import load_sharded, sharded
    from foldcam.export.grafting.options import parse_compression
    from foldcam.export.onnx_graphs.device import CPU

    policy = singletons_of(singletons)
    rows = shard_rows or SHARD_ROWS
    data = load_sharded(images, split_of(split), rows, continuous=continuous)
    say_notes(data)
    if data.listed is not None and not continuous:
        samples = handle_singletons(data.listed, policy)
        data = sharded(data.name, data.split, samples, rows, data.notes)
    with stdout_kept(), ProgressBar() as progress:
        _, preprocessing = network_of(model, weights, output, CPU, **look)
        return build_bank_file_on_ray(
            model,
            data,
            out,
            goal,
            weights=weights,
            output=output,
            preprocessing=preprocessing,
            singletons=policy,
            compression=parse_compression(compress or "none"),
            seed=seed,
            progress=progress,
            **{name: value for name, value in given.items() if value is not None},
            **same,
        )


@group.command(
    epilog="Example: foldcam bank add bank.safetensors demo --images new/ --out more.safetensors"
)
def add(
    bank: Annotated[Path, typer.Argument(help="The bank to add to.", metavar="BANK")],
    model: Model,
    images: Annotated[
        Path,
        typer.Option(help="Reads new images from class folders, a CSV, or a CUB-200-2011 folder."),
    ],
    out: Annotated[Path, typer.Option(help="Writes the new bank to this .safetensors file.")],
    weights: Weights = None,
    output: Output = None,
    split: Split = "train",
    singletons: Singletons = "refuse",
    batch_size: BatchSize = 16,
    device: DeviceText = "auto",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Add images of new or known labels to a bank, without embedding the old ones again."""
    from foldcam.export.banks.bank import Bank
    from foldcam.export.commands.progress import ProgressBar
    from foldcam.export.datasets import load_dataset
    from foldcam.export.exporting.bank_files import add_to_bank_file
    from foldcam.export.models.spec import load_model

    chosen = split_of(split)
    policy = singletons_of(singletons)
    check_outputs(
        [
            Read("BANK", bank),
            Read("MODEL", network_file(model)),
            Read("--weights", weights),
            Read("--images", images),
        ],
        [Written("--out", out)],
    )
    held = Bank.load(bank)
    dataset = load_dataset(images, chosen, continuous=held.outcome is not None)
    say_notes(dataset)
    place = device_of(device)
    with stdout_kept(), ProgressBar() as progress:
        report = add_to_bank_file(
            held,
            load_model(model, weights, output, place),
            dataset,
            out,
            singletons=policy,
            seed=seed,
            batch_size=batch_size,
            progress=progress,
        )
    print_bank(
        out,
        report.bank,
        {
            "added": report.added,
            **data_document(dataset),
            "known": report.known,
            "rederived": report.rederived,
            "fallback_rows": report.fallback_rows,
            "skipped": [{"path": s.place, "reason": s.reason} for s in report.skipped],
            "notes": report.notes(),
        },
        as_json,
    )


group.command(
    epilog="Example: foldcam bank merge a.safetensors b.safetensors --out both.safetensors"
)(merge)
group.command(
    epilog="Example: foldcam bank remove bank.safetensors --label 'Jane Doe' --out less.safetensors"
)(remove)
group.command(epilog="Example: foldcam bank stats bank.safetensors --map map.png")(stats)
group.command(
    epilog="Example: foldcam bank audit bank.safetensors --images photos/ --out audit.html"
)(audit)


if __name__ == "__main__":
    from foldcam.runtime.system.command import run_app

    run_app(app, "foldcam")
