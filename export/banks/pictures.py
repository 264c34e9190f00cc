"""The pictures of a bank's rows, found again in the data set that they came from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property

from foldcam.export.banks.bank import Bank
from foldcam.export.datasets import Dataset, Sample
from foldcam.export.datasets.reading import open_picture
from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.system.errors import FoldcamError


class RowPictures:
    """Finds a row's picture by its name, and where that is another picture by its hash.

    Args:
        dataset: where their pictures are; None finds none.

    Attributes:
        missing: rows that were asked for and not found.
    """

    def __init__(self, bank: Bank, dataset: Dataset | None) -> None:
        self._samples = () if dataset is None else dataset.samples
        self._by_name = {sample.row_name: sample for sample in self._samples}
        self._names, self._hashes = bank.row_names(), bank.image_hashes
        self.missing: set[int] = set()

    def get(self, row: int) -> Image | None:
        """`uint8 [H, W, 3]` RGB, or None where it is not there or cannot be read."""
        named = self._by_name.get(self._names[row])
        image = None if named is None else self._read(named, row)
        if image is None and self._hashes is not None:
            same = self._by_hash.get(self._hashes[row].tobytes().hex())
            image = None if same is None else self._read(same, row)
        if image is None:
            self.missing.add(row)
        return image

    def _read(self, sample: Sample, row: int) -> Image | None:
        try:
            file = open_picture(sample)
            if self._hashes is None or file.sha256 == self._hashes[row].tobytes().hex():
                return file.decoded().image
        except FoldcamError:
            pass
        return None

    @cached_property
    def _by_hash(self) -> dict[str, Sample]:
        """Every file is read for it, so only where a name does not lead to the picture."""
        return {digest: sample for sample, digest in hashed(self._samples)}


def hashed(samples: Iterable[Sample]) -> Iterator[tuple[Sample, str]]:
    """The images that can be read, each with its hash, see `picture_hash`."""
    for sample in samples:
        try:
            yield sample, open_picture(sample).sha256
        except FoldcamError:
            continue
