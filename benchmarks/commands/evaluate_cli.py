"""`foldcam evaluate`: flags turned into calls of public functions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foldcam.benchmarks.commands.openset_cli import openset
from foldcam.benchmarks.commands.retrieval_cli import retrieval
from foldcam.benchmarks.evaluation import cli_support as shared
from foldcam.export.commands import options as flags
from foldcam.runtime.contract.at_stake import Read, Written, check_outputs, network_file
from foldcam.runtime.system.command import print_report

evaluate = typer.Typer(no_args_is_help=True, help="Measure a folded model on labelled images.")
evaluate.command(
    epilog="Example: foldcam evaluate openset birds.onnx --images CUB_200_2011 --unknown others/"
)(openset)
evaluate.command(
    epilog="Example: foldcam evaluate retrieval birds.onnx --images CUB_200_2011 --out birds.html"
)(retrieval)


@evaluate.command(
    epilog="Example: foldcam evaluate localization --data CUB_200_2011 --out results/cub"
)
def localization(
    data: shared.Boxes,
    out: shared.Out = Path("results/localization"),
    model: Annotated[
        str | None,
        typer.Option(
            help="Explains this MODEL.", show_default="one is trained on the training split"
        ),
    ] = None,
    weights: flags.Weights = None,
    size: Annotated[
        str, typer.Option(help="Sets the input size in pixels, 256 or WIDTHxHEIGHT.")
    ] = "256",
    epochs: shared.Epochs = 30,
    grad_weights: flags.GradWeightsText = "auto",
    baseline: flags.BaselineText = "auto",
    device: flags.DeviceText = "auto",
    seed: shared.Seed = 0,
    draws: shared.Draws = 2000,
    unseen: Annotated[
        bool,
        typer.Option(
            help="Also trains a network without two of the labels and measures it on them."
        ),
    ] = True,
    as_json: flags.Json = False,
) -> None:
    """Measure where the maps of every method lie: grids, insertion, deletion, pixels, boxes."""
    from dataclasses import replace

    from foldcam.benchmarks.evaluation.localization.report import text_table
    from foldcam.benchmarks.evaluation.localization.study import StudyOptions, run_study
    from foldcam.export.commands.progress import ProgressBar
    from foldcam.export.datasets import load_dataset
    from foldcam.export.models.spec import load_model, with_overrides
    from foldcam.export.models.training.trainer import TrainingOptions

    check_outputs([Read("--data", data)], [Written("--out", out)])
    preprocessing = None
    flags.say_notes(load_dataset(data, "all", boxes="truth"))
    if model is None:
        preprocessing = with_overrides(load_model("efficientnet-lite0").preprocessing, size=size)
    place = flags.device_of(device)
    options = StudyOptions(
        model=model,
        weights=weights,
        preprocessing=preprocessing,
        training=replace(TrainingOptions(), epochs=epochs, seed=seed, device=device),
        seed=seed,
        draws=draws,
        unseen=unseen,
        device=place,
        grad_weights=flags.grad_weights_of(grad_weights),
        baseline=flags.baseline_of(baseline),
    )
    with ProgressBar() as progress:
        document = run_study(data, out, options, progress)
    text = (
        f"{text_table(document)}\n\nrecall@1 {document['recall_at_1']:.1%}, "
        f"{document['minutes']} minutes\n"
        f"Written to {out}: localization.json, tables, plot and contact sheets"
    )
    print_report(document, text, as_json)


@evaluate.command(
    epilog="Example: foldcam evaluate explanation faces.onnx --images faces/train "
    "--test faces/test --size 112 --sheet maps.png"
)
def explanation(
    model: flags.Model,
    images: Annotated[
        Path,
        typer.Option(
            help="Reads labelled images from class folders, a CSV, or a CUB-200-2011 folder. Their "
            "training part is the bank."
        ),
    ],
    test: Annotated[
        Path | None,
        typer.Option(
            help="Reads the labelled images to measure on, without those of the bank.",
            show_default="the test part of --images, or half of each label",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Writes explanation.json and explanation.md into this folder.",
            show_default="none",
        ),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(
            help="Writes pictures beside the maps of every method to this PNG or JPEG file.",
            show_default="none",
        ),
    ] = None,
    weights: flags.Weights = None,
    layer: flags.Layer = None,
    output: flags.Output = None,
    head: Annotated[
        str,
        typer.Option(
            help="Chooses how directions pass the head, as in foldcam export: exact or fitted."
        ),
    ] = "exact",
    grad_weights: flags.GradWeightsText = "auto",
    baseline: flags.BaselineText = "auto",
    size: shared.Size = None,
    resize: flags.Resize = None,
    color: flags.Color = None,
    mean: flags.Mean = None,
    std: flags.Std = None,
    singletons: flags.Singletons = "refuse",
    most: Annotated[
        int | None,
        typer.Option(help="Limits the number of images to measure on.", min=2, show_default="all"),
    ] = None,
    device: flags.DeviceText = "auto",
    seed: shared.Seed = 0,
    draws: shared.Draws = 2000,
    as_json: flags.Json = False,
) -> None:
    """Measure whether the heat is worth something: hide what is hot, and compare with controls."""
    from foldcam.benchmarks.evaluation.documents import provenance
    from foldcam.benchmarks.evaluation.explanation.data import read_parts
    from foldcam.benchmarks.evaluation.explanation.report import (
        contact_sheet,
        text_table,
        write_results,
    )
    from foldcam.benchmarks.evaluation.explanation.study import ExplanationOptions, run_explanation
    from foldcam.export.commands.progress import ProgressBar
    from foldcam.export.exporting.exporter import HEAD_RULES
    from foldcam.runtime.images.files import write_image

    flags.check_picture_flag("--sheet", sheet)
    flags.check_image_flags(resize, color)
    policy = flags.singletons_of(singletons)
    head_rule = flags.choice("--head", head, HEAD_RULES)
    check_outputs(
        [
            Read("MODEL", network_file(model)),
            Read("--weights", weights),
            Read("--images", images),
            Read("--test", test),
        ],
        [Written("--out", out), Written("--sheet", sheet)],
    )
    parts = read_parts(images, test, singletons=policy, most=most, seed=seed)
    for dataset in (parts.training, parts.testing):
        flags.say_notes(dataset)
    place = flags.device_of(device)
    with flags.stdout_kept(), ProgressBar() as progress:
        loaded, recipe = flags.network_of(
            model, weights, output, place,
            size=size, resize=resize, color=color, mean=mean, std=std,
        )  # fmt: skip
        options = ExplanationOptions(
            preprocessing=recipe,
            layer=layer,
            head_rule=head_rule,
            grad_weights=flags.grad_weights_of(grad_weights),
            baseline=flags.baseline_of(baseline),
            seed=seed,
            draws=draws,
        )
        found = run_explanation(loaded, parts, options, progress)
    document = {**found.document, **flags.data_document(parts.training), **provenance()}
    if out is not None:
        write_results(out, document)
    if sheet is not None:
        write_image(sheet, contact_sheet(found.shown))
    lines = [text_table(document), *shared.remarks(document), "", document["verdict"]]
    print_report(document, "\n".join(lines), as_json)


@evaluate.command(
    "house-price",
    epilog="Example: foldcam evaluate house-price --data houses --out results/houses",
)
def house_price(
    data: Annotated[
        Path,
        typer.Option(
            help="Reads the houses of this folder, which has houses.csv or HousesInfo.txt."
        ),
    ],
    out: shared.Out = Path("results/houses"),
    epochs: shared.Epochs = 8,
    device: flags.DeviceText = "auto",
    seed: shared.Seed = 0,
    draws: shared.Draws = 2000,
    as_json: flags.Json = False,
) -> None:
    """Measure price estimates from photographs, and whether what raises and lowers them does."""
    from dataclasses import replace

    from foldcam.benchmarks.evaluation.houses.report import text_table
    from foldcam.benchmarks.evaluation.houses.study import TRAINING, StudyOptions, run_study
    from foldcam.export.commands.progress import ProgressBar

    check_outputs([Read("--data", data)], [Written("--out", out)])
    options = StudyOptions(
        training=replace(TRAINING, epochs=epochs, seed=seed, device=device),
        seed=seed,
        draws=draws,
        device=flags.device_of(device),
    )
    with ProgressBar() as progress:
        document = run_study(data, out, options, progress)
    text = (
        f"{text_table(document)}\n\n{document['minutes']} minutes, of which "
        f"{document['training_minutes']} of training\n"
        f"Written to {out}: house-price.json, tables, plot, contact sheet, folded models"
    )
    print_report(document, text, as_json)
