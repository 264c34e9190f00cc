"""The rule by which an image is unknown: a score, and the least that a known image has.

It is chosen on the workstation (`foldcam threshold`) and travels in the contract, with the rates
that it was chosen for.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from foldcam.runtime.contract.fields import Fields

Score = Literal["similarity", "similarity_and_margin", "whitened"]
SCORES: tuple[Score, ...] = get_args(Score)
"""`similarity` is the cosine to the nearest row. `similarity_and_margin` adds what it is above the
cosine to the nearest row of another label, for a model with the output `runner_up_similarity`.
`whitened` is the cosine to the nearest label's mean where the spread within labels is the same in
every direction; the graph computes it, as the output `known_score`."""

Source = Literal["held-out images", "bank rows left out", "given"]
SOURCES: tuple[Source, ...] = get_args(Source)
UnknownSource = Literal["images", "labels left out", "none"]
UNKNOWN_SOURCES: tuple[UnknownSource, ...] = get_args(UnknownSource)


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
    threshold: float
    bank_sha256: str
    accept: float
    source: Source = "given"
    data: str = ""
    known_images: int = 0
    known_accepted: float = 0.0
    unknown_source: UnknownSource = "none"
    unknown_images: int = 0
    unknown_accepted: float = 0.0

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


def unknown_rule_from(fields: Fields, bank_sha256: str) -> UnknownRule:
    """The section of a document.

    Args:
        fields: the section.
        bank_sha256: of the bank that the model holds.

    Raises:
        FoldcamError: a value is missing or wrong, or the rule was chosen for another bank.
    """
    rule = UnknownRule(
        score=fields.choice("score", SCORES),
        threshold=fields.number("threshold"),
        bank_sha256=fields.text("bank_sha256"),
        accept=fields.number("accept"),
        source=fields.choice("source", SOURCES),
        data=fields.text("data"),
        known_images=fields.integer("known_images"),
        known_accepted=fields.number("known_accepted"),
        unknown_source=fields.choice("unknown_source", UNKNOWN_SOURCES),
        unknown_images=fields.integer("unknown_images"),
        unknown_accepted=fields.number("unknown_accepted"),
    )
    if rule.bank_sha256 != bank_sha256:
        fields.fail(
            "bank_sha256",
            "is that of another bank, for which the threshold was chosen: choose it again with "
            "`foldcam threshold`",
        )
    for name in ("accept", "known_accepted", "unknown_accepted"):
        if not 0.0 <= getattr(rule, name) <= 1.0:
            fields.fail(name, f"is {getattr(rule, name):g}, which is no share from 0 to 1")
    return rule
