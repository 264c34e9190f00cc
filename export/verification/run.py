"""Verify: folded models against the network they came from, on the same images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from foldcam.export.banks.bank import Bank
from foldcam.export.datasets import SkippedFile
from foldcam.export.verification.compared import (
    MOST_LEVELS,
    ComparedModel,
    FrameInput,
    NetworkSource,
    UnfoldedSource,
)
from foldcam.export.verification.comparison import Comparison, ImagePair
from foldcam.export.verification.formulas import NetworkValues, expected_outputs
from foldcam.export.verification.images import ImagesToVerify, NamedImage
from foldcam.export.verification.pair_report import LIMITS, PairReport
from foldcam.runtime.model.model_input import ModelInput
from foldcam.runtime.system.errors import FoldcamError

if TYPE_CHECKING:
    from foldcam.export.networks.cut import Network


@dataclass(frozen=True)
class VerifyReport:
    """Every folded model against the reference.

    Attributes:
        path: the folded model.
        reference: what it was compared with, in words.
        pairs: the model's own report first, then those of the others in their order.
        worst: for each pair, the images on which it differs most, worst first.
        skipped: images that could not be read.
        notes: what the user should know, one sentence each.
        network_compared: whether the reference is the network itself, and not what the folded
            model holds of it.
        frame_difference: of a model of whole frames, the greatest difference of a pixel of the
            network's input from the host's preprocessing, in grey levels of 255.
    """

    path: Path
    reference: str
    pairs: tuple[PairReport, ...]
    worst: tuple[tuple[ImagePair, ...], ...] = ()
    skipped: tuple[SkippedFile, ...] = ()
    notes: list[str] = field(default_factory=list)
    network_compared: bool = True
    frame_difference: int | None = None

    @property
    def main(self) -> PairReport:
        """The model's own."""
        return self.pairs[0]

    @property
    def failures(self) -> tuple[str, ...]:
        """The failures of every pair; those of the other models begin with their name."""
        others = (f"{pair.name}: {text}" for pair in self.pairs[1:] for text in pair.failures)
        apart = self.frame_difference
        made = [] if apart is None or apart <= MOST_LEVELS else [_frame_text(apart)]
        return (*made, *self.main.failures, *others)

    @property
    def passed(self) -> bool:
        """Whether every limit of every pair holds."""
        return not self.failures

    def document(self) -> dict[str, Any]:
        """For `--json`: the model's own figures, and under `against` those of the others."""
        return {
            **self.main.document(),
            "model": str(self.path),
            "reference": self.reference,
            "network_compared": self.network_compared,
            "frame_difference": self.frame_difference,
            "against": [pair.document() for pair in self.pairs[1:]],
            "skipped": [{"path": str(s.path), "reason": s.reason} for s in self.skipped],
            "notes": self.notes,
            "failures": list(self.failures),
            "passed": self.passed,
        }


def verify_model(
    model_path: Path | str,
    network: Network | None,
    images: Iterable[NamedImage],
    *,
    against: Sequence[Path] = (),
    batch_size: int = 8,
    keep_worst: int = 3,
    progress: Callable[[str, int, int], None] | None = None,
) -> VerifyReport:
    """Compare folded models with the network and the bank that they come from.

    The reference is computed with the formulas of `foldcam.export.verification.formulas` (those
    of docs/method.md) and not by the folded graph; embedding and feature map come from the
    network. Images are streamed: what is kept are numbers, and the worst images of each pair.

    Args:
        model_path: the folded model.
        network: the network it came from, cut at its layer. None takes the network out of
            the folded model itself, which checks what was grafted and nothing before it.
        images: at least one `uint8 [H, W, 3]` RGB with its name, as `images_to_verify` gives
            them.
        against: other folded models of the same network and preprocessing: rounded,
            quantized, with another storage of the bank, or with another bank.
        batch_size: images per pass.
        keep_worst: images to keep of each pair.
        progress: called after each batch with the images done and in all, where these are known.

    Raises:
        FoldcamError: the network is another one than the models', a model cannot be read
            or run, or there are no images.

    Example:
        >>> from foldcam import images_to_verify, load_dataset, load_model
        >>> from foldcam import read_contract, verify_model
        >>> contract = read_contract("model.onnx")
        >>> network = load_model("my_network:make_network").network(contract.layer)
        >>> images = images_to_verify(load_dataset("photos"), contract, most=4)
        >>> report = verify_model("model.onnx", network, images)
        >>> report.passed, report.failures
        (True, ())
    """
    model_path = Path(model_path)
    with ExitStack() as stack:
        main = stack.enter_context(closing(ComparedModel(model_path)))
        others = [stack.enter_context(closing(ComparedModel(path))) for path in against]
        if main.bank is None or main.model is None:
            raise FoldcamError(f"{model_path} is not an .onnx file, whose bank could be read.")
        for other in others:
            _check_comparable(main, other)
        source: NetworkSource | UnfoldedSource
        if network is not None:
            source = NetworkSource(network, main.contract, model_path)
        else:
            source = UnfoldedSource(main.model, main.contract)
        given = ModelInput(main.contract)
        made = None if main.contract.frame is None else FrameInput(main.model, main.contract)
        pairs = [_Pair(main, main.bank, "its own", keep_worst)]
        pairs += [_Pair(other, *_bank_for(other, main, main.bank), keep_worst) for other in others]
        total = len(images) if isinstance(images, Sized) else 0
        done = 0
        for batch in _batches(images, batch_size):
            pictures = np.stack([given.picture(item.image)[0] for item in batch])
            resized = pictures if made is None else made(pictures)
            values = source.run(resized)
            for pair in pairs:
                pair.compare(pictures, resized, values, [item.name for item in batch])
            done += len(batch)
            if progress is not None and total:
                progress("comparing", done, total)
    skipped = tuple(images.skipped) if isinstance(images, ImagesToVerify) else ()
    return VerifyReport(
        path=model_path,
        reference=source.name,
        pairs=tuple(pair.report() for pair in pairs),
        worst=tuple(tuple(pair.comparison.worst()) for pair in pairs),
        skipped=skipped,
        network_compared=network is not None,
        frame_difference=None if made is None else made.difference,
    )


def _frame_text(apart: int) -> str:
    return (
        f"the network's input that the graph makes of a frame is off by {apart} of 255 grey levels "
        "from the host's preprocessing"
    )


class _Pair:
    """One folded model and its comparison with the reference."""

    def __init__(self, model: ComparedModel, bank: Bank, whose: str, keep_worst: int) -> None:
        self._model = model
        self._bank = bank
        self._whose = whose
        self.comparison = Comparison(bank, model.contract, keep_worst)

    def compare(
        self,
        pictures: npt.NDArray[np.uint8],
        resized: npt.NDArray[np.uint8],
        values: NetworkValues,
        names: list[str],
    ) -> None:
        model = self._model
        stored = model.stored if self._whose == "its own" else None
        expected = expected_outputs(values, self._bank, model.contract, stored)
        answers = model.run(pictures, self._bank)
        self.comparison.add(answers, expected, names, list(resized))

    def report(self) -> PairReport:
        model = self._model
        # Compared with its own bank, how a file stores the rows costs nothing.
        precision = model.precision(with_bank=self._whose != "its own")
        return self.comparison.report(
            LIMITS[precision],
            precision,
            name=model.name,
            library=model.library,
            bank=self._whose,
            bank_intact=model.bank_intact(),
        )


def _bank_for(other: ComparedModel, main: ComparedModel, bank: Bank) -> tuple[Bank, str]:
    """The model's bank where both hold the same rows, perhaps stored otherwise."""
    mine, theirs = main.contract, other.contract
    same = (
        mine.labels == theirs.labels
        and mine.origin.data_sha256 == theirs.origin.data_sha256
        and mine.bank.rows == theirs.bank.rows
        and mine.bank.objective == theirs.bank.objective
        and mine.bank.channel_rule == theirs.bank.channel_rule
    )
    if same:
        return bank, "the model's"
    if other.bank is None:
        raise FoldcamError(
            f"{other.path} was built from another bank than {main.path}, and its own cannot be "
            "read from it: compare it with the .onnx that it was built from."
        )
    return other.bank, "its own"


def _check_comparable(main: ComparedModel, other: ComparedModel) -> None:
    mine, theirs = main.contract, other.contract
    for what, has, needs in (
        ("network", theirs.origin.network_sha256[:12], mine.origin.network_sha256[:12]),
        ("layer", theirs.layer, mine.layer),
        ("embedding size", theirs.bank.embedding_size, mine.bank.embedding_size),
        ("preprocessing", theirs.preprocessing, mine.preprocessing),
        ("size of images", *(" x ".join(map(str, each.image_size)) for each in (theirs, mine))),
        ("outcome", theirs.outcome is not None, mine.outcome is not None),
    ):
        if has != needs:
            raise FoldcamError(
                f"{other.path} and {main.path} cannot be compared: the {what} is {has} in the one "
                f"and {needs} in the other; give models of one network."
            )


def _batches(images: Iterable[NamedImage], size: int) -> Iterator[list[NamedImage]]:
    iterator = iter(images)
    empty = True
    while batch := list(islice(iterator, size)):
        empty = False
        yield batch
    if empty:
        raise FoldcamError("There are no images to compare on.")
