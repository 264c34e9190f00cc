"""Clocks of machines whose /sys is a folder and whose nvidia-smi is a function."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from foldcam.runtime.measurement.bench.clocks import Clocks, clock_problem, read_clocks


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / "sys" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


GPU = "class/devfreq/17000000.gpu"
ORIN = {
    f"{GPU}/cur_freq": "1300500000\n",
    f"{GPU}/max_freq": "1300500000\n",
    "class/devfreq/15340000.vic/cur_freq": "115200000\n",
    "class/thermal/cooling_device0/type": "gpu-throttle-alert\n",
    "class/thermal/cooling_device0/cur_state": "0\n",
    "class/thermal/cooling_device1/type": "pwm-fan\n",
    "class/thermal/cooling_device1/cur_state": "3\n",
    "class/hwmon/hwmon3/oc1_event_cnt": "2\n",
    "class/hwmon/hwmon3/oc3_event_cnt": "5\n",
}


def silent(command: list[str]) -> str:
    return ""


def test_a_jetson_says_clock_target_and_events_in_files(tmp_path: Path) -> None:
    write(tmp_path, ORIN)
    found = read_clocks(tmp_path, silent)
    assert found == Clocks(1300.5, 1300.5, (), {"over-current events": 7})
    assert clock_problem([found, found]) == ""


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({f"{GPU}/cur_freq": "918000000"}, "ran at 918 MHz and its target is 1300 MHz"),
        (
            {"class/thermal/cooling_device0/cur_state": "1"},
            r"throttled by heat \(gpu-throttle-alert\)",
        ),
        ({"class/hwmon/hwmon3/oc3_event_cnt": "6"}, "there were 1 over-current events"),
    ],
)
def test_a_jetson_that_slows_down_is_no_place_to_measure(
    changed: dict[str, str], said: str, tmp_path: Path
) -> None:
    write(tmp_path, ORIN)
    before = read_clocks(tmp_path, silent)
    write(tmp_path, changed)
    assert re.search(said, clock_problem([before, read_clocks(tmp_path, silent)]))


@pytest.mark.parametrize("old", [False, True], ids=["since 535", "before"])
def test_a_desktop_says_it_through_nvidia_smi_by_either_name(old: bool, tmp_path: Path) -> None:
    def smi(command: list[str]) -> str:
        name = "clocks_throttle_reasons" if old else "clocks_event_reasons"
        return "1980, 450.00, 0x0000000000000045" if name in command[1] else ""

    found = read_clocks(tmp_path, smi)
    assert found.mhz == 1980
    assert found.power_limit_watts == 450
    # Idle (bit 0) is no throttling.
    assert found.reasons == ("its power limit", "heat (hardware)")
    assert "its power limit and heat (hardware)" in clock_problem([found])


def test_a_clock_that_was_set_is_held_and_one_that_was_not_may_not_move() -> None:
    slow, fast = Clocks(1500.0), Clocks(1980.0)
    assert clock_problem([fast, fast], 1980) == ""
    assert "its target is 1500 MHz" in clock_problem([fast], 1500)
    assert clock_problem([fast, fast]) == ""
    assert "moved between 1500 and 1980 MHz" in clock_problem([fast, slow])


def test_a_machine_that_says_nothing_has_no_problem_that_is_known(tmp_path: Path) -> None:
    found = read_clocks(tmp_path, silent)
    assert found == Clocks()
    assert found.document() == {}
    assert clock_problem([found]) == clock_problem([]) == ""
    garbled = read_clocks(tmp_path, lambda _: "[N/A], [N/A], [N/A]")
    assert garbled == Clocks()


def test_a_processor_that_throttles_is_counted(tmp_path: Path) -> None:
    place = "devices/system/cpu/cpu0/thermal_throttle/core_throttle_count"
    write(tmp_path, {place: "4"})
    before = read_clocks(tmp_path, silent)
    write(tmp_path, {place: "9"})
    after = read_clocks(tmp_path, silent)
    assert "5 times that the processor was throttled" in clock_problem([before, after])
