"""`foldcam train`: flags turned into calls of public functions."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from foldcam.export.commands import options as flags
from foldcam.runtime.contract.at_stake import Read, Written, check_outputs, network_file
from foldcam.runtime.system.command import print_report

app = typer.Typer(no_args_is_help=True)


@app.command(
    epilog="Example: foldcam train efficientnet-lite0 --images CUB_200_2011 --out net.safetensors"
)
def train(
    model: Annotated[
        str,
        typer.Argument(
            help="Names the network to train: efficientnet-lite0, or package.module:factory.",
            metavar="MODEL",
        ),
    ],
    images: flags.TrainingImages,
    out: Annotated[Path, typer.Option(help="Writes the network to this .safetensors file.")] = Path(
        "net.safetensors"
    ),
    weights: flags.Weights = None,
    split: flags.Split = "train",
    embedding_size: Annotated[
        int,
        typer.Option(
            help="Sets the size of the embedding, made by a new projection; 0 keeps the network's "
            "own.",
            min=0,
        ),
    ] = 128,
    loss: Annotated[
        str,
        typer.Option(
            help="Chooses a loss of pytorch-metric-learning, or kernel:tau=0.1 for numbers."
        ),
    ] = "SupConLoss:temperature=0.14",
    miner: Annotated[
        str | None, typer.Option(help="Chooses a miner of pytorch-metric-learning (default: none).")
    ] = None,
    epochs: Annotated[
        int, typer.Option(help="Sets the number of passes over the training images.", min=1)
    ] = 30,
    learning_rate: Annotated[
        float, typer.Option(help="Sets the greatest learning rate of the pretrained part.")
    ] = 1e-3,
    mosaics: Annotated[
        int,
        typer.Option(
            help="Sets the number of training pictures that are mosaics of several images; 0 makes"
            " none.",
            min=0,
        ),
    ] = 600,
    views: Annotated[
        int, typer.Option(help="Sets the number of augmented views of each image.", min=1)
    ] = 9,
    train_from: Annotated[
        str | None,
        typer.Option(
            help="Trains what comes after this layer (default: the last one behind which at least "
            "40 % of the parameters lie)."
        ),
    ] = None,
    size: flags.Size = None,
    resize: flags.Resize = None,
    color: flags.Color = None,
    mean: flags.Mean = None,
    std: flags.Std = None,
    seed: Annotated[int, typer.Option(help="Sets the seed of all random choices.", min=0)] = 0,
    device: Annotated[
        str, typer.Option(help="Chooses the device that trains: auto, cpu or cuda.")
    ] = "auto",
    as_json: flags.Json = False,
) -> None:
    """Fine-tune a pretrained network into an embedding network."""
    from foldcam.export.commands.progress import ProgressBar
    from foldcam.export.datasets import load_dataset
    from foldcam.export.models.spec import load_model, with_overrides
    from foldcam.export.models.training.report import held_out_recall, recall_text
    from foldcam.export.models.training.trainer import TrainingOptions
    from foldcam.export.models.training.trainer import train as fine_tune

    check_outputs(
        [
            Read("MODEL", network_file(model)),
            Read("--weights", weights),
            Read("--images", images),
        ],
        [Written("--out", out)],
    )
    chosen = flags.split_of(split)
    continuous = loss.partition(":")[0] == "kernel"
    options = TrainingOptions(
        embedding_size=embedding_size or None,
        loss=loss,
        miner=miner,
        epochs=epochs,
        views=views,
        mosaics=0 if continuous else mosaics,
        learning_rate=learning_rate,
        train_from=train_from,
        seed=seed,
        device=flags.choice("--device", device, ("auto", "cpu", "cuda")),
    )
    dataset = load_dataset(images, chosen, continuous=continuous)
    flags.say_notes(dataset)
    # A file does not choose what code is imported, so that it is named beside its network.
    stands_alone = weights is None and ":" not in model
    # What a user's network prints does not belong into the report.
    with flags.stdout_kept(), ProgressBar() as progress:
        loaded = load_model(model, weights)
        preprocessing = with_overrides(
            loaded.preprocessing, size=size, resize=resize, color=color, mean=mean, std=std
        )
        report = fine_tune(
            loaded,
            dataset.samples,
            out,
            options,
            preprocessing=preprocessing,
            progress=progress,
        )
        recall = None
        if not continuous:
            trained = load_model(str(out)) if stands_alone else load_model(model, out)
            recall = held_out_recall(trained, images, chosen, progress)
    document = {
        "network": str(out),
        "train_from": report.train_from,
        "steps": report.steps,
        "resumed_at": report.resumed_at,
        "recall": recall,
        **flags.data_document(dataset),
        "skipped": [{"path": str(s.path), "reason": s.reason} for s in report.skipped],
        "notes": list(loaded.notes),
    }
    again = ["foldcam", "export", *([str(out)] if stands_alone else [model, "--weights", str(out)])]
    again += ["--images", str(images), *(["--split", chosen] if chosen != "train" else [])]
    again += [*(["--continuous"] if continuous else []), "--out", "model.onnx"]
    lines = [
        f"{out}: learned after layer {report.train_from}, {report.steps} steps",
        *(f"  {line}" for line in (recall_text(recall) if recall else [])),
        *(f"  note: {note}" for note in loaded.notes),
        *(f"  skipped {item.path}: {item.reason}" for item in report.skipped),
        f"Next: {shlex.join(again)}",
    ]
    print_report(document, "\n".join(lines), as_json)
