"""What a phone's services, the survey and the sampler print."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.devices import android
from harness.devices.dialects.benchmark_model import facts, scripts, sensors
from harness.errors import AgentError
from harness.types import Covariates

# AOSP ThermalManagerService.dump, with values of a Pixel's log
THERMAL = """\
IsStatusOverride: false
ThermalEventListeners:
Thermal Status: 1
Cached temperatures:
\tTemperature{mValue=80.0, mType=0, mName=BIG, mStatus=3}
HAL Ready: true
HAL connection:
\tThermalHAL 2.0 connected: yes
Current temperatures from HAL:
\tTemperature{mValue=62.500004, mType=0, mName=CPU0, mStatus=0}
\tTemperature{mValue=61.000004, mType=1, mName=GPU, mStatus=0}
\tTemperature{mValue=26.274, mType=3, mName=skin, mStatus=0}
\tTemperature{mValue=-99.9, mType=5, mName=TYPE_POWER_AMPLIFIER, mStatus=0}
\tTemperature{mValue=0.0, mType=9, mName=npu, mStatus=0}
Current cooling devices from HAL:
\tCoolingDevice{mValue=0, mType=2, mName=thermal-cpufreq-0}
"""
BATTERY = """\
Current Battery Service state:
  AC powered: false
  USB powered: true
  Wireless powered: false
  status: 2
  present: true
  level: 87
  scale: 100
  voltage: 4213
  temperature: 285
  technology: Li-ion
"""


def test_only_the_block_read_from_the_hal_counts_and_by_type() -> None:
    found = android.thermal(THERMAL)
    assert found.status == 1
    assert found.celsius == {0: 62.500004, 1: 61.000004, 3: 26.274}
    assert found.processor_celsius == 62.500004
    cached = android.thermal(THERMAL.partition("Current temperatures")[0])
    assert (cached.celsius, cached.processor_celsius) == ({}, None)
    assert android.thermal(THERMAL.replace("mType=0", "mType=7")).processor_celsius == 26.274


def test_battery_and_screen_are_read_and_absent_values_are_absent() -> None:
    found = android.battery(BATTERY)
    assert (found.percent, found.celsius, found.charging) == (87, 28.5, True)
    assert android.battery("") == android.BatteryState()
    assert android.battery("  level: 200\n  temperature: 0\n") == android.BatteryState()
    assert android.is_awake("  mWakefulness=Awake") is True
    assert android.is_awake("  mWakefulness=Dozing") is False
    assert android.is_awake("") is None


def output(*parts: tuple[str, str]) -> bytes:
    made = b"after.zone 48312 cpu-thermal\nafter.zone -1 x\nafter.mhz 2400000\nafter.mhz 300000\n"
    made += b"after.governor performance\nafter.governor schedutil\nafter.load 1.5\n"
    for name, text in parts:
        data = text.encode()
        made += b"edge-harness-file %s %d\n%s" % (name.encode(), len(data), data)
    return made + scripts.END


def test_covariates_are_those_of_the_services_else_of_the_files() -> None:
    plain = sensors.covariates(scripts.parse(output()), "after")
    assert (plain.temperature_c, plain.frequency_mhz, plain.governor) == (
        48.312,
        2400.0,
        "schedutil",
    )
    assert (plain.load_1m, plain.thermal_status, plain.battery_percent) == (1.5, None, None)
    phone = scripts.parse(output(("after.thermal", THERMAL), ("after.battery", BATTERY)))
    found = sensors.covariates(phone, "after")
    assert (found.temperature_c, found.thermal_status, found.charging) == (62.500004, 1, True)
    assert sensors.covariates(phone, "before") == sensors.covariates(scripts.parse(b""), "before")


def test_a_start_under_bad_conditions_is_flagged() -> None:
    cool = Covariates(thermal_status=0, battery_percent=80, charging=False, screen_on=True)
    assert sensors.flags(cool) == sensors.flags(Covariates()) == ()
    bad = Covariates(thermal_status=2, battery_percent=15, charging=True, screen_on=False)
    assert sensors.flags(bad) == ("thermal_throttling", "low_battery", "charging", "screen_off")


def test_the_samplers_lines_become_series_with_times() -> None:
    data = (
        b"100.10 rss 1000\n100.10 hwm 2000\n100.10 zone 48000 3\n100.10 mhz 1800000 4\n"
        b"100.30 rss 1500\n100.30 hwm 2500\n100.30 current_now -250000\n100.30 voltage_now 4100000\n"
        b"100.30 rail t=349894\n100.30 rail CH3(T=349894)[S2M_VDD_CPUCL2], 30203502\n"
        b"garbage\n100.3 zone x 3\n100.3 mhz 5 99999\ncost 2\n0m0.010s 0m0.020s\n0m00.01s 0m00.00s\n"
    )
    made, peak = sensors.series(data)
    found = {one.series: one for one in made}
    assert peak == 2500 * 1024
    assert list(found["rss"].value) == [1000 * 1024, 1500 * 1024]
    assert list(found["rss"].at_ns) == [100_100_000_000, 100_300_000_000]
    assert found["zone3_c"].value[0] == 48.0
    assert found["cpu4_mhz"].value[0] == 1800.0
    assert found["battery_current_ua"].value[0] == -250_000
    assert found["rail_s2m_vdd_cpucl2_uws"].value[0] == 30_203_502
    assert found["sampler_cpu_ns"].value[0] == pytest.approx(4e7)


SURVEY = b"""system Linux
kernel 6.1
machine aarch64
hostname localhost
page_size 16384
prop.ro.serialno ABC123
prop.ro.soc.model SM8650
prop.ro.product.model Pixel 8
prop.ro.product.manufacturer Google
prop.ro.build.version.sdk 35
prop.ro.build.version.release 15
memory_kb 8000000
cpu 0 1800000 300
cpu 4 2400000 700
cpu 7 3000000 1024
cpu 8 - -
allowed 0-7
taskset yes
free_kb /dev/block/dm-5 100 60 40 60% /data
"""


def test_a_phones_survey_has_its_facts() -> None:
    found = facts.read(scripts.parse(SURVEY + scripts.END), "phone")
    assert (found.page_bytes, found.api, found.has_taskset) == (16_384, 35, True)
    assert found.facts.system == "Android 15"
    assert found.facts.chip == "SM8650"
    assert found.facts.processors == (7, 4, 0)
    assert found.facts.free_bytes == 40 * 1024
    assert found.facts.runtimes == ()
    other = facts.read(scripts.parse(SURVEY.replace(b"ABC", b"XYZ") + scripts.END), "phone")
    assert other.facts.identity != found.facts.identity
    with pytest.raises(AgentError, match="ended early"):
        facts.read(scripts.parse(SURVEY), "phone")


@settings(deadline=None)
@given(
    st.binary(max_size=400)
    | st.tuples(st.integers(0, 500), st.binary(max_size=3)).map(
        lambda c: SURVEY[: c[0]] + c[1] + SURVEY[c[0] :] + scripts.END
    )
)
def test_whatever_a_script_prints_is_read_or_refused(data: bytes) -> None:
    found = scripts.parse(data)
    with contextlib.suppress(AgentError):
        facts.read(found, "phone")
    sensors.covariates(found, "after")
    sensors.series(data)


@settings(deadline=None)
@given(
    st.text(alphabet="0123456789:.-=,{}mValueTypNSts \n\tTemperature", max_size=200)
    | st.text(max_size=100)
)
def test_whatever_a_service_prints_is_a_state(text: str) -> None:
    android.thermal(text)
    android.thermal("Current temperatures from HAL:\n" + text)
    android.battery(text)
    android.is_awake(text)
