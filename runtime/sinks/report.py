"""A run as one HTML page that can be looked at and sent: pictures, answers, matches, figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from foldcam.runtime.contract.schema import Contract
from foldcam.runtime.images.listing import counted, in_words
from foldcam.runtime.images.page import open_page
from foldcam.runtime.images.preprocess import scaled
from foldcam.runtime.images.small import fitted
from foldcam.runtime.model.drawing.style import Style
from foldcam.runtime.model.frame_results import FrameResults
from foldcam.runtime.model.result import Result
from foldcam.runtime.sinks.base import PendingFile, Sink, check_writable
from foldcam.runtime.sinks.report_page import (
    SCRIPT,
    STYLE,
    card,
    controls,
    figures,
    heading,
    label_of,
    listed,
)
from foldcam.runtime.sources.base import Source, left_out_of
from foldcam.runtime.system.monitor import Percentiles
from foldcam.runtime.system.redaction import redacted

PAGE = "report.html"
MOST_CARDS = 400
"""Pictures of a page at most: about 16 MB."""
SIDE = 400
"""Pixels of a picture's longer side, at most."""
SECONDS = 10.0
"""Of a film or a camera a picture is kept so often, although its answer stays the same."""
LEAST_SECONDS = 1.0
"""And never more often, although its answer changes."""
_MOST_LABELS = 10_000
_MOST_LINES = 1000


class ReportSink(Sink):
    """Writes `report.html` at the end of the run; what it keeps until then is bounded.

    Every photograph has a card with its picture. Of films and cameras a frame has one when its
    answer changes, at most once a second, and every ten seconds. Above `MOST_CARDS` every second
    card is dropped, and from then on every second picture left out: the whole run stays covered.
    """

    name = "report"

    def __init__(
        self, folder: Path, sources: Sequence[Source], contract: Contract | None = None
    ) -> None:
        self._path = folder / PAGE
        self._sources, self._contract = sources, contract
        check_writable(folder)
        self._claim = PendingFile(self._path)
        self.output = str(self._path)
        self._cards: list[str] = []
        self._candidates, self._stride = 0, 1
        self._latest: dict[int, tuple[float, list[str]]] = {}
        self._count: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._labels: Counter[str] = Counter()
        self._network = Percentiles()
        self._estimates = self._matches = False

    def write(self, item: FrameResults) -> None:
        """Count one frame, and keep its picture if it is one of those that are shown."""
        self._count["frames"] += 1
        for result in item.results:
            self._add(result)
        if not self._wanted(item):
            return
        self._candidates += 1
        if (self._candidates - 1) % self._stride:
            return
        style = replace(item.style, caption=False, beside=False)
        self._matches = self._matches or item.gallery is not None
        self._cards.append(card(smaller(item, SIDE, style), self._name(item)))
        if len(self._cards) > MOST_CARDS:
            del self._cards[1::2]
            self._stride *= 2

    def close(self, failed: bool) -> None:
        """Write the page; after a failure only that of a live source, which cannot be had again."""
        try:
            live = any(source.live for source in self._sources)
            if self._count["frames"] and (live or not failed):
                self._write_page()
                self._claim.finish()
        finally:
            self._claim.abandon()

    def _add(self, result: Result) -> None:
        count = self._count
        count["regions"] += 1
        count["answers"] += result.valid
        count["known rule"] += result.unknown is not None
        count["unknown"] += bool(result.unknown)
        count["no evidence"] += result.no_evidence
        if result.error is not None:
            self._errors[result.error] += 1
        elif result.estimate is not None:
            self._estimates = True
        elif label_of(result) in self._labels or len(self._labels) < _MOST_LABELS:
            self._labels[label_of(result)] += 1
        self._network.add(result.timings.inference_ms)

    def _wanted(self, item: FrameResults) -> bool:
        frame = item.frame
        if self._sources[frame.stream].stills:
            return True
        # An estimate changes with every frame.
        answers = [
            "" if result.valid and result.estimate is not None else (result.vote or result).answer
            for result in item.results
        ]
        before, known = self._latest.get(frame.stream, (-SECONDS, None))
        waited = frame.timestamp - before
        # Of a clock that was set back nothing is known.
        if 0.0 <= waited < (LEAST_SECONDS if answers != known else SECONDS):
            return False
        self._latest[frame.stream] = frame.timestamp, answers
        return True

    def _name(self, item: FrameResults) -> str:
        frame = item.frame
        name = redacted(str(frame.name))
        return name if self._sources[frame.stream].stills else f"{name} at {frame.timestamp:.1f} s"

    def _write_page(self) -> None:
        stills = all(source.stills for source in self._sources)
        names = redacted(", ".join(source.name for source in self._sources))
        title = f"foldcam: {names}"
        with open_page(self._claim.temporary, title, STYLE, SCRIPT) as page:
            page.write(heading(names, self._contract))
            page.write(figures(self._figures("photographs" if stills else "frames")))
            for line in self._remarks(stills):
                page.write(f'<p class="quiet">{line}</p>\n')
            kinds = {"blank": "no evidence", "silent": "no answer"}
            if self._count["known rule"]:
                kinds = {"unknown": "unknown", "known": "known", **kinds}
            page.write(controls(self._labels, self._estimates, kinds))
            page.write('<div class="cards" id="cards">\n')
            page.writelines(self._cards)
            page.write("</div>\n")
            for title_, lines in self._lists().items():
                page.write(listed(title_, lines))

    def _figures(self, what: str) -> dict[str, str]:
        count = self._count
        skipped = sum(len(source.skipped) for source in self._sources)
        shown = {what: count["frames"]}
        if count["regions"] != count["frames"]:
            shown["regions"] = count["regions"]
        shown["answers"] = count["answers"]
        if count["known rule"]:
            shown["unknown"] = count["unknown"]
        shown |= {"without evidence": count["no evidence"],
                  "no answer": sum(self._errors.values()), "not read": skipped}  # fmt: skip
        numbers = {name: f"{number:,}" for name, number in shown.items()}
        if self._network.count:
            numbers["the network, median"] = f"{self._network.at(0.5):.1f} ms"
        return numbers

    def _remarks(self, stills: bool) -> list[str]:
        """What is shown, where that is not everything; and whether there are matches."""
        remarks = []
        if not stills:
            remarks.append(
                f"Of films and cameras a picture is shown when the answer changes, at most every "
                f"{LEAST_SECONDS:g} s, and every {SECONDS:g} s."
            )
        if self._stride > 1:
            remarks.append(
                f"One of {self._stride} of these pictures is shown, {len(self._cards):,} in all; "
                "the figures count every one, and so does a file of --jsonl."
            )
        # Of a bank that is an input there can be none.
        if not self._matches and (self._contract is None or self._contract.bank_input is None):
            remarks.append(
                "The model has no gallery, so the pictures that were matched are not shown; "
                "foldcam gallery makes one."
            )
        return remarks

    def _lists(self) -> dict[str, list[str]]:
        labels = self._labels.most_common(_MOST_LINES)
        skipped = [
            redacted(f"{skip.path}: {skip.reason}")
            for source in self._sources
            for skip in source.skipped
        ]
        more = [f"and {len(skipped) - _MOST_LINES:,} more"] if len(skipped) > _MOST_LINES else []
        left_out = in_words(
            counted(item for source in self._sources for item in left_out_of(source))
        )
        return {
            "Nearest labels": [f"{label}: {count:,}" for label, count in labels],
            "No answer": [f"{count:,}: {cause}" for cause, count in self._errors.most_common()],
            "Not read": skipped[:_MOST_LINES] + more,
            "Left out, because they are no pictures": [redacted(line) for line in left_out],
        }


def smaller(item: FrameResults, side: int, style: Style) -> FrameResults:
    """The same frame with its longer side at most so many pixels."""
    image = fitted(item.frame.image, side, side)
    size = image.shape[1], image.shape[0]
    results = [_scaled(result, size) for result in item.results]
    return FrameResults(replace(item.frame, image=image), results, style, gallery=item.gallery)


def _scaled(result: Result, size: tuple[int, int]) -> Result:
    across, down = (new / old for new, old in zip(size, result.frame_wh, strict=True))
    box = result.box
    if box is not None:
        left, top = min(int(box[0] * across), size[0] - 1), min(int(box[1] * down), size[1] - 1)
        box = (
            left, top,
            max(1, min(round(box[2] * across), size[0] - left)),
            max(1, min(round(box[3] * down), size[1] - top)),
        )  # fmt: skip
    return replace(result, affine=scaled(result.affine, across, down), frame_wh=size, box=box)
