"""`foldcam bank audit`: flags turned into calls of public functions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foldcam.export.commands.bank_life import BankFile
from foldcam.export.commands.options import Json, check_page_flag, data_document, say_notes
from foldcam.runtime.contract.at_stake import Read, Written, check_outputs

if TYPE_CHECKING:
    from foldcam.export.banks.audit.audit import Audit

_SHOWN = 10


def audit(
    bank: BankFile,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Reads the pictures of the rows from this data set, for the page: the one that "
            "the bank was built from.",
            show_default="names alone",
            metavar="DATA",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Writes a page with all that was found to this .html file."),
    ] = None,
    most: Annotated[
        int,
        typer.Option(help="Limits the rows on the page that are likely mislabelled.", min=1),
    ] = 100,
    seed: Annotated[int, typer.Option(help="Sets the seed of planted wrong labels.", min=0)] = 0,
    as_json: Json = False,
) -> None:
    """Look for wrong labels, near-duplicates across labels, mixed labels and lonely rows."""
    from foldcam.export.banks.audit.audit import audit_bank
    from foldcam.export.banks.audit.page import write_page
    from foldcam.export.banks.bank import Bank
    from foldcam.export.banks.pictures import RowPictures
    from foldcam.export.commands.progress import ProgressBar
    from foldcam.export.datasets import load_dataset
    from foldcam.runtime.system.command import print_report

    check_page_flag("--out", out)
    if images is not None and out is None:
        raise typer.BadParameter("--images gives the page its pictures: give --out, too.")
    check_outputs([Read("BANK", bank), Read("--images", images)], [Written("--out", out)])
    held = Bank.load(bank)
    dataset = None if images is None else load_dataset(images, "all")
    if dataset is not None:
        say_notes(dataset)
    with ProgressBar() as progress:
        found = audit_bank(held, seed, progress)
    document: dict[str, Any] = {"bank": str(bank), **found.document()}
    if out is not None:
        pictures = RowPictures(held, dataset)
        write_page(out, found, pictures, bank, most)
        document["page"] = str(out)
        if dataset is not None:
            document |= data_document(dataset)
            document["pictures_not_found"] = len(pictures.missing)
    print_report(document, _text(found, document), as_json)


def _text(found: Audit, document: dict[str, Any]) -> str:
    from foldcam.export.banks.audit.audit import trial_text
    from foldcam.runtime.system.text import printable

    def called(item: dict[str, Any]) -> str:
        return printable(item["name"] or f"row {item['row']}") + f" ({printable(item['label'])})"

    lines = [
        f"{document['bank']}: {document['rows']} rows of {document['labels']} labels, of which "
        f"{document['doubted']} are doubted"
    ]
    if found.trial is not None:
        lines.append(f"  {trial_text(found.trial)}")
    lines += [f"  note: {note}" for note in document["notes"]]
    findings = {
        "likely_mislabelled": lambda i: (
            f"{called(i)}, rather{'' if i['doubted'] else ' perhaps'} {printable(i['rather'])}?"
        ),
        "near_duplicates": lambda i: (
            " and ".join(map(called, i["rows"]))
            + (", the same file" if i["same_picture"] else f", cosine {i['similarity']}")
        ),
        "mixed_labels": lambda i: (
            " and ".join(map(printable, i["labels"]))
            + f", mixed to {min(i['mixing'], 1):.0%} of chance"
        ),
        "lonely": called,
    }
    for name, line in findings.items():
        items = document[name]
        what = f"{len(items)} to look at first" if name == "likely_mislabelled" else len(items)
        lines.append(f"{name.replace('_', ' ')}: {what}")
        lines += [f"  {line(item)}" for item in items[:_SHOWN]]
        if len(items) > _SHOWN:
            lines.append(f"  and {len(items) - _SHOWN} more (--out or --json)")
    if document.get("pictures_not_found"):
        lines.append(
            f"note: {document['pictures_not_found']} pictures of the page were not found: give the "
            "data set that the bank was built from."
        )
    if "page" in document:
        lines.append(f"Written to {document['page']}")
    return "\n".join(lines)
