"""`foldcam fold`: a bank's file folded into a network's file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from foldcam.export.commands import options as flags
from foldcam.export.commands.export_report import distinct_rows
from foldcam.runtime.contract.at_stake import Read, Written, check_outputs, keep_network
from foldcam.runtime.system.command import print_report

app = typer.Typer(no_args_is_help=True)

_OWN = "that of the folded model, else {}"


@app.command(epilog="Example: foldcam fold birds.onnx --bank new.safetensors --out birds-new.onnx")
def fold(
    network: Annotated[
        Path,
        typer.Argument(
            help="Names the folded model whose bank is replaced, or an embedding network.",
            metavar="NETWORK.onnx",
        ),
    ],
    bank: Annotated[
        Path, typer.Option(help="Reads the bank that foldcam bank build or add wrote.")
    ],
    out: Annotated[Path, typer.Option(help="Writes the folded model to this .onnx file.")] = Path(
        "model.onnx"
    ),
    transfer: Annotated[
        int | None,
        typer.Option(
            help="Sets the number of nearest bank rows whose grad-weights are averaged.",
            min=1,
            show_default=_OWN.format(1),
        ),
    ] = None,
    neighbors: Annotated[
        int | None,
        typer.Option(
            help="Sets the number of nearest bank rows that the model returns.",
            min=1,
            show_default=_OWN.format(1),
        ),
    ] = None,
    heatmap_size: Annotated[
        str | None,
        typer.Option(
            help="Sets the size of the heatmap: native (the feature map's), input, or "
            "WIDTHxHEIGHT.",
            show_default=_OWN.format("native"),
        ),
    ] = None,
    input_type: Annotated[
        str | None,
        typer.Option(
            "--input",
            help="Sets the type of the model's input: float32, or uint8 with normalisation in the "
            "graph.",
            show_default=_OWN.format("float32"),
        ),
    ] = None,
    frame: Annotated[
        str | None,
        typer.Option(
            help="Makes a model that takes whole camera frames of this size in pixels, as in "
            "foldcam export, or none, which takes that out of a folded model.",
            metavar="WIDTHxHEIGHT",
            show_default=_OWN.format("none"),
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            help="Chooses what each position is compared with: mean, the average training image at "
            "that place, or none.",
            show_default=_OWN.format("by the kind of head"),
        ),
    ] = None,
    contrast: Annotated[
        bool | None,
        typer.Option(
            "--contrast/--no-contrast",
            help="Adds the outputs contrast, runner_up and runner_up_similarity.",
            show_default=_OWN.format("no"),
        ),
    ] = None,
    bank_input: Annotated[
        bool | None,
        typer.Option(
            "--bank-input/--no-bank-input",
            help="Keeps the bank in a file of its own beside the model, as in foldcam export.",
            show_default=_OWN.format("no"),
        ),
    ] = None,
    query: Annotated[
        bool | None,
        typer.Option(
            "--query/--no-query",
            help="Adds the input query, as in foldcam export; includes --bank-input.",
            show_default=_OWN.format("no"),
        ),
    ] = None,
    search: flags.Search = "auto",
    compress: Annotated[
        str | None,
        typer.Option(
            help="Compresses the grad-weights: none, rank:R or prototypes:N, as in foldcam export.",
            show_default=_OWN.format("none"),
        ),
    ] = None,
    bank_precision: flags.BankPrecision = "auto",
    as_json: flags.Json = False,
) -> None:
    """Fold a bank into a network, or swap the bank of a folded model; needs no torch for that."""
    from foldcam.export.banks.bank import Bank
    from foldcam.export.grafting.frame import frame_notes
    from foldcam.export.grafting.refold import fold_file, stored_options
    from foldcam.runtime.contract.gallery import stale_gallery
    from foldcam.runtime.contract.schema import BASELINES, INPUT_TYPES

    check_outputs([Read("NETWORK", network), Read("--bank", bank)], [Written("--out", out)])
    keep_network("--out", out)
    options = stored_options(network)
    given: dict[str, Any] = {
        "transfer": transfer,
        "neighbors": neighbors,
        "heatmap_size": None if heatmap_size is None else flags.heatmap_size_of(heatmap_size),
        "input_type": None
        if input_type is None
        else flags.choice("--input", input_type, INPUT_TYPES),
        "baseline": None if baseline is None else flags.choice("--baseline", baseline, BASELINES),
        "contrast": contrast,
    }
    options = replace(options, **{key: value for key, value in given.items() if value is not None})
    if frame is not None:
        size = None if frame == "none" else flags.frame_of(frame)
        options = replace(options, frame=size)
        if size is not None and input_type is None:
            options = replace(options, input_type="uint8")
    if bank_input is not None:
        options = replace(options, bank_input=bank_input, query=bank_input and options.query)
    if query is not None:
        options = replace(options, query=query, bank_input=query or options.bank_input)
    storage = flags.storage_of(search, compress or "none", bank_precision)
    if compress is None:
        storage = replace(storage, compression=options.storage.compression)
    loaded = Bank.load(bank)
    report = fold_file(network, loaded, out, replace(options, storage=storage))
    contract, replaced = report.contract, report.replaced
    if replaced is not None and replaced.bank_input is not None:
        replaced = None  # it had no bank in its graph
    notes = [*frame_notes(report.contract), *stale_gallery(out, report.contract)]
    summary = {
        "model": str(out),
        "bytes": out.stat().st_size,
        "rows": loaded.rows,
        "grad_weight_rows": distinct_rows(loaded, contract),
        "labels": len({run.name for run in loaded.labels}),
        "transfer": contract.transfer,
        "neighbors": contract.neighbors,
        "heatmap_size": list(contract.heatmap_size),
        "input_type": contract.input_type,
        "frame": contract.frame,
        "bank_sha256": contract.bank.sha256,
        "replaced_rows": None if replaced is None else replaced.bank.rows,
        "rule_dropped": report.rule_dropped,
        "notes": notes,
    }
    lines = [
        f"{out}: {out.stat().st_size / 1e6:.1f} MB",
        f"  bank         {loaded.rows} rows of {contract.origin.data}",
    ]
    if replaced is not None:
        lines.append(f"  in place of  {replaced.bank.rows} rows of {replaced.origin.data}")
    if report.rule_dropped:
        lines.append(
            "  note: the rule for unknown images was chosen for another bank and is left out: "
            "choose one with foldcam threshold"
        )
    lines += [f"  note: {note}" for note in notes]
    print_report(summary, "\n".join([*lines, f"Next: foldcam verify {out} --images DATA"]), as_json)
