"""`foldcam bench overhead` as one call: banks of growing size, folded, timed, and asked."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from foldcam.benchmarks.cost.overhead.quality import (
    Folded,
    by_probes,
    measure_quality,
    unit_embeddings,
)
from foldcam.benchmarks.cost.overhead.rows import REGIONS, augmented_rows
from foldcam.benchmarks.evaluation.documents import Progress, provenance, write_json
from foldcam.benchmarks.evaluation.graphs import (
    NetworkChoice,
    chosen_network,
    plain_graph,
    save_graph,
)
from foldcam.benchmarks.evaluation.interleaved import Timed, interleaved, median_ratio, open_session
from foldcam.benchmarks.evaluation.localization.study import split_samples
from foldcam.benchmarks.evaluation.localization.subjects import load_subjects
from foldcam.export.banks.bank import Bank, label_runs
from foldcam.export.banks.embedding_pass import batches
from foldcam.export.banks.grad_weights import head_traits, pull_back_anywhere
from foldcam.export.banks.objectives.directions import all_triplets
from foldcam.export.datasets import Sample
from foldcam.export.grafting.fold import FoldOptions, fold
from foldcam.export.grafting.in_graph import bank_of, stored_bank_of
from foldcam.export.grafting.options import StorageOptions
from foldcam.export.grafting.versions import tool_versions
from foldcam.export.networks.cut import Activations, Network
from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.contract.schema import Contract, Origin
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.measurement.bench.facts import machine_facts
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.text import aligned

PLAIN = "plain"
_TIMED_IMAGES = 32
_PROBE_IMAGES = 8


@dataclass(frozen=True)
class OverheadOptions:
    """What is measured."""

    rows: tuple[int, ...] = (300, 10_000, 100_000)  # sizes of the banks
    network: NetworkChoice = field(default_factory=NetworkChoice)  # which network
    # how the banks are stored and searched
    storage: StorageOptions = field(default_factory=StorageOptions)
    rounds: int = 300  # timed runs of each graph
    seed: int = 0  # of views, regions, grids and draws
    draws: int = 2000  # of the bootstrap


def run_overhead(
    data: Path, out: Path, options: OverheadOptions, progress: Progress
) -> dict[str, Any]:
    """Measure time, bytes and answers of folded banks of several sizes.

    Args:
        data: a CUB-200-2011 folder, or a CSV with boxes; as `evaluate localization`.
        out: folder of results: `overhead.json`, the graphs, and the rows made on the way, from
            which a later call goes on.
    """
    training, testing = split_samples(data, options.seed)
    choice = options.network
    loaded = chosen_network(choice, training, out / "net.safetensors", progress)
    recipe = choice.preprocessing or loaded.preprocessing
    network = loaded.network(None, (recipe.height, recipe.width))
    probe = pooling_probe(network, recipe, training)
    test = load_subjects(testing, recipe)
    model = network.to_onnx()
    embedder, plain = out / "embedding.onnx", out / "plain.onnx"
    save_graph(model, embedder)
    save_graph(plain_graph(model), plain)
    rows = augmented_rows(
        network,
        recipe,
        training,
        max(options.rows),
        out / "rows",
        seed=options.seed,
        progress=progress,
    )
    sessions = {PLAIN: open_session(plain)}
    models: dict[int, Folded] = {}
    probes: dict[int, dict[str, Any]] = {}
    questioner = open_session(embedder)
    unit = unit_embeddings(questioner, recipe, test)
    contracts: dict[int, Contract] = {}
    for done, count in enumerate(options.rows):
        progress("folding", done, len(options.rows))
        bank = bank_of_rows(network, probe, rows.embeddings[:count], rows.labels[:count])
        path = out / f"folded-{count}.onnx"
        folded = fold(
            model,
            bank,
            preprocessing=recipe,
            layer=network.layer,
            origin=Origin(loaded.name, loaded.weights, network.sha256(), data.name, "train", ""),
            versions=tool_versions(),
            options=FoldOptions(storage=options.storage),
        )
        save_graph(folded, path)
        contracts[count] = read_contract(path)
        sessions[str(count)] = open_session(path)
        probes[count] = by_probes(bank, stored_bank_of(folded, contracts[count]), unit)
        models[count] = Folded(sessions[str(count)], bank, bank_of(folded, contracts[count]))
    progress("folding", len(options.rows), len(options.rows))
    quality = measure_quality(
        models,
        unit,
        questioner,
        recipe,
        test,
        seed=options.seed,
        draws=options.draws,
        on_progress=lambda done, total: progress("grids", done, total),
    )
    # Timed last, when nothing else is left to do.
    seconds = interleaved(
        sessions,
        [recipe.normalized(image[None]) for image in test.resized[:_TIMED_IMAGES]],
        options.rounds,
        options.seed,
        lambda done, total: progress("timing", done, total),
    )
    document: dict[str, Any] = {
        "data": data.resolve().name,
        "images": {"train": len(training), "test": len(test)},
        "network": loaded.name if choice.model else choice.title,
        "input": [recipe.width, recipe.height],
        "feature_map": list(network.feature_map_shape),
        "embedding_size": network.embedding_size,
        "augmentation": {"views_per_image": rows.views, "regions_per_view": REGIONS},
        "rounds": options.rounds,
        "plain_milliseconds": round(1e3 * statistics.median(seconds[PLAIN].wall), 3),
        "rows": {
            str(count): {
                **_ratio(seconds, str(count), options),
                "bytes_added": (out / f"folded-{count}.onnx").stat().st_size - plain.stat().st_size,
                **_storage(contracts[count]),
                **asdict(quality[count]),
                "probes": probes[count],
            }
            for count in options.rows
        },
        **provenance(),
        "device": machine_facts(),
        "versions": tool_versions(),
    }
    write_json(out / "overhead.json", document)
    return document


def pooling_probe(
    network: Network, recipe: Preprocessing, samples: Sequence[Sample]
) -> Activations:
    """Activations of a few images."""
    for batch in batches(samples, recipe, _PROBE_IMAGES):
        if len(batch.positions) > 1:
            break
    else:
        raise FoldcamError("None of the training images could be read.")
    probe = network.forward(batch.images)
    traits = head_traits(network, probe)
    if not traits.linear or traits.positional or network.summands not in ("pool", "none"):
        raise FoldcamError(
            "bench overhead makes rows from regions of feature maps, which needs a head of average "
            "pooling and a linear layer: name another MODEL, or leave it out."
        )
    return probe


def bank_of_rows(
    network: Network, probe: Activations, embeddings: Any, labels: Sequence[str]
) -> Bank:
    """A bank of given embeddings, for a head that pools and projects.

    Args:
        probe: as `pooling_probe` returns them.
        embeddings: `float32 [N, D]` of norm 1.
        labels: one per row, of at least two.
    """
    if len(set(labels)) < 2:
        raise FoldcamError(f"The first {len(labels)} rows have one label: ask for more --rows.")
    order = np.argsort(np.asarray(labels), kind="stable")
    ordered = [labels[int(n)] for n in order]
    _, firsts, classes = np.unique(ordered, return_index=True, return_inverse=True)
    directions = all_triplets(embeddings[order], classes.astype(np.int64))
    grad_weights = pull_back_anywhere(network, probe, directions.values[firsts])
    return Bank(
        embeddings=np.ascontiguousarray(embeddings[order]),
        grad_weights=grad_weights,
        grad_index=classes.astype(np.int32),
        labels=label_runs(ordered),
        objective="all-triplets",
        network_sha256=network.sha256(),
        summands=network.summands,
        mean_summands=probe.feature_map.mean(dim=0).numpy(),
    )


def _ratio(seconds: dict[str, Timed], name: str, options: OverheadOptions) -> dict[str, Any]:
    ours, plain = seconds[name], seconds[PLAIN]
    wall = median_ratio(ours.wall, plain.wall, options.draws, options.seed)
    processor = median_ratio(ours.processor, plain.processor, options.draws, options.seed)
    return {
        "ratio": wall.mean,
        "low": wall.low,
        "high": wall.high,
        "processor_ratio": asdict(processor),
    }


def _storage(contract: Contract) -> dict[str, Any]:
    storage = contract.bank.storage
    if storage is None:
        return {"search": "exhaustive", "embeddings": "float32", "storage": None}
    return {
        "search": storage.search,
        "embeddings": storage.embeddings,
        "storage": storage.sentence(),
    }


HEADINGS = (
    "bank rows",
    "search",
    "time / plain graph ↓",
    "processor time ↓",
    "MB added ↓",
    "recall@1 lost ↓",
    "grid pointing lost ↓",
    "same row ↑",
)


def text_table(document: Mapping[str, Any]) -> str:
    """The same for a terminal."""
    return "\n".join(aligned([HEADINGS, *cells(document)]))


def cells(document: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """One line per bank size, under `HEADINGS`."""
    return [
        (
            f"{int(count):,}",
            f"{row['search']}, {row['embeddings']}",
            f"{row['ratio']:.3f} ({row['low']:.3f} to {row['high']:.3f})",
            f"{row['processor_ratio']['mean']:.3f}",
            f"{row['bytes_added'] / 1e6:.1f}",
            _lost(row["recall_at_1_lost"]),
            _lost(row["grid_pointing_lost"]),
            f"{row['same_row']:.1%}",
        )
        for count, row in by_number(document["rows"])
    ]


def by_number(table: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Stored results are sorted by name, and 10000 comes before 300 there."""
    return sorted(table.items(), key=lambda item: int(item[0]))


def _lost(interval: Mapping[str, float]) -> str:
    # Adding zero makes a rounded -0 plain.
    mean, low, high = (round(interval[name], 4) + 0.0 for name in ("mean", "low", "high"))
    return f"{mean:.4f} ({low:.4f} to {high:.4f})"
