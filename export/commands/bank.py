"""`foldcam bank build|add|merge|remove|stats|audit`: banks as files of their own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foldcam.export.commands import options as flags
from foldcam.export.commands.bank_audit import audit
from foldcam.export.commands.bank_life import merge, print_bank, remove, stats
from foldcam.runtime.contract.at_stake import Read, Written, check_outputs, network_file

if TYPE_CHECKING:
    from foldcam.export.datasets import SingletonPolicy
    from foldcam.export.exporting.scale_out.sources import ShardedData

app = typer.Typer(no_args_is_help=True)
group = typer.Typer(no_args_is_help=True)
app.add_typer(group, name="bank", help="Build, change and inspect banks of training images.")


@group.command(epilog="Example: foldcam bank build demo --images photos/ --out bank.safetensors")
def build(
    model: flags.Model,
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
    weights: flags.Weights = None,
    layer: flags.Layer = None,
    output: flags.Output = None,
    split: flags.Split = "train",
    objective: flags.ObjectiveText = None,
    continuous: flags.Continuous = False,
    log: flags.Log = False,
    channels: flags.Channels = "all",
    grad_weights: flags.GradWeightsText = "auto",
    size: flags.Size = None,
    resize: flags.Resize = None,
    color: flags.Color = None,
    mean: flags.Mean = None,
    std: flags.Std = None,
    singletons: flags.Singletons = "refuse",
    batch_size: flags.BatchSize = 16,
    device: flags.DeviceText = "auto",
    seed: flags.Seed = 0,
    engine: Annotated[
        str,
        typer.Option(
            help="Chooses where the bank is built: local, in this process, or ray, in several "
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
            "its images), or rank:32 (32 numbers per row of grad-weights).",
            show_default="none",
        ),
    ] = None,
    shards: Annotated[
        Path | None,
        typer.Option(
            help="Keeps the shards in this folder for another --compress later.",
            metavar="FOLDER",
            show_default="they are removed",
        ),
    ] = None,
    as_json: flags.Json = False,
) -> None:
    """Build a bank. After an interruption the same command goes on where it stopped."""
    from foldcam.export.banks.grad_weights import CHANNEL_RULES
    from foldcam.export.commands.progress import ProgressBar
    from foldcam.export.exporting.bank_files import build_bank_file

    rule = flags.choice("--channels", channels, CHANNEL_RULES)
    own = flags.grad_weights_of(grad_weights)
    flags.check_image_flags(resize, color)
    check_outputs(
        [
            Read("MODEL", network_file(model)),
            Read("--weights", weights),
            Read("--images", None if "://" in images else images),
        ],
        [Written("--out", out)],
    )
    goal = flags.goal_of(objective, continuous=continuous, log=log, seed=seed)
    on_ray = flags.choice("--engine", engine, ("local", "ray")) == "ray"
    if on_ray and device == "cuda":
        raise typer.BadParameter("--engine ray embeds on processors: leave --device cuda out.")
    only_ray = (address, workers, shard_rows, block_rows, compress, shards)
    if not on_ray and any(value is not None for value in only_ray):
        raise typer.BadParameter(
            "--address, --workers, --shard-rows, --block-rows, --compress and --shards need "
            "--engine ray."
        )
    look = {"size": size, "resize": resize, "color": color, "mean": mean, "std": std}
    same: dict[str, Any] = {
        "layer": layer, "channel_rule": rule, "grad_weights": own, "batch_size": batch_size,
    }  # fmt: skip
    extra: dict[str, Any] = {}
    if on_ray:
        from foldcam.export.exporting.scale_out.engine import SHARD_ROWS, build_bank_file_on_ray
        from foldcam.export.grafting.options import parse_compression
        from foldcam.export.onnx_graphs.device import CPU

        policy = flags.singletons_of(singletons)
        rows = shard_rows or SHARD_ROWS
        data = _sharded(images, split, rows, policy, continuous=continuous)
        # Flags that are not given keep what the functions say.
        given = {"workers": workers, "address": address, "block_rows": block_rows}
        same |= {name: value for name, value in given.items() if value is not None}
        with flags.stdout_kept(), ProgressBar() as progress:
            _, recipe = flags.network_of(model, weights, output, CPU, **look)
            built, extra = build_bank_file_on_ray(
                model,
                data,
                out,
                goal,
                weights=weights,
                output=output,
                preprocessing=recipe,
                singletons=policy,
                compression=parse_compression(compress or "none"),
                keep_shards=shards,
                seed=seed,
                progress=progress,
                **same,
            )
    else:
        dataset = flags.training_data(
            flags.local_images(images), split, singletons, continuous=continuous
        )
        extra = flags.data_document(dataset)
        place = flags.device_of(device)
        with flags.stdout_kept(), ProgressBar() as progress:
            loaded, recipe = flags.network_of(model, weights, output, place, **look)
            built = build_bank_file(
                loaded, dataset, out, goal, preprocessing=recipe, progress=progress, **same
            )
    report = built.report
    extra |= {
        "fallback_rows": report.fallback_rows,
        "skipped": [{"path": s.place, "reason": s.reason} for s in report.skipped],
        "notes": built.notes,
    }
    print_bank(out, report.bank, extra, as_json)


def _sharded(
    images: str, split: str, rows: int, policy: SingletonPolicy, *, continuous: bool
) -> ShardedData:
    """The training images as shards, without the labels of one image where they are listed."""
    from foldcam.export.datasets import handle_singletons
    from foldcam.export.exporting.scale_out.sources import load_sharded, sharded

    data = load_sharded(images, flags.split_of(split), rows, continuous=continuous)
    flags.say_notes(data)
    if data.listed is None or continuous:
        return data
    samples = handle_singletons(data.listed, policy)
    return sharded(data.name, data.split, samples, rows, data.notes)


@group.command(
    epilog="Example: foldcam bank add bank.safetensors demo --images new/ --out more.safetensors"
)
def add(
    bank: Annotated[Path, typer.Argument(help="Names the bank to add to.", metavar="BANK")],
    model: flags.Model,
    images: flags.TrainingImages,
    out: Annotated[Path, typer.Option(help="Writes the new bank to this .safetensors file.")],
    weights: flags.Weights = None,
    output: flags.Output = None,
    split: flags.Split = "train",
    singletons: flags.Singletons = "refuse",
    batch_size: flags.BatchSize = 16,
    device: flags.DeviceText = "auto",
    seed: flags.Seed = 0,
    as_json: flags.Json = False,
) -> None:
    """Add images of new or known labels to a bank, without embedding the old ones again."""
    from foldcam.export.banks.bank import Bank
    from foldcam.export.commands.progress import ProgressBar
    from foldcam.export.datasets import load_dataset
    from foldcam.export.exporting.bank_files import add_to_bank_file
    from foldcam.export.models.spec import load_model

    chosen = flags.split_of(split)
    policy = flags.singletons_of(singletons)
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
    flags.say_notes(dataset)
    place = flags.device_of(device)
    with flags.stdout_kept(), ProgressBar() as progress:
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
            **flags.data_document(dataset),
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
