"""MODEL on the command line -> a torch module, or an ONNX file, with its preprocessing."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from foldcam.export.models.program_file import load_program
from foldcam.export.models.trained_file import (
    embedding_network,
    read_architecture,
    trained_architecture,
)
from foldcam.export.models.weights import load_weights
from foldcam.export.networks.cut import Network
from foldcam.export.networks.onnx_networks.input import OutputChoiceError, image_input
from foldcam.export.networks.torch_cut import TorchNetwork
from foldcam.export.onnx_graphs.device import CPU, Device
from foldcam.export.onnx_graphs.file import OnnxFile, read_onnx
from foldcam.export.onnx_graphs.own_normalization import BYTE_STD, own_normalization
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.user_code import is_mistake


@dataclass(frozen=True)
class LoadedModel:
    """A network and how its images are made.

    Attributes:
        source: a torch module, image `float32 [N, 3, H, W]` -> embedding `[N, D]`, in eval
            mode, or an ONNX file.
        preprocessing: the module's own where it says (attribute `preprocessing`),
            else ImageNet's at 224 x 224.
        name: MODEL without folders, for the metadata, with `#OUTPUT` where one is chosen.
        weights: file name of the weights, empty if there were none.
        output: which of its outputs is the embedding, where several could be.
        notes: what the user should know about how it was loaded, one sentence each.
        device: where its networks run.
    """

    source: nn.Module | OnnxFile
    preprocessing: Preprocessing
    name: str
    weights: str
    output: str | None = None
    notes: tuple[str, ...] = ()
    device: Device = CPU
    # The network that was cut last: what is exported is often verified next, and torch's exporter
    # takes seconds.
    _last: dict[tuple[object, ...], Network] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def module(self) -> nn.Module:
        """The torch module.

        Raises:
            FoldcamError: the network exists only as an ONNX file.
        """
        if isinstance(self.source, OnnxFile):
            raise FoldcamError(
                f"MODEL {self.name} is an ONNX file, which can be folded and verified but not "
                "trained or measured in torch: name the torch module it was exported from."
            )
        return self.source

    def network(
        self,
        layer: str | None = None,
        size: tuple[int, int] | None = None,
        exact: bool = True,
        summands: bool = True,
    ) -> Network:
        """The network, cut at its sum over positions or, where it has none, at its feature map.

        Args:
            layer: name of the feature map, or None to find it.
            size: `(height, width)` of the input in pixels, by default the preprocessing's.
            exact: whether the head of an ONNX file has to be differentiable, see
                `OnnxNetwork`.
            summands: whether to look for the sum. One that does not lie directly behind the
                named layer is not taken.

        Raises:
            FoldcamError: as `TorchNetwork` and `OnnxNetwork`.
        """
        cut = (size or (self.preprocessing.height, self.preprocessing.width), exact, summands)
        known = self._last.get((layer, cut, self._state()))
        if known is None:
            known = self._made(layer, size, exact, summands)
            self._last.clear()
            # Making it may have written into the module.
            self._last[layer, cut, self._state()] = known
            named = known
            if known.pooled or known.finer is not None:
                # Asked for by its name, which says which of several maps is meant.
                named = copy(known)
                named.pooled, named.finer = (), None
            self._last.setdefault((known.layer, cut, self._state()), named)
        return known

    def _state(self) -> tuple[int, ...]:
        """Changes with the module's numbers, which training writes in place."""
        if isinstance(self.source, OnnxFile):
            return ()
        tensors = (*self.source.parameters(), *self.source.buffers())
        return tuple(tensor._version for tensor in tensors)

    def _made(
        self, layer: str | None, size: tuple[int, int] | None, exact: bool, summands: bool
    ) -> Network:
        if not (summands and exact):
            network = self.cut(layer, size, exact)
        else:
            network, searched = self._searched(layer, size)
            # A layer further ahead was asked for: what is summed behind it is something else.
            if network.layer == searched:
                from foldcam.export.networks.onnx_networks.summand_network import with_summands

                network = with_summands(network, self.device)
        network.notes = (*self.notes, *network.notes)
        return network

    def _searched(
        self, layer: str | None, size: tuple[int, int] | None
    ) -> tuple[Network, str | None]:
        """The network, and the layer that the search finds, for which it is cut only once."""
        try:
            network = self.cut(None, size, True)
        except FoldcamError:
            if layer is None:
                raise
            # It is named because the search fails.
            return self.cut(layer, size, True), None
        searched = network.layer
        if layer == searched:
            network.pooled, network.finer = (), None
        elif layer is not None:
            network = self.cut(layer, size, True)
        return network, searched

    def cut(
        self, layer: str | None = None, size: tuple[int, int] | None = None, exact: bool = True
    ) -> Network:
        """The network, cut at its feature map and never at a sum; it is not kept.

        Args:
            layer, size, exact: as in `network`.

        Raises:
            FoldcamError: as `TorchNetwork` and `OnnxNetwork`.
        """
        own = (self.preprocessing.height, self.preprocessing.width)
        if isinstance(self.source, OnnxFile):
            # ONNX Runtime is loaded only where it is needed.
            from foldcam.export.networks.onnx_networks.cut import open_onnx

            return open_onnx(self.source, size or own, layer, exact, self.device)
        return TorchNetwork(self.source, size or own, layer, self.output, device=self.device)


# MODEL names that foldcam brings along.
BUILT_IN = ("demo", "efficientnet-lite0")


def wrap_module(
    module: nn.Module,
    *,
    preprocessing: Preprocessing | None = None,
    name: str | None = None,
    output: str | None = None,
) -> LoadedModel:
    """A torch module that is in hand, as the exporters take it.

    Args:
        module: image `float32 [N, 3, H, W]` -> embedding `[N, D]`; put in eval mode.
        preprocessing: how its images are made. None takes the module's own attribute
            `preprocessing`, or ImageNet's at 224 x 224.
        name: what the metadata call it, so that `foldcam verify` finds it again: best the
            `package.module:factory` that makes it. None takes its class.
        output: which of its outputs is the embedding, where several could be.

    Raises:
        FoldcamError: its attribute `preprocessing` is something else, or for pixels of 0 to 255.
    """
    kind = type(module)
    name = name or f"{kind.__module__}:{kind.__qualname__}"
    own = getattr(module, "preprocessing", None)
    if preprocessing is None and own is not None and not isinstance(own, Preprocessing):
        raise FoldcamError(
            f"MODEL {name!r}: its attribute `preprocessing` is not a "
            "foldcam.runtime.images.preprocess.Preprocessing."
        )
    if preprocessing is None and own is not None:
        check_unit_range(own.mean, own.std, f"MODEL {name!r}: its attribute `preprocessing`: ")
    return LoadedModel(
        module.eval(),
        preprocessing or own or Preprocessing(),
        f"{name}#{output}" if output else name,
        "",
        output,
    )


def load_model(
    spec: str, weights: Path | str | None = None, output: str | None = None, device: Device = CPU
) -> LoadedModel:
    """Load the network that `spec` names, which maps `float32 [N, 3, H, W]` to `[N, D]`.

    A module of your own that is already in hand goes through `wrap_module` instead.

    Args:
        spec: `demo`; `efficientnet-lite0` (its pooled features, to train on);
            `package.module:factory`, a callable without arguments that returns a
            torch module (the working directory is on the import path); a `.pt2`
            file; the `.safetensors` file of `foldcam train`; or an embedding network in
            `.onnx`. As `MODEL#OUTPUT` where the embedding is one output of several.
        weights: safetensors, or a state dict that torch loads with `weights_only`.
            For a factory also the file of `foldcam train` that was made from it.
        output: which of its outputs is the embedding, where several could be; in an `.onnx`
            file any value inside it as well.
        device: where its networks run, see `foldcam.export.onnx_graphs.device.choose_device`.

    Raises:
        FoldcamError: nothing of that name, or weights that do not fit.

    Example:
        >>> from foldcam import load_model
        >>> loaded = load_model("my_network:make_network")
        >>> loaded.name, loaded.preprocessing.width, loaded.preprocessing.height
        ('my_network:make_network', 96, 96)
    """
    return replace(_loaded(spec, weights, output), device=device)


def _loaded(spec: str, weights: Path | str | None, output: str | None) -> LoadedModel:
    weights = None if weights is None else Path(weights)
    if not Path(spec).exists():
        spec, _, named = spec.partition("#")
        output = output or named or None
    if spec.endswith(".onnx"):
        if weights is not None:
            raise FoldcamError(f"{spec} carries its weights: leave --weights out.")
        return _onnx(Path(spec), output)
    if spec.endswith(".safetensors"):
        if weights is not None:
            raise FoldcamError(f"{spec} carries its weights: leave --weights out.")
        return _trained(Path(spec))
    if spec.endswith(".pt2") and weights is not None:
        raise FoldcamError(f"{spec} carries its weights: leave --weights out.")
    module = _module(spec)
    name = Path(spec).name if spec.endswith(".pt2") else spec
    architecture = None
    if weights is not None and weights.suffix == ".safetensors":
        architecture = trained_architecture(weights)
        if architecture is not None and architecture.base != spec:
            raise FoldcamError(
                f"--weights {weights} were trained from {architecture.base!r}, not from {spec!r}."
            )
    if architecture is not None:
        module = embedding_network(module, architecture)
    note = None if weights is None else load_weights(module, weights)
    wrapped = wrap_module(
        module,
        preprocessing=None if architecture is None else architecture.preprocessing,
        name=name,
        output=output,
    )
    return replace(wrapped, weights=weights.name if weights else "", notes=(note,) if note else ())


def _onnx(path: Path, output: str | None) -> LoadedModel:
    """The network in an ONNX file, whose size is the preprocessing's where it is fixed.

    A network that normalises its images itself is given them as it takes them.
    """
    file = read_onnx(path, output)
    preprocessing = Preprocessing()
    own = own_normalization(file.model.graph)
    if own is not None:
        plain = BYTE_STD if own.takes_bytes else 1.0
        preprocessing = replace(preprocessing, mean=(0.0, 0.0, 0.0), std=(plain, plain, plain))
    try:
        size = image_input(file.model.graph).size
    except OutputChoiceError as question:
        from foldcam.export.networks.onnx_networks.cut import answered

        raise answered(question, file, (preprocessing.height, preprocessing.width)) from None
    if size is not None:
        preprocessing = replace(preprocessing, height=size[0], width=size[1])
    name = path.name if output is None else f"{path.name}#{output}"
    return LoadedModel(file, preprocessing, name, "", output)


def _trained(path: Path) -> LoadedModel:
    """The network in a file of `foldcam train`."""
    architecture = read_architecture(path)
    if architecture.base not in BUILT_IN:
        # The file may come from elsewhere: it must not choose what code is imported.
        raise FoldcamError(
            f"{path} was trained from {architecture.base!r}: name that as MODEL and pass the file "
            f"with --weights {path}."
        )
    module = embedding_network(_module(architecture.base), architecture)
    load_weights(module, path)
    return LoadedModel(module.eval(), architecture.preprocessing, path.name, "")


def _module(spec: str) -> nn.Module:
    if spec == "demo":
        from foldcam.export.models.demo import demo_network

        return demo_network()
    if spec == "efficientnet-lite0":
        from foldcam.export.models.demo import pooled_features

        return pooled_features()
    if spec.endswith(".pt2"):
        return load_program(Path(spec))
    if ":" in spec:
        return _from_factory(spec)
    raise FoldcamError(
        f"MODEL {spec!r} is not known: use {', '.join(BUILT_IN)}, package.module:factory, a .pt2 "
        "file, the .safetensors file of foldcam train, or an embedding network in .onnx."
    )


def with_overrides(
    preprocessing: Preprocessing,
    *,
    size: str | None = None,
    resize: str | None = None,
    color: str | None = None,
    mean: str | None = None,
    std: str | None = None,
) -> Preprocessing:
    """Replace what the command line says otherwise.

    Args:
        preprocessing: the model's own.
        size: `224` or `WIDTHxHEIGHT`, in pixels.
        resize, color: as in `Preprocessing`.
        mean, std: one number or three, comma-separated, for pixels in [0, 1].
    """
    changes: dict[str, Any] = {}
    if size is not None:
        changes["width"], changes["height"] = _parse_size(size)
    if resize is not None:
        changes["resize"] = resize
    if color is not None:
        changes["color"] = color
    if mean is not None:
        changes["mean"] = _parse_channels("--mean", mean)
    if std is not None:
        changes["std"] = _parse_channels("--std", std)
        if min(changes["std"]) <= 0:
            raise FoldcamError("--std must be above zero.")
    check_unit_range(changes.get("mean"), changes.get("std"))
    return replace(preprocessing, **changes)


def _from_factory(spec: str) -> nn.Module:
    module_name, _, attribute = spec.partition(":")
    working_directory = str(Path.cwd())
    if working_directory not in sys.path:
        # Last, so that a folder named like an installed package cannot shadow it.
        sys.path.append(working_directory)
    try:
        imported = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise FoldcamError(
            f"MODEL {spec!r}: no module {error.name!r} on the import path or in "
            f"{working_directory}."
        ) from error
    except BaseException as error:
        if not is_mistake(error):
            raise
        raise FoldcamError(f"MODEL {spec!r}: importing it failed ({error!r}).") from error
    factory = getattr(imported, attribute, None)
    if factory is None:
        raise FoldcamError(f"MODEL {spec!r}: {module_name} has no {attribute!r}.")
    try:
        module = factory if isinstance(factory, nn.Module) else factory()
    except FoldcamError:
        raise
    except BaseException as error:
        if not is_mistake(error):
            raise
        raise FoldcamError(f"MODEL {spec!r}: calling it failed ({error!r}).") from error
    if not isinstance(module, nn.Module):
        raise FoldcamError(f"MODEL {spec!r} gave {type(module).__name__}, not a torch module.")
    return module


def _parse_size(text: str) -> tuple[int, int]:
    parts = text.lower().split("x")
    if not all(part.isdigit() and 1 <= int(part) <= 1 << 14 for part in parts) or len(parts) > 2:
        raise FoldcamError(f"--size {text!r} is not a number of pixels, as in 224 or 128x256.")
    return int(parts[0]), int(parts[-1])


def _parse_channels(flag: str, text: str) -> tuple[float, float, float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) == 1:
        values *= 3
    if len(values) != 3 or not all(map(math.isfinite, values)):
        raise FoldcamError(f"{flag} {text!r} is not one number or three, as in 0.485,0.456,0.406.")
    return values[0], values[1], values[2]


def check_unit_range(
    mean: Sequence[float] | None, std: Sequence[float] | None, where: str = ""
) -> None:
    """Refuse numbers that cannot be meant for pixels in [0, 1].

    Args:
        mean, std: per channel; None where the command line does not give them.
    """
    far = {name: max(each) > 1 for name, each in (("mean", mean), ("std", std)) if each}
    if not any(far.values()):
        return
    given, right = [], []
    for name, each in (("mean", mean), ("std", std)):
        if each:
            # A deviation of 1 beside a mean of 0 to 255 leaves pixels as they are: 1 of 255.
            divided = far[name] or (name == "std" and far.get("mean", False))
            given.append(f"--{name} {_text(each)}")
            right.append(f"--{name} {_text([n / 255 for n in each] if divided else each)}")
    raise FoldcamError(
        f"{where}{' '.join(given)} {'are' if len(given) > 1 else 'is'} for pixels of 0 to 255, and "
        f"pixels are in [0, 1] here: pass {' '.join(right)}."
    )


def _text(numbers: Sequence[float]) -> str:
    return ",".join(f"{number:.6g}" for number in numbers)
