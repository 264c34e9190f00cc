"""A backend of your own: a folded model in ONNX's reference evaluator, which is plain NumPy.

    python examples/backend.py model.onnx photo.png

prints its answer, and how far its embedding is from that of ONNX Runtime.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from onnx.reference import ReferenceEvaluator

from foldcam import Contract, FoldcamError, FoldedModel, read_contract, read_image
from foldcam.runtime.backends import Array


class ReferenceBackend:
    """Slow, exact, and without a library to install.

    Args:
        path: of the folded `.onnx`.

    Raises:
        FoldcamError: it is no folded model.
    """

    name = "onnx reference"
    device = "cpu"

    def __init__(self, path: Path) -> None:
        # First: it refuses by name what is no folded model, before a library reads the file.
        self.contract: Contract = read_contract(path)
        self._evaluator: Any = ReferenceEvaluator(str(path))

    def run(self, images: Array) -> dict[str, Array]:
        """One forward pass; see `foldcam.runtime.backends.Backend`."""
        try:
            outputs = self._evaluator.run(None, {"image": images})
        except MemoryError:
            raise
        except Exception as error:
            raise FoldcamError(f"The reference evaluator failed: {error}.") from error
        return dict(zip(self._evaluator.output_names, outputs, strict=True))

    def close(self) -> None:
        """Give the memory back."""
        self._evaluator = None


def main(path: Path, photo: Path) -> None:
    """Compare the backend with ONNX Runtime."""
    image = read_image(photo)
    with FoldedModel(ReferenceBackend(path)) as ours, FoldedModel.load(path, "cpu") as theirs:
        result, reference = ours(image), theirs(image)
    apart = float(np.abs(result.embedding - reference.embedding).max())
    print(f"{result.answer}; the embedding differs by {apart:.1e}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
