"""Whether a folded model fits into one ONNX file, foreseen before the long pass over the images."""

from __future__ import annotations

import onnx

from foldcam.runtime.system.errors import FoldcamError

# One protocol-buffer message; weights in files beside it would be no drop-in model.
MAX_FILE_BYTES = (1 << 31) - 1
# Nodes, names and metadata, beside the weights.
_REST = 1 << 20


def weight_bytes(model: onnx.ModelProto) -> int:
    """Bytes of a model's constants, without serialising it (which fails beyond the limit)."""
    tensors = list(model.graph.initializer)
    for node in model.graph.node:
        tensors.extend(attribute.t for attribute in node.attribute if attribute.HasField("t"))
    return sum(
        len(tensor.raw_data)
        + 4 * (len(tensor.float_data) + len(tensor.int32_data))
        + 8 * (len(tensor.int64_data) + len(tensor.double_data))
        for tensor in tensors
    )


def check_file_size(network_bytes: int, bank_bytes: int, rows: int) -> None:
    """Refuse a folded model that is too large.

    Args:
        network_bytes: the size of the network's weights.
        bank_bytes: the size of the bank's constants, or the least that they will be.
        rows: number of training images.

    Raises:
        FoldcamError: together they are more than one ONNX file can hold.
    """
    total = network_bytes + bank_bytes + _REST
    if total > MAX_FILE_BYTES:
        raise FoldcamError(
            f"The folded model would be {total / 1e9:.2f} GB (network {network_bytes / 1e9:.2f}, "
            f"bank of {rows} images {bank_bytes / 1e9:.2f}) and one ONNX file holds "
            f"{MAX_FILE_BYTES / 1e9:.2f}: use --precision fp16 for the network, --compress or "
            "fewer images for the bank."
        )
