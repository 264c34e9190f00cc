"""Mean and standard deviation as other tools write them, for pixels of 0 to 255, are noticed."""

from __future__ import annotations

from collections.abc import Sequence

from foldcam.runtime.system.errors import FoldcamError


def check_unit_range(
    mean: Sequence[float] | None, std: Sequence[float] | None, where: str = ""
) -> None:
    """Refuse numbers that cannot be meant for pixels in [0, 1].

    Args:
        mean, std: per channel; None where the command line does not give them.
    """
    far = {name: max(each) > 1 for name, each in (("mean", mean), ("std", std)) if each}
    if not any(far.values()):
        return
    given, right = [], []
    for name, each in (("mean", mean), ("std", std)):
        if each:
            # A deviation of 1 beside a mean of 0 to 255 leaves pixels as they are: 1 of 255.
            divided = far[name] or (name == "std" and far.get("mean", False))
            given.append(f"--{name} {_text(each)}")
            right.append(f"--{name} {_text([n / 255 for n in each] if divided else each)}")
    raise FoldcamError(
        f"{where}{' '.join(given)} {'are' if len(given) > 1 else 'is'} for pixels of 0 to 255, and "
        f"pixels are in [0, 1] here: pass {' '.join(right)}."
    )


def _text(numbers: Sequence[float]) -> str:
    return ",".join(f"{number:.6g}" for number in numbers)
