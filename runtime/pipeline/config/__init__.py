"""Everything that a run can be asked: typed, from flags, from a TOML file, or from Python."""

from __future__ import annotations

from foldcam.runtime.pipeline.config.loading import config_from, load_config, with_secrets
from foldcam.runtime.pipeline.config.tree import (
    LogOptions,
    ModelOptions,
    RunConfig,
    ServeConfig,
    SourceConfig,
)
from foldcam.runtime.sinks.event_rules import EventRule
from foldcam.runtime.sinks.options import OutputOptions, RecordingOptions

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
