"""At which clock a GPU runs, at which it should, and what holds it back.

On a desktop `nvidia-smi` says so; on a Jetson the kernel's files do, because its `nvidia-smi`
answers `[N/A]` or is missing: `devfreq` has the clock and the limit that nvpmodel sets, the
cooling devices `*-throttle-alert` say that heat lowers a clock now, and `oc*_event_cnt` counts
over-current events. On a CPU the kernel counts throttling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from foldcam.runtime.measurement.bench.facts import Command, called, text_of

# NVML's `nvmlClocksEventReasons`; being idle, or held by a setting, is no throttling.
_REASONS = {
    0x4: "its power limit", 0x8: "a slowdown of the hardware", 0x20: "heat (software)",
    0x40: "heat (hardware)", 0x80: "a power brake",
}  # fmt: skip
_SMI = ("clocks.sm", "power.limit")
# The name since driver 535, and the one before.
_SMI_REASONS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")
_TOLERANCE = 0.03


@dataclass(frozen=True)
class Clocks:
    """The clock at one moment.

    Attributes:
        mhz: what the GPU runs at; None where nothing can be read.
        target_mhz: what it is set to; None where that is not known.
        counters: events so far since the machine was started, by name.
        power_limit_watts: as the driver enforces it; None where it does not say.
    """

    mhz: float | None = None
    target_mhz: float | None = None
    reasons: tuple[str, ...] = ()
    counters: dict[str, int] = field(default_factory=dict)
    power_limit_watts: float | None = None

    def document(self) -> dict[str, Any]:
        """For a report; what is unknown is left out."""
        return {key: value for key, value in asdict(self).items() if value not in (None, (), {})}


def read_clocks(root: Path = Path("/"), run: Command | None = None) -> Clocks:
    """The clocks of this machine now. Read them while the GPU works: an idle one rests."""
    sysfs = root / "sys"
    counters = {
        **_counts(sysfs.glob("class/hwmon/hwmon*/oc*_event_cnt"), "over-current events"),
        **_counts(
            sysfs.glob("devices/system/cpu/cpu*/thermal_throttle/*_throttle_count"),
            "times that the processor was throttled",
        ),
    }
    for folder in sorted((sysfs / "class/devfreq").glob("*")):
        # 17000000.gpu and 17000000.ga10b on an Orin, gv11b on a Xavier, gpu-gpc-0 on a Thor.
        if any(word in folder.name for word in ("gpu", "ga10b", "gv11b")):
            clock, limit = (_number(folder / name) for name in ("cur_freq", "max_freq"))
            if clock is not None:
                return Clocks(
                    clock / 1e6, None if limit is None else limit / 1e6, _alerts(sysfs), counters
                )
    return _from_smi(run or called, counters)


def clock_problem(samples: Sequence[Clocks], wanted_mhz: float | None = None) -> str:
    """Why timings under these clocks are no measurement; empty where they are.

    Args:
        wanted_mhz: the clock that was set; None takes the samples' own target, and where
            they have none asks only that the clock stays the same.
    """
    for sample in samples:
        if sample.reasons:
            return f"the device was throttled by {' and '.join(sample.reasons)}"
    for name in samples[0].counters if samples else ():
        risen = samples[-1].counters.get(name, 0) - samples[0].counters[name]
        if risen > 0:
            return f"there were {risen} {name} meanwhile"
    clocks = [sample.mhz for sample in samples if sample.mhz is not None]
    for sample in samples:
        target = wanted_mhz or sample.target_mhz
        if sample.mhz is not None and target and abs(sample.mhz / target - 1) > _TOLERANCE:
            return f"the GPU ran at {sample.mhz:.0f} MHz and its target is {target:.0f} MHz"
    if clocks and min(clocks) < (1 - _TOLERANCE) * max(clocks):
        return f"the GPU's clock moved between {min(clocks):.0f} and {max(clocks):.0f} MHz"
    return ""


def _from_smi(call: Command, counters: dict[str, int]) -> Clocks:
    for reasons in _SMI_REASONS:
        query = f"--query-gpu={','.join((*_SMI, reasons))}"
        text = call(["nvidia-smi", query, "--format=csv,noheader,nounits"])
        values = [value.strip() for value in (text.splitlines() or [""])[0].split(",")]
        if len(values) == len(_SMI) + 1:
            mask = int(values[2], 16) if values[2].lower().startswith("0x") else 0
            return Clocks(
                _float(values[0]),
                None,
                tuple(words for bit, words in _REASONS.items() if mask & bit),
                counters,
                _float(values[1]),
            )
    return Clocks(counters=counters)


def _alerts(sysfs: Path) -> tuple[str, ...]:
    found = []
    for folder in sorted((sysfs / "class/thermal").glob("cooling_device*")):
        kind = text_of(folder / "type")
        if kind.endswith("throttle-alert") and (_number(folder / "cur_state") or 0) > 0:
            found.append(f"heat ({kind})")
    return tuple(found)


def _counts(files: Any, what: str) -> dict[str, int]:
    numbers = [_number(path) for path in files]
    known = [int(number) for number in numbers if number is not None]
    return {what: sum(known)} if known else {}


def _number(path: Path) -> float | None:
    return _float(text_of(path))


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
