"""Mean and standard deviation for pixels of 0 to 255 are refused with the right ones."""

from __future__ import annotations

import pytest
from torch import nn

from foldcam.export.models.spec import with_overrides, wrap_module
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.errors import FoldcamError


@pytest.mark.parametrize(
    ("flags", "right"),
    [
        (
            {"mean": "123.675,116.28,103.53", "std": "58.395,57.12,57.375"},
            {"mean": "0.485,0.456,0.406", "std": "0.229,0.224,0.225"},
        ),
        (
            {"mean": "127.5", "std": "128"},
            {"mean": "0.5,0.5,0.5", "std": "0.501961,0.501961,0.501961"},
        ),
        ({"mean": "0", "std": "255"}, {"mean": "0,0,0", "std": "1,1,1"}),
        (
            {"mean": "102,153,51", "std": "1"},
            {"mean": "0.4,0.6,0.2", "std": "0.00392157,0.00392157,0.00392157"},
        ),
        ({"mean": "127.5"}, {"mean": "0.5,0.5,0.5"}),
        ({"std": "51"}, {"std": "0.2,0.2,0.2"}),
    ],
)
def test_the_message_has_the_numbers_to_pass_and_they_are_taken(flags, right):
    with pytest.raises(FoldcamError, match="for pixels of 0 to 255") as caught:
        with_overrides(Preprocessing(), **flags)
    text = " ".join(f"--{name} {value}" for name, value in right.items())
    assert str(caught.value).endswith(f"pass {text}.")
    with_overrides(Preprocessing(), **right)


@pytest.mark.parametrize("flags", [{"mean": "0", "std": "1"}, {"mean": "1", "std": "0.5"}, {}])
def test_numbers_of_0_to_1_are_taken(flags):
    with_overrides(Preprocessing(), **flags)


def test_a_modules_own_preprocessing_is_looked_at_too():
    module = nn.Flatten()
    module.preprocessing = Preprocessing(mean=(127.5,) * 3, std=(128.0,) * 3)
    with pytest.raises(FoldcamError, match=r"attribute `preprocessing`: .*pass --mean 0\.5"):
        wrap_module(module)
