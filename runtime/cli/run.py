"""`runtime run` and `runtime config`: flags and files turned into a `RunConfig`, and run."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foldcam.runtime.engine import ENGINE_SUFFIXES
from foldcam.runtime.images.listing import in_words
from foldcam.runtime.pipeline.config.flags import parameters, table_of
from foldcam.runtime.system.command import print_json, print_report, print_text
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.redaction import redacted
from foldcam.runtime.system.standard_streams import claim_output
from foldcam.runtime.system.text import number_text, printable, quantity, shorten

if TYPE_CHECKING:
    from foldcam.runtime.contract.schema import Contract
    from foldcam.runtime.pipeline.config import RunConfig
    from foldcam.runtime.pipeline.summary import Summary
    from foldcam.runtime.sinks.table import TableSink

config_app = typer.Typer(
    no_args_is_help=True,
    help="Write or check a file for `runtime run --config`.\n\n"
    "Example: runtime config init foldcam.toml",
)


def run(
    model: Annotated[
        str | None,
        typer.Argument(
            help="Names the folded model (.onnx) or engine (.engine) that runs.",
            show_default="$FOLDCAM_MODEL, the only model in this folder, or the demo's",
        ),
    ] = None,
    given: Annotated[
        str | None,
        typer.Argument(
            metavar="SOURCE",
            help="Reads an image, a folder, a pattern in quotes, a video, /dev/videoN, or an "
            "address; as an alternative to --camera, --file and --source. Without a MODEL it may "
            "stand alone, since a model's name ends in .onnx or .engine.",
            show_default=False,
        ),
    ] = None,
    camera: Annotated[
        list[int] | None,
        typer.Option(help="Opens a camera of this machine by its number; may be repeated.", min=0),
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(help="Reads an image, a folder, a pattern in quotes, or a video."),
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            help="Opens a path, /dev/videoN, - for raw frames, or an address (file:// v4l2:// "
            "csi:// rtsp:// http:// tcp:// udp:// test://); may be repeated."
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="Reads options from a TOML file (see `runtime config init`); flags override it."
        ),
    ] = None,
    event: Annotated[
        list[str] | None,
        typer.Option(
            help="Adds a rule for events, such as 'name=stranger, unknown=true, for_seconds=2, "
            "cooldown_seconds=60', with the keys of an event table in a file (see `runtime config "
            "init -`). Several labels are separated by commas; a label that holds a comma stands "
            "in double quotes: 'label=owl, \"gull, herring\"'. The option may be repeated.",
            show_default="none",
            metavar="KEY=VALUE,...",
            rich_help_panel="Outputs",
        ),
    ] = None,
    serve: Annotated[
        str | None,
        typer.Option(
            help="Serves the live page on this port; a host other than loopback needs a token.",
            show_default="no page",
            metavar="[HOST:]PORT",
            rich_help_panel="Live page",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Shows no status line.")] = False,
    json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Prints the summary and up to 1000 results as one JSON document in place of text.",
        ),
    ] = False,
    **flags: Any,
) -> None:
    """Run a folded model on images, videos or cameras, and show its answers and heatmaps.

    Example: runtime run model.onnx photo.jpg --json

    Example: runtime run model.onnx --camera 0 --save out/

    Example: runtime run model.onnx --file photos/ --save out/ --jsonl out/results.jsonl

    Example: runtime run model.engine --config foldcam.toml --serve 8080
    """
    model, source = _placed(model, given, source, flagged=bool(camera or file or source))
    table = table_of(
        flags, model=model, cameras=camera, file=file, sources=source, events=event, serve=serve,
        quiet=quiet,
    )  # fmt: skip
    chosen = _chosen(config, table)
    if json and chosen.output.jsonl == "-":
        raise typer.BadParameter("--json and --jsonl - both write to standard output.")
    from foldcam.runtime.pipeline.opening import opened, run_opened
    from foldcam.runtime.pipeline.status import StatusLine
    from foldcam.runtime.pipeline.summary import unread
    from foldcam.runtime.system.logs import configure

    if json or chosen.output.jsonl == "-":
        claim_output()
    configure(chosen.log.format, chosen.log.level)
    with opened(chosen, table=not json, remember=json, config_file=config) as everything:
        status = StatusLine() if chosen.log.status else None
        try:
            summary = run_opened(chosen, everything, status)
        except BrokenPipeError:
            raise FoldcamError("Whoever read the results has gone, which ended the run.") from None
        finally:
            if status is not None:
                status.clear()
    if json:
        assert everything.remembered is not None
        results = everything.remembered
        print_json({"model": str(everything.path), **summary.to_dict(), **results.document()})
        if chosen.log.status and results.left_out:
            print(f"note: {results.note}", file=sys.stderr)
    else:
        _report(
            summary,
            everything.table,
            to_stderr=chosen.output.jsonl == "-",
            quiet=not chosen.log.status,
        )
    if summary.other_size and chosen.log.status:
        print(_frames_text(summary, everything.model.contract), file=sys.stderr)
    problems = []
    if names := unread(everything.sources, summary):
        problems.append(f"Nothing could be read of {', '.join(map(printable, names))}.")
    if summary.failures:
        problems.append(f"Not everything was written: {'; '.join(summary.failures)}.")
    if summary.broken is not None:
        problems.append(summary.broken)
    if problems:
        raise FoldcamError(" ".join(problems))


def _placed(
    model: str | None, given: str | None, sources: list[str] | None, *, flagged: bool
) -> tuple[str | None, list[str] | None]:
    """Which of the two arguments is the model, and which the source; a model's name has an ending.

    Args:
        sources: `--source`.
        flagged: whether a source is given by flags.
    """
    if given is None and model is not None and not flagged and not _names_model(model):
        model, given = None, model
    if given is None:
        return model, sources
    if flagged:
        raise typer.BadParameter(
            f"{given!r} is a second source beside --camera, --file or --source: give one of them."
        )
    if _names_model(given):
        raise typer.BadParameter(f"the model comes first: runtime run {given} {model}.")
    return model, [given]


def _names_model(text: str) -> bool:
    return Path(text).suffix.lower() in (".onnx", *ENGINE_SUFFIXES)


def _with_flags(command: Any) -> Any:
    """The command with a parameter for every key of the configuration in place of `**flags`."""
    signature = inspect.signature(command, eval_str=True)
    own = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
    every = [*own, *parameters()]
    command.__signature__ = signature.replace(parameters=every)
    command.__annotations__ = {each.name: each.annotation for each in every}
    return command


run = _with_flags(run)


@config_app.command()
def init(
    file: Annotated[
        str, typer.Argument(help="Writes to this file; - writes to standard output.")
    ] = "foldcam.toml",
    force: Annotated[bool, typer.Option("--force", help="Overwrites an existing file.")] = False,
) -> None:
    """Write a file that names every key, with its meaning and its default.

    Example: runtime config init foldcam.toml
    """
    from foldcam.runtime.pipeline.config.loading import commented_file
    from foldcam.runtime.system.files import atomic_path

    if file == "-":
        # Its examples are no secrets, and show how addresses are written.
        sys.stdout.write(commented_file())
        return
    path = Path(file)
    if path.exists() and not force:
        raise FoldcamError(f"{path} exists: give another name, or --force.")
    with atomic_path(path) as temporary:
        temporary.write_text(commented_file(), encoding="utf-8")
    print_text(f"wrote {printable(str(path))}")


@config_app.command()
def check(
    file: Annotated[Path, typer.Argument(help="Names the TOML file to check.", show_default=False)],
    json: Annotated[
        bool, typer.Option("--json", help="Prints all values, without secrets.")
    ] = False,
) -> None:
    """Say whether a file is right, and if not, which key is at fault.

    Nothing that it names is opened.

    Example: runtime config check foldcam.toml
    """
    from foldcam.runtime.pipeline.config import load_config
    from foldcam.runtime.pipeline.config.loading import public_document

    loaded = load_config(file)
    text = (
        f"{printable(str(file))} is right: {quantity(len(loaded.sources), 'source')}, "
        f"{quantity(len(loaded.events), 'event')}"
    )
    print_report(public_document(loaded), text, json)


def _chosen(file: Path | None, table: dict[str, Any]) -> RunConfig:
    """File and flags together; what flags alone get wrong is wrong usage."""
    from foldcam.runtime.pipeline.config.loading import config_from, load_config, merged
    from foldcam.runtime.system.documents import KeyProblem

    sources = table.get("source", {}).get("given", [])
    kinds = {name for source in sources for name in source}
    if len(kinds) > 1:
        raise typer.BadParameter("give only one of --camera, --file and --source.")
    if file is None and not sources:
        raise typer.BadParameter(
            "give a SOURCE, such as photo.jpg, or one of --camera, --file, --source and --config."
        )
    try:
        if file is not None:
            return load_config(file, table)
        return config_from(merged({}, table))
    except KeyProblem as problem:
        raise typer.BadParameter(str(problem)) from None


def _report(summary: Summary, table: TableSink | None, *, to_stderr: bool, quiet: bool) -> None:
    """The end of a run in words; skipped files are counted and named even when quiet."""
    lines: list[str] = []
    if table is not None:
        lines += [str(table), ""]
    lines.append(
        f"{quantity(summary.frames, 'frame')} in {summary.seconds:.1f} s "
        f"({summary.fps:.1f} fps)"
        # Without a region the network had nothing to do.
        + (f", network {p50:.1f} ms per image" if (p50 := summary.network_ms["p50"]) else "")
        + (f", {quantity(summary.thinned, 'frame')} left out by --every" if summary.thinned else "")
        + (", stopped by the user" if summary.interrupted else "")
    )
    if summary.live:
        p50, p99 = (summary.latency_ms[name] for name in ("p50", "p99"))
        lines.append(f"from capture to result: p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    if table is None and summary.labels:
        counts = ", ".join(
            f"{shorten(label, 80)} ({count})" for label, count in summary.labels.items()
        )
        what = "classes" if summary.classified else "nearest"
        lines.append(f"{what}: {printable(counts)}")
    if summary.unknown is not None:
        lines.append(f"unknown: {summary.unknown} of {_answered(summary)}")
    if table is None and summary.estimate is not None:
        mean, low, high = (number_text(summary.estimate[key]) for key in ("mean", "low", "high"))
        lines.append(f"estimate: {mean} on average ({low} to {high})")
    lines += [f"wrote {printable(output)}" for output in summary.outputs]
    if not quiet or table is not None:
        text = "\n".join(lines)
        if to_stderr:
            print(text, file=sys.stderr)
        else:
            print_text(text)
    if summary.accepted_wrong is not None:
        print(f"WARNING: {printable(summary.accepted_wrong)}.", file=sys.stderr)
    for loss in summary.losses:
        if loss not in summary.failures:  # those are the error's
            print(f"note: {printable(loss)}.", file=sys.stderr)
    if summary.no_evidence:
        print(_evidence_text(summary), file=sys.stderr)
    for cause, count in summary.unanswered.items():
        print(f"no answer for {quantity(count, 'region')}: {cause}", file=sys.stderr)
    if summary.skipped:
        print(f"skipped {len(summary.skipped)}:", file=sys.stderr)
        for skip in summary.skipped:
            text = redacted(f"{skip.path}: {skip.reason}")
            print(f"  {printable(text)}", file=sys.stderr)
    if summary.left_out:
        print("left out:", file=sys.stderr)
        for line in in_words(summary.left_out):
            print(f"  {printable(line)}", file=sys.stderr)


def _frames_text(summary: Summary, contract: Contract) -> str:
    """How many frames a model of whole frames could not take as they were."""
    assert contract.frame is not None
    text = (
        f"note: {summary.other_size} of {quantity(summary.frames, 'frame')} had another size than "
        f"the {contract.frame[0]} x {contract.frame[1]} that the model takes, and were resized to "
        "it first"
    )
    if contract.preprocessing.resize == "letterbox":
        text += "; those of other proportions are shown smaller than in training"
    if summary.live:
        text += "; set the camera to that size, or export with its own as --frame"
    return text + "."


def _evidence_text(summary: Summary) -> str:
    """How often nothing in the picture spoke for the answer."""
    answer = "label" if summary.estimate is None else "estimate"
    return f"{summary.no_evidence} of {_answered(summary)} had no evidence for the {answer}"


def _answered(summary: Summary) -> str:
    """The frames, or where a frame has several, the regions with an answer."""
    what = "frame" if summary.answered <= summary.frames else "region"
    return quantity(summary.answered, what)
