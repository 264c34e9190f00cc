"""`foldcam evaluate openset`: flags turned into calls of public functions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foldcam.benchmarks.evaluation import cli_support as shared
from foldcam.export.commands import options as flags
from foldcam.runtime.contract.at_stake import Read, Written, check_outputs, network_file
from foldcam.runtime.system.command import print_report
from foldcam.runtime.system.errors import FoldcamError


def openset(
    model: Annotated[
        str,
        typer.Argument(
            help="Names a folded model, whose bank is taken; or the MODEL of foldcam export, whose "
            "bank is made of the training part of --images.",
            metavar="MODEL_OR_FOLDED",
        ),
    ],
    images: Annotated[
        Path,
        typer.Option(
            help="Reads labelled images from class folders, a CSV, or a CUB-200-2011 folder. Their "
            "test part is measured."
        ),
    ],
    test: Annotated[
        Path | None,
        typer.Option(
            help="Measures a MODEL that is not folded on these other labelled images.",
            show_default="the test part of --images, or half of each label",
        ),
    ] = None,
    unknown: Annotated[
        Path | None,
        typer.Option(
            help="Reads images that show none of the bank's labels from a folder or a data set.",
            show_default="labels are left out of the bank, so that each is unknown once",
        ),
    ] = None,
    retrain: Annotated[
        bool,
        typer.Option(
            "--retrain",
            help="Trains MODEL (such as efficientnet-lite0) for each group of labels without "
            "them, and keeps the networks in --out. Otherwise MODEL stays as it is.",
        ),
    ] = False,
    epochs: Annotated[
        int | None,
        typer.Option(
            help="Sets the number of epochs of each training of --retrain.",
            min=1,
            show_default="30",
        ),
    ] = None,
    accept: Annotated[
        float,
        typer.Option(
            help="Sets the share of known images that is accepted where unknown ones are counted, "
            "0 to 1."
        ),
    ] = 0.95,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Writes openset.json, openset.md and openset.png into this folder.",
            show_default="none",
        ),
    ] = None,
    weights: flags.Weights = None,
    output: flags.Output = None,
    size: shared.Size = None,
    resize: flags.Resize = None,
    color: flags.Color = None,
    mean: flags.Mean = None,
    std: flags.Std = None,
    singletons: flags.Singletons = "refuse",
    device: flags.DeviceText = "auto",
    seed: shared.Seed = 0,
    draws: shared.Draws = 2000,
    as_json: flags.Json = False,
) -> None:
    """Measure which score separates known from unknown images: AUROC, curves, thresholds.

    No image is compared with itself, and with --retrain no network has met the labels that are
    unknown to it.
    """
    from foldcam.benchmarks.evaluation.documents import provenance
    from foldcam.benchmarks.evaluation.explanation.data import read_parts
    from foldcam.benchmarks.evaluation.openset.report import text_table, write_results
    from foldcam.benchmarks.evaluation.openset.study import OpensetOptions, run_openset
    from foldcam.benchmarks.evaluation.openset.subject import Retraining, of_folded, of_network
    from foldcam.export.banks.unknown.images import any_images
    from foldcam.export.commands.progress import ProgressBar
    from foldcam.export.datasets import load_dataset
    from foldcam.export.models.training.trainer import TrainingOptions
    from foldcam.runtime.contract.onnx_file import is_folded

    if not 0.0 < accept < 1.0:
        raise typer.BadParameter(f"--accept is {accept:g}: give a share between 0 and 1.")
    if retrain and (out is None or unknown is not None):
        raise typer.BadParameter(
            "--retrain keeps networks in --out, and leaves labels out in place of --unknown: give "
            "the one and leave out the other."
        )
    if epochs is not None and not retrain:
        raise typer.BadParameter("--epochs is of --retrain, which is missing.")
    flags.check_image_flags(resize, color)
    policy = flags.singletons_of(singletons)
    look = {"size": size, "resize": resize, "color": color, "mean": mean, "std": std}
    check_outputs(
        [Read("MODEL", network_file(model)), Read("--weights", weights), Read("--images", images),
         Read("--test", test), Read("--unknown", unknown)],
        [Written("--out", out)],
    )  # fmt: skip
    strangers = None if unknown is None else any_images(unknown)
    place = flags.device_of(device)
    with flags.stdout_kept(), ProgressBar() as progress:
        if is_folded(Path(model)):
            if retrain or test is not None:
                raise FoldcamError(
                    f"{model} is folded already: --retrain and --test are for a MODEL without a "
                    "bank, so leave them out."
                )
            shared.refuse_network_flags(model, weights, output, *look.values())
            dataset = load_dataset(images, "test")
            flags.say_notes(dataset)
            asked = of_folded(Path(model), dataset, strangers, place, seed, progress)
        else:
            parts = read_parts(images, test, singletons=policy, seed=seed)
            dataset = parts.training
            flags.say_notes(dataset)
            loaded, recipe = flags.network_of(model, weights, output, place, **look)
            retraining = None
            if retrain and out is not None:
                training = TrainingOptions(epochs=epochs or 30, seed=seed, device=device)
                retraining = Retraining(training, out)
            asked = of_network(loaded, parts, recipe, strangers, seed, retraining, progress)
        found = run_openset(asked, OpensetOptions(accept, draws, seed=seed), progress)
    document = {**found, "retrained": retrain, **flags.data_document(dataset), **provenance()}
    if out is not None:
        write_results(out, document)
    lines = [text_table(document), *shared.remarks(document)]
    print_report(document, "\n".join(lines), as_json)
