"""What `POST /explain` adds to the work itself, for one client and for fifty at once.

The same picture is read, put through the model and written as a JSON line by this process alone,
then asked for by one client, then by fifty that ask again as soon as they are answered; the three
take turns, and differences are taken within a round, so that a machine that slows down in between
does not count. Fifty clients wait for each other before one model, so a request takes as long as
fifty pictures: what each costs is that time over fifty. The clients are a process of their own on
the same processors. Where others use these, too, a scheduler prefers threads that sleep between two
pictures, as a server's do, and the times flatter it: processor time is compared as well.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from foldcam.benchmarks.evaluation.documents import Progress
from foldcam.benchmarks.studies.demo_model import demo_model
from foldcam.runtime.images.files import read_image
from foldcam.runtime.model.folded_model import FoldedModel
from foldcam.runtime.model.record import answer_record
from foldcam.runtime.sources.options import ServeOptions
from foldcam.runtime.system.monitor import Monitor
from foldcam.runtime.web import LivePage

CLIENTS = 50
MOST_ADDED_MS = 2.0
_ROUNDS = {False: 5, True: 30}
_PICTURES = 50
_EACH = 4


def check(full: bool, folder: Path, progress: Progress) -> dict[str, Any]:
    """Measure the three in turns."""
    path = demo_model(folder.parent / "model", "224")
    picture = next((folder.parent / "model").glob("views/*/*"))
    own: list[list[float]] = []
    single: list[list[dict[str, float]]] = []
    together: list[list[dict[str, float]]] = []
    own_processor: list[float] = []
    served_processor: list[float] = []
    with (
        FoldedModel.load(path, "cpu", 1) as model,
        LivePage(ServeOptions(port=0), Monitor(), model.contract, model=model) as page,
        subprocess.Popen(
            [sys.executable, "-m", "foldcam.benchmarks.studies.reliability.askers",
             page.url.rstrip("/").rpartition(":")[2], str(picture)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        ) as askers,
    ):  # fmt: skip
        _asked(askers, CLIENTS, 2)  # warm
        for number in range(_ROUNDS[full]):
            progress("rounds", number, _ROUNDS[full])
            spent = [time.process_time()]
            own.append([_alone(model, picture) for _ in range(_PICTURES)])
            spent.append(time.process_time())
            single.append(_asked(askers, 1, _PICTURES))
            spent.append(time.process_time())
            together.append(_asked(askers, CLIENTS, _EACH))
            spent.append(time.process_time())
            own_processor.append(1e3 * (spent[1] - spent[0]) / _PICTURES)
            served_processor.append(1e3 * (spent[3] - spent[2]) / (CLIENTS * _EACH))
        askers.terminate()
    progress("rounds", _ROUNDS[full], _ROUNDS[full])
    without = [statistics.median(times) for times in own]
    one = [_median(times, "took") for times in single]
    fifty = [_median(times, "took") for times in together]
    added = [each / CLIENTS - alone for each, alone in zip(fifty, without, strict=True)]
    figures = {
        "own_ms": statistics.median(without),
        "one_client_ms": statistics.median(one),
        "fifty_clients_ms": statistics.median(fifty),
        "added_ms": statistics.median(added),
        "added_low_ms": statistics.quantiles(added)[0],
        "added_high_ms": statistics.quantiles(added)[2],
        "own_processor_ms": statistics.median(own_processor),
        "served_processor_ms": statistics.median(served_processor),
        "added_processor_ms": statistics.median(
            each - alone for each, alone in zip(served_processor, own_processor, strict=True)
        ),
        "added_to_one_ms": statistics.median(
            each - alone for each, alone in zip(one, without, strict=True)
        ),
    }
    return {
        "passed": max(figures["added_ms"], figures["added_processor_ms"]) <= MOST_ADDED_MS,
        "settings": {
            "clients": CLIENTS, "rounds": _ROUNDS[full], "pictures": _PICTURES, "each": _EACH,
            "picture_bytes": picture.stat().st_size,
            "network": "EfficientNet-Lite0, input 224, one thread",
            "processors": os.cpu_count(), "load": round(os.getloadavg()[1], 1),
        },
        **{name: round(value, 3) for name, value in figures.items()},
    }  # fmt: skip


def rows(document: dict[str, Any]) -> list[tuple[str, str]]:
    """For the docs."""
    clients = document["settings"]["clients"]
    return [
        ("p50 of a picture without a server: read, network, JSON", f"{document['own_ms']:.2f} ms"),
        ("p50 of a request, one client", f"{document['one_client_ms']:.2f} ms"),
        ("... above a picture without a server", f"{document['added_to_one_ms']:.2f} ms"),
        (f"p50 of a request, {clients} clients at once", f"{document['fifty_clients_ms']:.1f} ms"),
        (
            f"... of this each of the {clients} pictures costs above one without a server "
            f"(median of {document['settings']['rounds']} rounds; quartiles)",
            f"{document['added_ms']:.2f} ms ({document['added_low_ms']:.2f} to "
            f"{document['added_high_ms']:.2f})",
        ),
        (
            "processor time of a picture without a server, of this process for one of "
            f"{clients} clients', and the difference within a round",
            f"{document['own_processor_ms']:.2f} ms, {document['served_processor_ms']:.2f} ms, "
            f"{document['added_processor_ms']:.2f} ms",
        ),
        (
            "processors, and the machine's load meanwhile, of which this is about 2",
            f"{document['settings']['processors']}, {document['settings']['load']}",
        ),
    ]


def _alone(model: FoldedModel, picture: Path) -> float:
    begun = time.perf_counter()
    json.dumps(answer_record(model(read_image(picture)), embedding=False))
    return 1e3 * (time.perf_counter() - begun)


def _asked(askers: subprocess.Popen[str], clients: int, count: int) -> list[dict[str, float]]:
    assert askers.stdin is not None
    assert askers.stdout is not None
    askers.stdin.write(f"{clients} {count}\n")
    askers.stdin.flush()
    answered: list[dict[str, float]] = json.loads(askers.stdout.readline())
    return answered


def _median(times: list[dict[str, float]], name: str) -> float:
    return statistics.median(each[name] for each in times)
