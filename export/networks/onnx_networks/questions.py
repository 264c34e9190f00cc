"""The question which value of a file is the embedding, before the answers to it were tried."""

from __future__ import annotations

from collections.abc import Mapping

from foldcam.runtime.system.errors import FoldcamError


class OutputChoiceError(FoldcamError):
    """Which value is the embedding has to be said with --output.

    Args:
        problem: the first half of the sentence, without its end.
        choices: what may be named, likeliest first, and the shape of each, empty where unknown.
            They look like embeddings; whether they can be folded is for
            `export.onnx_networks.opening` to try.
    """

    def __init__(self, problem: str, choices: Mapping[str, str]) -> None:
        self.problem, self.choices = problem, dict(choices)
        super().__init__(f"{problem}{offer(self.choices)}")


def offer(choices: Mapping[str, str]) -> str:
    """The second half of the sentence: what to name."""
    shown = ", ".join(
        repr(name) + (f" [{shape}]" if shape else "") for name, shape in choices.items()
    )
    if not shown:
        return ": name a value inside the graph that is one with --output NAME."
    return (
        f": choose one with --output: {shown}." if len(choices) > 1 else f": say --output {shown}."
    )
