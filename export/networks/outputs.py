"""Finding the embedding in what a network returns: a tensor, or one of many in a structure."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, cast

import torch
from torch import nn

from foldcam.runtime.system.errors import FoldcamError

WRAPPED = "wrapped_network"
"""Attribute of `EmbeddingOnly` under which the network itself is found."""

_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def unwrapped(module: nn.Module) -> nn.Module:
    """The network itself, out of what torch wraps around it to compile or to spread it."""
    while True:
        if isinstance(module, torch.jit.ScriptModule):
            raise FoldcamError(
                "The network is TorchScript, which torch no longer exports: give its Python "
                "module, a .pt2 exported program, or an ONNX file."
            )
        if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner: nn.Module = module.module
        elif isinstance(getattr(module, "_orig_mod", None), nn.Module):
            # What torch.compile returns.
            inner = cast(Any, module)._orig_mod
        else:
            return module
        module = inner


class OutputsError(FoldcamError):
    """What a network returns is no embedding, or more than one.

    Args:
        returned: the outputs in question, with their shapes.
        several: whether each of them could be the embedding.
    """

    def __init__(self, text: str, returned: str, *, several: bool) -> None:
        self.returned, self.several = returned, several
        super().__init__(text)


class EmbeddingOnly(nn.Module):
    """A network that returns its embedding and nothing else."""

    def __init__(self, network: nn.Module, place: tuple[str | int, ...]) -> None:
        super().__init__()
        setattr(self, WRAPPED, network)
        self._place = place
        self._keyword = _keyword(network)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Image `float32 [N, 3, H, W]` -> embedding `[N, D]`."""
        network = getattr(self, WRAPPED)
        value = network(image) if self._keyword is None else network(**{self._keyword: image})
        for key in self._place:
            value = _child(value, key)
        embedding: torch.Tensor = value
        return embedding if embedding.ndim == 2 else embedding.flatten(1)


def embedding_only(module: nn.Module, images: torch.Tensor, output: str | None = None) -> nn.Module:
    """The module itself where it returns `[N, D]` alone, else wrapped to do so.

    Args:
        images: `float32 [N, 3, H, W]` to try it on, N above 1.
        output: which of its outputs is the embedding, as in the message that lists them;
            needed where several are `[N, D]` or `[N, D, 1, 1]`.
    """
    keyword = _keyword(module)

    def run(given: torch.Tensor) -> Any:
        return module(given) if keyword is None else module(**{keyword: given})

    try:
        with torch.no_grad():
            # Some networks normalise the image in its own place.
            returned = run(images.clone())
    except FoldcamError:
        raise
    except Exception as error:
        # A user's code: anything may come out of it.
        lines = str(error).strip().splitlines() or [type(error).__name__]
        shape = " x ".join(str(size) for size in images.shape)
        raise FoldcamError(
            f"The network cannot run on images [{shape}]: {lines[0].rstrip('.')}"
            f"{advice(run, images)}."
        ) from error
    found = {_name(place): (place, value) for place, value in _tensors(returned)}
    count = len(images)
    if output is not None:
        if output not in found:
            names = ", ".join(_described(name, value) for name, (_, value) in found.items())
            raise FoldcamError(f"The network has no output {output!r}; it returns {names}.")
        place, value = found[output]
        if not _is_embedding(value, count):
            raise FoldcamError(
                f"The output {_described(output, value)} is not an embedding: it must be "
                "floating point, [N, D] or [N, D, 1, 1]."
            )
        return _wrapped(module, place, value)
    # The same tensor under two names is one.
    distinct = {id(value): (name, place, value) for name, (place, value) in found.items()}
    embeddings = [each for each in distinct.values() if _is_embedding(each[2], count)]
    if not embeddings:
        names = ", ".join(_described(name, value) for name, (_, value) in found.items())
        raise OutputsError(
            f"The network returns {names or 'no tensor'} where one embedding [N, D] per image is "
            "needed.",
            names or "no tensor",
            several=False,
        )
    if len(embeddings) > 1:
        names = ", ".join(_described(name, value) for name, _, value in embeddings)
        raise OutputsError(
            f"The network returns {len(embeddings)} tensors that could be the embedding: choose "
            f"one with --output: {names}.",
            names,
            several=True,
        )
    _, place, value = embeddings[0]
    return _wrapped(module, place, value)


def _wrapped(module: nn.Module, place: tuple[str | int, ...], value: torch.Tensor) -> nn.Module:
    first = next(iter(inspect.signature(module.forward).parameters.values()), None)
    # torch.export wants to know its input by name.
    plain = first is not None and first.kind in _BY_POSITION
    return module if plain and not place and value.ndim == 2 else EmbeddingOnly(module, place)


def _keyword(module: nn.Module) -> str | None:
    """The name of the image where it cannot be given by position, as in `forward(*, image)`."""
    known = list(inspect.signature(module.forward).parameters.values())
    if not known or any(each.kind in (*_BY_POSITION, each.VAR_POSITIONAL) for each in known):
        return None
    named = [each.name for each in known if each.kind is each.KEYWORD_ONLY]
    needed = [each.name for each in known if each.name in named and each.default is each.empty]
    return next(iter([*needed, *named]), None)


def _tensors(
    value: Any, place: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], torch.Tensor]]:
    """Every tensor in a structure of mappings, sequences and dataclasses, with its place."""
    if isinstance(value, torch.Tensor):
        yield place, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if isinstance(key, (str, int)):
                yield from _tensors(inner, (*place, key))
    elif is_dataclass(value) and not isinstance(value, type):
        for each in fields(value):
            yield from _tensors(getattr(value, each.name), (*place, each.name))
    elif isinstance(value, (tuple, list)):
        names = getattr(value, "_fields", range(len(value)))
        for key, inner in zip(names, value, strict=True):
            yield from _tensors(inner, (*place, key))


def _child(value: Any, key: str | int) -> Any:
    if isinstance(value, Mapping) or isinstance(key, int):
        return value[key]
    return getattr(value, key)


def _name(place: tuple[str | int, ...]) -> str:
    return ".".join(map(str, place)) or "output"


def _described(name: str, value: torch.Tensor) -> str:
    sizes = ["N", *map(str, value.shape[1:])] if value.ndim else []
    return f"{name} [{' x '.join(sizes)}]"


def _is_embedding(value: torch.Tensor, count: int) -> bool:
    if not value.is_floating_point() or value.ndim not in (2, 4) or value.shape[0] != count:
        return False
    return value.shape[1] > 1 and all(size == 1 for size in value.shape[2:])


# (height, width) that networks in use are made for.
_SIZES = (
    (224, 224),
    (112, 112),
    (256, 256),
    (384, 384),
    (128, 128),
    (64, 64),
    (32, 32),
    (256, 128),
)
_NO_IMAGES = ((2, 16000), (2, 1, 16000), (2, 80, 400), (2, 3, 16000))


def advice(run: Callable[[torch.Tensor], Any], images: torch.Tensor) -> str:
    """What to do about a network that fails on images.

    Args:
        images: `float32 [N, 3, H, W]` that it fails on.

    Returns:
        The end of a sentence, with a `--size` that was tried where one works; empty where
        nothing that was tried does.
    """
    count = len(images)
    for height, width in _SIZES:
        if _runs(run, (count, 3, height, width)):
            size = f"{width}" if width == height else f"{width}x{height}"
            return f"; it runs at --size {size}"
    if _runs(run, (count, 1, *images.shape[2:])):
        return "; it takes grey images: wrap it so that it averages three channels"
    if any(_runs(run, shape) for shape in _NO_IMAGES):
        return "; it takes no images [N, 3, H, W] but rows of numbers, such as sound"
    return ""


def _runs(run: Callable[[torch.Tensor], Any], shape: tuple[int, ...]) -> bool:
    try:
        with torch.no_grad():
            run(torch.zeros(shape))
    except Exception:
        # A user's code: anything may come out of it.
        return False
    return True
