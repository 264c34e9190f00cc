"""Everything that a `RunConfig` names, opened: sources, model, sinks, and the run itself."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foldcam.runtime.contract.at_stake import Read, Written, check_outputs
from foldcam.runtime.contract.bank.live_bank import bank_path
from foldcam.runtime.contract.explanation import coarse_text, is_coarse
from foldcam.runtime.contract.gallery import Gallery, gallery_path
from foldcam.runtime.contract.schema import Contract
from foldcam.runtime.contract.unknown import UnknownRule, given_rule
from foldcam.runtime.engine.progress import BuildAbandonedError, BuildLine
from foldcam.runtime.model.drawing.maps import check_map
from foldcam.runtime.model.folded_model import FoldedModel
from foldcam.runtime.model.model_input import whole_frames_text
from foldcam.runtime.pipeline.config import ModelOptions, RunConfig, SourceConfig, with_secrets
from foldcam.runtime.pipeline.default_model import find_model
from foldcam.runtime.pipeline.run import run
from foldcam.runtime.pipeline.status import say_state
from foldcam.runtime.pipeline.summary import Progress, Summary
from foldcam.runtime.sinks import Sink, open_outputs
from foldcam.runtime.sinks.events import LINES, boxes_of
from foldcam.runtime.sinks.jsonl import is_direct
from foldcam.runtime.sinks.mqtt import parse_broker
from foldcam.runtime.sinks.report import PAGE
from foldcam.runtime.sinks.table import RememberedResults, TableSink
from foldcam.runtime.sources import Source, open_source
from foldcam.runtime.sources.address import parse_address
from foldcam.runtime.sources.options import FlowOptions, RegionOptions
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.monitor import Monitor
from foldcam.runtime.system.program import abandon
from foldcam.runtime.system.systemd import Notifier
from foldcam.runtime.system.text import printable

if TYPE_CHECKING:
    from foldcam.runtime.backends import Backend


@dataclass(frozen=True)
class Opened:
    """What a run needs, open.

    Attributes:
        gallery: the pictures of the bank's rows; None where nothing needs them.
        table: the sink that remembers photographs for a table at the end; None if there is
            something else to look at.
        remembered: the sink that remembers results for a JSON document; None without one.
    """

    path: Path
    sources: Sequence[Source]
    model: FoldedModel
    sinks: Sequence[Sink]
    monitor: Monitor
    table: TableSink | None
    remembered: RememberedResults | None
    gallery: Gallery | None = None


def unknown_rule(options: ModelOptions, contract: Contract) -> UnknownRule | None:
    """The rule of a run by which an image is unknown; None where none can be."""
    if options.unknown_below is None:
        return contract.unknown if options.unknown else None
    if contract.outcome is not None:
        raise FoldcamError(
            "--unknown-below is for models of labels, and this one answers with an estimate."
        )
    if not options.unknown:
        raise FoldcamError("--unknown-below and --no-unknown exclude each other: leave one out.")
    return given_rule(options.unknown_below, contract.bank.sha256)


@contextmanager
def opened(
    config: RunConfig,
    *,
    table: bool = False,
    remember: bool = False,
    config_file: Path | None = None,
) -> Iterator[Opened]:
    """Open what a configuration names; what was opened is closed if something else fails."""
    config = with_secrets(config, os.environ)
    if not config.sources:
        raise FoldcamError("There is no source: give --camera, --file, --source or --config.")
    check_files(config, config_file)
    with ExitStack() as stack:
        # The sources first: that no camera is there can be said before a model is loaded.
        sources = [stack.enter_context(open_one(source, config.flow)) for source in config.sources]
        path = Path(config.model.path) if config.model.path is not None else find_model()
        check_files(config, config_file, path)
        if config.model.path is None and config.log.status:
            print(f"model: {printable(str(path))}", file=sys.stderr)
        model = stack.enter_context(
            FoldedModel.of_file(
                path,
                lambda: _backend(path, config, config.model.build),
                lambda: _backend(path, config),
            )
        )
        check_map(config.style.map, model.contract)
        model.unknown_rule = unknown_rule(config.model, model.contract)
        contract = replace(model.contract, unknown=model.unknown_rule)
        gallery = _gallery(config, path, model.contract)
        if gallery is not None:
            stack.enter_context(gallery)
        if model.contract.frame is not None and config.regions != RegionOptions():
            raise FoldcamError(whole_frames_text(model.contract.frame))
        _check_vote(config, sources, model.contract)
        monitor = Monitor()
        if any(source.live for source in sources):
            monitor.listen(say_state)
        # Made first, because it begins no file that would have to be removed if something fails.
        page = [] if config.serve is None else [_live_page(config, monitor, model, gallery, path)]
        sinks = open_outputs(
            sources, config.output, config.recording, config.events, contract=contract
        )
        sinks += page
        rows = results = None
        if table and not sinks and all(source.stills for source in sources):
            rows = TableSink()
            sinks.append(rows)
        if remember:
            results = RememberedResults(boxes_of(config.events))
            sinks.insert(0, results)
        yield Opened(path, sources, model, sinks, monitor, rows, results, gallery)


def check_files(config: RunConfig, config_file: Path | None, model: Path | None = None) -> None:
    """Refuse a run whose outputs would destroy what it reads, or each other."""
    output = config.output
    named = model if config.model.path is None else Path(config.model.path)
    reads = [
        Read("the model", named),
        Read("the engine", None if named is None else named.with_suffix(".engine")),
        Read("the gallery", config.model.gallery),
        Read("the gallery", None if named is None else gallery_path(named)),
        Read("the configuration", config_file),
        Read("the token file", None if config.serve is None else config.serve.token_file),
        Read("the file of boxes", config.regions.file),
        *(Read("the input", _file_of(source)) for source in config.sources),
    ]
    if output.mqtt is not None:
        with suppress(FoldcamError):  # said where it is opened
            reads.append(Read("the file of certificates", parse_broker(output.mqtt).ca))
    jsonl = None if output.jsonl is None or is_direct(output.jsonl) else output.jsonl
    save = output.save if output.save is not None and not Path(output.save).is_dir() else None
    events = None if output.events is None else Path(output.events) / LINES
    report = None if output.report is None else Path(output.report) / PAGE
    check_outputs(
        reads,
        [
            Written("--save", save),
            Written("--jsonl", jsonl),
            Written("--parquet", output.parquet),
            Written("--events", events),
            Written("--report", report),
        ],
    )


def _file_of(source: SourceConfig) -> str | None:
    if source.file is not None or source.uri is None:
        return source.file
    with suppress(FoldcamError):  # said where it is opened
        address = parse_address(source.uri, source.options)
        return address.target if address.kind == "path" else None
    return None


def run_opened(
    config: RunConfig, open_: Opened, on_progress: Callable[[Progress], None] | None = None
) -> Summary:
    """Run what `opened` has opened; sources and sinks are closed at the end."""
    whole = config.regions == RegionOptions()
    if config.log.status and is_coarse(open_.model.contract):
        print(f"note: {coarse_text(open_.model.contract)}", file=sys.stderr)
    with Notifier(open_.monitor):
        return run(
            open_.sources, open_.model, open_.sinks, on_progress,
            flow=config.flow, regions=None if whole else config.regions,
            monitor=open_.monitor, style=config.style, gallery=open_.gallery,
        )  # fmt: skip


def open_one(source: SourceConfig, flow: FlowOptions) -> Source:
    """One source of a configuration."""
    return open_source(source.uri, source.options, flow, camera=source.camera, file=source.file)


def _backend(path: Path, config: RunConfig, build: bool = False) -> Backend:
    from foldcam.runtime.backends import open_backend

    options = config.model
    try:
        return open_backend(
            path, options.provider, options.threads, library=options.backend,
            cuda_graph=options.cuda_graph, build=build, line=BuildLine(),
            accept_wrong=options.accept_wrong, server=options.server,
        )  # fmt: skip
    except BuildAbandonedError:
        # The interpreter's own end would free what the builder's thread still uses.
        abandon()


def _gallery(config: RunConfig, model: Path, contract: Contract) -> Gallery | None:
    """The gallery that the configuration names, or the model's own where something shows it."""
    if config.model.gallery is not None:
        return Gallery(config.model.gallery, contract)
    beside = gallery_path(model)
    wanted = config.style.beside or config.output.report is not None or config.serve is not None
    if wanted and beside.exists():
        return Gallery(beside, contract)
    if config.style.beside:
        raise FoldcamError(
            f"--beside needs the pictures of the bank, and there is no {beside}: make it with "
            f"foldcam gallery {model.with_suffix('.onnx')} --images DATA, or name one with "
            "--gallery."
        )
    return None


def _check_vote(config: RunConfig, sources: Sequence[Source], contract: Contract) -> None:
    """Refuse votes over numbers, and say where there is nothing to vote over."""
    if config.flow.vote_seconds is None:
        return
    if contract.outcome is not None:
        raise FoldcamError(
            "--vote votes over labels, and this model answers with an estimate: leave out --vote "
            "(flow.vote_seconds)."
        )
    stills = [source.name for source in sources if source.stills]
    if stills and config.log.status:
        names = printable(", ".join(stills))
        print(
            f"note: --vote changes nothing for {names}: photographs are no frames of one scene.",
            file=sys.stderr,
        )


def _live_page(
    config: RunConfig, monitor: Monitor, model: FoldedModel, gallery: Gallery | None, path: Path
) -> Sink:
    # By name, because what serves is an extra.
    page: Any = import_module("foldcam.runtime.web")
    sink: Sink = page.LivePage(
        config.serve, monitor, model.contract, style=config.style, gallery=gallery,
        bank=None if model.contract.bank_input is None else bank_path(path), model=model,
    )  # fmt: skip
    return sink
