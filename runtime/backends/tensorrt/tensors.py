"""What a deserialised engine takes and returns, checked once against the contract."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from foldcam.runtime.contract.onnx_file import TensorInfo
from foldcam.runtime.contract.schema import IMAGE, QUERY, Contract
from foldcam.runtime.contract.tensors import check_tensors, expected_tensors, further_inputs
from foldcam.runtime.system.errors import FoldcamError

_BATCH = "N"
# By name: the numbers behind TensorRT's enumeration are no promise.
_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}


@dataclass(frozen=True)
class Profile:
    """An optimization profile: the batch sizes that the engine takes while it is chosen."""

    index: int
    smallest: int
    largest: int

    def batch_for(self, rows: int) -> int:
        """The images that must be run for `rows` of them."""
        return max(rows, self.smallest)


@dataclass(frozen=True)
class EngineTensors:
    """The tensors of an engine."""

    image: tuple[int, ...]
    outputs: dict[str, tuple[int, ...]]
    dtypes: dict[str, np.dtype[Any]]
    profiles: tuple[Profile, ...]
    bank: dict[str, tuple[int, ...]] = field(default_factory=dict)
    query: tuple[int, ...] | None = None

    @property
    def largest_batch(self) -> int:
        """Over all profiles."""
        return max(profile.largest for profile in self.profiles)

    def profile_for(self, rows: int) -> Profile:
        """The profile that takes `rows` images with the fewest blank ones beside them."""
        fitting = [profile for profile in self.profiles if rows <= profile.largest]
        return min(fitting, key=lambda profile: (profile.batch_for(rows), profile.largest))


def read_tensors(
    engine: Any, contract: Contract, where: str, only: Collection[str] | None = None
) -> EngineTensors:
    """Ask the engine for its tensors, by name, and compare them with the contract.

    Args:
        only: names of the promised outputs that it has; None is all.
    """
    inputs: list[TensorInfo] = []
    outputs: list[TensorInfo] = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        sizes = tuple(int(size) for size in engine.get_tensor_shape(name))
        # The batch may be fixed in an engine, unlike in a folded model.
        shape = (_BATCH, *(size if size >= 0 else "?" for size in sizes[1:]))
        dtype = str(engine.get_tensor_dtype(name).name)
        known = _DTYPES.get(dtype)
        if known is None:
            raise FoldcamError(
                f"{where}: the tensor {name!r} is {dtype}, which foldcam cannot hand over: build "
                "the engine from the folded .onnx again."
            )
        mode = engine.get_tensor_mode(name).name
        (inputs if mode == "INPUT" else outputs).append(TensorInfo(name, known, shape))
    check_tensors(contract, inputs, outputs, where, only)
    promised = {tensor.name: tensor.shape[1:] for tensor in expected_tensors(contract)[1]}
    further = {
        tensor.name: _sizes(tensor.shape[1:], tensor.name, where)
        for tensor in further_inputs(contract)
    }
    return EngineTensors(
        image=_sizes(expected_tensors(contract)[0].shape[1:], IMAGE, where),
        outputs={
            tensor.name: _sizes(promised.get(tensor.name, tensor.shape[1:]), tensor.name, where)
            for tensor in outputs
        },
        dtypes={tensor.name: np.dtype(tensor.dtype) for tensor in (*inputs, *outputs)},
        profiles=_profiles(engine, where),
        bank={name: shape for name, shape in further.items() if name != QUERY},
        query=further.get(QUERY),
    )


def _profiles(engine: Any, where: str) -> tuple[Profile, ...]:
    fixed = int(engine.get_tensor_shape(IMAGE)[0])
    if fixed >= 0:
        return (Profile(0, fixed, fixed),)
    found = []
    for index in range(engine.num_optimization_profiles):
        shapes = engine.get_tensor_profile_shape(IMAGE, index)
        found.append(Profile(index, int(shapes[0][0]), int(shapes[2][0])))
    if not found or min(profile.largest for profile in found) < 1:
        raise FoldcamError(
            f"{where}: the engine has no optimization profile for {IMAGE!r}: build it again."
        )
    return tuple(found)


def _sizes(shape: tuple[int | str, ...], name: str, where: str) -> tuple[int, ...]:
    sizes = [size for size in shape if isinstance(size, int)]
    if len(sizes) != len(shape):
        raise FoldcamError(
            f"{where}: the size of {name!r} is open ({', '.join(map(str, shape))}) and no buffer "
            "can be made beforehand: export the model again."
        )
    return tuple(sizes)
