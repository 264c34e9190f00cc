"""What the frames of the last seconds say together of one region."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Vote:
    """The answer that the frames of one region voted for.

    Attributes:
        label: the voted label; None where the vote is that the region is unknown.
        support: the share of the votes within the window that are for it, in [0, 1]. It may be
            below one half, and for a moment below another label's: see
            `foldcam.runtime.pipeline.voting`.
        frames: the frames within the window that voted; those without an answer do not.
        since: the `Frame.timestamp`, in seconds, of the frame that brought this answer.
    """

    label: str | None
    support: float
    frames: int
    since: float

    @property
    def unknown(self) -> bool:
        """Whether the vote is that the region shows none of the model's labels."""
        return self.label is None

    @property
    def answer(self) -> str:
        """The voted label, or `unknown`."""
        return "unknown" if self.label is None else self.label

    def __str__(self) -> str:
        """The answer and its support, as short as the label of a region should be."""
        return f"{self.answer}  {self.support:.0%}"

    @property
    def votes(self) -> str:
        """The support in words, such as `60% of 15 frames`."""
        # Pictures read this module, which therefore reads no other.
        return f"{self.support:.0%} of {self.frames} frame{'' if self.frames == 1 else 's'}"

    def before(self, said: str, answer: str) -> str:
        """The vote in words, and what the latest frame says itself.

        Args:
            said: the frame's own words, which begin with its answer.
            answer: that answer.
        """
        if answer == self.answer:
            return f"{said}, {self.votes}"
        return f"{self.answer}, {self.votes}; now {said}"
