"""Execute every fix that doctor prints on a real fault; the check passes afterwards."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
import time
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import missing
from standins.boards import (
    PRIVATE_ETC,
    SUDO,
    USER,
    WITHOUT_PYTHON,
    WITHOUT_SUDO,
    Board,
    board,
    dropbear_board,
    executes,
    local_board,
    package_manager,
)

from harness.demo import DATA
from harness.demo.loopback_sshd import SFTP, sshd_path
from harness.devices.dialects.python_agent.options import AgentOptions
from harness.devices.transports.local import open_local
from harness.devices.transports.ssh.options import SshOptions
from harness.devices.transports.ssh.transport import open_ssh
from harness.farm import checks_agent
from harness.farm.checks import CheckResult, run
from harness.farm.device_under_test import DeviceUnderTest
from harness.farm.doctor import CHECKS
from harness.farm.linux import checks as linux
from harness.farm.linux import sftp
from harness.protocols import Transport
from harness.types import Profile

BUSYBOX = "/bin/busybox"
MODEL = DATA / "digits.tflite"
SPACE = "mount -t tmpfs -o size=600m none {work}\n"


def fix(faulty: Board, name: str, kind: str, answer: str = "") -> CheckResult:
    """Find the fault and execute its fix; the check must pass afterwards. Returns the first result."""
    before = faulty.examine()[name]
    assert before.status in {"warn", "fail"}, before
    assert before.fix is not None
    assert before.fix.kind.id == kind, before
    faulty.execute(before.fix, answer)
    after = faulty.examine()[name]
    assert after.status == "ok", after
    return before


# --- the work folder and its file system ---------------------------------------------------------


@executes("remount-exec")
def test_noexec(tmp_path: Path) -> None:
    with board(tmp_path, "mount -t tmpfs -o noexec,size=600m none {work}") as faulty:
        fix(faulty, "noexec", "remount-exec")


@executes("remount-rw")
def test_a_read_only_card(tmp_path: Path) -> None:
    with board(tmp_path, "mount -t tmpfs -o ro,size=600m none {work}") as faulty:
        fix(faulty, "read_only", "remount-rw")
        assert faulty.examine()["files"].status == "ok"
        assert faulty.examine()["agent"].status == "ok"


@executes("clean")
def test_a_disk_full_of_our_own_copies(tmp_path: Path) -> None:
    with board(tmp_path, SPACE + "mkdir -m 700 {work}/blobs") as faulty:
        blob = f"{AgentOptions.of(faulty.device).workdir}/blobs/{'0' * 64}"
        faulty.as_root(f"head -c 200000000 /dev/zero > '{blob}'; chmod 600 '{blob}'")
        found = fix(faulty, "disk", "clean")
        assert "--clean" in str(found.fix_text)
        assert "200 MB" in str(found.fix_text)


@executes("other-file-system")
def test_a_disk_full_of_other_files(tmp_path: Path) -> None:
    with board(tmp_path, "mount -t tmpfs -o size=30m none {work}") as faulty:
        fix(faulty, "disk", "other-file-system")
        assert AgentOptions.of(faulty.now()).workdir != AgentOptions.of(faulty.device).workdir
        assert faulty.examine()["agent"].status == "ok"
        shutil.rmtree(AgentOptions.of(faulty.now()).workdir)


def test_a_disk_that_only_the_user_can_clean(tmp_path: Path) -> None:
    with board(tmp_path, "mount -t tmpfs -o size=30m none {work}\n") as faulty:
        dut = surveyed(faulty)
        assert dut.system is not None
        dut.system = dataclasses.replace(dut.system, writable_folders=())
        found = linux.disk(dut)
        assert found.fix is not None
        assert found.fix.kind.id == "make-room"
        # The command that shows the largest files works exactly as it is printed.
        (look,) = re.findall(r"remove files; (.*) shows the largest folders", found.fix.text)
        reply = subprocess.run(["sh", "-c", look], capture_output=True, text=True, check=True)
        assert str(AgentOptions.of(faulty.device).workdir) in reply.stdout


_OPENED: list[Transport] = []


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    """Close what `surveyed` opened."""
    yield
    while _OPENED:
        _OPENED.pop().close()


def surveyed(faulty: Board) -> DeviceUnderTest:
    """Return the device after the checks of transport and system only."""
    device = faulty.now()
    opener = open_ssh if device.address.startswith("ssh:") else open_local
    dut = DeviceUnderTest(
        device=device, farm=faulty.farm, is_farm_named=True, open_transport=opener
    )
    names = {"reachable", "host_key", "commands", "system"}
    run([one for one in CHECKS if one.name in names], dut)
    if dut.transport is not None:
        _OPENED.append(dut.transport)
    assert dut.system is not None
    return dut


@executes("own-workdir")
def test_a_work_folder_of_another_user_stays_unchanged(tmp_path: Path) -> None:
    taken = "mkdir -m 700 {work}/theirs && chown 4712:4712 {work}/theirs"
    with board(tmp_path, taken, workdir=str(tmp_path / "work" / "theirs")) as faulty:
        found = fix(faulty, "agent", "own-workdir")
        assert "belongs to another user" in found.found
        theirs = tmp_path / "work" / "theirs"
        assert (theirs.stat().st_uid, theirs.stat().st_mode & 0o777) == (4712, 0o700)
        shutil.rmtree(AgentOptions.of(faulty.now()).workdir)


@executes("own-workdir")
def test_an_ordinary_account_and_a_work_folder_of_another_user(tmp_path: Path) -> None:
    script = PRIVATE_ETC + USER + SUDO + "mkdir -m 700 -p /srv/board\n"
    script = "mount -t tmpfs -o mode=755 none /srv\n" + script
    with board(tmp_path, script, user="pi", workdir="/srv/board") as faulty:
        found = fix(faulty, "files", "own-workdir")
        assert found.fix is not None
        assert found.fix.setting == {"workdir": "/var/tmp/edge-harness-pi"}
        assert faulty.as_root("stat -c %u /srv/board").strip() == "0"
        shutil.rmtree("/var/tmp/edge-harness-pi")


@executes("make-workdir")
def test_a_work_folder_with_a_parent_of_root(tmp_path: Path) -> None:
    script = "mount -t tmpfs -o mode=755 none /srv\n" + PRIVATE_ETC + USER + SUDO
    with board(tmp_path, script, user="pi", workdir="/srv/it's new") as faulty:
        fix(faulty, "files", "make-workdir")
        assert faulty.as_root('stat -c %u:%a "/srv/it\'s new"').strip() == "4711:700"


@executes("chmod-workdir")
def test_a_work_folder_without_write_permission(tmp_path: Path) -> None:
    script = "mount -t tmpfs -o mode=755 none /srv\n" + PRIVATE_ETC + USER
    script += "mkdir -m 500 '/srv/own one' && chown 4711:4711 '/srv/own one'\n"
    with board(tmp_path, script, user="pi", workdir="/srv/own one") as faulty:
        fix(faulty, "files", "chmod-workdir")


@executes("remove-part")
@pytest.mark.parametrize("what", ["link", "file"])
def test_a_file_or_link_in_place_of_our_folder(tmp_path: Path, what: str) -> None:
    faulty = local_board(tmp_path, workdir=str(tmp_path / "it's work"))
    folder = tmp_path / "it's work"
    folder.mkdir(mode=0o700)
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("mine")
    if what == "link":
        (folder / "blobs").symlink_to(kept)
    else:
        (folder / "blobs").write_text("")
    fix(faulty, "agent", "remove-part")
    assert (kept / "file").read_text() == "mine"


# --- conditions ----------------------------------------------------------------------------------

GOVERNORS = """
mkdir -p {tree}/cpu/cpu0/cpufreq {tree}/cpu/cpu1/cpufreq
for one in 0 1; do
    echo ondemand > {tree}/cpu/cpu$one/cpufreq/scaling_governor
    echo ondemand performance > {tree}/cpu/cpu$one/cpufreq/scaling_available_governors
done
echo 0-1 > {tree}/cpu/present; echo 0-1 > {tree}/cpu/possible
mount --bind {tree}/cpu /sys/devices/system/cpu
"""


@executes("set-governor")
def test_a_governor_that_is_not_pinned(tmp_path: Path) -> None:
    with board(tmp_path, GOVERNORS) as faulty:
        found = fix(faulty, "governor", "set-governor")
        assert "sudo" not in str(found.fix_text)


@executes("set-governor")
def test_a_governor_of_an_ordinary_account_with_sudo(tmp_path: Path) -> None:
    if shutil.which("sudo") is None:
        missing("no sudo: apt-get install sudo")
    with board(tmp_path, GOVERNORS + PRIVATE_ETC + USER + SUDO, user="pi") as faulty:
        found = fix(faulty, "governor", "set-governor")
        assert "sudo tee" in str(found.fix_text)


@executes("set-governor")
def test_a_governor_of_an_ordinary_account_without_sudo(tmp_path: Path) -> None:
    script = GOVERNORS + PRIVATE_ETC + USER + "[ ! -e /usr/bin/sudo ] || " + WITHOUT_SUDO
    with board(tmp_path, script, user="pi") as faulty:
        found = fix(faulty, "governor", "set-governor")
        assert "sudo tee" not in str(found.fix_text)
        assert str(found.fix_text).startswith("as root on the device")


# A stand-in: a test must not turn off the machine's own swap.
SWAP = """
printf 'MemTotal: 8000000 kB\nSwapTotal: 200000 kB\nSwapFree: 80000 kB\n' > {tree}/meminfo
mount --bind {tree}/meminfo /proc/meminfo
printf '#!/bin/sh\n[ "$1" = -a ] && umount /proc/meminfo\n' > {tree}/swapoff
chmod 755 {tree}/swapoff
mount --bind {tree}/swapoff $(command -v swapoff)
"""


@executes("swapoff")
def test_swap_in_use(tmp_path: Path) -> None:
    if not re.search(r"SwapTotal: +0 kB", Path("/proc/meminfo").read_text()):
        missing("this machine has swap")
    with board(tmp_path, SWAP) as faulty:
        found = fix(faulty, "swap", "swapoff")
        assert found.found == "123 MB in use"


@executes("stop-process")
def test_a_process_that_computes(tmp_path: Path) -> None:
    faulty = local_board(tmp_path)
    script = "import time\nend = time.monotonic() + 60\nwhile time.monotonic() < end: pass"
    dut = DeviceUnderTest(device=faulty.device)
    dut.transport = open_local(faulty.device)
    busy = subprocess.Popen([sys.executable, "-c", script])
    try:
        deadline = time.monotonic() + 30
        while f"pid {busy.pid}" not in (found := linux.processors(dut)).found:
            assert time.monotonic() < deadline, found
        # Other processes of this machine may be busy too; stop only ours.
        only = linux._stop_fix(dut, _busy(dut, busy.pid))
        faulty.execute(only)
        assert busy.wait(10) == -15
    finally:
        busy.kill()
        busy.wait()
    assert f"pid {busy.pid}" not in linux.processors(dut).found


def _busy(dut: DeviceUnderTest, pid: int) -> tuple[linux.BusyProcess, ...]:
    """Return the process as doctor sees it; on a busy machine it may not compute all the time."""
    deadline = time.monotonic() + 30
    while True:
        found = tuple(one for one in linux.busy.measure(dut.commands) or () if one.pid == pid)
        if found:
            return found
        assert time.monotonic() < deadline


# Stand-ins: a test must not set the machine's clock, and NTP needs systemd and a network.
DATE = """\
#!/bin/sh
now=$(/bin/busybox date +%s 2>/dev/null || /usr/bin/env -i /usr/bin/date +%s)
case "$*" in
"-u -s @"*) echo $((${{3#@}} - now)) > {offset} ;;
+%s) echo $((now + $(cat {offset}))) ;;
*) exit 1 ;;
esac
"""


@executes("set-clock")
def test_a_clock_that_is_off(tmp_path: Path) -> None:
    tools, offset = tmp_path / "tools", tmp_path / "offset"
    tools.mkdir()
    (tools / "date").write_text(DATE.format(offset=f"'{offset}'"))
    (tools / "date").chmod(0o755)
    offset.write_text("-86400")
    path = f"{tools}:/usr/sbin:/usr/bin:/sbin:/bin"
    hidden = "mount -t tmpfs none /run/systemd 2>/dev/null || true"
    with board(tmp_path / "board", hidden, environment={"PATH": path}) as faulty:
        dut = surveyed(faulty)
        found = linux.clock(dut)
        assert found.status == "warn"
        assert re.match(r"-86(400|399)\.\d+ s relative to this host", found.found)
        faulty.execute(found.fix)
        assert linux.clock(surveyed(faulty)).status == "ok"
    assert abs(int(offset.read_text())) <= 2


@executes("set-ntp")
def test_a_clock_that_systemd_can_set(tmp_path: Path) -> None:
    tools, offset = tmp_path / "tools", tmp_path / "offset"
    tools.mkdir()
    (tools / "date").write_text(DATE.format(offset=f"'{offset}'"))
    (tools / "timedatectl").write_text(
        f"#!/bin/sh\n[ \"$*\" = 'set-ntp true' ] && echo 0 > '{offset}'\n"
    )
    for tool in tools.iterdir():
        tool.chmod(0o755)
    offset.write_text("3600")
    path = f"{tools}:/usr/sbin:/usr/bin:/sbin:/bin"
    systemd = (
        "mkdir -p /run/systemd && mount -t tmpfs none /run/systemd && mkdir /run/systemd/system"
    )
    with board(tmp_path / "board", systemd, environment={"PATH": path}) as faulty:
        found = linux.clock(surveyed(faulty))
        assert found.status == "warn"
        faulty.execute(found.fix)
        assert linux.clock(surveyed(faulty)).status == "ok"


NODE = """
mkdir -p /dev/dri && mount -t tmpfs none /dev/dri
mknod -m 660 /dev/dri/renderD128 c 1 3
echo 'render:x:4800:' >> /etc/group
chgrp 4800 /dev/dri/renderD128
"""


@executes("join-group")
def test_a_device_node_that_the_account_may_not_open(tmp_path: Path) -> None:
    if shutil.which("sudo") is None:
        missing("no sudo: apt-get install sudo")
    made = not Path("/dev/dri").exists()
    try:
        with board(tmp_path, PRIVATE_ETC + USER + SUDO + NODE, user="pi") as faulty:
            profile = Profile(name="p", title="P", arch="any", targets=("xnnpack", "gpu"))
            dut = surveyed(faulty)
            dut.profile = profile
            found = linux.device_nodes(dut)
            assert found.status == "warn"
            assert "pi may not open /dev/dri/renderD128 (group render)" in found.found
            faulty.execute(found.fix)
            again = surveyed(faulty)
            again.profile = profile
            assert linux.device_nodes(again).status == "ok"
    finally:
        if made and Path("/dev/dri").is_dir():
            Path("/dev/dri").rmdir()


# --- Python --------------------------------------------------------------------------------------


@executes("name-python")
def test_another_python_is_on_the_device(tmp_path: Path) -> None:
    faulty = local_board(tmp_path, python="no-python-3")
    found = fix(faulty, "python", "name-python")
    assert re.search(r'set python = "/.+/python3[.\d]*" in \[device\.here\]', str(found.fix_text))


SYSTEMS = {
    "apt-get": ("ID=debian", "python3"),
    "dnf": ("ID=fedora", "python3"),
    "microdnf": ("ID=rocky\nID_LIKE='rhel centos fedora'\nVERSION_ID=9.4", "python3"),
    "yum": ("ID=amzn\nID_LIKE=centos\nVERSION_ID=2", "python3"),
    "apk": ("ID=alpine", "python3"),
    "zypper": ("ID=opensuse-tumbleweed\nID_LIKE='opensuse suse'", "python3"),
    "pacman": ("ID=arch", "python"),
    "opkg": ("ID=openwrt\nID_LIKE='lede openwrt'", "python3"),
}


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Board:
    """A board without Python, with stand-ins for all package managers; tests change its os-release."""
    folder = tmp_path_factory.mktemp("bare board")
    release = folder / "os-release"
    release.write_text("ID=none\n")
    tools = folder / "tools"
    for name, (_, package) in SYSTEMS.items():
        script = f"ln -sf '{folder}/python' /usr/bin/python3"
        newer = f"ln -sf '{folder}/python' /usr/bin/python3.11"
        old = f"ln -sf '{folder}/python' /usr/bin/python3.9"
        provided = {package: script, "python311": newer, "python3.11": newer, "python3.9": old}
        package_manager(tools, name, provided)
    (folder / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (folder / "python").chmod(0o755)
    mounts = WITHOUT_PYTHON + f"mount --bind '{release}' $(readlink -f /etc/os-release)\n"
    path = {"PATH": f"{tools}:/usr/sbin:/usr/bin:/sbin:/bin"}
    with board(folder / "board", mounts, environment=path, python="python3") as made:
        yield made


@executes("install-python")
@pytest.mark.parametrize("manager", SYSTEMS)
def test_no_python_and_a_package_manager(bare: Board, manager: str) -> None:
    folder = bare.home.parents[1]
    (folder / "os-release").write_text(SYSTEMS[manager][0] + "\n")
    others = [name for name in SYSTEMS if name != manager]
    # A system of dnf's family may have any of that family's programs.
    for name in others if manager in {"microdnf", "yum"} else []:
        (folder / "tools" / name).rename(folder / "tools" / f"{name}.off")
    try:
        dut = surveyed(bare)
        before = checks_agent.python(dut)
        assert before.status == "fail"
        assert before.fix is not None
        assert f"{manager} " in str(before.fix.command)
        assert "sudo" not in str(before.fix.command)
        bare.execute(before.fix)
        after = checks_agent.python(surveyed(bare))
        assert after.status == "ok", after
        assert "python" in (folder / "tools" / f"{manager}.log").read_text()
    finally:
        bare.as_root("rm -f /usr/bin/python3*")
        for off in (folder / "tools").glob("*.off"):
            off.rename(off.with_suffix(""))


@executes("newer-python")
@pytest.mark.parametrize(
    ("release", "path"),
    [
        ("ID=ubuntu\nID_LIKE=debian\nVERSION_ID='20.04'", "/usr/bin/python3.9"),
        ("ID=almalinux\nID_LIKE='rhel centos fedora'\nVERSION_ID='8.10'", "/usr/bin/python3.11"),
        ("ID=opensuse-leap\nID_LIKE='suse opensuse'\nVERSION_ID='15.6'", "/usr/bin/python3.11"),
    ],
)
def test_a_system_whose_python_is_too_old(bare: Board, release: str, path: str) -> None:
    folder = bare.home.parents[1]
    (folder / "os-release").write_text(release + "\n")
    before = bare.now()
    try:
        found = checks_agent.python(surveyed(bare))
        assert found.fix is not None
        assert found.fix.setting == {"python": path}
        bare.execute(found.fix)
        assert checks_agent.python(surveyed(bare)).status == "ok"
    finally:
        bare.as_root("rm -f /usr/bin/python3*")
        text = bare.farm.read_text()
        bare.farm.write_text(
            text.replace(f'python = "{path}"', f'python = "{AgentOptions.of(before).python}"')
        )


def test_no_python_and_no_package_manager(bare: Board) -> None:
    folder = bare.home.parents[1]
    (folder / "os-release").write_text("ID=buildroot\nPRETTY_NAME='Buildroot 2024.02'\n")
    dut = surveyed(bare)
    assert dut.system is not None
    dut.system = _without_tools(dut)
    found = checks_agent.python(dut)
    assert found.fix is not None
    assert found.fix.command is None
    assert "image of its system" in found.fix.text
    for name in SYSTEMS:
        assert name not in found.fix.text


def _without_tools(dut: DeviceUnderTest) -> linux.survey.System:
    assert dut.system is not None
    return dataclasses.replace(dut.system, tools=frozenset())


BUSYBOX_BOARD = """
mount --bind {tree} /mnt
mkdir -p /mnt/proc /mnt/sys /mnt/dev /mnt/bin /mnt/tmp /mnt/var/tmp /mnt/root /mnt/etc
cp /bin/busybox /mnt/bin/busybox
for one in $(/bin/busybox --list); do [ $one = busybox ] || ln -sf busybox /mnt/bin/$one; done
printf '#!/bin/sh\nexec /bin/sh "$@"\n' > /mnt/bin/bash && chmod 755 /mnt/bin/bash
cp /etc/passwd /etc/group /mnt/etc
echo 'ID=alpine' > /mnt/etc/os-release
mount -t proc none /mnt/proc; mount -t sysfs none /mnt/sys; mount --rbind /dev /mnt/dev
"""


def test_a_board_with_busybox_and_no_python(tmp_path: Path) -> None:
    """A former fault: eighteen checks were skipped, and any system got `sudo apt-get`."""
    if not Path(BUSYBOX).exists():
        missing("no busybox: apt-get install busybox-static")
    config = f"{SFTP}\nChrootDirectory /mnt"
    path = {"PATH": "/bin"}
    with board(
        tmp_path, BUSYBOX_BOARD, config=config, environment=path, python="python3", workdir="/var/w"
    ) as faulty:
        found = faulty.examine(model=Path(__file__))
    statuses = {name: check.status for name, check in found.items()}
    assert statuses["python"] == "fail"
    assert "image of its system" in str(found["python"].fix_text)
    made = "reachable host_key commands round_trip system files disk read_only noexec swap"
    made += " processors clock load"
    for name in made.split():
        assert statuses[name] in {"ok", "warn"}, found[name]
    waiting = {name for name, check in found.items() if check.waits_for}
    assert waiting == {"agent", "runtime", "numpy", "xnnpack"}
    assert {found[name].waits_for for name in waiting} == {"python"}
    assert found["agent"].found == "waits for python: it failed"
    assert "busybox" not in found["system"].found


# --- SSH -----------------------------------------------------------------------------------------

NO_SFTP_SERVER = "mount -t tmpfs none $(dirname $(readlink -f /usr/lib/sftp-server))\n"
STOCK = Path("/usr/share/openssh/sshd_config")


def _valid(faulty: Board) -> None:
    config = faulty.home.parent / "sshd_config"
    reply = subprocess.run(
        [str(sshd_path()), "-t", "-f", str(config)], capture_output=True, text=True, check=False
    )
    assert (reply.returncode, reply.stderr) == (0, "")
    assert not list(config.parent.glob("*.new"))


@executes("sshd-sftp")
@pytest.mark.parametrize("with_match", [False, True])
def test_an_sshd_without_sftp(tmp_path: Path, *, with_match: bool) -> None:
    stock = "Match User nobody\n    AllowTcpForwarding no\n" if with_match else None
    with board(tmp_path / "no sftp", config="", stock=stock) as faulty:
        found = fix(faulty, "files", "sshd-sftp")
        assert "no SFTP there" in found.found
        _valid(faulty)
        text = (tmp_path / "no sftp" / "sshd_config").read_text()
        assert text.startswith("Subsystem sftp internal-sftp\n")


@executes("sshd-sftp")
def test_a_stock_sshd_whose_sftp_server_is_missing(tmp_path: Path) -> None:
    if not STOCK.exists() or not Path("/usr/lib/sftp-server").exists():
        missing("no stock sshd_config of Debian's here")
    # A second `Subsystem sftp` line, as in a former fix, makes this file invalid.
    with board(tmp_path, NO_SFTP_SERVER, config="", stock=STOCK.read_text()) as faulty:
        fix(faulty, "files", "sshd-sftp")
        _valid(faulty)


@executes("sshd-sftp")
def test_an_sshd_whose_included_files_configure_sftp(tmp_path: Path) -> None:
    parts = tmp_path / "sshd_config.d"
    parts.mkdir()
    (parts / "10-other.conf").write_text("MaxSessions 50\n")
    included = parts / "20-sftp.conf"
    included.write_text("# ours\nsubsystem  SFTP /usr/lib/gone\nX11Forwarding no\n")
    included.chmod(0o640)
    stock = f"Include {parts}/*.conf\nSubsystem other /bin/cat\n"
    # OpenSSH takes a second line of the same subsystem for an error only in one file.
    stock += "Match User nobody\n    AllowTcpForwarding no\n"
    with board(tmp_path / "b", config="", stock=stock) as faulty:
        fix(faulty, "files", "sshd-sftp")
        _valid(faulty)
        assert included.read_text() == "# ours\nX11Forwarding no\n"
        assert included.stat().st_mode & 0o777 == 0o640
        assert sorted(one.name for one in parts.iterdir()) == ["10-other.conf", "20-sftp.conf"]
        assert "Subsystem other" in (tmp_path / "b" / "sshd_config").read_text()


def test_a_refused_change_leaves_the_included_files_as_they_were(tmp_path: Path) -> None:
    included = tmp_path / "part.conf"
    included.write_text("Subsystem sftp /usr/lib/gone\n")
    with board(tmp_path / "b", config="", stock=f"Include {included}\n") as faulty:
        found = faulty.examine()["files"]
        config = tmp_path / "b" / "sshd_config"
        broken = config.read_text() + "Nonsense yes\n"
        config.write_text(broken)
        with pytest.raises(AssertionError, match="Nonsense"):
            faulty.execute(found.fix)
        assert config.read_text() == broken
        assert included.read_text() == "Subsystem sftp /usr/lib/gone\n"
        assert [one.name for one in tmp_path.glob("part*")] == ["part.conf"]


def test_a_change_that_sshd_refuses_is_not_applied(tmp_path: Path) -> None:
    with board(tmp_path, config="") as faulty:
        found = faulty.examine()["files"]
        config = tmp_path / "sshd_config"
        broken = config.read_text() + "Include /dev/null\nNonsense yes\n"
        config.write_text(broken)
        with pytest.raises(AssertionError, match="Nonsense"):
            faulty.execute(found.fix)
        assert config.read_text() == broken
        assert faulty.examine()["files"].status == "warn"


@executes("sshd-sftp")
def test_a_start_up_file_that_prints(tmp_path: Path) -> None:
    if not Path("/usr/lib/sftp-server").exists():
        missing("no sftp-server: apt-get install openssh-sftp-server")
    start_up = tmp_path / "start up"
    start_up.write_text("echo Welcome\n")
    environment = {"BASH_ENV": str(start_up)}
    config = "Subsystem sftp /usr/lib/sftp-server"
    with board(tmp_path / "b", config=config, environment=environment) as faulty:
        found = fix(faulty, "files", "sshd-sftp")
        assert "another program prints on the SFTP channel" in found.found
        _valid(faulty)


@executes("shorten-login")
def test_a_long_start_up_file(tmp_path: Path) -> None:
    start_up = tmp_path / "start up"
    start_up.write_text("sleep 0.7\n")
    with board(tmp_path / "b", environment={"BASH_ENV": str(start_up)}) as faulty:
        found = faulty.examine()["round_trip"]
        assert found.status == "warn"
        line = str(found.fix_text).partition("(~/.bashrc): ")[2]
        start_up.write_text(f"{line}\n{start_up.read_text()}")
        after = faulty.examine()["round_trip"]
        assert after.status == "ok", after
    by_hand(found)


def by_hand(found: CheckResult) -> None:
    """Record that the test has executed the advice of the fix by hand."""
    from standins.boards import EXECUTED

    assert found.fix is not None
    assert found.fix.command is None
    EXECUTED.add(found.fix.kind.id)


DROPBEAR = """
cp /usr/lib/sftp-server {tree}/sftp-server
mount -t tmpfs none $(dirname $(readlink -f /usr/lib/sftp-server))
mount --bind {tree}/apt-get /usr/bin/apt-get
"""


@executes("install-sftp")
def test_dropbear_without_sftp(tmp_path: Path) -> None:
    if not Path("/usr/lib/sftp-server").exists() or shutil.which("apt-get") is None:
        missing("no sftp-server of Debian's: apt-get install openssh-sftp-server")
    program = Path("/usr/lib/sftp-server").resolve()
    provided = f"cp '{tmp_path}/tree/sftp-server' {program}"
    log = package_manager(tmp_path / "tree", "apt-get", {"openssh-sftp-server": provided})
    with dropbear_board(tmp_path, DROPBEAR) as faulty:
        found = fix(faulty, "files", "install-sftp")
        assert "sshd_config" not in str(found.fix_text)
    assert log.read_text() == "update\ninstall -y openssh-sftp-server\n"


def test_dropbear_without_a_known_package_takes_files_by_commands(tmp_path: Path) -> None:
    without = "mount --bind /dev/null /usr/bin/apt-get\n"
    with dropbear_board(tmp_path, DROPBEAR.rpartition("mount --bind")[0] + without) as faulty:
        found = faulty.examine()
        assert found["files"].status == "ok"
        assert "come back unchanged, by commands: no SFTP there" in found["files"].found
        assert found["agent"].status == "ok"
        dut = surveyed(faulty)
        assert sftp.fix(dut, has_noise=False) is None


def test_a_revoked_host_key_is_not_to_be_trusted(tmp_path: Path) -> None:
    with board(tmp_path) as faulty:
        known = Path(str(SshOptions.of(faulty.device).known_hosts))
        key = " ".join(known.read_text().split()[1:3])
        known.write_text(f"{known.read_text()}@revoked * {key}\n")
        found = faulty.examine()["host_key"]
        assert found.status == "fail"
        assert f"is REVOKED by {known}:2" in found.found
        assert found.fix is not None
        assert (found.fix.kind.id, found.fix.command) == ("new-host-key", None)
        # `add` does not offer to trust it either.
        command = f"edge-harness add {faulty.device.address} --name faulty --farm '{faulty.farm}'"
        with pytest.raises(AssertionError, match="REVOKED"):
            faulty.type(command, "y\n")


def test_a_folder_of_another_user_in_ours_is_not_removed(tmp_path: Path) -> None:
    script = (
        "mkdir -m 700 {work}/blobs && touch {work}/blobs/theirs && chown -R 4712:4712 {work}/blobs"
    )
    with board(tmp_path, script) as faulty:
        found = fix(faulty, "agent", "own-workdir")
        assert "belongs to another user" in found.found
        assert (tmp_path / "work" / "blobs" / "theirs").stat().st_uid == 4712
        shutil.rmtree(AgentOptions.of(faulty.now()).workdir)


@executes("set-governor", "swapoff")
@pytest.mark.parametrize("shell", ["tcsh", "fish"])
def test_a_fix_is_typed_for_another_login_shell(tmp_path: Path, shell: str) -> None:
    program = shutil.which(shell)
    if program is None:
        missing(f"no {shell}: apt-get install {shell}")
    login = f"sed -i '/^root:/s#:[^:]*$#:{program}#' /etc/passwd\n"
    login += f"echo {program} >> /etc/shells\nmount -t tmpfs none /root\n"
    with board(tmp_path, PRIVATE_ETC + login + GOVERNORS) as faulty:
        assert faulty.examine()["commands"].status == "ok", faulty.examine()["commands"]
        dut = surveyed(faulty)
        assert dut.system is not None
        assert dut.system.login_shell == shell
        # For sh only: a variable of its own, a redirection and a quoted newline.
        look = dut.by_command(
            linux.SWAPOFF, 'a=\'it is\n!!\'; [ -n "$a" ] 2>/dev/null && echo "$a"'
        )
        assert "it is\n!!" in faulty.execute(look)
        found = fix(faulty, "governor", "set-governor")
        assert found.fix is not None


@executes("trust-key")
def test_a_host_key_that_is_not_known(tmp_path: Path) -> None:
    with board(tmp_path) as faulty:
        known = Path(str(SshOptions.of(faulty.device).known_hosts))
        known.write_text("")
        found = fix(faulty, "host_key", "trust-key", "y\n")
        assert "SHA256:" in found.found
        assert known.read_text().startswith("[127.0.0.1]:"), (
            "the known_hosts file of the entry was written"
        )


@executes("forget-key")
def test_a_host_key_that_has_changed(tmp_path: Path) -> None:
    with board(tmp_path) as faulty:
        known = Path(str(SshOptions.of(faulty.device).known_hosts))
        client = (tmp_path / "client_key.pub").read_text().split()[1]
        known.write_text(f"{known.read_text().split()[0]} ssh-ed25519 {client}\n")
        found = fix(faulty, "host_key", "forget-key", "y\n")
        assert "has CHANGED" in found.found


def test_a_host_key_is_not_trusted_without_a_question(tmp_path: Path) -> None:
    with board(tmp_path) as faulty:
        Path(str(SshOptions.of(faulty.device).known_hosts)).write_text("")
        with pytest.raises(AssertionError, match="was not trusted") as caught:
            faulty.execute(faulty.examine()["host_key"].fix)
        assert faulty.examine()["host_key"].status == "fail"
        # Instead `add` prints a command that works as it is, without a terminal.
        (command,) = re.findall(r"`(edge-harness add [^`]+)`", str(caught.value))
        assert "--name faulty" in command
        faulty.type(f"{command} --farm '{faulty.farm}'")
        assert faulty.examine()["host_key"].status == "ok"


@executes("login-shell")
def test_an_account_without_a_login_shell(tmp_path: Path) -> None:
    nologin = "sed -i '/^root:/s#:[^:]*$#:/usr/sbin/nologin#' /etc/passwd\n"
    with board(tmp_path, PRIVATE_ETC + nologin) as faulty:
        found = faulty.examine()["commands"]
        assert found.fix is not None
        assert found.fix.root_command == "usermod -s /bin/sh USER"
        as_typed = found.fix.root_command.replace("USER", "root")
        faulty.execute(dataclasses.replace(found.fix, root_command=as_typed, text=as_typed))
        assert faulty.examine()["commands"].status == "ok"


@executes("allow-commands")
@pytest.mark.parametrize("place", ["authorized_keys", "sshd_config"])
def test_a_forced_command(tmp_path: Path, place: str) -> None:
    keys = tmp_path / "client_key.pub"
    forced = f"{SFTP}\nForceCommand echo only backups" if place == "sshd_config" else SFTP
    with board(tmp_path, config=forced) as faulty:
        if place == "authorized_keys":
            keys.write_text('command="echo only backups" ' + keys.read_text())
        found = faulty.examine()["commands"]
        assert found.status == "fail"
        assert place in found.found
        # Follow the advice by hand: remove the option of the key's line, or the line of sshd_config.
        if place == "authorized_keys":
            assert 'remove `command="..."` from the line of this key' in found.found
            keys.write_text(keys.read_text().partition('" ')[2])
        else:
            assert "`ForceCommand` from its sshd_config" in found.found
            config = tmp_path / "sshd_config"
            lines = config.read_text().splitlines(keepends=True)
            config.write_text("".join(one for one in lines if "ForceCommand" not in one))
            faulty.as_root(f"kill -HUP {faulty.pid}")
        assert faulty.examine()["commands"].status == "ok"
    by_hand(found)


@executes("silence-login")
def test_a_forced_command_that_prints(tmp_path: Path) -> None:
    if not Path("/usr/lib/sftp-server").exists():
        missing("no sftp-server: apt-get install openssh-sftp-server")
    script = tmp_path / "login"
    script.write_text('#!/bin/sh\necho Welcome\neval "$SSH_ORIGINAL_COMMAND"\n')
    script.chmod(0o755)
    config = f"Subsystem sftp /usr/lib/sftp-server\nForceCommand {script}"
    with board(tmp_path, config=config) as faulty:
        found = faulty.examine()["files"]
        assert "SSH_ORIGINAL_COMMAND" in str(found.fix_text)
        quiet = 'case "$SSH_ORIGINAL_COMMAND" in *sftp-server*) ;; *) echo Welcome ;; esac'
        script.write_text(f'#!/bin/sh\n{quiet}\neval "$SSH_ORIGINAL_COMMAND"\n')
        assert faulty.examine()["files"].status == "ok"
    by_hand(found)


# --- the runtime and accelerators ----------------------------------------------------------------


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index on this disk, the only one that pip uses."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def wheel(index: Path, name: str, version: str, module: str, requires: str = "") -> None:
    info = f"{name}-{version}.dist-info"
    tag = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    metadata = f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n"
    with zipfile.ZipFile(index / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}/__init__.py", f"__version__ = {version!r}\n")
        archive.writestr(f"{name}/{module}.py", "import numpy\nclass Interpreter: pass\n")
        archive.writestr(f"{info}/METADATA", metadata + requires)
        archive.writestr(f"{info}/WHEEL", tag)


@pytest.fixture
def bare_python(tmp_path: Path) -> str:
    """The Python of an empty venv."""
    venv.create(tmp_path / "bare", symlinks=True)
    return str(tmp_path / "bare" / "bin" / "python")


@executes("setup")
def test_no_runtime(tmp_path: Path, index: Path, bare_python: str) -> None:
    wheel(index, "ai_edge_litert", "9.1", "interpreter", "Requires-Dist: numpy\n")
    wheel(index, "numpy", "3.0", "core")
    faulty = local_board(tmp_path, python=bare_python)
    found = fix(faulty, "runtime", "setup")
    assert str(found.fix_text) == f"edge-harness setup here --farm '{faulty.farm}'"


ARM_32 = """\
import os, sys
import collections
names = os.uname()
class Names(tuple):
    sysname, nodename, release, version, machine = *names[:4], "armv7l"
os.uname = lambda: Names((*names[:4], "armv7l"))
sys.maxsize = 2**31 - 1
"""


@executes("numpy-first")
def test_32_bit_arm_without_numpy(
    tmp_path: Path, index: Path, bare_python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Python that reports 32-bit Arm, and a package manager that installs NumPy for it."""
    if sys.version_info >= (3, 12):
        pytest.skip("tflite-runtime ends at Python 3.11")
    wheel(index, "tflite_runtime", "2.14.0", "interpreter", "Requires-Dist: numpy>=1.20\n")
    site, tools = tmp_path / "site", tmp_path / "tools"
    site.mkdir()
    (site / "sitecustomize.py").write_text(ARM_32)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{site}" exec "{bare_python}" "$@"\n')
    python.chmod(0o755)
    packed = tmp_path / "packed"
    packed.mkdir()
    wheel(packed, "numpy", "1.24.2", "core")
    unpack = f"{sys.executable} -m zipfile -e '{packed}'/*.whl '{site}'"
    log = package_manager(tools, "apt-get", {"python3-numpy": unpack})
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    faulty = local_board(tmp_path, python=str(python))
    fix(faulty, "runtime", "numpy-first")
    assert log.read_text() == "update\ninstall -y python3-numpy\n"


@executes("mount-kernel-files")
def test_a_container_without_proc(tmp_path: Path) -> None:
    with board(tmp_path, "mount -t tmpfs none /proc") as faulty:
        before = faulty.examine(model=MODEL)["xnnpack"]
        assert before.status == "fail", before
        assert before.fix is not None
        assert before.fix.kind.id == "mount-kernel-files"
        faulty.execute(before.fix)
        assert faulty.examine(model=MODEL)["xnnpack"].status == "ok"
