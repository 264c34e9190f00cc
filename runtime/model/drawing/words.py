"""What is written of a result."""

from __future__ import annotations

from foldcam.runtime.model.drawing.shown import Shown
from foldcam.runtime.model.drawing.style import MapName


def words_of(result: Shown, map: MapName = "heatmap") -> str:
    """Nearest label and its similarity, best class and its score, or the estimate.

    Where the model's rule says so, `unknown` before them. Where the network gave no answer, that
    and why; where nothing in the picture speaks for the answer, `no evidence`; under a contrast,
    the runner-up and its similarity. In a run with votes the voted label comes first.
    """
    said = _own_words(result, map)
    return said if result.vote is None else result.vote.before(said, result.answer)


def _own_words(result: Shown, map: MapName) -> str:
    if result.error is not None:
        return f"{result.answer}: {result.error}"
    of = "" if result.scores is None else "score "
    if result.estimate is not None:
        said = f"estimate {result.answer}"
    elif result.unknown:
        said = f"unknown, nearest {result.labels[0]}  {result.similarities[0]:.2f}"
    else:
        said = f"{result.answer}  {of}{result.similarities[0]:.2f}"
    if map == "contrast" and result.runner_up_similarity is not None:
        said += f", not {result.runner_up_label}  {of}{result.runner_up_similarity:.2f}"
    return f"{said}, no evidence" if result.no_evidence else said
