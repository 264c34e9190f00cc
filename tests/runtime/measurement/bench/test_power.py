"""INA3221 rails in a pretended /sys, and the arithmetic of energy."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from foldcam.runtime.measurement.bench.power import (
    PowerMeter,
    Rails,
    energy,
    find_rails,
    idle_watts,
    whole_board,
)


def sensor(root: Path, number: int, name: str, rails: list[tuple[str, int, int]]) -> None:
    folder = root / f"sys/class/hwmon/hwmon{number}"
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    for channel, (label, millivolts, milliamperes) in enumerate(rails, start=1):
        (folder / f"in{channel}_label").write_text(f"{label}\n")
        (folder / f"in{channel}_input").write_text(f"{millivolts}\n")
        (folder / f"curr{channel}_input").write_text(f"{milliamperes}\n")


def nothing(_: list[str]) -> str:
    return ""


def test_the_rails_of_every_sensor_are_read_in_watts(tmp_path: Path) -> None:
    sensor(tmp_path, 0, "thermal", [("X", 1, 1)])
    channels = [("VDD_IN", 5000, 1200), ("VDD_CPU_GPU_CV", 5000, 400), ("NC", 5000, 9)]
    sensor(tmp_path, 1, "ina3221", [*channels, ("sum of shunt voltages", 1, 1)])
    sensor(tmp_path, 2, "ina3221", [("VDD_SOC", 4980, 500)])
    rails = find_rails(tmp_path, nothing)
    assert rails is not None
    read = rails.read
    watts = {"VDD_IN": 6.0, "VDD_CPU_GPU_CV": 2.0, "VDD_SOC": 2.49}
    assert read() == pytest.approx(watts)
    # The board's own rail feeds the others: they are not added to it.
    assert whole_board(read()) == 6.0
    assert whole_board({"a": 1.0, "b": 2.0}) == 3.0


def test_a_card_is_asked_by_nvidia_smi(tmp_path: Path) -> None:
    rails = find_rails(tmp_path, lambda _: "71.25\n")
    assert rails is not None
    assert rails.read() == {"GPU card": 71.25}
    # Each reading starts a program.
    assert rails.period >= 1


@pytest.mark.parametrize("answer", ["", "[N/A]", "no devices"])
def test_without_sensor_and_card_nothing_measures(answer: str, tmp_path: Path) -> None:
    assert find_rails(tmp_path, lambda _: answer) is None


def test_a_meter_averages_what_it_reads_and_stops() -> None:
    values = iter([{"a": 2.0}, {"a": 4.0}, {}])

    def read() -> dict[str, float]:
        return next(values, {})

    with PowerMeter(Rails(read, 0.001)) as meter:
        deadline = time.monotonic() + 5
        while len(meter.samples) < 2 and time.monotonic() < deadline:
            time.sleep(0.001)
    assert meter.watts() == {"a": 3.0}


def test_idle_power_is_measured_while_nothing_runs() -> None:
    assert idle_watts(Rails(lambda: {"a": 1.5}, 0.001), 0.01) == {"a": 1.5}


def test_energy_is_power_times_time_over_images() -> None:
    found = energy({"VDD_IN": 8.0, "VDD_SOC": 1.0}, {"VDD_IN": 5.0}, seconds=10.0, images=400)
    assert found == {
        "watts": 8.0,
        "watts_idle": 5.0,
        "millijoules_per_image": 200.0,
        "millijoules_per_image_over_idle": 75.0,
    }
