"""`foldcam export`: flags turned into a call of `export.exporting.exporter.export_model`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foldcam.export.commands import options as flags
from foldcam.export.commands.export_report import (
    refuse_without_images,
    report_classifier,
    report_export,
)
from foldcam.runtime.contract.at_stake import (
    Read,
    Written,
    check_outputs,
    keep_network,
    network_file,
)
from foldcam.runtime.system.errors import FoldcamError

app = typer.Typer(no_args_is_help=True)

# Parameters that are about training images.
_OF_IMAGES = (
    "split", "objective", "continuous", "log", "channels", "grad_weights", "baseline", "head",
    "bank_input", "query", "transfer", "singletons", "search", "compress", "bank_precision",
    "bank", "calibrate_unknown", "gallery",
)  # fmt: skip


@app.command(
    epilog="Examples: foldcam export demo --images CUB_200_2011 --out birds.onnx; "
    "foldcam export resnet.onnx --classes imagenet.txt --out classes.onnx",
)
def export(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            help="Names the embedding network or the classifier: demo, package.module:factory, a "
            ".pt2 file, or an .onnx file.",
            metavar="MODEL",
        ),
    ],
    images: Annotated[
        Path | None,
        typer.Option(
            help="Reads training images from class folders, a CSV, or a CUB-200-2011 folder. "
            "Without it the network is taken as a classifier, whose bank is its last linear layer.",
            show_default=False,
        ),
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option(
            help="Names a classifier's classes: a text file with one name per line, or a JSON list "
            "or index. No images are needed.",
            show_default="they are numbered",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Writes the folded model to this .onnx file.")] = Path(
        "model.onnx"
    ),
    weights: flags.Weights = None,
    layer: flags.Layer = None,
    output: flags.Output = None,
    head: Annotated[
        str,
        typer.Option(
            help="Chooses how directions pass the head: exact, by its gradient, or fitted, by a "
            "linear map fitted to it, for a head without a gradient."
        ),
    ] = "exact",
    split: flags.Split = "train",
    objective: flags.ObjectiveText = None,
    continuous: flags.Continuous = False,
    log: flags.Log = False,
    channels: flags.Channels = "all",
    grad_weights: flags.GradWeightsText = "auto",
    baseline: flags.BaselineText = "auto",
    contrast: flags.Contrast = False,
    bank_input: flags.BankAsInput = False,
    query: flags.Query = False,
    transfer: flags.Transfer = 1,
    neighbors: flags.Neighbors = 1,
    heatmap_size: flags.HeatmapSizeText = "native",
    input_type: flags.InputTypeText = "float32",
    frame: flags.FrameText = None,
    precision: Annotated[
        str,
        typer.Option(
            help="Sets the precision of the network: fp32, or fp16 for half its size, to be "
            "verified on images."
        ),
    ] = "fp32",
    size: flags.Size = None,
    resize: flags.Resize = None,
    color: flags.Color = None,
    mean: flags.Mean = None,
    std: flags.Std = None,
    singletons: flags.Singletons = "refuse",
    opset: Annotated[
        int, typer.Option(help="Sets the ONNX operator set of the file; TensorRT 8.6 needs 17.")
    ] = 18,
    batch_size: flags.BatchSize = 16,
    device: flags.DeviceText = "auto",
    search: flags.Search = "auto",
    compress: flags.Compress = "none",
    bank_precision: flags.BankPrecision = "auto",
    bank: Annotated[
        Path | None,
        typer.Option(help="Also writes the bank to this .safetensors file.", show_default="none"),
    ] = None,
    calibrate_unknown: Annotated[
        Path | None,
        typer.Option(
            help="Also chooses when an image is unknown, from these labelled images, of which the "
            "test part counts: foldcam threshold with its defaults.",
            show_default="no rule",
        ),
    ] = None,
    gallery: Annotated[
        bool,
        typer.Option(
            "--gallery",
            help="Also writes MODEL.gallery beside the model: a thumbnail and the map of each "
            "training image, for --beside, --report and the live page (default: none).",
        ),
    ] = False,
    seed: flags.Seed = 0,
    as_json: flags.Json = False,
) -> None:
    """Fold a network and its training images, or a classifier, into one ONNX file."""
    from foldcam.export.banks.grad_weights import CHANNEL_RULES
    from foldcam.export.commands.progress import ProgressBar
    from foldcam.export.datasets import load_dataset
    from foldcam.export.exporting.classifier_exporter import export_classifier
    from foldcam.export.exporting.exporter import HEAD_RULES, export_model
    from foldcam.export.exporting.threshold import choose_threshold
    from foldcam.export.grafting.fold import FoldOptions
    from foldcam.runtime.contract.bank.live_bank import bank_path
    from foldcam.runtime.contract.gallery import gallery_path
    from foldcam.runtime.contract.schema import INPUT_TYPES, PRECISIONS

    rule = flags.choice("--channels", channels, CHANNEL_RULES)
    own = flags.grad_weights_of(grad_weights)
    head_rule = flags.choice("--head", head, HEAD_RULES)
    options = FoldOptions(
        transfer=transfer,
        neighbors=neighbors,
        heatmap_size=flags.heatmap_size_of(heatmap_size),
        input_type="uint8" if frame else flags.choice("--input", input_type, INPUT_TYPES),
        precision=flags.choice("--precision", precision, PRECISIONS),
        storage=flags.storage_of(search, compress, bank_precision),
        baseline=flags.baseline_of(baseline),
        contrast=contrast,
        bank_input=bank_input or query,
        query=query,
        frame=None if frame is None else flags.frame_of(frame),
    )
    if gallery and options.bank_input:
        raise FoldcamError(
            "--gallery shows the rows of a bank that stays as it is, and --bank-input (which "
            "--query includes) makes one that changes: leave one of them out."
        )
    look = {"size": size, "resize": resize, "color": color, "mean": mean, "std": std}
    flags.check_image_flags(resize, color)
    check_outputs(
        [
            Read("MODEL", network_file(model)),
            Read("--weights", weights),
            Read("--images", images),
            Read("--classes", classes),
            Read("--calibrate-unknown", calibrate_unknown),
        ],
        [
            Written("--out", out),
            Written("--bank", bank),
            Written("--bank-input", bank_path(out) if options.bank_input else None),
            Written("--gallery", gallery_path(out) if gallery else None),
        ],
    )
    keep_network("--out", out)
    if images is None:
        refuse_without_images(flags.given(context, _OF_IMAGES))
        place = flags.device_of(device)
        with flags.stdout_kept():
            loaded, recipe = flags.network_of(model, weights, output, place, **look)
            folded = export_classifier(
                loaded,
                out,
                classes,
                preprocessing=recipe,
                layer=layer,
                options=options,
                opset=opset,
            )
        report_classifier(folded, as_json=as_json)
        return
    if classes is not None:
        raise FoldcamError(
            "--classes names the classes of a classifier, whose bank is its last layer, and "
            "--images makes a bank of training images: leave one of the two out."
        )
    goal = flags.goal_of(objective, continuous=continuous, log=log, seed=seed)
    dataset = flags.training_data(images, split, singletons, continuous=continuous)
    if calibrate_unknown is not None and continuous:
        raise typer.BadParameter("--calibrate-unknown is for labels, and --continuous has none.")
    if calibrate_unknown is not None and options.bank_input:
        raise typer.BadParameter(
            "--calibrate-unknown chooses for one bank, and that of --bank-input or --query may "
            "change."
        )
    held_out = None if calibrate_unknown is None else load_dataset(calibrate_unknown, "test")
    place = flags.device_of(device)
    with flags.stdout_kept(), ProgressBar() as progress:
        loaded, recipe = flags.network_of(model, weights, output, place, **look)
        report = export_model(
            loaded,
            dataset,
            out,
            goal,
            preprocessing=recipe,
            layer=layer,
            channel_rule=rule,
            grad_weights=own,
            head_rule=head_rule,
            options=options,
            opset=opset,
            batch_size=batch_size,
            bank_out=bank,
            gallery=gallery,
            progress=progress,
        )
        chosen = None
        if held_out is not None:
            try:
                chosen = choose_threshold(out, out, held_out, device=place, progress=progress)
            except FoldcamError as error:
                raise FoldcamError(
                    f"{out} is written, but has no rule for unknown images, which foldcam "
                    f"threshold can still give it: {error}"
                ) from error
    report_export(report, dataset, bank, chosen, as_json=as_json)
