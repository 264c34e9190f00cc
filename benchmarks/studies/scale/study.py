"""`foldcam bench scale` as one call."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from foldcam.benchmarks.cost.overhead.rows import augmented_rows
from foldcam.benchmarks.cost.overhead.study import bank_of_rows, pooling_probe
from foldcam.benchmarks.evaluation.documents import Progress, provenance, write_json
from foldcam.benchmarks.evaluation.graphs import (
    NetworkChoice,
    chosen_network,
    plain_graph,
    save_graph,
)
from foldcam.benchmarks.evaluation.interleaved import interleaved, median_ratio, open_session
from foldcam.benchmarks.evaluation.localization.study import split_samples
from foldcam.benchmarks.studies.scale.graphs import Added, BareGraphs, grown
from foldcam.benchmarks.studies.scale.work import (
    DATA_SHEETS,
    Roofline,
    least_microseconds,
    measured_roofline,
    power_law,
)
from foldcam.export.banks.builder import build_bank
from foldcam.export.banks.embedding_pass import embed
from foldcam.export.banks.objectives.directions import parse_objective
from foldcam.export.datasets import Sample
from foldcam.export.datasets.reading import read_picture
from foldcam.export.grafting.fold import fold
from foldcam.export.grafting.options import SearchOptions, StorageOptions
from foldcam.export.grafting.versions import tool_versions
from foldcam.export.networks.cut import Network
from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.contract.schema import IMAGE, Contract, Origin
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.measurement.bench.facts import machine_facts


def cameras(
    model: Path,
    images: Sequence[Any],
    numbers: Sequence[int],
    frames: int,
    progress: Progress,
) -> dict[str, Any]:
    """Each camera asks one model for its next frame as soon as it has the answer to the last.

    Args:
        images: `float32 [1, 3, H, W]` each.

    Returns:
        Number of cameras -> `frames_per_second` of all of them, `p50` and `p99` of one
        frame in milliseconds, each camera in a thread of its own; and `batched_*`, where the
        frames of all of them go through in one pass.
    """
    session = open_session(model)
    found: dict[str, Any] = {}
    for done, number in enumerate(numbers):
        progress("cameras", done, len(numbers))
        spent: list[list[float]] = [[] for _ in range(number)]

        def camera(own: list[float]) -> None:
            for n in range(frames):
                start = time.perf_counter()
                session.run(None, {IMAGE: images[n % len(images)]})
                own.append(1e3 * (time.perf_counter() - start))

        threads = [threading.Thread(target=camera, args=(own,)) for own in spent]
        begin = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - begin
        everything = np.concatenate(spent)
        batch = np.concatenate([images[n % len(images)] for n in range(number)])
        passes = []
        for _ in range(max(5, frames // number)):
            start = time.perf_counter()
            session.run(None, {IMAGE: batch})
            passes.append(1e3 * (time.perf_counter() - start))
        found[str(number)] = {
            "frames_per_second": round(number * frames / seconds, 2),
            "p50": round(float(np.percentile(everything, 50)), 3),
            "p99": round(float(np.percentile(everything, 99)), 3),
            "batched_frames_per_second": round(1e3 * number / float(np.median(passes)), 2),
            "batched_p50": round(float(np.median(passes)), 3),
        }
    progress("cameras", len(numbers), len(numbers))
    return found


RESULT = "scale.json"
_TIMED_IMAGES = 16
_MANY_ROWS = 10_000


@dataclass(frozen=True)
class ScaleOptions:
    """What grows, and how far."""

    network: NetworkChoice = field(default_factory=NetworkChoice)  # which network
    rows: tuple[int, ...] = (100, 1000, 10_000, 100_000, 1_000_000)  # of the bank
    # rows that pass through the network, at most; those beyond are interpolated
    augmented: int = 100_000
    exhaustive: int = 100_000  # largest bank that is searched exhaustively as well
    sizes: tuple[int, ...] = (32, 128, 512, 2048)  # of the embedding
    # sides of the heatmap, 0 for the feature map's own
    heatmaps: tuple[int, ...] = (0, 28, 56, 112, 224)
    batches: tuple[int, ...] = (1, 2, 4, 8, 16)  # images in a pass
    cameras: tuple[int, ...] = (1, 2, 4, 8)  # numbers of them
    images: tuple[int, ...] = (25, 50, 100, 200)  # numbers of training images
    rounds: int = 100  # paired runs of each
    seed: int = 0  # of everything random
    draws: int = 1000  # of the bootstrap


def run_scale(data: Path, out: Path, options: ScaleOptions, progress: Progress) -> dict[str, Any]:
    """Measure how the cost of folding grows, and say where the time goes.

    Args:
        out: folder of results: `scale.json`, and the network, rows and graphs, from which a later
            call goes on.
    """
    started = time.monotonic()
    training, testing = split_samples(data, options.seed)
    loaded = chosen_network(options.network, training, out / "net.safetensors", progress)
    recipe = options.network.preprocessing or loaded.preprocessing
    network = loaded.network(None, (recipe.height, recipe.width))
    probe = pooling_probe(network, recipe, training)
    model = network.to_onnx()
    plain, embedder = out / "plain.onnx", out / "embedding.onnx"
    save_graph(model, embedder)
    save_graph(plain_graph(model), plain)
    files = _folded_files(network, probe, model, recipe, training, out, options, progress)
    roofline = measured_roofline()
    given = [
        recipe.normalized(recipe.resized(read_picture(sample).image)[0][None])
        for sample in testing[:_TIMED_IMAGES]
    ]
    rows = _rows(files, plain, given, roofline, options, progress)
    bare = BareGraphs(out, options.seed)
    document: dict[str, Any] = {
        **provenance(),
        "device": machine_facts(),
        "network": options.network.title,
        "input": [recipe.width, recipe.height],
        "embedding_size": network.embedding_size,
        "feature_map": list(network.feature_map_shape),
        "rounds": options.rounds,
        "roofline": asdict(roofline),
        "rows": rows,
        **_bare_curves(bare, roofline, options, progress),
        "cameras": cameras(
            files[min(files)].path, given, options.cameras, options.rounds, progress
        ),
        "bank_building": _building(network, recipe, training, options, progress),
        "data_sheets": {name: asdict(sheet) for name, sheet in DATA_SHEETS.items()},
        "versions": tool_versions(),
    }
    document["exponents"] = _exponents(document)
    document["minutes"] = round((time.monotonic() - started) / 60, 1)
    write_json(out / RESULT, document)
    return document


@dataclass(frozen=True)
class _File:
    path: Path
    real: int
    storing_seconds: float


def _folded_files(
    network: Network,
    probe: Any,
    model: Any,
    recipe: Preprocessing,
    training: Sequence[Sample],
    out: Path,
    options: ScaleOptions,
    progress: Progress,
) -> dict[int, _File]:
    """A folded model per bank size; one that an earlier call made of the same is taken."""
    found: dict[int, _File] = {}
    rows = None
    for done, count in enumerate(options.rows):
        progress("folding", done, len(options.rows))
        path = out / f"folded-{count}.onnx"
        note = path.with_suffix(".json")
        key = f"{network.sha256()} {recipe} {options.augmented} {options.seed}"
        stored = json.loads(note.read_text()) if note.is_file() and path.is_file() else {}
        if stored.get("key") != key:
            if rows is None:
                rows = augmented_rows(
                    network,
                    recipe,
                    training,
                    min(max(options.rows), options.augmented),
                    out / "rows",
                    seed=options.seed,
                    progress=progress,
                )
            some = grown(rows.embeddings, rows.labels, count, options.seed)
            bank = bank_of_rows(network, probe, some.embeddings, some.labels)
            start = time.perf_counter()
            folded = fold(
                model,
                bank,
                preprocessing=recipe,
                layer=network.layer,
                origin=Origin("scale", "", network.sha256(), "grown", "train", ""),
                versions=tool_versions(),
            )
            seconds = time.perf_counter() - start
            save_graph(folded, path)
            stored = {"key": key, "real": some.real, "seconds": round(seconds, 3)}
            write_json(note, stored)
        found[count] = _File(path, int(stored["real"]), float(stored["seconds"]))
    progress("folding", len(options.rows), len(options.rows))
    return found


def _rows(
    files: dict[int, _File],
    plain: Path,
    given: list[Any],
    roofline: Roofline,
    options: ScaleOptions,
    progress: Progress,
) -> dict[str, Any]:
    sessions = {"plain": open_session(plain)}
    sessions |= {str(count): open_session(file.path) for count, file in files.items()}
    seconds = interleaved(
        sessions, given, options.rounds, options.seed, lambda d, t: progress("timing rows", d, t)
    )
    found: dict[str, Any] = {}
    for count, file in files.items():
        contract = read_contract(file.path)
        storage = contract.bank.storage
        ours, base = seconds[str(count)], seconds["plain"]
        ratio = median_ratio(ours.wall, base.wall, options.draws, options.seed)
        found[str(count)] = {
            "real_rows": file.real,
            "interpolated_rows": count - file.real,
            "search": storage.search if storage else "exhaustive",
            "embeddings": storage.embeddings if storage else "float32",
            "lists": storage.lists if storage else 0,
            "ratio": ratio.mean,
            "low": ratio.low,
            "high": ratio.high,
            "added_microseconds": 1e6 * float(np.median(ours.processor - base.processor)),
            "least_microseconds": least_microseconds(contract, roofline),
            "predicted": {
                name: least_microseconds(contract, sheet) for name, sheet in DATA_SHEETS.items()
            },
            "bytes_added": file.path.stat().st_size - plain.stat().st_size,
            "storing_seconds": file.storing_seconds,
        }
    found["plain_milliseconds"] = 1e3 * float(np.median(seconds["plain"].wall))
    return found


def _bare_curves(
    bare: BareGraphs, roofline: Roofline, options: ScaleOptions, progress: Progress
) -> dict[str, Any]:
    """The curves that a network with next to no backbone shows best."""
    exhaustive = StorageOptions(search=SearchOptions("exhaustive"))
    few = tuple(count for count in options.rows if count <= options.exhaustive)
    many = min(_MANY_ROWS, max(options.rows))
    rounds, thousand = options.rounds, min(1000, many)
    curves: dict[str, tuple[Sequence[int], Callable[[int], tuple[Added, Contract]]]] = {
        "exhaustive_rows": (few, lambda n: bare.added(n, storage=exhaustive, rounds=rounds)),
        "embedding_sizes": (options.sizes, lambda n: bare.added(thousand, n, rounds=rounds)),
        "heatmap_sizes": (
            options.heatmaps,
            lambda n: bare.added(thousand, heatmap=(n, n) if n else "native", rounds=rounds),
        ),
        "batches": (options.batches, lambda n: bare.added(many, batch=n, rounds=rounds)),
    }
    steps = [(curve, value) for curve, (values, _) in curves.items() for value in values]
    found: dict[str, Any] = {}
    for done, (curve, value) in enumerate(steps):
        progress("curves", done, len(steps))
        added, contract = curves[curve][1](value)
        row = {
            **asdict(added),
            "heatmap_side": contract.heatmap_size[1],
            "least_microseconds": least_microseconds(contract, roofline),
        }
        found.setdefault(curve, {})[str(value)] = row
    progress("curves", len(steps), len(steps))
    return found


def _building(
    network: Network,
    recipe: Preprocessing,
    training: Sequence[Sample],
    options: ScaleOptions,
    progress: Progress,
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    # Spread over the labels: a bank of one label has no direction.
    order = np.random.default_rng(options.seed).permutation(len(training))
    for done, count in enumerate(options.images):
        progress("bank building", done, len(options.images))
        some = [training[int(n)] for n in order[:count]]
        start = time.perf_counter()
        embed(network, recipe, some, batch_size=16)
        middle = time.perf_counter()
        build_bank(network, recipe, some, parse_objective("all-triplets"))
        end = time.perf_counter()
        found[str(len(some))] = {
            "pass_seconds": round(middle - start, 3),
            "bank_seconds": round(end - middle, 3),
        }
    progress("bank building", len(options.images), len(options.images))
    return found


def _exponents(document: dict[str, Any]) -> dict[str, Any]:
    """How each curve grows: `y ~ x ** exponent`."""
    rows = {key: row for key, row in document["rows"].items() if key != "plain_milliseconds"}
    curves: dict[str, tuple[dict[str, Any], str]] = {
        "time added, by bank rows": (rows, "added_microseconds"),
        "bytes added, by bank rows": (rows, "bytes_added"),
        "storing the bank, by bank rows": (rows, "storing_seconds"),
        "time added, by bank rows, exhaustive": (document["exhaustive_rows"], "microseconds"),
        "time added, by embedding size": (document["embedding_sizes"], "microseconds"),
        "time added, by batch": (document["batches"], "microseconds"),
        "building a bank, by images": (document["bank_building"], "bank_seconds"),
    }
    found = {}
    for name, (table, key) in curves.items():
        law = power_law([float(x) for x in table], [float(row[key]) for row in table.values()])
        if law is not None:
            found[name] = asdict(law)
    return found
