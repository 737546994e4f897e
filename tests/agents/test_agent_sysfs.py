"""The agent's readings of a board: property tests of the parsers, and vendors' tools as programs."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from agent_lab import agent_module
from hypothesis import given
from hypothesis import strategies as st

from harness.devices.dialects.python_agent import answers
from harness.errors import AgentError

SYSFS = agent_module("sysfs")

ORIN = (
    "08-24-2026 11:19:00 RAM 3172/6284MB (lfb 44x4MB) SWAP 0/3142MB (cached 0MB) CPU [6%@1510,off]"
    " EMC_FREQ 0%@2133 GR3D_FREQ 26%@[306] cpu@46.41C tj@46.41C VDD_IN 4900mW/5000mW"
    " VDD_CPU_GPU_CV 924mW/939mW VDD_SOC 1500mW/1600mW"
)
NANO = "RAM 1903/3964MB (lfb 2x1MB) CPU [off,5%@102] PLL@40C POM_5V_IN 2545/2547 POM_5V_GPU 80/80"
AGX = "RAM 1/2MB VDD_GPU_SOC 3000mW/3000mW VDD_CPU_CV 500mW/500mW VIN_SYS_5V0 2700mW/2600mW"

# Contents of a faulty sensor's file, besides arbitrary text.
ODD = st.text() | st.from_regex(r"-?[0-9²٣]{1,400}( [0-9²]{1,30})?", fullmatch=True)
NUMBERS = st.integers(0, 10**9 - 1)


@pytest.mark.parametrize(("said", "milliwatts"), [(ORIN, 4900), (NANO, 2545), (AGX, 6200)])
def test_the_power_of_a_jetson(said: str, milliwatts: int) -> None:
    assert SYSFS.rails_mw(said) == milliwatts
    assert SYSFS.rails_mw(said + "\n" + said.replace("VDD_IN 4", "VDD_IN 9")) == milliwatts


@given(st.dictionaries(st.from_regex(r"V[A-Z0-9_]{1,9}", fullmatch=True), NUMBERS))
def test_rails_are_added_where_none_is_the_input(rails: dict[str, int]) -> None:
    line = "RAM 1/2MB " + " ".join(f"{name} {now}mW/1mW" for name, now in rails.items())
    wanted = rails.get("VDD_IN") or sum(rails.values()) or None
    assert SYSFS.rails_mw(line) == wanted


@given(st.dictionaries(NUMBERS, NUMBERS, min_size=1))
def test_time_in_state(ticks: dict[int, int]) -> None:
    lines = "\n".join(f"{mhz * 1000} {count}" for mhz, count in ticks.items())
    assert SYSFS.states(lines) == {str(mhz): count / 100 for mhz, count in ticks.items()}


@given(st.integers(0, 0xFFFFFFFF))
def test_throttle_bits(bits: int) -> None:
    assert SYSFS.throttle_bits(f"throttled={bits:#x}\n") == bits


@given(ODD)
def test_odd_text_is_no_number_and_no_crash(said: str) -> None:
    for parse in (SYSFS.rails_mw, SYSFS.throttle_bits, SYSFS.whole):
        found = parse(said)
        assert found is None or abs(found) < 1 << 63
        assert found is None or parse is SYSFS.whole or found >= 0
    found = SYSFS.states(said)
    assert found is None or all(abs(seconds) < 1 << 63 for seconds in found.values())


@given(content=st.binary(max_size=200) | ODD.map(lambda text: text.encode()))
def test_whatever_a_sensor_says_the_answer_can_be_sent(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    root = tmp_path_factory.mktemp("odd")
    processor = "sys/devices/system/cpu/cpu0/cpufreq"
    for name in (
        *("proc/loadavg", "proc/vmstat", "sys/class/thermal/thermal_zone0/temp"),
        *(f"{processor}/scaling_cur_freq", f"{processor}/scaling_governor"),
        *(f"{processor}/stats/time_in_state", f"{processor}/cpuinfo_max_freq"),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    found = SYSFS.covariates(str(root))
    assert SYSFS.oom_kills(str(root)) >= 0
    read = json.loads(json.dumps(found, allow_nan=False))
    answers._covariates(answers.Fields("odd", read))


def _tool(root: Path, name: str, script: str) -> Path:
    path = root / "usr/bin" / name
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return root


@pytest.mark.parametrize(
    ("script", "bits"),
    [
        ('[ "$1" = get_throttled ] && echo throttled=0x50000', 0x50000),
        ("echo 'VCHI initialization failed' >&2; exit 255", None),
        ("echo throttled=0x-5", None),
        ("printf '\\377\\000throttled'", None),
    ],
)
def test_the_firmware_of_a_raspberry_pi_is_asked(
    tmp_path: Path, script: str, bits: int | None
) -> None:
    assert SYSFS.throttled(str(_tool(tmp_path, "vcgencmd", script))) == bits


def test_a_tool_that_goes_on_for_ever_is_listened_to_and_ended(tmp_path: Path) -> None:
    mark = f"while echo '{ORIN}'; do sleep 0.1; done"
    root = _tool(tmp_path, "tegrastats", mark)
    began = time.monotonic()
    assert SYSFS.power_mw(str(root)) == 4900
    assert time.monotonic() - began < 5.0
    program = str(root / "usr/bin/tegrastats").encode()
    left = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            left += [entry] if program in entry.read_bytes() else []
        except OSError:
            continue
    assert not left


def test_more_numbers_than_any_board_has_are_refused() -> None:
    said: dict[str, Any] = {"seconds_at_mhz": {str(mhz): 1.0 for mhz in range(10_001)}}
    with pytest.raises(AgentError, match="more than 10000 numbers"):
        answers._covariates(answers.Fields("odd", said))
    with pytest.raises(AgentError, match="seconds_at_mhz"):
        answers._covariates(answers.Fields("odd", {"seconds_at_mhz": {"600": "long"}}))
    said = {"seconds_at_mhz": {"600": 1.5}}
    assert answers._covariates(answers.Fields("pi", said)).seconds_at_mhz == {"600": 1.5}
