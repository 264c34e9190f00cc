"""What votes over time buy and cost, on clips that pan and zoom over labelled photographs.

    python3 -m foldcam.benchmarks.studies.voting NAME=model.onnx=DATA ... --out FOLDER

Every second photograph chooses (window and margin), the others are reported.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt

from foldcam.benchmarks.evaluation import markdown
from foldcam.benchmarks.evaluation.documents import write_json
from foldcam.export.datasets import load_dataset
from foldcam.export.datasets.reading import read_picture
from foldcam.export.grafting.versions import tool_versions
from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.model.folded_model import FoldedModel
from foldcam.runtime.model.result import Result
from foldcam.runtime.pipeline.voting import MARGIN, Ballot

FRAMES, RATE = 60, 15.0
WINDOWS = (0.5, 1.0, 2.0, 3.0)
MARGINS = (0.0, 0.1, 0.2, 0.3, 0.5)
_KNOTS = 5
_LONGEST = 480


def clip(image: Image, seed: int) -> Iterator[Image]:
    """Four seconds of a hand-held camera: zoom, pan, turn, exposure, motion blur, noise, JPEG."""
    generator = np.random.default_rng(seed)
    height, width = image.shape[:2]

    def walk(low: float, high: float) -> npt.NDArray[np.float64]:
        knots = generator.uniform(low, high, _KNOTS)
        return np.interp(np.linspace(0, _KNOTS - 1, FRAMES), np.arange(_KNOTS), knots)

    zoom, across, down = walk(0.45, 1.0), walk(0.0, 1.0), walk(0.0, 1.0)
    gain, turn, blur = walk(0.75, 1.25), walk(-8.0, 8.0), walk(-6.0, 6.0)
    for index in range(FRAMES):
        shake = generator.normal(0, 0.004, 2)
        x = (across[index] + shake[0]) * (1 - zoom[index]) + zoom[index] / 2
        y = (down[index] + shake[1]) * (1 - zoom[index]) + zoom[index] / 2
        place = cv2.getRotationMatrix2D((x * width, y * height), turn[index], 1 / zoom[index])
        place[:, 2] += (0.5 - x) * width, (0.5 - y) * height
        frame = cv2.warpAffine(image, place, (width, height), borderMode=cv2.BORDER_REPLICATE)
        if blur[index] > 1:
            frame = cv2.blur(frame, (2 * int(blur[index]) + 1, 1))
        noisy = frame * gain[index] + generator.normal(0, 6, frame.shape)
        _, jpeg = cv2.imencode(
            ".jpg", np.clip(noisy, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 60]
        )
        yield np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), np.uint8)


def answers(model: Path, data: Path) -> tuple[list[str], list[list[str]]]:
    """The true label of each test photograph, and the nearest one of each frame of its clip."""
    truth, said = [], []
    samples = load_dataset(data, split="test").samples
    with FoldedModel.load(model, threads=1) as folded:
        for number, sample in enumerate(samples):
            image = read_picture(sample).image
            scale = min(1.0, _LONGEST / max(image.shape))
            small = np.asarray(cv2.resize(image, None, fx=scale, fy=scale), np.uint8)
            truth.append(str(sample.label))
            said.append([folded(frame).labels[0] for frame in clip(small, number)])
            print(f"\r{number + 1}/{len(samples)}", end="", file=sys.stderr)
    return truth, said


def voted(labels: Sequence[str], seconds: float | None, margin: float) -> list[str]:
    """The label of each frame, by vote; None takes the frame's own."""
    if seconds is None:
        return list(labels)
    ballot, chosen = Ballot(seconds, margin), []
    for index, label in enumerate(labels):
        # All of a result that a ballot asks.
        result = cast(Result, SimpleNamespace(valid=True, labels=[label], unknown=False))
        vote = ballot.add(index / RATE, 0.0, result)
        assert vote is not None
        chosen.append(str(vote.label))
    return chosen


def figures(
    truth: Sequence[str], said: Sequence[Sequence[str]], seconds: float | None, margin: float
) -> dict[str, float]:
    """Changes of label per clip, recall, and how long a new object takes to be named.

    Of two clips that follow each other as one, `delay_s` and `delay_p90_s` are the seconds from
    the first frame of the second one to its right label; all of it where that never comes.
    """
    results = [voted(labels, seconds, margin) for labels in said]
    changes = sum(a != b for labels in results for a, b in itertools.pairwise(labels))
    right = [label == true for true, labels in zip(truth, results, strict=True) for label in labels]
    last = [labels[-1] == true for true, labels in zip(truth, results, strict=True)]
    generator, delays = np.random.default_rng(0), []
    for first, labels in enumerate(said):
        second = int(generator.integers(len(said)))
        if truth[second] == truth[first]:
            continue
        joined = voted([*labels, *said[second]], seconds, margin)[len(labels) :]
        found = [index for index, label in enumerate(joined) if label == truth[second]]
        delays.append((found[0] if found else len(joined)) / RATE)
    return {
        "changes": changes,
        "changes_per_clip": changes / len(said),
        "recall": float(np.mean(right)),
        "recall_last_frame": float(np.mean(last)),
        "delay_s": float(np.median(delays)),
        "delay_p90_s": float(np.percentile(delays, 90)),
    }


def study(subjects: dict[str, tuple[Path, Path]], out: Path) -> dict[str, Any]:
    """Measure and write `networks.<name>`."""
    networks: dict[str, Any] = {}
    for name, (model, data) in subjects.items():
        truth, said = answers(model, data)
        choosing = [
            {"seconds": seconds, "margin": margin} | figures(truth[::2], said[::2], seconds, margin)
            for seconds in WINDOWS
            for margin in MARGINS
        ]
        reported: list[dict[str, float | None]] = [
            {"seconds": seconds, **figures(truth[1::2], said[1::2], seconds, MARGIN)}
            for seconds in (None, *WINDOWS)
        ]
        networks[name] = {"clips": len(said[1::2]), "reported": reported, "choosing": choosing}
    document = {
        "frames": FRAMES, "rate": RATE, "margin": MARGIN, "networks": networks,
        "versions": tool_versions(),
    }  # fmt: skip
    write_json(out / "voting.json", document)
    return document


def markdown_table(document: dict[str, Any]) -> str:
    """The table of docs/sources.md."""
    heads = (
        "network", "`--vote`", "label changes per clip ↓", "frames with the right label ↑",
        "clips that end with it ↑", "seconds until a new object is named ↓",
    )  # fmt: skip
    rows = []
    for name, network in document["networks"].items():
        for row in network["reported"]:
            vote = "without" if row["seconds"] is None else f"{row['seconds']:g} s"
            rows.append([
                f"{name} ({network['clips']} clips)", vote, f"{row['changes_per_clip']:.2f}",
                f"{row['recall']:.3f}", f"{row['recall_last_frame']:.3f}",
                f"{row['delay_s']:.1f}",
            ])  # fmt: skip
    return markdown.table(heads, rows)


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("subjects", nargs="+", metavar="NAME=MODEL=DATA")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    parts = [subject.split("=") for subject in given.subjects]
    document = study({name: (Path(model), Path(data)) for name, model, data in parts}, given.out)
    print(json.dumps(document["networks"], indent=1))


if __name__ == "__main__":
    main()
