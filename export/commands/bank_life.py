"""`foldcam bank merge|remove|stats`: what happens to a bank after it was built, and its report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foldcam.export.commands import options as flags
from foldcam.runtime.contract.at_stake import Read, Written, check_outputs, network_file
from foldcam.runtime.system.command import print_report

if TYPE_CHECKING:
    from foldcam.export.banks.bank import Bank
    from foldcam.export.networks.cut import Network

_MOST_LABELS = 20


def print_bank(path: Path, bank: Bank, extra: dict[str, Any], as_json: bool) -> None:
    """What is in a bank, and what happened to it; `extra` is added to the JSON document."""
    from foldcam.export.exporting.bank_files import bank_summary
    from foldcam.runtime.system.text import number_text, printable, shorten

    summary = bank_summary(bank)
    size = path.stat().st_size
    objective = printable(shorten(bank.objective, 80))
    lines = [
        f"{path}: {size / 1e6:.1f} MB",
        f"  rows         {bank.rows}" + (f", {extra['added']} new" if "added" in extra else ""),
        f"  embedding    {bank.embedding_size} numbers, norm 1",
        f"  grad-weights {bank.channels} channels, {summary['grad_weight_rows']} distinct rows "
        f"({objective}, channels {bank.channel_rule}, compression {bank.compression})",
    ]
    if bank.outcome is not None:
        outcome = bank.outcome.summary()
        low, high = number_text(outcome.low), number_text(outcome.high)
        lines.append(f"  values       from {low} to {high}, median {number_text(outcome.median)}")
    else:
        counts = summary["labels"]
        shown = [f"{printable(name)} ({count})" for name, count in counts.items()][:_MOST_LABELS]
        more = f" and {len(counts) - _MOST_LABELS} more" if len(counts) > _MOST_LABELS else ""
        lines.append(f"  labels       {len(counts)}: {', '.join(shown)}{more}")
    if bank.source is None:
        lines.append("  source       unknown: an older file, which foldcam fold refuses")
    else:
        origin, recipe = bank.source.origin, bank.source.preprocessing
        weights = f" with {origin.weights}" if origin.weights else ""
        lines += [
            f"  network      {printable(origin.network)}{printable(weights)}, hash "
            f"{origin.network_sha256[:12]}..., layer {printable(bank.source.layer)}",
            f"  data         {printable(origin.data)} ({printable(origin.split)}), "
            f"{recipe.width} x {recipe.height} {recipe.resize}",
        ]
    if extra.get("known"):
        lines.append(f"  {len(extra['known'])} images were in the bank already and were left out")
    lines += [f"  note: {note}" for note in extra["notes"]]
    lines += [
        f"  skipped {item['path']}: {item['reason']}" for item in extra.get("skipped", [])[:10]
    ]
    document = {"bank": str(path), "bytes": size, **summary, **extra}
    print_report(document, "\n".join(lines), as_json)


OwnModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Names the MODEL that made the bank; if its head is linear, the grad-weights are "
        "computed again from the rows of the new bank.",
        metavar="MODEL",
        show_default="they stay",
    ),
]
BankFile = Annotated[Path, typer.Argument(help="Names the bank to read.", metavar="BANK")]


def merge(
    banks: Annotated[
        list[Path], typer.Argument(help="Names two or more banks of one network.", metavar="BANKS")
    ],
    out: Annotated[Path, typer.Option(help="Writes the new bank to this .safetensors file.")],
    model: OwnModel = None,
    weights: flags.Weights = None,
    output: flags.Output = None,
    device: flags.DeviceText = "auto",
    seed: flags.Seed = 0,
    as_json: flags.Json = False,
) -> None:
    """Merge banks of one network; an image that is in several banks is taken once."""
    from foldcam.export.banks.bank import Bank
    from foldcam.export.banks.join import merge_banks
    from foldcam.export.exporting.bank_files import check_out

    if len(banks) < 2:
        raise typer.BadParameter("Merging needs two banks or more.")
    check_outputs(
        [*(Read("BANK", path) for path in banks), *_of_model(model, weights)],
        [Written("--out", out)],
    )
    check_out(out)
    held = [Bank.load(path) for path in banks]
    with flags.stdout_kept():
        network = _network(held[0], model, weights, output, device)
        report = merge_banks(held, [str(path) for path in banks], network, seed)
    report.bank.save(out)
    extra = {
        "merged": [str(path) for path in banks],
        "duplicates": report.duplicates,
        "conflicts": report.conflicts,
        "rederived": report.rederived,
        "notes": report.notes(),
    }
    print_bank(out, report.bank, extra, as_json)


def remove(
    bank: BankFile,
    out: Annotated[Path, typer.Option(help="Writes the new bank to this .safetensors file.")],
    label: Annotated[
        list[str] | None, typer.Option(help="Removes this label; may be repeated.")
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option(
            help="Removes this image (may be repeated): its file, with all crops of it; one crop "
            "as FILE#X,Y,W,H; a SHA-256; or its name in the bank, in which 'anna/*.jpg' stands "
            "for all of a folder and '**/*.jpg' for those of any folder."
        ),
    ] = None,
    images_from: Annotated[
        Path | None,
        typer.Option(
            help="Removes the images that this file lists: one file, hash or name per line."
        ),
    ] = None,
    report_to: Annotated[
        Path | None, typer.Option("--report", help="Also writes the report as JSON to this file.")
    ] = None,
    model: OwnModel = None,
    weights: flags.Weights = None,
    output: flags.Output = None,
    device: flags.DeviceText = "auto",
    seed: flags.Seed = 0,
    as_json: flags.Json = False,
) -> None:
    """Take images out of a bank, and report what is provably gone and what is not."""
    from foldcam.export.banks.bank import Bank
    from foldcam.export.banks.removal import remove_from_bank
    from foldcam.export.banks.selection import selection_of
    from foldcam.export.exporting.bank_files import check_out
    from foldcam.runtime.system.files import atomic_path

    named = [*(image or []), *_lines(images_from)]
    if not (label or named):
        raise typer.BadParameter("Say what goes: --label, --image or --images-from.")
    check_outputs(
        [
            Read("BANK", bank),
            Read("--images-from", images_from),
            *(Read("--image", name) for name in image or []),
            *_of_model(model, weights),
        ],
        [Written("--out", out), Written("--report", report_to)],
    )
    check_out(out)
    held = Bank.load(bank)
    selection = selection_of(label or [], named, held)
    with flags.stdout_kept():
        network = _network(held, model, weights, output, device)
        report = remove_from_bank(held, selection, network, seed)
    report.bank.save(out)
    document = {"bank": str(out), "removed_from": str(bank), **report.document()}
    if report_to is not None:
        with atomic_path(report_to) as temporary:
            temporary.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print_report(document, _removal_text(document), as_json, document["complete"])


def stats(
    bank: BankFile,
    map_to: Annotated[
        Path | None,
        typer.Option(
            "--map",
            help="Draws the rows in 2-D to this .png, .svg or .pdf file.",
            show_default="none",
        ),
    ] = None,
    map_method: Annotated[
        str, typer.Option(help="Chooses the method that lays out the map: tsne, or pca.")
    ] = "tsne",
    seed: Annotated[int, typer.Option(help="Sets the seed of the map.", min=0)] = 0,
    as_json: flags.Json = False,
) -> None:
    """Say what is in a bank, and draw it."""
    from foldcam.export.banks.bank import Bank

    check_outputs([Read("BANK", bank)], [Written("--map", map_to)])
    held = Bank.load(bank)
    extra: dict[str, Any] = {"notes": []}
    if map_to is not None:
        from foldcam.export.banks.picture import MAP_METHODS, bank_map, draw_map

        layout = bank_map(held, flags.choice("--map-method", map_method, MAP_METHODS), seed)
        draw_map(held, layout, map_to)
        extra["map"] = str(map_to)
    print_bank(bank, held, extra, as_json)


def _of_model(model: str | None, weights: Path | None) -> list[Read]:
    named = None if model is None else network_file(model)
    return [Read("--model", named), Read("--weights", weights)]


def _network(
    bank: Bank, model: str | None, weights: Path | None, output: str | None, device: str
) -> Network | None:
    """The network that made a bank, if it is named."""
    if model is None:
        return None
    from foldcam.export.exporting.bank_files import network_of_bank
    from foldcam.export.models.spec import load_model

    return network_of_bank(bank, load_model(model, weights, output, flags.device_of(device)))


def _lines(path: Path | None) -> list[str]:
    if path is None:
        return []
    from foldcam.runtime.system.errors import FoldcamError
    from foldcam.runtime.system.files import refuse_special

    refuse_special(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FoldcamError(f"--images-from {path} cannot be read ({reason}).") from None
    return [line.strip() for line in lines if line.strip()]


def _removal_text(document: dict[str, Any]) -> str:
    from foldcam.runtime.system.text import printable

    removed = document["removed"]
    lines = [
        f"{document['bank']}: {document['rows_after']} of {document['rows_before']} rows stay",
        *(f"  removed      {_row_text(item)}" for item in removed[:20]),
        *([f"  removed      {len(removed) - 20} more (--json lists all)"] if removed[20:] else []),
        *(
            f"  stays        {_row_text(item)}, the same picture under another name"
            for item in document["same_picture_stays"][:20]
        ),
        *(f"  not found    {printable(name)}" for name in document["not_found"]),
    ]
    for name, held in document["checks"].items():
        lines.append(f"  {'proved' if held else 'FAILED'}       {name.replace('_', ' ')}")
    lines += [f"  aggregates   {printable(line)}" for line in document["traces_in_aggregates"]]
    lines += [
        f"  looks alike  {_row_text(item)}  cosine {item['similarity']}"
        for item in document["rows_that_look_alike"]
    ]
    lines += [f"  not covered  {printable(line)}" for line in document["not_covered"]]
    lines.append(f"  bank before  {document['sha256_before']}")
    return "\n".join([*lines, f"  bank after   {document['sha256_after']}"])


def _row_text(item: dict[str, Any]) -> str:
    from foldcam.runtime.system.text import printable

    parts = [item["label"] or "value", item["name"], item["image_sha256"]]
    return printable("  ".join(part for part in parts if part))
