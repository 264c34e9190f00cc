"""`foldcam bank build|add|stats`: banks as files of their own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from export.cli_options import (
    BatchSize,
    Channels,
    Color,
    Continuous,
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
    TrainingImages,
    Weights,
    check_image_flags,
    choice,
    goal_of,
    stdout_kept,
    training_data,
)
from runtime.cli_support import print_json

if TYPE_CHECKING:
    from export.bank import Bank

app = typer.Typer(no_args_is_help=True)
group = typer.Typer(no_args_is_help=True)
app.add_typer(group, name="bank", help="Build, extend and inspect banks of training images.")

_MOST_LABELS = 20


@app.callback()
def _program() -> None:
    """With a callback, the group keeps its name even where it is the only command."""


@group.command(epilog="Example: foldcam bank build demo --images photos/ --out bank.safetensors")
def build(
    model: Model,
    images: TrainingImages,
    out: Annotated[Path, typer.Option(help="The bank to write.")] = Path("bank.safetensors"),
    weights: Weights = None,
    layer: Layer = None,
    output: Output = None,
    split: Split = "train",
    objective: ObjectiveText = None,
    continuous: Continuous = False,
    log: Log = False,
    channels: Channels = "all",
    size: Size = None,
    resize: Resize = None,
    color: Color = None,
    mean: Mean = None,
    std: Std = None,
    singletons: Singletons = "refuse",
    batch_size: BatchSize = 16,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Build a bank; interrupted, the same command goes on where it stopped."""
    from export.bank_files import build_bank_file
    from export.grad_weights import CHANNEL_RULES
    from export.model_spec import load_model, with_overrides
    from export.progress import ProgressBar

    rule = choice("--channels", channels, CHANNEL_RULES)
    check_image_flags(resize, color)
    goal = goal_of(objective, continuous=continuous, log=log, seed=seed)
    dataset = training_data(images, split, singletons, continuous=continuous)
    with stdout_kept(), ProgressBar() as progress:
        loaded = load_model(model, weights, output)
        built = build_bank_file(
            loaded,
            dataset,
            out,
            goal,
            preprocessing=with_overrides(
                loaded.preprocessing, size=size, resize=resize, color=color, mean=mean, std=std
            ),
            layer=layer,
            channel_rule=rule,
            batch_size=batch_size,
            progress=progress,
        )
    report = built.report
    _print(
        out,
        report.bank,
        {
            "fallback_rows": report.fallback_rows,
            "skipped": [{"path": str(s.path), "reason": s.reason} for s in report.skipped],
            "notes": built.notes,
        },
        as_json,
    )


@group.command(
    epilog="Example: foldcam bank add bank.safetensors demo --images new/ --out more.safetensors"
)
def add(
    bank: Annotated[Path, typer.Argument(help="The bank.", metavar="BANK")],
    model: Model,
    images: Annotated[
        Path, typer.Option(help="New images: class folders, a CSV, or a CUB-200-2011 folder.")
    ],
    out: Annotated[Path, typer.Option(help="The new bank to write.")],
    weights: Weights = None,
    output: Output = None,
    split: Split = "train",
    singletons: Singletons = "refuse",
    batch_size: BatchSize = 16,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Add images of new or known labels to a bank, without embedding the old ones again."""
    from export.bank import Bank
    from export.bank_files import add_to_bank_file
    from export.datasets import SINGLETON_POLICIES, SPLITS, load_dataset
    from export.model_spec import load_model
    from export.progress import ProgressBar

    chosen = choice("--split", split, SPLITS)
    policy = choice("--singletons", singletons, SINGLETON_POLICIES)
    held = Bank.load(bank)
    dataset = load_dataset(images, chosen, continuous=held.outcome is not None)
    with stdout_kept(), ProgressBar() as progress:
        report = add_to_bank_file(
            held,
            load_model(model, weights, output),
            dataset,
            out,
            singletons=policy,
            seed=seed,
            batch_size=batch_size,
            progress=progress,
        )
    _print(
        out,
        report.bank,
        {
            "added": report.added,
            "known": [str(path) for path in report.known],
            "rederived": report.rederived,
            "fallback_rows": report.fallback_rows,
            "skipped": [{"path": str(s.path), "reason": s.reason} for s in report.skipped],
            "notes": report.notes(),
        },
        as_json,
    )


@group.command(epilog="Example: foldcam bank stats bank.safetensors --json")
def stats(
    bank: Annotated[Path, typer.Argument(help="The bank.", metavar="BANK")],
    as_json: Json = False,
) -> None:
    """Say what is in a bank."""
    from export.bank import Bank

    _print(bank, Bank.load(bank), {"notes": []}, as_json)


def _print(path: Path, bank: Bank, extra: dict[str, Any], as_json: bool) -> None:
    from export.bank_files import bank_summary
    from runtime.text import number_text, printable

    summary = bank_summary(bank)
    if as_json:
        print_json({"bank": str(path), "bytes": path.stat().st_size, **summary, **extra})
        return
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    print(f"  rows         {bank.rows}" + (f", {extra['added']} new" if "added" in extra else ""))
    print(f"  embedding    {bank.embedding_size} numbers, norm 1")
    print(
        f"  grad-weights {bank.channels} channels, {summary['grad_weight_rows']} distinct rows "
        f"({bank.objective}, channels {bank.channel_rule}, compression {bank.compression})"
    )
    if bank.outcome is not None:
        outcome = bank.outcome.summary()
        low, high = number_text(outcome.low), number_text(outcome.high)
        print(f"  values       from {low} to {high}, median {number_text(outcome.median)}")
    else:
        counts = summary["labels"]
        shown = [f"{printable(name)} ({count})" for name, count in counts.items()][:_MOST_LABELS]
        more = f" and {len(counts) - _MOST_LABELS} more" if len(counts) > _MOST_LABELS else ""
        print(f"  labels       {len(counts)}: {', '.join(shown)}{more}")
    if bank.source is None:
        print("  source       unknown: an older file, which foldcam fold refuses")
    else:
        origin, recipe = bank.source.origin, bank.source.preprocessing
        weights = f" with {origin.weights}" if origin.weights else ""
        print(f"  network      {printable(origin.network)}{printable(weights)}, hash "
              f"{origin.network_sha256[:12]}..., layer {printable(bank.source.layer)}")  # fmt: skip
        print(f"  data         {printable(origin.data)} ({printable(origin.split)}), "
              f"{recipe.width} x {recipe.height} {recipe.resize}")  # fmt: skip
    if extra.get("known"):
        print(f"  {len(extra['known'])} images were in the bank already and were left out")
    for note in extra["notes"]:
        print(f"  note: {note}")
    for item in extra.get("skipped", [])[:10]:
        print(f"  skipped {item['path']}: {item['reason']}")


if __name__ == "__main__":
    from runtime.cli_support import run_app

    run_app(app, "foldcam")
