"""How the bank commands report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from foldcam.runtime.system.command import print_json

if TYPE_CHECKING:
    from foldcam.export.banks.bank import Bank

_MOST_LABELS = 20


def print_bank(path: Path, bank: Bank, extra: dict[str, Any], as_json: bool) -> None:
    """What is in a bank, and what happened to it; `extra` is added to the JSON document."""
    from foldcam.export.exporting.bank_files import bank_summary
    from foldcam.runtime.system.text import number_text, printable, shorten

    summary = bank_summary(bank)
    if as_json:
        print_json({"bank": str(path), "bytes": path.stat().st_size, **summary, **extra})
        return
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    print(f"  rows         {bank.rows}" + (f", {extra['added']} new" if "added" in extra else ""))
    print(f"  embedding    {bank.embedding_size} numbers, norm 1")
    objective = printable(shorten(bank.objective, 80))
    print(
        f"  grad-weights {bank.channels} channels, {summary['grad_weight_rows']} distinct rows "
        f"({objective}, channels {bank.channel_rule}, compression {bank.compression})"
    )
    if bank.outcome is not None:
        outcome = bank.outcome.summary()
        low, high = number_text(outcome.low), number_text(outcome.high)
        print(f"  values       from {low} to {high}, median {number_text(outcome.median)}")
    else:
        counts = summary["labels"]
        shown = [f"{printable(name)} ({count})" for name, count in counts.items()][:_MOST_LABELS]
        more = f" and {len(counts) - _MOST_LABELS} more" if len(counts) > _MOST_LABELS else ""
        print(f"  labels       {len(counts)}: {', '.join(shown)}{more}")
    if bank.source is None:
        print("  source       unknown: an older file, which foldcam fold refuses")
    else:
        origin, recipe = bank.source.origin, bank.source.preprocessing
        weights = f" with {origin.weights}" if origin.weights else ""
        print(f"  network      {printable(origin.network)}{printable(weights)}, hash "
              f"{origin.network_sha256[:12]}..., layer {printable(bank.source.layer)}")  # fmt: skip
        print(f"  data         {printable(origin.data)} ({printable(origin.split)}), "
              f"{recipe.width} x {recipe.height} {recipe.resize}")  # fmt: skip
    if extra.get("known"):
        print(f"  {len(extra['known'])} images were in the bank already and were left out")
    for note in extra["notes"]:
        print(f"  note: {note}")
    for item in extra.get("skipped", [])[:10]:
        print(f"  skipped {item['path']}: {item['reason']}")
