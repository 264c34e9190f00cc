"""Power while something runs: a Jetson's INA3221 rails, or what nvidia-smi says of a card."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from foldcam.runtime.measurement.bench.facts import Command, called

Read = Callable[[], Mapping[str, float]]
"""Rail -> watts now."""

_SENSOR_PERIOD = 0.05
# Asking nvidia-smi starts a program, which must not disturb what is measured.
_CARD_PERIOD = 1.0
_CARD = "GPU card"
# What a Jetson's sensor calls the whole board, by model; the other rails are parts of it.
_WHOLE = ("VDD_IN", "POM_5V_IN", "VIN_SYS_5V0", "SYS_5V")


@dataclass(frozen=True)
class Rails:
    """What measures power here."""

    read: Read
    period: float


def find_rails(root: Path = Path("/"), run: Command | None = None) -> Rails | None:
    """What measures power here; None where nothing does."""
    sensors = []
    for folder in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        with suppress(OSError):
            if (folder / "name").read_text("ascii").strip() == "ina3221":
                sensors.append(folder)
    if sensors:

        def read() -> dict[str, float]:
            return {rail: watts for sensor in sensors for rail, watts in ina3221(sensor).items()}

        return Rails(read, _SENSOR_PERIOD)
    call = run or called
    return Rails(lambda: _card(call), _CARD_PERIOD) if _card(call) else None


def ina3221(sensor: Path) -> dict[str, float]:
    """Rail -> watts of one sensor: `inN_input` in millivolts times `currN_input` in milliamperes.

    The fourth channel is a sum of shunt voltages and no rail (kernel documentation, ina3221).
    """
    found = {}
    for channel in (1, 2, 3):
        with suppress(OSError, ValueError):
            name = (sensor / f"in{channel}_label").read_text("ascii").strip()
            volts = int((sensor / f"in{channel}_input").read_text("ascii")) / 1000
            amperes = int((sensor / f"curr{channel}_input").read_text("ascii")) / 1000
            if name != "NC":
                found[name] = volts * amperes
    return found


def whole_board(rails: Mapping[str, float]) -> float:
    """Watts of everything: the rail that feeds the others where it is known, else their sum."""
    for name in _WHOLE:
        if name in rails:
            return rails[name]
    return sum(rails.values())


class PowerMeter:
    """Reads the rails in a thread of its own for as long as a block lasts."""

    def __init__(self, rails: Rails) -> None:
        self._rails = rails
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._measure, daemon=True)
        self.samples: list[dict[str, float]] = []
        """Rail -> watts, one entry for each reading."""

    def __enter__(self) -> PowerMeter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def watts(self) -> dict[str, float]:
        """Mean of each rail; empty of none."""
        names = {name for sample in self.samples for name in sample}
        means = {}
        for name in sorted(names):
            values = [sample[name] for sample in self.samples if name in sample]
            means[name] = sum(values) / len(values)
        return means

    def _measure(self) -> None:
        while True:
            sample = dict(self._rails.read())
            if sample:
                self.samples.append(sample)
            if self._stop.wait(self._rails.period):
                return


def idle_watts(rails: Rails, seconds: float) -> dict[str, float]:
    """Mean of each rail while nothing runs."""
    with PowerMeter(rails) as meter:
        time.sleep(seconds)
    return meter.watts()


def energy(
    busy: Mapping[str, float], idle: Mapping[str, float], seconds: float, images: int
) -> dict[str, float]:
    """Energy of one image.

    Args:
        idle: the same before it.

    Returns:
        `millijoules_per_image` of the whole board, and `millijoules_per_image_over_idle`
        without what the board draws anyway.
    """
    each = 1e3 * seconds / images
    return {
        "watts": round(whole_board(busy), 3),
        "watts_idle": round(whole_board(idle), 3),
        "millijoules_per_image": round(whole_board(busy) * each, 3),
        "millijoules_per_image_over_idle": round((whole_board(busy) - whole_board(idle)) * each, 3),
    }


def _card(call: Command) -> dict[str, float]:
    text = call(["nvidia-smi", "--query-gpu=power.draw", "--format=csv,noheader,nounits"])
    with suppress(ValueError, IndexError):
        return {_CARD: float(text.splitlines()[0])}
    return {}
