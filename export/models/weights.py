"""Weights from a file into a module: safetensors, or a state dict of plain tensors."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import nn

from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import refuse_special

# Where training scripts keep the weights beside their optimizer's state.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights")
# What wrappers put in front of every name: DataParallel, torch.compile, Lightning and others.
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.", "encoder.")


def load_weights(module: nn.Module, path: Path) -> str | None:
    """Load a file's weights into a module.

    Where no name fits as it is, what wrappers put around the names is taken off.

    Args:
        module: changed in place.
        path: safetensors, or what torch loads with `weights_only`.

    Returns:
        What was taken off, in one sentence; None where the names fit as they are.
    """
    state, wrapper = _state(_read(path), path)
    wanted = module.state_dict().keys()
    prefix = _prefix(state.keys(), wanted)
    if prefix:
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    try:
        missing, unexpected = module.load_state_dict(state, strict=False)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise FoldcamError(f"--weights {path} do not fit the network: {reason}") from None
    if missing or unexpected:
        raise FoldcamError(
            f"--weights {path} do not fit the network: {_names('missing', missing)}"
            f"{'; ' if missing and unexpected else ''}{_names('unexpected', unexpected)}."
        )
    taken = [f"the entry {wrapper!r} was taken"] if wrapper else []
    taken += [f"the prefix {prefix!r} was taken off the names"] if prefix else []
    return f"Of --weights {path.name}, {' and '.join(taken)}." if taken else None


def _read(path: Path) -> Any:
    refuse_special(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise FoldcamError(f"--weights {path} does not exist.") from None
    except IsADirectoryError:
        raise FoldcamError(f"--weights {path} is a folder: give the file of the weights.") from None
    except Exception as error:
        # Both readers raise many types; what matters is that the file was refused. Their texts
        # are left out: torch's advises to load the file without weights_only.
        raise FoldcamError(
            f"--weights {path} is neither safetensors nor a state dict of plain tensors, or it is "
            "damaged: save it with safetensors.torch.save_file(network.state_dict(), FILE)."
        ) from error


def _state(read: Any, path: Path) -> tuple[dict[str, torch.Tensor], str]:
    """The tensors by name, and the entry that they were found under."""
    if isinstance(read, dict):
        for wrapper in ("", *_WRAPPERS):
            state = read.get(wrapper) if wrapper else read
            if isinstance(state, dict) and (state or not wrapper) and _is_state(state):
                return dict(state), wrapper
    raise FoldcamError(f"--weights {path} holds no state dict (name -> tensor).")


def _is_state(state: dict[Any, Any]) -> bool:
    return all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items())


def _prefix(names: Collection[str], wanted: Collection[str]) -> str:
    """What stands before every name of a file and is no part of the module's own names."""
    prefix = ""
    while not set(wanted) & {name.removeprefix(prefix) for name in names}:
        rest = [name.removeprefix(prefix) for name in names]
        more = next((each for each in _PREFIXES if all(n.startswith(each) for n in rest)), None)
        # All names of an empty file begin with every prefix, again and again.
        if more is None or not rest:
            return ""
        prefix += more
    return prefix


def _names(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{what} {', '.join(names[:3])}{more}"
