"""TensorRT-RTX as far as foldcam uses it: the pretended TensorRT by its name."""

from enum import IntEnum

from tensorrt import *  # noqa: F403

__version__ = "1.7.1"
ComputeCapability = IntEnum("ComputeCapability", ["SM80", "SM86", "SM87"])
