"""Doctor under real conditions: a board with a sick card, a sick supply, a sick Python."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from conftest import missing

from harness.demo.loopback_sshd import LoopbackSshd, loopback_sshd, sshd_path
from harness.devices import opening
from harness.devices.dialects.python_agent.dialect import open_json_lines
from harness.devices.transports.local import open_local
from harness.devices.transports.ssh.transport import open_ssh
from harness.farm import checks_device
from harness.farm.doctor import examine
from harness.farm.patient import Check, Patient
from harness.types import Device

MODEL = Path(__file__).resolve().parents[2] / "harness" / "demo" / "data" / "digits.tflite"

# All of this happens in the server's own mount namespace and does not change the machine.
SICK_BOARD = """
mount -t tmpfs -o noexec,size=30m none {work}
mount --bind {tree}/cpu /sys/devices/system/cpu
mount --bind {tree}/meminfo /proc/meminfo
mount -t tmpfs none /opt
mkdir -p /opt/vc/bin
printf '#!/bin/sh\\necho throttled=0x50005\\n' > /opt/vc/bin/vcgencmd
chmod 755 /opt/vc/bin/vcgencmd
"""
READ_ONLY_CARD = "mount -t tmpfs -o ro,size=1m none {work}"


@contextmanager
def boxed(server: LoopbackSshd, folder: Path, script: str) -> Iterator[Device]:
    """An sshd with its own mounts; its work folder is `folder`/work."""
    if os.geteuid() != 0:
        missing("mounts of a server's own need root")
    work, tree = folder / "work", folder / "tree"
    cpufreq = tree / "cpu" / "cpu0" / "cpufreq"
    cpufreq.mkdir(parents=True)
    work.mkdir()
    (tree / "cpu" / "present").write_text("0-3\n")
    (tree / "cpu" / "possible").write_text("0-3\n")
    (cpufreq / "scaling_governor").write_text("ondemand\n")
    (tree / "meminfo").write_text(
        "MemTotal: 8000000 kB\nMemFree: 10 kB\nSwapTotal: 200000 kB\nSwapFree: 80000 kB\n"
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mounts = script.format(work=shlex.quote(str(work)), tree=shlex.quote(str(tree)))
    config = shlex.quote(str(server.folder / "sshd_config"))
    sshd = f"exec {sshd_path()} -D -e -o PidFile=none -p {port} -f {config}"
    with (folder / "sshd.log").open("wb") as log:
        process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-e", "-c", f"{mounts}\n{sshd}"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    known = folder / "known_hosts"
    known.write_text(f"[127.0.0.1]:{port} {server.host_key_public}\n")
    try:
        _wait_for(port, process, folder / "sshd.log")
        yield Device(
            name="sick",
            profile="linux_x86_64",
            address=f"ssh://{server.user}@127.0.0.1:{port}",
            transport_options={"identity": str(server.identity), "known_hosts": str(known)},
            dialect_options={"python": sys.executable, "workdir": str(work)},
        )
    finally:
        process.terminate()
        process.wait(10)


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 10
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as probe:
            if probe.recv(4) == b"SSH-":
                return
        time.sleep(0.02)
    missing(f"no sshd with mounts of its own: {log.read_text()}")


def examined(device: Device, model: Path | None = None) -> dict[str, Check]:
    opener = open_ssh if device.address.startswith("ssh:") else open_local
    found = {c.name: c for c in examine(device, opener, open_json_lines, None, model)}
    for check in found.values():
        assert (check.mend is not None) == (check.status in {"warn", "fail"}), check
    return found


@pytest.fixture(scope="module")
def sick_board(sshd: LoopbackSshd, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Check]:
    with boxed(sshd, tmp_path_factory.mktemp("sick board"), SICK_BOARD) as device:
        return examined(device)


@pytest.mark.parametrize(
    ("name", "status", "found", "mend"),
    [
        ("disk", "fail", "31 MB free", "edge-harness devices sick --clean"),
        ("noexec", "warn", "no runtime can be put there", "remount,exec"),
        ("swap", "warn", "123 MB in use", "swapoff"),
        ("governor", "warn", "ondemand: not pinned", "scaling_governor"),
        ("under_voltage", "fail", "under voltage now", "supply of 5 V"),
        ("throttled", "fail", "throttled now", "heatsink"),
        ("files", "ok", "come back whole", None),
        ("agent", "ok", "cores", None),
    ],
)
def test_a_board_with_every_ill(
    sick_board: dict[str, Check], name: str, status: str, found: str, mend: str | None
) -> None:
    check = sick_board[name]
    assert check.status == status
    assert found in check.found
    assert mend is None or mend in str(check.mend)


def test_a_card_that_is_mounted_read_only(sshd: LoopbackSshd, tmp_path: Path) -> None:
    with boxed(sshd, tmp_path, READ_ONLY_CARD) as device:
        found = examined(device)
    assert (found["files"].status, found["read_only"].status) == ("fail", "fail")
    assert "remount,rw" in str(found["read_only"].mend)
    assert found["agent"].status == "fail"


def test_an_sshd_without_sftp(
    tmp_path: Path, device_on: Callable[[LoopbackSshd], Device], sshd: LoopbackSshd
) -> None:
    with loopback_sshd(tmp_path / "no sftp", extra="") as server:
        found = examined(opening.with_options(device_on(server), python=sys.executable))
    assert found["files"].status == "fail"
    assert "no SFTP there" in found["files"].found
    command = shlex.split(str(found["files"].mend))[-1]
    assert command.startswith("echo 'Subsystem sftp internal-sftp' | sudo tee -a")


@pytest.fixture
def bare_python(tmp_path: Path) -> Path:
    """The Python of an empty venv."""
    venv.create(tmp_path / "bare", symlinks=True)
    return tmp_path / "bare" / "bin" / "python"


def _with(python: Path | str, tmp_path: Path, sitecustomize: str, path: str = "") -> Device:
    """This machine through a Python that first runs these lines."""
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
    device = _with(
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
    assert re.match(r"-86(400|399)\.\d+ s against ours", found["clock"].found)
    assert found["runtime"].status == "fail"
    assert "no wheel of a runtime fits" in str(found["runtime"].mend)


def test_xnnpack_that_is_absent_in_silence(home: Path, tmp_path: Path) -> None:
    # A cpuinfo that cannot be read does the same on Arm: no delegate, no message, correct outputs.
    device = _with(
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
    assert "the delegate was not made: none with ai_edge_litert" in found["xnnpack"].found


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
    found = examined(_with(bare_python, tmp_path, "", str(folder)), MODEL)
    assert found["runtime"].status == "ok"
    assert found["numpy"].status == "fail"
    assert f"numpy {np.__version__} with tflite_runtime 2.14.0" in found["numpy"].found
    assert found["numpy"].mend == "edge-harness setup here"
    assert found["xnnpack"].status == "fail"


def test_another_process_that_uses_the_processors(home: Path, tmp_path: Path) -> None:
    # It ends by itself if this test cannot end it.
    script = "import time\nend = time.monotonic() + 60\nwhile time.monotonic() < end: pass"
    patient = Patient(device=_with(sys.executable, tmp_path, ""))
    patient.transport = open_local(patient.device)
    spinning = subprocess.Popen([sys.executable, "-c", script])
    try:
        deadline = time.monotonic() + 30
        # On a busy machine it may get less than its share for a while.
        while f"pid {spinning.pid}" not in (check := checks_device.processors(patient)).found:
            assert time.monotonic() < deadline, check
    finally:
        spinning.kill()
        spinning.wait()
    assert check.status == "warn"
    assert re.search(rf"pid {spinning.pid}\) uses \d+% of one", check.found)
    assert f"{spinning.pid}" in str(check.mend)
    assert "top -b" in str(check.mend)
