"""What one forward pass says of one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from foldcam.runtime.contract.schema import ScoreKind
from foldcam.runtime.images.given import ImageLike, as_image
from foldcam.runtime.images.preprocess import Affine, Image
from foldcam.runtime.model.drawing.style import (
    MAP_NAMES,
    Colormap,
    MapName,
    Mark,
    Style,
    check_name,
)
from foldcam.runtime.model.evidence import Place, Share, share_within, total
from foldcam.runtime.model.unanswered import reasons
from foldcam.runtime.model.vote import Vote
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.text import number_text

_SAID = 3  # neighbors in a result's repr


@dataclass(frozen=True)
class Timings:
    """Milliseconds spent on one image; a batch's inference is divided by its images."""

    preprocess_ms: float
    inference_ms: float


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """The embedding, the heatmap and the nearest training images of one image.

    Where the network returned numbers that are no answer (NaN, infinity, an embedding of zeros),
    `error` says so and `valid` is false: there are no neighbors, similarities, labels, no
    estimate and no runner-up, the maps are zeros, and only the embedding is as it was returned.

    At position `p` of the feature map, the contribution is `a . (S_p - mean of S_p over the
    training images)`, with the grad-weights `a` of the nearest bank row and the summands `S`; the
    heatmap is its positive part over its maximum. docs/method.md derives it from "Adapting
    Grad-CAM for Embedding Networks" (arXiv 2001.06538).

    Attributes:
        embedding: `float32 [D]`, the network's own output.
        heatmap: `float32 [h', w']` in [0, 1], over the network's input.
        neighbors: `int32 [k]`, bank rows, nearest first.
        similarities: `float32 [k]`, cosine to those rows, in [-1, 1]; of a classifier the scores
            of those classes, as the network returns them.
        labels: their `k` labels; empty for a continuous outcome.
        affine: maps pixels of the network's input to pixels of the frame.
        input_wh: width and height of the network's input in pixels.
        frame_wh: width and height of the image in pixels.
        timings: what it took.
        box: the region `(x, y, width, height)` of the frame, in its pixels, that the network
            was shown; None for the whole frame.
        estimate: the estimate of a continuous outcome, in its own unit; None for a model of labels.
        heatmap_lower: `float32 [h', w']` in [0, 1], what lowers the estimate, as `heatmap`
            is what raises it; both are shares of one maximum. None for a model of labels.
        error: why there is no answer, as a clause such as `the network returned NaN`; None
            where there is one.
        contribution: `float32 [h', w']`, signed, in units of cosine: what each position adds to
            the comparison. `heatmap` is its positive part over its maximum. None for a model
            without this output, as for `contrast` and what comes with it.
        contrast: `float32 [h', w']`, signed, in units of cosine: what each position says for
            the nearest label and not for the runner-up's.
        runner_up: the nearest bank row of another label.
        runner_up_label: the label of that row.
        runner_up_similarity: the cosine to that row, in [-1, 1].
        unknown: whether the rule in the model's contract says that the image shows none of the
            model's labels, `labels[0]` being merely the nearest; None for a model without one.
        scores: of a classifier, what `embedding` and `similarities` are: `logits`, or `softmax`,
            `log-softmax` or `sigmoid` of them. Rows are its classes then, and evidence,
            contributions and contrast are in units of the logit. None where similarities are
            cosines.
        known_score: what that rule compares with its threshold: the higher, the more likely the
            image shows a label of the bank.
        vote: what the frames of the last seconds say of this region together; None outside of a
            run with `FlowOptions.vote_seconds`, and for photographs.

    Example:
        >>> from foldcam import FoldedModel
        >>> result = FoldedModel.load("model.onnx")("photo.png")
        >>> result.answer, result.embedding.shape, result.contribution.shape
        ('red', (32,), (12, 12))
        >>> bool(result.heatmap.min() >= 0.0 and result.heatmap.max() == 1.0)
        True
        >>> x, y = result.hottest()  # in pixels of the frame
        >>> result.share((x - 16, y - 16, 32, 32)).evidence_for > 0.5
        True
    """

    embedding: npt.NDArray[np.float32]
    heatmap: npt.NDArray[np.float32]
    neighbors: npt.NDArray[np.int32]
    similarities: npt.NDArray[np.float32]
    labels: list[str]
    affine: Affine
    input_wh: tuple[int, int]
    frame_wh: tuple[int, int]
    timings: Timings
    estimate: float | None = None
    heatmap_lower: npt.NDArray[np.float32] | None = None
    box: tuple[int, int, int, int] | None = None
    error: str | None = None
    contribution: npt.NDArray[np.float32] | None = None
    contrast: npt.NDArray[np.float32] | None = None
    runner_up: int | None = None
    runner_up_label: str | None = None
    runner_up_similarity: float | None = None
    unknown: bool | None = None
    scores: ScoreKind | None = None
    known_score: float | None = None
    vote: Vote | None = None

    def __repr__(self) -> str:
        near = zip(self.labels, self.similarities, strict=False)
        said = [self.answer] if self.unknown or not self.labels else []
        said += [f"{label} {similarity:.2f}" for label, similarity in [*near][:_SAID]]
        rows, columns = self.heatmap.shape
        width, height = self.frame_wh
        return f"<Result {', '.join(said)}: map {rows} x {columns} of an image {width} x {height}>"

    @property
    def valid(self) -> bool:
        """Whether there is an answer; `error` says why not."""
        return self.error is None

    @property
    def answer(self) -> str:
        """The nearest row's label, `unknown`, or the estimate; `no answer` where there is none."""
        if self.error is not None:
            return "no answer"
        if self.unknown:
            return "unknown"
        return self.labels[0] if self.estimate is None else number_text(self.estimate)

    @property
    def evidence_for(self) -> float | None:
        """The sum of the positive contributions, in units of cosine.

        None without an answer, and for a model without the output `contribution`.
        """
        signed = self.contribution
        return total(signed) if self.valid and signed is not None else None

    @property
    def evidence_against(self) -> float | None:
        """The magnitude of the sum of the negative contributions; otherwise as `evidence_for`."""
        signed = self.contribution
        return total(-signed) if self.valid and signed is not None else None

    @property
    def no_evidence(self) -> bool:
        """Whether there is an answer, and no position of the image speaks for it.

        For a continuous outcome: whether none raises or lowers the estimate.
        """
        maps = [each for each in (self.heatmap, self.heatmap_lower) if each is not None]
        return self.valid and not any((each > 0.0).any() for each in maps)

    def share(self, box: Sequence[float]) -> Share:
        """How much of the evidence for the answer, and against it, lies in a box.

        A cell of the map that lies partly in the box counts by its area. What lies in a
        letterbox's padding is in no box, so that all of the frame may hold less than 1.

        Args:
            box: `(x, y, width, height)` in pixels of the frame; need not be whole or inside.

        Returns:
            Of `contribution`; of the heatmaps for a model without it, whose evidence against is
            unknown unless it has a `heatmap_lower`.

        Raises:
            FoldcamError: the box is not four finite numbers, or has no area.
        """
        shown = self.box or (0, 0, *self.frame_wh)
        signed = self.contribution
        if signed is None:
            signed = (
                self.heatmap if self.heatmap_lower is None else self.heatmap - self.heatmap_lower
            )
        place = Place(self.affine, self.input_wh, shown)
        return share_within(signed, place.overlap(box, signed.shape))

    def heat_on_frame(self, map: MapName = "heatmap") -> npt.NDArray[np.float32]:
        """What speaks for the answer, on every pixel of the image.

        The sum is kept: each cell's heat is spread smoothly over as many pixels as it covers.
        Beside a centre crop and outside of `box`, the heat is zero.

        Args:
            map: `heatmap`, or the positive part of `contribution` or `contrast` as a share of the
                greatest magnitude.

        Returns:
            `float32 [H, W]` in [0, 1].

        Raises:
            FoldcamError: the model does not have the map.

        Example:
            >>> from foldcam import FoldedModel
            >>> result = FoldedModel.load("model.onnx")("photo.png")
            >>> heat = result.heat_on_frame()
            >>> heat.shape == (result.frame_wh[1], result.frame_wh[0])
            True
        """
        # Loaded here, as in `draw`: naming a result in Python does not load OpenCV.
        from foldcam.runtime.model.drawing.maps import painted_maps

        check_name("map", map, MAP_NAMES)
        return painted_maps([self], map, self.frame_wh[::-1])[0]

    def draw(
        self,
        image: ImageLike,
        *,
        map: MapName = "heatmap",
        opacity: float = 0.6,
        colormap: Colormap = "turbo",
        threshold: float = 0.0,
        mark: Mark = "none",
        boxes: bool = True,
        caption: bool = False,
    ) -> Image:
        """The image with its heat, as `runtime run --save` draws it.

        Args:
            image: the one that this is the result of, as an array, a path, or a Pillow picture.
            map: which map is drawn. Of the signed ones, what speaks for the answer is warm and
                what speaks against it cold; for a continuous outcome, what raises the estimate
                and what lowers it.
            opacity: of the hottest place, in [0, 1].
            colormap: `turbo`, `inferno`, `viridis` or `jet`; a signed map has two colours.
            threshold: heat below it, in [0, 1], is not painted.
            mark: `none`, or `contour` or `box` around the hottest region.
            boxes: whether `box`, if there is one, is drawn with the answer beside it.
            caption: whether the answer is written below the picture, on a strip that is added.

        Returns:
            A new `uint8 [H, W, 3]` RGB; higher than the image by the strip with a caption.

        Raises:
            FoldcamError: the image cannot be read or has another size, the model does not have
                the map, or an option is out of range.

        Example:
            >>> from foldcam import FoldedModel, write_image
            >>> result = FoldedModel.load("model.onnx")("photo.png")
            >>> write_image("heat.png", result.draw("photo.png", mark="contour"))
        """
        from foldcam.runtime.model.drawing.picture import draw_picture

        pixels = as_image(image)
        height, width = pixels.shape[:2]
        if (width, height) != self.frame_wh:
            raise FoldcamError(
                f"The image is {width} x {height}, and this is the result of one of "
                f"{self.frame_wh[0]} x {self.frame_wh[1]}: give that one."
            )
        style = Style(opacity, colormap, threshold, mark, boxes, caption, map)
        style.check()
        return draw_picture(pixels, [self], style)

    def hottest(self) -> tuple[float, float] | None:
        """Centre `(x, y)` in frame pixels of the heatmap's maximum; None if nothing is hot."""
        return self._hottest_of(self.heatmap)

    def hottest_region(self) -> tuple[int, int, int, int] | None:
        """The box around the cells at least half as hot as the hottest and connected to it.

        Returns:
            `(x, y, width, height)` in whole pixels of the frame; None if nothing is hot, or only
            the padding of a letterbox.
        """
        from foldcam.runtime.model.drawing.picture import box_of, hottest_region

        mask = hottest_region(self.heatmap)
        if mask is None:
            return None
        column, row, across, down = box_of(mask)
        x, y = map(round, self._on_frame(column, row, mask.shape))
        right, bottom = map(round, self._on_frame(column + across, row + down, mask.shape))
        return None if x == right or y == bottom else (x, y, right - x, bottom - y)

    def hottest_lower(self) -> tuple[float, float] | None:
        """As `hottest`, of `heatmap_lower`; None for a model of labels, too."""
        return None if self.heatmap_lower is None else self._hottest_of(self.heatmap_lower)

    def _hottest_of(self, heatmap: npt.NDArray[np.float32]) -> tuple[float, float] | None:
        if heatmap.size == 0 or not heatmap.max() > 0.0:
            return None
        row, column = divmod(int(heatmap.argmax()), heatmap.shape[1])
        return self._on_frame(column + 0.5, row + 0.5, heatmap.shape)

    def _on_frame(self, column: float, row: float, cells: tuple[int, ...]) -> tuple[float, float]:
        """A place on a map of `(h', w')` cells, in pixels of the frame, within what was shown."""
        wide, high = self.input_wh[0] / cells[1], self.input_wh[1] / cells[0]
        x = self.affine.scale_x * wide * column + self.affine.offset_x
        y = self.affine.scale_y * high * row + self.affine.offset_y
        # In a letterbox a cell may lie in the padding beside the region.
        left, top, width, height = self.box or (0, 0, *self.frame_wh)
        return float(min(max(x, left), left + width)), float(min(max(y, top), top + height))


def draw_result(
    image: ImageLike, result: Result, opacity: float = 0.6, map: MapName = "heatmap"
) -> Image:
    """Draw the heat over the photograph, with a caption below; `Result.draw` has more options.

    Args:
        image: the one that `result` is of: `uint8 [H, W, 3]` RGB, a path, or a picture of Pillow's.
        result: what the model returned for it.
        opacity: of the hottest place, in [0, 1].
        map: `heatmap`, `contribution` or `contrast`; the signed maps have two colours.

    Returns:
        A new `uint8 [H + strip, W, 3]` RGB.

    Raises:
        FoldcamError: the image cannot be read or has another size, the model does not have the
            map, or the opacity is out of range.

    Example:
        >>> from foldcam import FoldedModel, draw_result, write_image
        >>> result = FoldedModel.load("model.onnx")("photo.png")
        >>> drawn = draw_result("photo.png", result, opacity=0.5)
        >>> drawn.dtype, drawn.shape[1], drawn.shape[0] > 96
        (dtype('uint8'), 96, True)
        >>> write_image("drawn.png", drawn)
    """
    return result.draw(image, opacity=opacity, map=map, caption=True)


def judged(result: Result) -> Result:
    """A result whose numbers are an answer, or one that says why they are none."""
    others = [
        result.heatmap, result.heatmap_lower, result.estimate, result.contribution, result.contrast,
        result.runner_up_similarity,
    ]  # fmt: skip
    (reason,) = reasons(
        result.embedding[None],
        result.similarities[None],
        [np.asarray(each, np.float32)[None] for each in others if each is not None],
        cosines=result.scores is None,
    )
    return result if reason is None else without_answer(result, reason)


def without_answer(result: Result, reason: str) -> Result:
    """The result of numbers that are no answer; see `Result`."""
    return replace(
        result,
        heatmap=np.zeros_like(result.heatmap),
        heatmap_lower=_zeros_like(result.heatmap_lower),
        neighbors=result.neighbors[:0],
        similarities=result.similarities[:0],
        labels=[],
        estimate=None,
        error=reason,
        contribution=_zeros_like(result.contribution),
        contrast=_zeros_like(result.contrast),
        runner_up=None,
        runner_up_label=None,
        runner_up_similarity=None,
        unknown=None,
        known_score=None,
    )


def _zeros_like(heatmap: npt.NDArray[np.float32] | None) -> npt.NDArray[np.float32] | None:
    return None if heatmap is None else np.zeros_like(heatmap)
