"""What a feature map is, and which one to take, whatever framework the graph came from.

A layer is spatial if its output can be read as `[K, h, w]`: channels first, channels
last, or tokens (a transformer's patches behind its class token and registers). Which of
them is the feature map is a question about the gradient: the last layer through which
everything spatial that the embedding depends on must pass.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from foldcam.runtime.contract.explanation import FEW_CELLS
from foldcam.runtime.system.errors import FoldcamError


class UnknownLayerError(FoldcamError):
    """The network has no layer of the name that was asked for."""


Kind = Literal["nchw", "nhwc", "tokens"]
Grid = tuple[int, int]

# More than class token, distillation token and registers of any network in use.
_MOST_SKIPPED = 16
# Positions of a map over those of another behind it: one stage of a network at most.
_MUCH_FINER = 4


@dataclass(frozen=True)
class Layout:
    """How a tensor `[N, ...]` is read as feature maps `[N, K, h, w]`.

    Attributes:
        kind: `nchw` `[N, K, h, w]`, `nhwc` `[N, h, w, K]`, or `tokens`
            `[N, skipped + h * w, K]`, `[skipped + h * w, N, K]` with `tokens_first`.
        shape: `(K, h, w)`.
        skipped: tokens before the first patch: class token, registers.
        tokens_first: whether tokens go before images, as torch's attention has it.
    """

    kind: Kind
    shape: tuple[int, int, int]
    skipped: int = 0
    tokens_first: bool = False


@dataclass(frozen=True)
class Layer:
    """A place in the network whose output is spatial.

    Attributes:
        name: what `--layer` accepts.
        layout: how its output is read as a feature map.
    """

    name: str
    layout: Layout

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(K, h, w)`."""
        return self.layout.shape


@dataclass(frozen=True)
class Step:
    """One value of the network's graph, on its way from the image to the embedding.

    Attributes:
        inputs: positions of the values that it is computed from, in the order of the graph.
        layout: how it is read as a feature map, None where it is not spatial.
        spread: whether the embedding's gradient reaches more than one of its positions.
        linear: whether it is a convolution's or a matrix product's own output, before
            normalisation and activation.
        view: whether it only rearranges its input's numbers.
    """

    inputs: tuple[int, ...]
    rank: int
    layout: Layout | None
    spread: bool
    linear: bool = False
    view: bool = False


def describe(layers: Sequence[Layer], most: int = 12) -> str:
    """The last few layers with their shapes, for a message."""
    shown = [f"{each.name} [{' x '.join(map(str, each.shape))}]" for each in layers[-most:]]
    return ("... " if len(layers) > most else "") + ", ".join(shown)


def read_layout(
    shape: tuple[int, ...], image_size: Grid, grids: Collection[Grid] = ()
) -> Layout | None:
    """How a tensor is read as a feature map, from its shape alone.

    Channels first goes before channels last where both fit.

    Args:
        shape: without the batch.
        image_size: `(height, width)` of the input.
        grids: `(h, w)` of convolutions' outputs and the like, which are known for certain.
            Others are taken if merging of patches makes them of these, or without any of
            these if they have the image's proportions.

    Returns:
        None where neither `(h, w)` nor the number of tokens fits.
    """
    if len(shape) == 3:
        first, second, third = shape
        if shape in ((first, *image_size), (*image_size, third)) and min(first, third) <= 3:
            # The image itself, normalised or flipped.
            return None
        if _fits((second, third), image_size, grids):
            return Layout("nchw", (first, second, third))
        if _fits((first, second), image_size, grids):
            return Layout("nhwc", (third, first, second))
    if len(shape) == 2:
        tokens, channels = shape
        if channels == 1:
            # One number per channel, pooled.
            return None
        found = _token_grid(tokens, image_size, grids)
        if found is not None:
            height, width = found
            return Layout("tokens", (channels, height, width), tokens - height * width)
    return None


@dataclass(frozen=True)
class Value:
    """One value of the network's graph, as far as its layout depends on it.

    Attributes:
        shape: without the batch.
        inputs: positions of the values that it is computed from.
        spatial: whether its last two dimensions are positions for certain: what
            convolutions, pools and resizing return.
        view: whether it only rearranges its input's numbers.
        transposed: whether it does so by exchanging dimensions.
        tokens_first: whether the batch is the second dimension, and not the first.
    """

    shape: tuple[int, ...]
    inputs: tuple[int, ...] = ()
    spatial: bool = False
    view: bool = False
    transposed: bool = False
    tokens_first: bool = False


def read_layouts(values: Sequence[Value], image_size: Grid) -> list[Layout | None]:
    """How every value of a graph is read as a feature map."""
    grids = {
        (value.shape[1], value.shape[2])
        for value in values
        if value.spatial and len(value.shape) == 3 and min(value.shape[1:]) > 1
    }
    layouts: list[Layout | None] = []
    # Channels before positions in two dimensions, `[N, K, h * w]`: no tokens, even where K
    # is the number of some grid's positions.
    flat: list[bool] = []
    for value in values:
        is_flat = len(value.shape) == 2 and _is_flat(value, values, layouts, flat)
        flat.append(is_flat)
        layout = None if is_flat else read_layout(value.shape, image_size, grids)
        if value.tokens_first and layout is not None:
            is_tokens = layout.kind == "tokens"
            layout = replace(layout, tokens_first=True) if is_tokens else None
        layouts.append(layout)
    return layouts


def _is_flat(
    value: Value, values: Sequence[Value], layouts: Sequence[Layout | None], flat: Sequence[bool]
) -> bool:
    source = value.inputs[0] if value.inputs else None
    layout = None if source is None else layouts[source]
    if value.transposed and source is not None:
        is_tokens = layout is not None and layout.kind == "tokens"
        return is_tokens and values[source].shape == value.shape[::-1]
    if value.view and layout is not None and layout.kind == "nchw":
        channels, height, width = layout.shape
        return value.shape == (channels, height * width)
    return any(flat[each] and values[each].shape == value.shape for each in value.inputs)


@dataclass(frozen=True)
class Selection:
    """The feature map of a graph.

    Attributes:
        position: the position of the feature map among the steps.
        pooled: positions of the maps that are pooled on ways of their own, where they are
            several that all come from the feature map.
        finer: position of the last map of `FEW_CELLS` or more that everything spatial passes,
            where the feature map has fewer.
    """

    position: int
    pooled: tuple[int, ...] = ()
    finer: int | None = None


def select(steps: Sequence[Step], names: Sequence[str]) -> Selection:
    """The feature map, or one sentence that asks for it.

    Args:
        names: what `--layer` accepts for each step.
    """
    found = choose(steps)
    pooled = feeding(steps)
    layers = {
        position: Layer(names[position], step.layout)
        for position, step in enumerate(steps)
        if step.layout is not None
    }
    if found is None:
        if len(pooled) > 1:
            raise FoldcamError(
                f"{len(pooled)} feature maps lead to the embedding on ways of their own: choose "
                f"one with --layer: {describe([layers[each] for each in pooled])}."
            )
        raise FoldcamError(
            "No feature map was found through which alone the embedding depends on the image: "
            f"choose one with --layer: {describe(list(layers.values()))}."
        )
    finer = None
    if _cells(layers[found]) < FEW_CELLS:
        finer = choose(steps, FEW_CELLS)
    if all(each == found for each in pooled):
        return Selection(found, finer=finer)
    areas = {each: _cells(layers[each]) for each in (found, *pooled)}
    if areas[found] > _MUCH_FINER * min(areas.values()):
        raise FoldcamError(
            f"{len(pooled)} feature maps of different depth lead to the embedding: choose one "
            f"with --layer: {describe([layers[each] for each in pooled])}."
        )
    return Selection(found, tuple(pooled), finer)


def _cells(layer: Layer) -> int:
    return layer.shape[1] * layer.shape[2]


def choose(steps: Sequence[Step], least: int = 0) -> int | None:
    """The position of the feature map.

    It is the last spatial value that everything spatial must pass: no path on which the
    gradient of the embedding is spread over positions leads around it. So it lies before
    several pooling branches, after an attention pooling's weights are multiplied in, and
    before the attention through which a class token looks at the patches. A squeeze and
    excitation, which pools and flows back into the map, is no way around.

    Args:
        least: cells that it must have; coarser maps are passed over.

    Returns:
        None where there is no such value: two networks side by side, each with a map
        of its own, or nothing spatial at all.
    """
    spatial = [step.layout is not None and step.spread for step in steps]
    live = _live(steps, spatial)
    users: list[list[int]] = [[] for _ in steps]
    for position, step in enumerate(steps):
        for source in step.inputs:
            users[source].append(position)
    end = len(steps)
    # The furthest value that is reached from before, without passing the one at hand.
    furthest = -1
    chosen = raw = None
    # The chosen value, and the same numbers arranged otherwise.
    same: set[int] = set()
    for position in range(len(steps)):
        if not live[position]:
            continue
        step = steps[position]
        if furthest <= position and spatial[position]:
            assert step.layout is not None
            again = step.view and any(source in same for source in step.inputs)
            if again and step.layout.kind != "nchw":
                same.add(position)
            elif min(step.layout.shape) > 1 and math.prod(step.layout.shape[1:]) >= least:
                raw = position
                if _is_activation(position, steps, users):
                    chosen = position
                    same = {position}
        for user in users[position]:
            if live[user]:
                furthest = max(furthest, user)
            elif steps[user].layout is None:
                # Pooled: from here the way leads to the embedding and nowhere else.
                furthest = end
    return raw if chosen is None else chosen


def feeding(steps: Sequence[Step]) -> list[int]:
    """Positions of the spatial values that are pooled, each a candidate of its own."""
    spatial = [step.layout is not None and step.spread for step in steps]
    live = _live(steps, spatial)
    return [
        source
        for source, is_spatial in enumerate(spatial)
        if is_spatial
        and any(
            source in step.inputs and not live[user] and step.layout is None
            for user, step in enumerate(steps)
        )
    ]


def _live(steps: Sequence[Step], spatial: Sequence[bool]) -> list[bool]:
    """Which values carry something spatial on.

    A value that cannot be read as a map does so where a map lies behind it (the gate of a
    squeeze and excitation), or where it has three dimensions or more and came from one
    that does (heads of an attention, windows).
    """
    leads_to_map = list(spatial)
    for position in reversed(range(len(steps))):
        if leads_to_map[position]:
            for source in steps[position].inputs:
                leads_to_map[source] = True
    live = [False] * len(steps)
    for position, step in enumerate(steps):
        if step.layout is not None:
            live[position] = step.spread
        else:
            inherited = step.rank >= 3 and any(live[source] for source in step.inputs)
            live[position] = leads_to_map[position] or inherited
    return live


def _is_activation(position: int, steps: Sequence[Step], users: Sequence[Sequence[int]]) -> bool:
    """Whether a value is more than a product that normalisation or activation still follow.

    A convolution that is pooled at once counts; the queries, keys and values of an
    attention, in one matrix product, do not.
    """
    if not steps[position].linear:
        return True
    waiting, seen = list(users[position]), set()
    while waiting:
        user = waiting.pop()
        if user in seen:
            continue
        seen.add(user)
        if steps[user].view and steps[user].rank >= 3:
            waiting.extend(users[user])
        elif steps[user].rank >= 3:
            return False
    return True


def _fits(grid: Grid, image_size: Grid, grids: Collection[Grid]) -> bool:
    """Whether `(h, w)` is the image at a smaller scale."""
    height, width = grid
    if min(grid) < 1 or grid == (1, 1):
        return False
    if grids:
        return grid in with_halves(grids)
    rows, columns = image_size
    if height > rows or width > columns:
        return False
    # To within one position, since every convolution rounds.
    return abs(columns * height / rows - width) <= 1 or abs(rows * width / columns - height) <= 1


def with_halves(grids: Collection[Grid]) -> set[Grid]:
    """The grids, and those that merging of patches two by two makes of them."""
    result = set(grids)
    for height, width in grids:
        while height > 1 and width > 1:
            height, width = (height + 1) // 2, (width + 1) // 2
            result.add((height, width))
    return {grid for grid in result if grid != (1, 1)}


def _token_grid(tokens: int, image_size: Grid, grids: Collection[Grid]) -> Grid | None:
    """`(h, w)` of the patches among a number of tokens: as few as possible left over."""
    known = [grid for grid in with_halves(grids) if min(grid) > 1]
    fitting = [grid for grid in known if 0 <= tokens - grid[0] * grid[1] <= _MOST_SKIPPED]
    if known:
        return max(fitting, key=lambda grid: grid[0] * grid[1], default=None)
    # Patches cut by reshaping, without a convolution: exactly the image's proportions.
    rows, columns = image_size
    for skipped in range(_MOST_SKIPPED + 1):
        patches = tokens - skipped
        for height in range(2, patches // 2 + 1):
            width = patches // height
            if height * width == patches and height * columns == width * rows:
                return height, width
    return None
