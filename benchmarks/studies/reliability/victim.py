"""A long-lived process that reads one input after the other: what a mutant is given to.

    python -m foldcam.benchmarks.studies.reliability.victim

Each line on standard input is a kind and a path; each answer one JSON line on standard
output. Whoever asks ends the process when no answer comes in time.
"""

from __future__ import annotations

import json
import resource
import sys
import traceback
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from foldcam.runtime.system.errors import FoldcamError

_MEMORY = 6 << 30
_FRAMES = 50


def read_image(path: Path) -> None:
    """As every photograph is read."""
    from foldcam.runtime.images.files import read_image

    read_image(path)


def read_video(path: Path) -> None:
    """As a recorded source."""
    from foldcam.runtime.sources import open_source

    with open_source(file=str(path)) as source:
        for _ in islice(source, _FRAMES):
            pass


def read_model(path: Path) -> None:
    """Inspected, then loaded and run."""
    import numpy as np

    from foldcam.runtime.engine.inspect import inspect_model, inspection_text
    from foldcam.runtime.model.folded_model import FoldedModel

    inspection_text(inspect_model(path))
    with FoldedModel.load(path, "cpu", threads=1) as model:
        model(np.full((60, 80, 3), 127, np.uint8))


def read_metadata(path: Path) -> None:
    """As the document in a model."""
    from foldcam.runtime.contract.reading import parse_contract

    parse_contract(path.read_bytes().decode("utf-8", "surrogateescape"), "the document")


def read_config(path: Path) -> None:
    """As `runtime run --config`."""
    from foldcam.runtime.pipeline.config import load_config
    from foldcam.runtime.pipeline.config.loading import public_document

    json.dumps(public_document(load_config(path)))


def read_rule(path: Path) -> None:
    """As `--event`."""
    import typer

    from foldcam.runtime.pipeline.config.flags import event_table

    try:
        event_table(path.read_bytes().decode("utf-8", "replace"), "event-1")
    except typer.BadParameter as problem:
        raise FoldcamError(problem.message) from None


def read_address(path: Path) -> None:
    """As `--mqtt`, and as a text in a message."""
    from foldcam.runtime.sinks.mqtt import parse_broker
    from foldcam.runtime.system.redaction import redacted

    text = path.read_bytes().decode("utf-8", "replace")
    redacted(text)
    parse_broker(text)


def read_boxes(path: Path) -> None:
    """As `--boxes`."""
    from importlib import import_module

    box_file: Any = import_module("foldcam.runtime.sources.regions")
    box_file.BoxFile(path)


READERS: dict[str, Callable[[Path], None]] = {
    "image": read_image,
    "video": read_video,
    "model": read_model,
    "metadata": read_metadata,
    "config": read_config,
    "rule": read_rule,
    "address": read_address,
    "boxes": read_boxes,
}


def main() -> None:
    """Answer until standard input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = sys.stdout
    # Libraries that print must not be taken for an answer.
    sys.stdout = sys.stderr
    for line in sys.stdin:
        kind, _, path = line.rstrip("\n").partition(" ")
        try:
            READERS[kind](Path(path))
            outcome = {"outcome": "read"}
        except FoldcamError as error:
            outcome = {"outcome": "refused", "reason": str(error)[:300]}
        except BaseException as error:
            trace = "".join(traceback.format_exception(error))[-3000:]
            outcome = {"outcome": type(error).__name__, "reason": str(error)[:300], "trace": trace}
        answers.write(json.dumps(outcome) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
