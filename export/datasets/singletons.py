"""Labels that have one image."""

from __future__ import annotations

from collections import Counter
from typing import Literal, get_args

from foldcam.export.datasets.samples import Sample
from foldcam.runtime.system.errors import FoldcamError

SingletonPolicy = Literal["refuse", "keep", "drop"]
SINGLETON_POLICIES: tuple[SingletonPolicy, ...] = get_args(SingletonPolicy)


def handle_singletons(samples: tuple[Sample, ...], policy: SingletonPolicy) -> tuple[Sample, ...]:
    """What to do with labels that have one image.

    Such an image has nothing of its own label to be compared with: its direction
    rests on its own embedding against the others alone.

    Raises:
        FoldcamError: the policy is `refuse` and there are such labels.
    """
    counts = Counter(sample.label for sample in samples)
    single = [label for label, count in counts.items() if count == 1]
    if not single or policy == "keep":
        return samples
    if policy == "drop":
        return tuple(sample for sample in samples if counts[sample.label] > 1)
    shown = ", ".join(repr(label) for label in single[:5]) + (", ..." if len(single) > 5 else "")
    raise FoldcamError(
        f"{len(single)} label{'s have' if len(single) > 1 else ' has'} one image only ({shown}) "
        "and nothing of the same label to compare it with: add images, or pass --singletons drop "
        "to leave them out or --singletons keep to compare them with the other labels only."
    )
