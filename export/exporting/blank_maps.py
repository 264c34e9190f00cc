"""Whether a folded model has maps for its own training images: what is said when it is made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from foldcam.export.banks.kept_pictures import KeptPictures
from foldcam.export.datasets import Sample
from foldcam.export.grafting.frameless import frameless
from foldcam.runtime.model.folded_model import FoldedModel

MOST_IMAGES = 32
_BATCH = 8


def tried_images(samples: Sequence[Sample]) -> list[Sample]:
    """At most `MOST_IMAGES` of the samples, at equal steps, so that many labels are among them."""
    count = min(len(samples), MOST_IMAGES)
    return [samples[at * len(samples) // count] for at in range(count)]


def blank_notes(path: Path, samples: Sequence[Sample], kept: KeptPictures) -> list[str]:
    """One sentence where maps of training images are blank, else none."""
    held = [kept.held(sample) for sample in samples]
    pictures = [picture.resized for picture in held if picture is not None]
    blank = 0
    with frameless(path) as file, FoldedModel.load(file, "cpu") as model:
        for first in range(0, len(pictures), _BATCH):
            results = model.run_batch(pictures[first : first + _BATCH])
            blank += sum(result.no_evidence for result in results)
    if not blank:
        return []
    subject = "one" if blank == 1 else str(blank)
    made = model.contract.explanation
    advice = (
        "; --baseline mean compares each position with the average training image"
        if made is not None and made.summands != "none" and made.baseline == "none"
        else ""
    )
    return [
        f"The heatmap is blank for {subject} of {len(pictures)} training images that were tried: "
        f"no position of them speaks for the answer, and a run says `no evidence` then{advice}."
    ]
