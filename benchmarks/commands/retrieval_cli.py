"""`foldcam evaluate retrieval`: flags turned into calls of public functions."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foldcam.benchmarks.evaluation import cli_support as shared
from foldcam.export.commands import options as flags
from foldcam.runtime.contract.at_stake import Read, Written, check_outputs, network_file
from foldcam.runtime.system.command import print_report

if TYPE_CHECKING:
    from foldcam.benchmarks.evaluation.retrieval.study import Subject


def retrieval(
    model: Annotated[
        str,
        typer.Argument(
            help="Names the folded model to measure; or a network, which is folded first with the "
            "training part of --images.",
            metavar="MODEL",
        ),
    ],
    images: Annotated[
        Path,
        typer.Option(
            help="Reads labelled images. A folded model is measured on those of --split; of a "
            "network the training part is the bank, and the rest is measured."
        ),
    ],
    test: Annotated[
        Path | None,
        typer.Option(
            help="Measures on these other labelled images.",
            show_default="the test part of --images; of a network without one half of each label",
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Measures a folded model on this part of the data: train, valid, test or all.",
            show_default="test",
        ),
    ] = None,
    bank: Annotated[
        Path | None,
        typer.Option(
            help="Reads the bank of a folded model from this file: its own images are then "
            "recognised by the hashes of their files, too, and matches have names and pictures.",
            show_default="the bank inside the model",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Writes figures and wrong answers with their heat to this .html file.",
            show_default="none",
        ),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(
            help="Writes wrong answers beside their matches to this PNG or JPEG file.",
            show_default="none",
        ),
    ] = None,
    most: Annotated[
        int, typer.Option(help="Limits the number of wrong answers on page and sheet.", min=1)
    ] = 100,
    weights: flags.Weights = None,
    layer: flags.Layer = None,
    output: flags.Output = None,
    size: shared.Size = None,
    resize: flags.Resize = None,
    color: flags.Color = None,
    mean: flags.Mean = None,
    std: flags.Std = None,
    singletons: flags.Singletons = "refuse",
    device: flags.DeviceText = "auto",
    seed: shared.Seed = 0,
    as_json: flags.Json = False,
) -> None:
    """Measure retrieval from a bank, recall@1/5/10, CMC, mAP and mINP, and show wrong answers."""
    from foldcam.benchmarks.evaluation.explanation.data import read_parts
    from foldcam.benchmarks.evaluation.retrieval.report import (
        contact_sheet,
        report_document,
        text_report,
        write_page,
        wrong_answers,
    )
    from foldcam.benchmarks.evaluation.retrieval.study import (
        evaluate_retrieval,
        folded_subject,
        network_subject,
    )
    from foldcam.export.commands.progress import ProgressBar
    from foldcam.export.datasets import load_dataset
    from foldcam.runtime.contract.onnx_file import is_folded, read_contract
    from foldcam.runtime.images.files import write_image

    flags.check_page_flag("--out", out)
    flags.check_picture_flag("--sheet", sheet)
    look = {"size": size, "resize": resize, "color": color, "mean": mean, "std": std}
    folded = is_folded(Path(model))
    if folded:
        shared.refuse_network_flags(model, weights, layer, output, *look.values())
    if not folded and (bank is not None or split is not None):
        if model.endswith(".onnx"):
            read_contract(Path(model))  # says why it is none
        raise typer.BadParameter(
            f"{model} is not a folded model: --bank and --split are of one; a network's bank is "
            "built from the training part of --images."
        )
    flags.check_image_flags(resize, color)
    check_outputs(
        [
            Read("MODEL", network_file(model)),
            Read("--weights", weights),
            Read("--images", images),
            Read("--test", test),
            Read("--bank", bank),
        ],
        [Written("--out", out), Written("--sheet", sheet)],
    )
    place = flags.device_of(device)
    notes: tuple[str, ...] = ()
    with flags.stdout_kept(), ProgressBar() as progress:
        opened: AbstractContextManager[Subject]
        if folded:
            dataset = load_dataset(test or images, flags.split_of(split or "test"))
            shown = load_dataset(images, "all") if out or sheet else None
            opened = folded_subject(Path(model), bank, shown, place)
        else:
            policy = flags.singletons_of(singletons)
            parts = read_parts(images, test, singletons=policy, seed=seed, least_labels=1)
            flags.say_notes(parts.training)
            dataset, notes = parts.testing, parts.notes
            loaded, recipe = flags.network_of(model, weights, output, place, **look)
            opened = network_subject(loaded, parts, recipe, layer, progress)
        flags.say_notes(dataset)
        with opened as subject:
            found = evaluate_retrieval(subject.model, dataset, subject.bank, progress)
            found = replace(found, notes=(*notes, *found.notes))
            document = report_document(found, subject.bank)
            wrong = []
            if out is not None or sheet is not None:
                wrong = list(wrong_answers(subject, found.queries, most))
            if out is not None:
                title = f"Retrieval: {Path(model).name} on {dataset.name}"
                write_page(out, title, document, subject, wrong)
            if sheet is not None and wrong:
                write_image(sheet, contact_sheet(wrong))
    lines = [text_report(document)]
    if out is not None:
        lines.append(f"Written to {out}")
    if sheet is not None:
        lines.append(
            f"Written to {sheet}" if wrong else f"No answer is wrong: {sheet} was not written"
        )
    print_report({**document, **flags.data_document(dataset)}, "\n".join(lines), as_json)
