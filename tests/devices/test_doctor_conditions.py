"""Run doctor on boards with real faults: of the card, the supply, Python and others."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest
from standins.boards import board

from harness.devices.dialects.python_agent.dialect import open_json_lines
from harness.devices.transports.local import open_local
from harness.devices.transports.ssh.transport import open_ssh
from harness.farm.checks import CheckResult
from harness.farm.device_under_test import DeviceUnderTest
from harness.farm.doctor import examine
from harness.farm.linux import checks as linux
from harness.types import Device

MODEL = Path(__file__).resolve().parents[2] / "harness" / "demo" / "data" / "digits.tflite"

# All mounts are in a mount namespace of the server: the machine itself does not change.
FAULTY_BOARD = """
mkdir -p {tree}/cpu/cpu0/cpufreq
echo 0-3 > {tree}/cpu/present; echo 0-3 > {tree}/cpu/possible
echo ondemand > {tree}/cpu/cpu0/cpufreq/scaling_governor
printf 'MemTotal: 8000000 kB\nMemFree: 10 kB\nSwapTotal: 200000 kB\nSwapFree: 80000 kB\n' > {tree}/meminfo
mkdir -p {tree}/thermal/thermal_zone0
echo 84500 > {tree}/thermal/thermal_zone0/temp; echo cpu-thermal > {tree}/thermal/thermal_zone0/type
mount --bind {tree}/thermal /sys/class/thermal
echo '3.90 1.00 1.00 2/300 4711' > {tree}/loadavg; mount --bind {tree}/loadavg /proc/loadavg
mount -t tmpfs -o noexec,size=30m none {work}
mount --bind {tree}/cpu /sys/devices/system/cpu
mount --bind {tree}/meminfo /proc/meminfo
mount -t tmpfs none /opt
mkdir -p /opt/vc/bin
printf '#!/bin/sh\\necho throttled=0x50005\\n' > /opt/vc/bin/vcgencmd
chmod 755 /opt/vc/bin/vcgencmd
"""
READ_ONLY_CARD = "mount -t tmpfs -o ro,size=1m none {work}"


def examined(device: Device, model: Path | None = None) -> dict[str, CheckResult]:
    opener = open_ssh if device.address.startswith("ssh:") else open_local
    found = {c.name: c for c in examine(device, opener, open_json_lines, None, model)}
    for check in found.values():
        assert (check.fix_text is not None) == (check.status in {"warn", "fail"}), check
    return found


@pytest.fixture(scope="module")
def faulty_board(tmp_path_factory: pytest.TempPathFactory) -> dict[str, CheckResult]:
    with board(tmp_path_factory.mktemp("faulty board"), FAULTY_BOARD) as faulty:
        return faulty.examine()


@pytest.mark.parametrize(
    ("name", "status", "found", "fix"),
    [
        # None of the files are ours: removing our copies would free no space.
        ("disk", "fail", "31 MB free", 'set workdir = "'),
        ("noexec", "warn", "no runtime loads from it", "remount,exec"),
        ("swap", "warn", "123 MB in use", "swapoff"),
        ("governor", "warn", "ondemand: not pinned", "scaling_governor"),
        ("under_voltage", "fail", "under voltage now", "supply of 5 V"),
        ("throttled", "fail", "throttled now", "heatsink"),
        ("temperature", "warn", "84.5", "a fan"),
        ("load", "warn", "3.90 over the last minute", "wait a minute"),
        ("files", "ok", "come back unchanged", None),
        ("agent", "ok", "cores", None),
    ],
)
def test_a_board_with_many_faults(
    faulty_board: dict[str, CheckResult], name: str, status: str, found: str, fix: str | None
) -> None:
    check = faulty_board[name]
    assert check.status == status
    assert found in check.found
    assert fix is None or fix in str(check.fix_text)


def test_a_card_that_is_mounted_read_only(tmp_path: Path) -> None:
    with board(tmp_path, READ_ONLY_CARD) as faulty:
        found = faulty.examine()
    assert (found["files"].status, found["read_only"].status) == ("fail", "fail")
    assert "remount,rw" in str(found["read_only"].fix_text)
    assert found["agent"].status == "fail"


@pytest.fixture
def bare_python(tmp_path: Path) -> Path:
    """The Python of an empty venv."""
    venv.create(tmp_path / "bare", symlinks=True)
    return tmp_path / "bare" / "bin" / "python"


def _device_with(python: Path | str, tmp_path: Path, sitecustomize: str, path: str = "") -> Device:
    """Return this machine as a device whose Python first runs these lines."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(sitecustomize)
    wrapper = tmp_path / "python"
    wrapper.write_text(f'#!/bin/sh\nPYTHONPATH="{tmp_path}/site:{path}" exec "{python}" "$@"\n')
    wrapper.chmod(0o755)
    return Device(
        name="here",
        profile="linux_x86_64",
        address="local:",
        dialect_options={"python": str(wrapper), "workdir": str(tmp_path / "work")},
    )


def test_an_old_c_library_and_a_clock_that_is_off(
    home: Path, tmp_path: Path, bare_python: Path
) -> None:
    device = _device_with(
        bare_python,
        tmp_path,
        "import os, time\n"
        "now = time.time_ns\n"
        "time.time_ns = lambda: now() - 86400 * 10**9\n"
        "os.confstr = lambda name: 'glibc 2.24'\n",
    )
    found = examined(device, MODEL)
    assert found["libc"].status == "fail"
    assert "glibc 2.24: ai-edge-litert has no wheel for less than glibc 2.27" in found["libc"].found
    assert found["clock"].status == "warn"
    assert re.match(r"-86(400|399)\.\d+ s relative to this host", found["clock"].found)
    assert found["runtime"].status == "fail"
    assert "no wheel of a runtime fits" in str(found["runtime"].fix_text)


def test_a_delegate_that_is_silently_missing(home: Path, tmp_path: Path) -> None:
    # An unreadable cpuinfo has the same effect on Arm: no delegate, no message, right outputs.
    device = _device_with(
        sys.executable,
        tmp_path,
        "import ai_edge_litert.interpreter as litert\n"
        "class Plain(litert.Interpreter):\n"
        "    def __init__(self, **options):\n"
        "        plain = litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES\n"
        "        super().__init__(experimental_op_resolver_type=plain, **options)\n"
        "litert.Interpreter = Plain\n",
    )
    found = examined(device, MODEL)
    assert found["runtime"].status == "ok"
    assert found["xnnpack"].status == "fail"
    assert "the delegate was not created: none with ai_edge_litert" in found["xnnpack"].found


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="tflite-runtime ends at Python 3.11")
def test_numpy_2_with_the_old_runtime(
    home: Path, tmp_path: Path, bare_python: Path, second_python: str
) -> None:
    import numpy as np

    folder = tmp_path / "packages"
    folder.mkdir()
    (old,) = Path(second_python).parents[1].glob("lib/python*/site-packages/tflite_runtime")
    (folder / "tflite_runtime").symlink_to(old)
    here = Path(np.__file__).parents[1]
    for name in ("numpy", "numpy.libs"):
        (folder / name).symlink_to(here / name)
    found = examined(_device_with(bare_python, tmp_path, "", str(folder)), MODEL)
    assert found["runtime"].status == "ok"
    assert found["numpy"].status == "fail"
    assert f"numpy {np.__version__} with tflite_runtime 2.14.0" in found["numpy"].found
    assert found["numpy"].fix_text == "edge-harness setup here"
    assert found["xnnpack"].status == "fail"


def test_another_process_that_uses_the_processors(home: Path, tmp_path: Path) -> None:
    # It ends by itself if this test does not end it.
    script = "import time\nend = time.monotonic() + 60\nwhile time.monotonic() < end: pass"
    dut = DeviceUnderTest(device=_device_with(sys.executable, tmp_path, ""))
    dut.transport = open_local(dut.device)
    spinning = subprocess.Popen([sys.executable, "-c", script])
    try:
        deadline = time.monotonic() + 30
        # On a busy machine it may get less than its share for a while.
        while f"pid {spinning.pid}" not in (check := linux.processors(dut)).found:
            assert time.monotonic() < deadline, check
    finally:
        spinning.kill()
        spinning.wait()
    assert check.status == "warn"
    assert re.search(rf"pid {spinning.pid}\) uses \d+% of one", check.found)
    assert f"{spinning.pid}" in str(check.fix_text)
    assert "top -b" in str(check.fix_text)
