"""Whether a model has the tensors that its contract promises."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from foldcam.runtime.contract.onnx_file import TensorInfo
from foldcam.runtime.contract.schema import (
    BANK_DIRECTION,
    BANK_EMBEDDING,
    BANK_LABEL,
    CONTRAST,
    CONTRIBUTION,
    EMBEDDING,
    ESTIMATE,
    HEATMAP,
    HEATMAP_LOWER,
    IMAGE,
    KNOWN_SCORE,
    NEIGHBOR,
    QUERY,
    RUNNER_UP,
    RUNNER_UP_SIMILARITY,
    SIMILARITY,
    Contract,
)
from foldcam.runtime.system.errors import FoldcamError

_BATCH = "N"
ROWS, LABELS = "bank_rows", "bank_labels"
"""Open lengths of a bank that is an input."""
_OPEN = (_BATCH, ROWS, LABELS)
LEAST_LABELS = 2
"""Labels of a bank that is an input: a direction leads from other labels to one."""
# What engines are made fast for.
_USUAL_ROWS, _USUAL_LABELS = 1000, 100


def check_tensors(
    contract: Contract,
    inputs: Sequence[TensorInfo],
    outputs: Sequence[TensorInfo],
    where: str,
    only: Collection[str] | None = None,
) -> None:
    """Compare names, dtypes and sizes; a size that the file leaves open passes.

    Args:
        only: names of the promised outputs that must be there; None is all.
    """
    expected_input, expected_outputs = expected_tensors(contract)
    if only is not None:
        expected_outputs = [tensor for tensor in expected_outputs if tensor.name in only]
    further = further_inputs(contract)
    for kind, found, expected in (
        ("input", inputs, [expected_input, *further]),
        ("output", outputs, expected_outputs),
    ):
        by_name = {tensor.name: tensor for tensor in found}
        for tensor in expected:
            if tensor.name not in by_name:
                names = ", ".join(by_name) or "none"
                raise FoldcamError(
                    f"{where}: the {kind} {tensor.name!r} is missing (it has: {names}): "
                    "the file was changed after folding, so export it again."
                )
            _check(tensor, by_name[tensor.name], kind, where)
    known = [IMAGE, *(tensor.name for tensor in further)]
    extra = [tensor.name for tensor in inputs if tensor.name not in known]
    if extra:
        raise FoldcamError(
            f"{where}: it needs the input {extra[0]!r} besides {', '.join(map(repr, known))}: "
            "the file was changed after folding, so export it again."
        )


def further_inputs(contract: Contract) -> list[TensorInfo]:
    """The inputs beside the image: the bank's arrays and the query, where the model has them."""
    size = contract.bank.embedding_size
    inputs = []
    if contract.bank_input is not None:
        inputs += [
            TensorInfo(BANK_EMBEDDING, "float32", (ROWS, size)),
            TensorInfo(BANK_DIRECTION, "float32", (LABELS, size)),
            TensorInfo(BANK_LABEL, "int32", (ROWS,)),
        ]
    if contract.query:
        inputs.append(TensorInfo(QUERY, "float32", (_BATCH, size)))
    return inputs


def bank_lengths(contract: Contract) -> dict[str, tuple[int, int, int]]:
    """The least, the usual and the greatest length of each array of a bank that is an input."""
    if contract.bank_input is None:
        return {}
    most = contract.bank_input.most_rows
    least = max(contract.transfer, contract.neighbors, LEAST_LABELS)
    rows = least, max(least, min(most, _USUAL_ROWS)), most
    labels = LEAST_LABELS, max(LEAST_LABELS, min(most, _USUAL_LABELS)), most
    return {BANK_EMBEDDING: rows, BANK_DIRECTION: labels, BANK_LABEL: rows}


def expected_tensors(contract: Contract) -> tuple[TensorInfo, list[TensorInfo]]:
    """The input and the outputs that the contract promises; the batch size is `N`."""
    width, height = contract.image_size
    if contract.input_type == "uint8":
        image = TensorInfo(IMAGE, "uint8", (_BATCH, height, width, 3))
    else:
        image = TensorInfo(IMAGE, "float32", (_BATCH, 3, height, width))
    heatmap = (_BATCH, 1, *contract.heatmap_size)
    outputs = [
        TensorInfo(EMBEDDING, "float32", (_BATCH, contract.bank.embedding_size)),
        TensorInfo(HEATMAP, "float32", heatmap),
        TensorInfo(NEIGHBOR, "int32", (_BATCH, contract.neighbors)),
        TensorInfo(SIMILARITY, "float32", (_BATCH, contract.neighbors)),
    ]
    if CONTRIBUTION in contract.optional_outputs:
        outputs.append(TensorInfo(CONTRIBUTION, "float32", heatmap))
    if CONTRAST in contract.optional_outputs:
        outputs.append(TensorInfo(CONTRAST, "float32", heatmap))
        outputs.append(TensorInfo(RUNNER_UP, "int32", (_BATCH,)))
        outputs.append(TensorInfo(RUNNER_UP_SIMILARITY, "float32", (_BATCH,)))
    if contract.outcome is not None:
        outputs.append(TensorInfo(HEATMAP_LOWER, "float32", heatmap))
        outputs.append(TensorInfo(ESTIMATE, "float32", (_BATCH,)))
    if contract.unknown is not None and contract.unknown.in_graph:
        outputs.append(TensorInfo(KNOWN_SCORE, "float32", (_BATCH,)))
    return image, outputs


def _check(expected: TensorInfo, found: TensorInfo, kind: str, where: str) -> None:
    same = len(expected.shape) == len(found.shape) and all(
        isinstance(have, str) or want in (*_OPEN, have)
        for want, have in zip(expected.shape, found.shape, strict=True)
    )
    if found.dtype == expected.dtype and same:
        if kind == "input" and isinstance(found.shape[0], int):
            raise FoldcamError(
                f"{where}: the {'batch size' if found.name == IMAGE else 'first size'} of "
                f"{found.name!r} is fixed at {found.shape[0]} where it must be dynamic: export it "
                "again with a dynamic batch."
            )
        return
    raise FoldcamError(
        f"{where}: the {kind} {found.name!r} is {describe(found)} where its metadata promise "
        f"{describe(expected)}: the file was changed after folding, so export it again."
    )


def describe(tensor: TensorInfo) -> str:
    """dtype and shape, such as `float32 [N, 3, 224, 224]`."""
    return f"{tensor.dtype} [{', '.join(str(size) for size in tensor.shape)}]"
