"""Everything that a run can be asked: typed, from flags, from a TOML file, or from Python."""

from __future__ import annotations

from foldcam.runtime.config.loading import config_from, load_config, with_secrets
from foldcam.runtime.config.tree import (
    LogOptions,
    ModelOptions,
    RunConfig,
    ServeConfig,
    SourceConfig,
)
from foldcam.runtime.events.rule import EventRule
from foldcam.runtime.output_options import OutputOptions, RecordingOptions

__all__ = [
    "EventRule",
    "LogOptions",
    "ModelOptions",
    "OutputOptions",
    "RecordingOptions",
    "RunConfig",
    "ServeConfig",
    "SourceConfig",
    "config_from",
    "load_config",
    "with_secrets",
]
