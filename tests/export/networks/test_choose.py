"""Which layer is the feature map: hand-drawn graphs, and shapes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foldcam.export.networks.feature_map import Layout, Step, choose, feeding, read_layout, select
from foldcam.runtime.system.errors import FoldcamError

MAP = Layout("nchw", (8, 5, 7))
TOKENS = Layout("tokens", (8, 5, 7), 1)


def image() -> Step:
    return Step((), 4, None, False)


def spatial(*inputs: int, spread: bool = True, linear: bool = False, layout=MAP) -> Step:
    return Step(inputs, 4, layout, spread, linear)


def pooled(*inputs: int) -> Step:
    return Step(inputs, 2, None, False)


def inner(*inputs: int, view: bool = False) -> Step:
    """Something of three dimensions that cannot be read as a map: heads of an attention."""
    return Step(inputs, 4, None, False, view=view)


def test_the_last_activation_before_the_pool():
    conv, relu = spatial(0, linear=True), spatial(1)
    assert choose([image(), conv, relu, pooled(2), pooled(3)]) == 2


def test_a_convolution_that_is_pooled_at_once():
    assert choose([image(), spatial(0), spatial(1, linear=True), pooled(2)]) == 2
    flattened = inner(2, view=True)
    assert choose([image(), spatial(0), spatial(1, linear=True), flattened, pooled(3)]) == 2


def test_a_gate_that_flows_back_is_no_way_around():
    squeezed = Step((1,), 4, None, False)
    gated = spatial(1, 2)
    assert choose([image(), spatial(0), squeezed, gated, pooled(3)]) == 3


def test_the_weights_of_an_attention_pooling_are_multiplied_in():
    # 1 is the map, 2 its scores (one channel), 3 the product.
    scores = spatial(1, layout=Layout("nchw", (1, 5, 7)))
    assert choose([image(), spatial(0), scores, spatial(1, 2), pooled(3)]) == 3


def test_branches_share_the_map_before_them():
    steps = [image(), spatial(0), spatial(1), spatial(2), spatial(2), pooled(3), pooled(4)]
    assert choose([*steps, pooled(5, 6)]) == 2


def test_two_networks_side_by_side_have_no_map_in_common():
    steps = [image(), spatial(0), spatial(0), pooled(1), pooled(2), pooled(3, 4)]
    assert choose(steps) is None
    assert feeding(steps) == [1, 2]


def test_two_candidates_are_asked_for_by_name():
    steps = [image(), spatial(0), spatial(0), pooled(1), pooled(2), pooled(3, 4)]
    with pytest.raises(FoldcamError, match=r"--layer: left \[8 x 5 x 7\], right \[8 x 5 x 7\]"):
        select(steps, ["image", "left", "right", "", "", ""])


@pytest.mark.parametrize(("height", "refused"), [(10, False), (40, True)])
def test_a_map_far_in_front_of_what_is_pooled_is_not_taken_silently(height, refused):
    early = spatial(0, layout=Layout("nchw", (4, height, 14)))
    steps = [image(), early, spatial(1), spatial(1), pooled(2), pooled(3), pooled(4, 5)]
    names = ["", "early", "left", "right", "", "", ""]
    if refused:
        with pytest.raises(FoldcamError, match="2 feature maps of different depth"):
            select(steps, names)
    else:
        found = select(steps, names)
        assert (found.position, found.pooled) == (1, (2, 3))


def test_one_map_that_is_pooled_twice_is_no_choice():
    found = select([image(), spatial(0), pooled(1), pooled(1), pooled(2, 3)], ["", "map", *"abc"])
    assert (found.position, found.pooled) == (1, ())


def test_a_class_token_looks_at_the_patches_before_its_last_attention():
    residual, norm = spatial(0, layout=TOKENS), spatial(1, layout=TOKENS)
    projected = [spatial(2, layout=TOKENS, linear=True) for _ in range(2)]
    heads = [inner(3, view=True), inner(4, view=True)]
    attention = inner(5, 6)
    # Behind it only the class token's gradient is left.
    added = spatial(1, 7, layout=TOKENS, spread=False)
    token = Step((8,), 2, None, False)
    steps = [image(), residual, norm, *projected, *heads, attention, added, token]
    assert choose(steps) == 2


def test_keys_and_values_in_one_product_are_no_map():
    norm, keys_and_values = (
        spatial(0, layout=TOKENS),
        spatial(1, layout=Layout("tokens", (16, 5, 7), 1), linear=True),
    )
    attention = inner(2)
    assert choose([image(), norm, keys_and_values, attention, pooled(3)]) == 1


def test_a_product_is_taken_where_there_is_nothing_else():
    mixed = inner(1)
    assert choose([image(), spatial(0, linear=True), mixed, pooled(2)]) == 1


def test_the_same_tokens_arranged_otherwise_are_not_taken_again():
    swapped = Step((1,), 3, Layout("tokens", (8, 5, 7), 1, tokens_first=True), True, view=True)
    assert choose([image(), spatial(0, layout=TOKENS), swapped, pooled(2)]) == 1
    # Channels first needs no step of its own in the folded graph.
    last, first = Layout("nhwc", (8, 5, 7)), Step((1,), 4, MAP, True, view=True)
    assert choose([image(), spatial(0, layout=last), first, pooled(2)]) == 2


def test_stripes_are_pooled_and_no_map():
    stripes = spatial(1, layout=Layout("nchw", (8, 6, 1)))
    assert choose([image(), spatial(0), stripes, pooled(2)]) == 1


@pytest.mark.parametrize(
    ("shape", "size", "grids", "layout"),
    [
        ((512, 7, 7), (224, 224), {(7, 7)}, Layout("nchw", (512, 7, 7))),
        ((512, 16, 8), (256, 128), (), Layout("nchw", (512, 16, 8))),
        ((7, 7, 768), (224, 224), {(56, 56)}, Layout("nhwc", (768, 7, 7))),
        ((7, 7, 7), (224, 224), {(7, 7)}, Layout("nchw", (7, 7, 7))),
        ((197, 768), (224, 224), {(14, 14)}, Layout("tokens", (768, 14, 14), 1)),
        ((197, 768), (224, 224), (), Layout("tokens", (768, 14, 14), 1)),
        ((261, 64), (224, 224), {(16, 16)}, Layout("tokens", (64, 16, 16), 5)),
        ((129, 64), (256, 128), (), Layout("tokens", (64, 16, 8), 1)),
        ((211, 64), (256, 128), {(21, 10)}, Layout("tokens", (64, 21, 10), 1)),
        ((49, 64), (224, 224), {(56, 56)}, Layout("tokens", (64, 7, 7))),
        # Heads of an attention, and its table from every token to every token.
        ((12, 197, 64), (224, 224), {(14, 14)}, None),
        ((12, 197, 197), (224, 224), {(14, 14)}, None),
        ((512, 1, 1), (224, 224), {(7, 7)}, None),
        ((49, 1), (224, 224), {(7, 7)}, None),
        ((197, 1000), (240, 240), {(30, 30)}, None),
        # The image itself.
        ((3, 224, 224), (224, 224), (), None),
        ((224, 224, 3), (224, 224), (), None),
    ],
)
def test_a_shape_is_read_as_a_map(shape, size, grids, layout):
    assert read_layout(shape, size, grids) == layout


@given(st.integers(2, 40), st.integers(2, 40), st.integers(2, 64), st.integers(0, 5), st.booleans())
def test_tokens_of_a_known_grid_are_read_with_as_few_left_over_as_possible(
    height, width, channels, skipped, known
):
    size = (height * 16, width * 16)
    grids = {(height, width)} if known else set()
    layout = read_layout((height * width + skipped, channels), size, grids)
    if known:
        assert layout == Layout("tokens", (channels, height, width), skipped)
    elif layout is not None:
        # Without a convolution the proportions decide, and fewer may be left over.
        _, rows, columns = layout.shape
        assert layout.skipped <= skipped
        assert rows * width == columns * height
