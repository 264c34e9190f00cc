"""What a bank as an input costs beside the same bank as constants, by its number of rows.

    python -m foldcam.benchmarks.studies.bank_input --out results/bank-input

Time of a pass (interleaved, one thread, the median of the ratios of a round, with a bootstrap
interval), bytes of the files, memory of a process that has opened the model, and how long 100
labels of 10 pictures take to be added. Embeddings are drawn: how many there are costs time, and
not what they are.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from foldcam.benchmarks.evaluation import markdown
from foldcam.benchmarks.evaluation.documents import provenance
from foldcam.benchmarks.evaluation.interleaved import interleaved_runs, median_ratio
from foldcam.export.banks.bank import Bank, label_runs
from foldcam.export.grafting.bank_input import bank_beside, with_directions
from foldcam.export.grafting.fold import FoldOptions, fold
from foldcam.export.grafting.options import StorageOptions, parse_search
from foldcam.export.grafting.versions import tool_versions
from foldcam.export.models.spec import load_model
from foldcam.runtime.backends import open_backend
from foldcam.runtime.contract.bank.bank_file import add_rows
from foldcam.runtime.contract.bank.live_bank import HASH_BYTES, bank_path
from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.contract.schema import Origin
from foldcam.runtime.measurement.bench.facts import machine_facts
from foldcam.runtime.system.files import atomic_path

RESULT = "bank-input.json"
_PER_LABEL = 10
_EXHAUSTIVE = StorageOptions(parse_search("exhaustive"), "float32")
_KINDS = ("constants", "default", "input")
_OPENED = (
    "import sys, numpy as np; from foldcam.runtime.backends import open_backend;"
    "backend = open_backend(sys.argv[1], 'cpu', 1); contract = backend.contract;"
    "size = contract.preprocessing;"
    "backend.run(np.zeros((1, 3, size.height, size.width), np.float32));"
    "print(next(line.split()[1] for line in open('/proc/self/status') if 'VmRSS' in line))"
)


def measure(model: str, out: Path, rows: list[int], rounds: int, seed: int) -> dict[str, Any]:
    """Everything, written to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    loaded = load_model(model)
    network = loaded.network()
    recipe, embedder = loaded.preprocessing, network.to_onnx()
    summands, channels = network.summands, network.feature_map_shape[0]
    document: dict[str, Any] = {
        "network": model,
        "embedding_size": network.embedding_size,
        "rounds": rounds,
        "rows": {},
    }
    for count in rows:
        bank = replace(
            _drawn_bank(count, network.embedding_size, channels, seed), summands=summands
        )
        bank = replace(bank, network_sha256=network.sha256())
        live = with_directions(bank, embedder, _EXHAUSTIVE)
        paths = {}
        for kind, options in zip(
            _KINDS,
            (
                FoldOptions(storage=_EXHAUSTIVE),
                FoldOptions(),
                FoldOptions(storage=_EXHAUSTIVE, bank_input=True),
            ),
            strict=True,
        ):
            path = out / f"{kind}-{count}.onnx"
            origin = Origin(model, "", network.sha256(), "drawn", "", "")
            folded = fold(
                embedder, bank, preprocessing=recipe, layer=network.layer, origin=origin,
                versions={}, options=options,
            )  # fmt: skip
            with atomic_path(path) as temporary:
                temporary.write_bytes(folded.SerializeToString())
                with bank_beside(temporary, path, live if options.bank_input else None):
                    pass
            paths[kind] = path
        document["rows"][str(count)] = _compared(paths, recipe, rounds, seed)
        print(count, document["rows"][str(count)], file=sys.stderr)
    document["enrolling"] = _enrolled(paths["input"], out, network.embedding_size, seed)
    document |= {**provenance(), "device": machine_facts(), "versions": tool_versions()}
    with atomic_path(out / RESULT) as temporary:
        temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return document


def markdown_table(document: dict[str, Any]) -> str:
    """Rows of the bank x what they cost."""
    heads = (
        "rows", "time as input over constants", "over constants as stored by default",
        "file: constants, input", "bank beside it", "memory: constants, input",
    )  # fmt: skip
    rows = []
    for count, row in document["rows"].items():
        constants, input_ = row["constants"], row["input"]
        ratios = [
            f"{each['ratio']:.3f} ({each['low']:.3f} to {each['high']:.3f})"
            for each in (row["input_over_constants"], row["input_over_default"])
        ]
        rows.append([
            f"{int(count):,}", *ratios,
            f"{constants['megabytes']:.1f}, {input_['megabytes']:.1f} MB",
            f"{input_['bank_megabytes']:.1f} MB",
            f"{constants['memory_megabytes']:.0f}, {input_['memory_megabytes']:.0f} MB",
        ])  # fmt: skip
    enrolled = document["enrolling"]
    return (
        f"{markdown.table(heads, rows)}\n\n"
        f"{enrolled['labels']} labels of {enrolled['pictures']} pictures were added one after the "
        f"other: {enrolled['milliseconds_median']:.0f} ms for a label, "
        f"{enrolled['milliseconds_most']:.0f} ms at most, without the passes of the network."
    )


def _drawn_bank(count: int, size: int, channels: int, seed: int) -> Bank:
    generator = np.random.default_rng(seed)
    labels = max(2, count // _PER_LABEL)
    own = np.sort(np.arange(count) % labels)
    centres = generator.normal(size=(labels, size))
    embeddings = centres[own] + 0.5 * generator.normal(size=(count, size))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    names = [f"{label:06d}" for label in own]
    weights = generator.normal(size=(labels, channels)).astype(np.float32)
    index = own.astype(np.int32)
    return Bank(embeddings.astype(np.float32), weights, index, label_runs(names), "all-triplets")


def _compared(paths: dict[str, Path], recipe: Any, rounds: int, seed: int) -> dict[str, Any]:
    backends = {kind: open_backend(path, "cpu", 1) for kind, path in paths.items()}
    generator = np.random.default_rng(seed)
    images = generator.normal(size=(8, 1, 3, recipe.height, recipe.width)).astype(np.float32)

    def run(kind: str, number: int) -> None:
        backends[kind].run(images[number % len(images)])

    runs: dict[str, Callable[[int], None]] = {kind: partial(run, kind) for kind in paths}
    seconds = interleaved_runs(runs, rounds, seed)
    for backend in backends.values():
        backend.close()
    found: dict[str, Any] = {}
    for kind, path in paths.items():
        found[kind] = {
            "milliseconds": round(1e3 * float(np.median(seconds[kind].wall)), 3),
            "megabytes": round(path.stat().st_size / 1e6, 2),
            "memory_megabytes": _memory(path),
        }
    found["input"]["bank_megabytes"] = round(bank_path(paths["input"]).stat().st_size / 1e6, 2)
    for name, other in (("constants", "constants"), ("default", "default")):
        ratio = median_ratio(seconds["input"].processor, seconds[other].processor, 2000, seed)
        found[f"input_over_{name}"] = {
            "ratio": round(ratio.mean, 4), "low": round(ratio.low, 4), "high": round(ratio.high, 4)
        }  # fmt: skip
    return found


def _memory(path: Path) -> float:
    command = [sys.executable, "-c", _OPENED, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return round(int(done.stdout) / 1e3, 1)


def _enrolled(model: Path, out: Path, size: int, seed: int) -> dict[str, Any]:
    """Seconds of adding 100 labels of 10 pictures, one label after the other, as files are."""
    people, pictures = 100, 10
    bank = out / "enrolling.bank"
    bank.write_bytes(bank_path(out / "input-100.onnx").read_bytes())
    contract, generator = read_contract(model), np.random.default_rng(seed)
    seconds = []
    for person in range(people):
        rows: npt.NDArray[np.float32] = generator.normal(size=(pictures, size)).astype(np.float32)
        hashes = generator.integers(0, 256, (pictures, HASH_BYTES)).astype(np.uint8)
        begin = time.perf_counter()
        add_rows(bank, contract, f"person {person}", rows, [""] * pictures, hashes)
        seconds.append(time.perf_counter() - begin)
    return {
        "labels": people,
        "pictures": pictures,
        "milliseconds_median": round(1e3 * statistics.median(seconds), 2),
        "milliseconds_most": round(1e3 * max(seconds), 2),
    }


def main() -> None:
    """As `python -m`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="demo", help="MODEL, as in foldcam export")
    parser.add_argument("--out", type=Path, default=Path("results/bank-input"))
    parser.add_argument("--rows", default="10,100,1000,10000,100000")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rows = [int(each) for each in given.rows.split(",")]
    print(markdown_table(measure(given.model, given.out, rows, given.rounds, given.seed)))


if __name__ == "__main__":
    main()
