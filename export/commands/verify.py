"""`foldcam verify`: folded models against the network that they came from.

A file never chooses code: the network that the metadata name is imported or opened only where
the command line says so.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foldcam.export.commands import options as flags
from foldcam.runtime.contract.at_stake import Read, Written, check_outputs, network_file
from foldcam.runtime.system.command import print_report
from foldcam.runtime.system.text import printable

if TYPE_CHECKING:
    from foldcam.export.networks.cut import Network
    from foldcam.export.verification.images import NamedImage
    from foldcam.export.verification.pair_report import PairReport
    from foldcam.export.verification.run import VerifyReport
    from foldcam.runtime.contract.schema import Contract

app = typer.Typer(no_args_is_help=True)


@app.command(
    epilog="Example: foldcam verify birds.onnx --against demo --against birds.fp16.onnx "
    "--images CUB_200_2011 --picture worst.png"
)
def verify(
    model: Annotated[
        Path, typer.Argument(help="Names the folded model to verify.", metavar="MODEL.onnx")
    ],
    against: Annotated[
        list[str] | None,
        typer.Option(
            help="Compares with another folded file as well (may be repeated), or names the MODEL "
            "that is the reference.",
            show_default="the network inside the file is the reference",
            metavar="FILE|MODEL",
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Loads the weights of the MODEL of --against from this file.",
            show_default="its own",
        ),
    ] = None,
    output: flags.Output = None,
    trust_origin: Annotated[
        bool,
        typer.Option(
            "--trust-origin",
            help="Loads the network and the weights that the file's own metadata name, which runs "
            "code that the author of the file chose.",
        ),
    ] = False,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Compares on these images: a folder, class folders, a CSV, a CUB-200-2011 folder "
            "or one image.",
            show_default="seeded noise",
        ),
    ] = None,
    split: flags.Split = "all",
    most: Annotated[
        int, typer.Option(help="Limits the number of images that are compared.", min=1)
    ] = 64,
    batch_size: flags.BatchSize = 8,
    device: flags.DeviceText = "auto",
    picture: Annotated[
        Path | None,
        typer.Option(
            help="Writes the worst images side by side to this PNG or JPEG file.",
            show_default="none",
        ),
    ] = None,
    as_json: flags.Json = False,
) -> None:
    """Compare folded models with the network that they came from; status 3 if one is off."""
    from foldcam.export.commands.progress import ProgressBar
    from foldcam.export.models.named import is_folded_file
    from foldcam.export.onnx_graphs.device import DEVICE_CHOICES
    from foldcam.export.verification.images import ImagesToVerify, images_of, noise_images, spread
    from foldcam.export.verification.run import verify_model as compare
    from foldcam.runtime.contract.onnx_file import read_contract

    chosen = flags.split_of(split)
    flags.check_picture_flag("--picture", picture)
    check_outputs(
        [
            Read("MODEL", model),
            *(Read("--against", network_file(name)) for name in against or []),
            Read("--weights", weights),
            Read("--images", images),
        ],
        [Written("--picture", picture)],
    )
    contract = read_contract(model)
    # Importing torch and tracing the network take a while.
    print(f"Verifying {model} ...", file=sys.stderr, flush=True)
    named = against or []
    files = [Path(text) for text in named if is_folded_file(text)]
    specs = [text for text in named if not is_folded_file(text)]
    if len(specs) > 1:
        raise typer.BadParameter(f"--against names two networks, {specs[0]} and {specs[1]}.")
    if specs and trust_origin:
        raise typer.BadParameter(
            f"--against names the network {specs[0]}: leave --trust-origin out."
        )
    if not specs and not trust_origin and (weights, output) != (None, None):
        flag = "--output" if weights is None else "--weights"
        raise typer.BadParameter(
            f"{flag} belongs to a network: name it with --against MODEL as well{_named(contract)}."
        )
    shown: Iterable[NamedImage] = noise_images(contract)
    if images is not None:
        dataset = images_of(images, chosen)
        flags.say_notes(dataset)
        shown = ImagesToVerify(spread(dataset.samples, most))
    # The folded models run on the processor, and so does a network that was taken out of one.
    wanted = flags.choice("--device", device, DEVICE_CHOICES)
    place = flags.device_of(device) if specs or trust_origin or wanted == "cuda" else None
    with flags.stdout_kept(), ProgressBar() as progress:
        network: Network | None = None
        if place is not None and (specs or trust_origin):
            from foldcam.export.models.named import load_network, load_origin

            network = (
                load_network(model, contract, specs[0], weights, output, place)
                if specs
                else load_origin(model, contract, weights, output, place)
            )
        report = compare(
            model, network, shown, against=files, batch_size=batch_size, progress=progress
        )
    if network is None:
        report.notes.append(
            "Only what was folded onto the network is verified, not the network itself: name it "
            f"with --against MODEL{_named(contract)}."
        )
    if picture is not None:
        from foldcam.export.verification.picture import worst_picture
        from foldcam.runtime.images.files import write_image

        write_image(picture, worst_picture(report))
    text = _text(
        report, noise=images is None, picture=picture, classifier=contract.scores is not None
    )
    print_report(report.document(), text, as_json, report.passed)


def _named(contract: Contract) -> str:
    """What the metadata say about the network, for the end of a sentence."""
    origin = contract.origin
    weights = f" with --weights {origin.weights}" if origin.weights else ""
    return printable(
        f" (the file says {origin.network}{weights}; --trust-origin takes its word)"
        if origin.network
        else ""
    )


def _text(report: VerifyReport, *, noise: bool, picture: Path | None, classifier: bool) -> str:
    count = report.main.images
    what = "noise images" if noise else "images"
    lines = [f"{report.path} against {report.reference} on {count} {what}"]
    for pair in report.pairs:
        own_bank = pair is report.main or pair.bank != "its own"
        lines += _pair_lines(pair, own_bank=own_bank, classifier=classifier)
    if report.frame_difference is not None:
        lines.append(
            f"  input of frames      off by {report.frame_difference} of 255 grey levels from "
            "the host's preprocessing, worst pixel"
        )
    lines += [f"  note: {note}" for note in report.notes]
    lines += [f"  skipped {item.path}: {item.reason}" for item in report.skipped[:10]]
    if picture is not None:
        lines.append(f"The worst images are in {picture}")
    verdict = "passed" if report.network_compared else "passed, as far as the file itself can show"
    if not report.passed:
        verdict = f"FAILED: {'; '.join(report.failures)}"
    return "\n".join([*lines, verdict])


def _pair_lines(pair: PairReport, *, own_bank: bool, classifier: bool) -> list[str]:
    from foldcam.runtime.measurement.comparison.figures import compared_text

    bank = "" if own_bank else ", compared with its own bank"
    row, number = ("class", "score") if classifier else ("neighbor", "similarity")
    what = "scores cosine" if classifier else "embedding cosine"
    label = "" if pair.label_agreement is None else f", same label {pair.label_agreement:.1%}"
    lines = [
        f"{pair.name} ({pair.precision}, {pair.library}{bank})",
        f"  {what:20s} {pair.embedding_cosine_mean:.7f} mean, "
        f"{pair.embedding_cosine_worst:.7f} worst",
        f"  {f'same {row}':20s} {pair.same_neighbor:.1%}{label}",
        f"  {f'{number} off by':20s} {pair.similarity_difference_worst:.2g} worst, between rows "
        f"chosen {pair.neighbor_similarity_difference_worst:.2g}",
    ]
    if pair.heatmaps_compared:
        lines += [
            f"  heatmap correlation  {pair.heatmap_correlation_mean:.5f} mean, "
            f"{pair.heatmap_correlation_p5:.5f} at 5%, "
            f"{pair.heatmap_correlation_worst:.5f} worst "
            f"({compared_text(pair.heatmaps_compared, pair.heatmaps_blank)})",
            f"  heatmap difference   {pair.heatmap_difference_mean:.2g} mean, "
            f"{pair.heatmap_difference_worst:.2g} worst pixel",
        ]
    for name, worst in (
        ("contributions", pair.contribution_difference_worst),
        ("contrasts", pair.contrast_difference_worst),
    ):
        if worst is not None:
            lines.append(f"  {name:20s} {worst:.2g} of the greatest contribution, worst cell")
    if pair.estimate_difference_worst is not None:
        lines.append(
            f"  estimate difference  {pair.estimate_difference_worst:.2g} of the values' range, "
            "worst"
        )
    return [*lines, f"  worst image          {pair.worst_image}"]
