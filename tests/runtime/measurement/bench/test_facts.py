"""Facts of a machine whose /proc and /sys are a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from foldcam.runtime.measurement.bench.facts import device_name, machine_facts, state, temperatures


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


JETSON = {
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic\n",
    "proc/cpuinfo": "processor : 0\nBogoMIPS : 62.50\nCPU part : 0xd42\n",
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
    "proc/loadavg": "0.25 0.1 0.0 1/200 4242\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1510400\n",
    "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "1728000\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "48500\n",
    "sys/class/thermal/thermal_zone1/type": "gpu-thermal\n",
    "sys/class/thermal/thermal_zone1/temp": "nothing\n",
}
ANSWERS = {
    "nvpmodel": "NV Power Mode: 15W\n0\n",
    "nvidia-smi": "Orin (nvgpu), 540.4.0, [N/A], [N/A], [N/A], [N/A], [N/A], [N/A]",
}


def answers(command: list[str]) -> str:
    return ANSWERS.get(command[0], "")


def test_a_jetson_is_known_by_board_release_mode_and_governor(tmp_path: Path) -> None:
    write(tmp_path, JETSON)
    facts = machine_facts(tmp_path, answers)
    assert facts["processor"] == "NVIDIA Jetson Orin Nano Developer Kit"
    assert facts["board"] == "NVIDIA Jetson Orin Nano Developer Kit"
    assert facts["l4t"] == "36.4.3"
    assert facts["power_mode"] == "15W"
    assert facts["governor"] == "schedutil"
    assert facts["largest_clock_mhz"] == 1728.0
    assert "virtual" not in facts


def test_what_changes_is_read_before_and_after_a_run(tmp_path: Path) -> None:
    write(tmp_path, JETSON)
    assert state(tmp_path, answers) == {
        "clock_mhz": 1510.4,
        "temperature_celsius": {"cpu-thermal": 48.5},
        "load_average": 0.25,
    }
    write(tmp_path, {"proc/driver/nvidia/version": "540.4.0"})
    # What a Jetson's nvidia-smi does not know is left out.
    assert state(tmp_path, answers)["nvidia_smi"] == {
        "name": "Orin (nvgpu)",
        "driver_version": "540.4.0",
    }


def test_a_virtual_processor_is_said_to_be_one(tmp_path: Path) -> None:
    cpuinfo = "model name\t: AMD EPYC 9R14\ncpu MHz\t\t: 2596.1\nflags\t\t: fpu hypervisor avx2\n"
    write(tmp_path, {"proc/cpuinfo": cpuinfo})
    facts = machine_facts(tmp_path, answers)
    assert facts["virtual"] is True
    assert facts["processor"] == "AMD EPYC 9R14"
    assert state(tmp_path, answers) == {"clock_mhz": 2596.1}


def test_a_machine_that_says_nothing_has_few_facts(tmp_path: Path) -> None:
    facts = machine_facts(tmp_path, lambda _: "")
    assert set(facts) == {"processor", "processors", "machine", "system"}
    assert temperatures(tmp_path) == {}


def test_this_machine_can_be_asked() -> None:
    assert machine_facts()["processors"] >= 1


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        ({"processor": "Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz"}, "intel-xeon-e5-2680-v4"),
        ({"processor": "AMD EPYC", "gpu": "NVIDIA GeForce RTX 4090"}, "nvidia-geforce-rtx-4090"),
        ({}, "unknown"),
    ],
)
def test_a_device_has_a_name_that_a_file_can_have(facts: dict[str, str], name: str) -> None:
    assert device_name(facts) == name
