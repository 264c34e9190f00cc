"""The demo: export, verify, run on unseen scenes, look, count."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from foldcam.benchmarks.commands.demo.contact_sheet import Picture, contact_sheet, photograph_sheet
from foldcam.benchmarks.commands.demo.photographs import (
    SCENE_SIZE,
    SCENES_PER_OBJECT,
    Photographs,
    Scene,
)
from foldcam.benchmarks.evaluation.localization.metrics import centred_blob, heat_in_box
from foldcam.export.banks.objectives.directions import parse_objective
from foldcam.export.commands.progress import ProgressBar
from foldcam.export.datasets import load_dataset
from foldcam.export.exporting.exporter import ExportReport, export_model
from foldcam.export.models.spec import LoadedModel, load_model
from foldcam.export.verification.images import images_to_verify
from foldcam.export.verification.run import VerifyReport, verify_model
from foldcam.runtime.images.files import write_image
from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.model.folded_model import FoldedModel, Result
from foldcam.runtime.sinks.encoders import open_encoder
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import atomic_path

_FRAMES_PER_SCENE = 10
_FRAME_RATE = 12.5
_WHOLE = ("cat", "coffee", "astronaut", "rocket")  # all in the public domain
_OWN_PICTURE = re.compile(r"([0-9]{3}\.jpg|scene-[0-9]{2}\.png)")
_FILES = (
    "model.onnx", "scenes.csv", "scenes.mp4", "scenes.jsonl", "annotated.mp4",
    "contact-sheet.png", "summary.jpg", "photographs.jpg",
)  # fmt: skip


@dataclass(frozen=True)
class SceneScore:
    """How one scene went."""

    scene: str  # file name
    label: str  # the label found
    similarity: float  # cosine to the nearest training view
    milliseconds: float  # of the forward pass
    # share of the heatmap inside the box of the object with that label, None where the scene does
    # not show it
    heat_in_box: float | None
    # mean_activation, centred_blob, uniform: the same share for maps that do not know the label
    mean_activation: float | None
    centred_blob: float | None
    uniform: float | None


@dataclass(frozen=True)
class DemoReport:
    """What the demo found."""

    model: Path  # the folded model
    scores: tuple[SceneScore, ...]  # one per scene
    verified: VerifyReport  # the folded model against the torch network
    contact_sheet: Path  # the picture to look at

    def means(self) -> dict[str, float]:
        """Mean shares of heat over the scenes whose label was found in them."""
        names = ("heat_in_box", "mean_activation", "centred_blob", "uniform")
        found = [asdict(score) for score in self.scores if score.heat_in_box is not None]
        return {name: float(np.mean([row[name] for row in found])) for name in names if found}

    def document(self) -> dict[str, Any]:
        """For `--json`."""
        found = sum(score.heat_in_box is not None for score in self.scores)
        return {
            "model": str(self.model),
            "contact_sheet": str(self.contact_sheet),
            "scenes": len(self.scores),
            "label_found": found,
            "mean_share_of_heat_in_box": self.means(),
            "median_milliseconds": float(np.median([s.milliseconds for s in self.scores])),
            "verify": self.verified.document(),
            "scores": [asdict(score) for score in self.scores],
        }


def run_demo(out: Path, say: Callable[[str], None], seed: int = 0) -> DemoReport:
    """Run the main job on photographs that a package carries.

    Args:
        out: folder for everything that is made; what an earlier demo left in it is replaced.
    """
    _check_own(out)
    photographs = Photographs(seed)
    views, scenes = out / "views", out / "scenes"
    say(f"Writing views of eight photographs to {views} and unseen scenes to {scenes}")
    _clear(out)
    for number, (label, image) in enumerate(photographs.views()):
        write_image(views / label / f"{number:03d}.jpg", image)
    made = _write_scenes(photographs, scenes)
    video = out / "scenes.mp4"
    write_video(video, [scene.image for scene in made.values()])

    model = out / "model.onnx"
    say(f"\n$ foldcam export demo --images {views} --out {model}")
    loaded = load_model("demo")
    report = _export(loaded, views, model)
    channels, height, width = report.contract.feature_map
    say(
        f"{model}: {model.stat().st_size / 1e6:.1f} MB, feature map {report.contract.layer} "
        f"[{channels} x {height} x {width}], bank of {report.contract.bank.rows} views"
    )
    say(f"\n$ foldcam verify {model} --images {out / 'scenes.csv'}")
    unseen = images_to_verify(load_dataset(out / "scenes.csv", "all"), report.contract, 64)
    verified = verify_model(model, loaded.network(report.contract.layer), unseen)
    say(
        f"embedding cosine {verified.main.embedding_cosine_worst:.7f} and heatmap difference "
        f"{verified.main.heatmap_difference_worst:.1g} at worst: "
        f"{'passed' if verified.passed else 'FAILED: ' + '; '.join(verified.failures)}"
    )
    overlays, lines = out / "overlays", out / "scenes.jsonl"
    _runtime(say, [str(model), "--file", str(scenes), "--save", str(overlays),
                   "--jsonl", str(lines)])  # fmt: skip
    _runtime(say, [str(model), "--file", str(video), "--save", str(out / "annotated.mp4")])

    results = _results(model, made)
    means = _mean_activations(loaded, made)
    scores = tuple(_score(name, made[name], results[name], means[name]) for name in made)
    sheet = out / "contact-sheet.png"
    pictures = [_picture(made[s.scene], results[s.scene], s) for s in scores]
    write_image(sheet, contact_sheet(pictures))
    # Both small enough for a README: whole photographs, and one scene per object.
    with FoldedModel.load(model, provider="cpu") as folded:
        whole = {name: photographs.whole(name) for name in _WHOLE}
        write_image(out / "photographs.jpg", photograph_sheet(folded, whole), quality=85)
    write_image(out / "summary.jpg", contact_sheet(pictures[::SCENES_PER_OBJECT]), quality=85)
    return DemoReport(model, scores, verified, sheet)


def _check_own(out: Path) -> None:
    """Refuse a folder in which something else than an earlier demo has one of its names."""
    for name in ("views", "scenes", "overlays"):
        for item in (out / name).rglob("*"):
            if not item.is_dir() and not _OWN_PICTURE.fullmatch(item.name):
                raise FoldcamError(
                    f"{item} is none of the demo's files, and {out / name} would be removed: give "
                    "another --out."
                )
    taken = [out / name for name in _FILES if (out / name).exists()]
    if taken and not (out / "views").is_dir():
        raise FoldcamError(f"{taken[0]} was not written by a demo: give another --out.")


def _clear(out: Path) -> None:
    """Remove the folders that the demo writes many files to, so that none is stale."""
    for name in ("views", "scenes", "overlays"):
        shutil.rmtree(out / name, ignore_errors=True)


def _write_scenes(photographs: Photographs, folder: Path) -> dict[str, Scene]:
    """Write the scenes and `scenes.csv` with their boxes; returns them by file name."""
    made = {f"scene-{number:02d}.png": s for number, s in enumerate(photographs.scenes())}
    for name, scene in made.items():
        write_image(folder / name, scene.image)
    with (
        atomic_path(folder.with_name("scenes.csv")) as temporary,
        temporary.open("w", newline="") as stream,
    ):
        writer = csv.writer(stream)
        writer.writerow(["path", "label", "x", "y", "w", "h"])
        for name, scene in made.items():
            for place in scene.placements:
                x0, y0, x1, y1 = place.box
                writer.writerow([f"{folder.name}/{name}", place.label, x0, y0, x1 - x0, y1 - y0])
    return made


def write_video(path: Path, images: Sequence[Image]) -> None:
    """A film in which each picture dissolves into the next, and the last into the first."""
    with atomic_path(path) as temporary:
        encoder = open_encoder(temporary, _FRAME_RATE, (SCENE_SIZE, SCENE_SIZE))
        for before, after in zip(images, [*images[1:], images[0]], strict=True):
            # Each scene dissolves into the next.
            for share in np.linspace(0, 1, _FRAMES_PER_SCENE, endpoint=False):
                late = max(0.0, 2 * float(share) - 1)
                encoder.write(np.asarray(cv2.addWeighted(before, 1 - late, after, late, 0)))
        encoder.release()


def _export(loaded: LoadedModel, views: Path, model: Path) -> ExportReport:
    with ProgressBar() as progress:
        return export_model(
            loaded, load_dataset(views), model, parse_objective("all-triplets"), progress=progress
        )


def _runtime(say: Callable[[str], None], arguments: list[str]) -> None:
    """Run the device's program as a user would, in a process of its own."""
    say(f"\n$ runtime run {' '.join(arguments)}")
    program = [sys.executable, "-m", "foldcam.runtime", "run", *arguments]
    # Standard output is for the report (--json); what the program prints is for people.
    done = subprocess.run(program, check=False, stdout=sys.stderr, env=_environment())
    if done.returncode != 0:
        raise FoldcamError(f"runtime run failed with exit status {done.returncode}, see above.")


def _environment() -> dict[str, str]:
    """Where this process imports from, its children do, too."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def _results(model: Path, scenes: dict[str, Scene]) -> dict[str, Result]:
    with FoldedModel.load(model, provider="cpu") as folded:
        folded(next(iter(scenes.values())).image)  # the first pass allocates memory
        return {name: folded(scene.image) for name, scene in scenes.items()}


def _mean_activations(
    loaded: LoadedModel, scenes: dict[str, Scene]
) -> dict[str, npt.NDArray[np.float32]]:
    recipe = loaded.preprocessing
    network = loaded.network()
    return {
        name: network.forward(
            torch.from_numpy(recipe.normalized(recipe.resized(scene.image)[0])[None])
        )
        .feature_map[0]
        .mean(dim=0)
        .numpy()
        for name, scene in scenes.items()
    }


def _score(
    name: str, scene: Scene, result: Result, mean_activation: npt.NDArray[np.float32]
) -> SceneScore:
    if result.error is not None:
        raise FoldcamError(f"The demo's model gave no answer for {name}: {result.error}.")
    label = result.labels[0]
    boxes = [place.box for place in scene.placements if place.label == label]
    size = scene.image.shape[:2]
    height, width = result.heatmap.shape
    maps = (
        result.heatmap,
        np.maximum(mean_activation, 0),
        centred_blob(height, width),
        np.ones((height, width)),
    )
    shares = [heat_in_box(m, boxes[0], (size[0], size[1])) if boxes else None for m in maps]
    similarity = float(result.similarities[0])
    return SceneScore(name, label, similarity, result.timings.inference_ms, *shares)


def _picture(scene: Scene, result: Result, score: SceneScore) -> Picture:
    boxes = [place.box for place in scene.placements if place.label == score.label]
    return Picture(
        image=scene.image,
        result=result,
        box=boxes[0] if boxes else None,
        caption=f"{score.label} {score.similarity:.2f}",
        share=score.heat_in_box,
    )
