"""The rule by which an image is unknown: a score, and the least that a known image has.

It is chosen on the workstation (`foldcam threshold`) and travels in the contract, with the rates
that it was chosen for.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from foldcam.runtime.system.documents import Finite, Natural, Share

Score = Literal["similarity", "similarity_and_margin", "whitened"]
SCORES: tuple[Score, ...] = get_args(Score)
"""`similarity` is the cosine to the nearest row. `similarity_and_margin` adds what it is above the
cosine to the nearest row of another label, for a model with the output `runner_up_similarity`.
`whitened` is the cosine to the nearest label's mean where the spread within labels is the same in
every direction; the graph computes it, as the output `known_score`."""

Source = Literal["held-out images", "bank rows left out", "given"]
UnknownSource = Literal["images", "labels left out", "none"]


@dataclass(frozen=True)
class UnknownRule:
    """An image is unknown if its score is below a threshold.

    Attributes:
        score: which score; see `SCORES`.
        threshold: an image whose score equals it is known.
        bank_sha256: of the bank that it was chosen for.
        accept: the share of known images that it was chosen to accept, in (0, 1).
        source: whose scores it was chosen from; `given` where the user gave the number.
        data: name of the data set of those images.
        known_images: how many there were.
        known_accepted: the share of them that it accepts.
        unknown_source: where the images came from that it must not accept.
        unknown_images: how many there were.
        unknown_accepted: the share of them that it accepts; 0 where there were none.
    """

    score: Score
    threshold: Finite
    bank_sha256: str
    accept: Share
    source: Source = "given"
    data: str = ""
    known_images: Natural = 0
    known_accepted: Share = 0.0
    unknown_source: UnknownSource = "none"
    unknown_images: Natural = 0
    unknown_accepted: Share = 0.0

    @property
    def in_graph(self) -> bool:
        """Whether the graph computes the score, as the output `known_score`."""
        return self.score == "whitened"

    def is_unknown(self, score: float) -> bool:
        """Whether a score is below the threshold; NaN is."""
        return not score >= self.threshold

    def document(self) -> dict[str, Any]:
        """For the metadata."""
        return asdict(self)

    def sentence(self) -> str:
        """The rule and its rates in words, for people."""
        said = f"unknown if {self.score.replace('_', ' ')} is below {self.threshold:.4g}"
        if self.source == "given":
            return said
        rates = f"accepts {self.known_accepted:.1%} of {self.known_images} known images"
        if self.unknown_images:
            rates += f" and {self.unknown_accepted:.1%} of {self.unknown_images} unknown ones"
            if self.unknown_source == "labels left out":
                rates += " (labels left out of the bank)"
        return f"{said}; {rates}; chosen for {self.accept:.0%} from {self.source}"


def given_rule(threshold: float, bank_sha256: str) -> UnknownRule:
    """A rule by similarity whose number the user gave."""
    return UnknownRule("similarity", threshold, bank_sha256, 0.0)
