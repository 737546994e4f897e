"""Parse the survey of a device from arbitrary bytes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.farm.checks_agent import read_other_pythons
from harness.farm.linux import packages, survey
from harness.farm.linux.folders import other_workdir
from harness.farm.linux.survey import (
    DeviceNode,
    Mount,
    SshServer,
    System,
    WorkFolder,
    WritableFolder,
    read,
)

ANSWER = """Welcome to the board
edge-harness-system date
1700000000
edge-harness-system uname
Linux
6.6.20+rpt-rpi-v8
aarch64
edge-harness-system os-release
PRETTY_NAME="Raspbian GNU/Linux 12 (bookworm)"
ID=raspbian
ID_LIKE=debian
VERSION_ID="12"
edge-harness-system user
1000
pi
edge-harness-system tools
apt-get
sudo
edge-harness-system libc
ldd (Debian GLIBC 2.36-9+rpt2) 2.36
edge-harness-system cores
4
edge-harness-system loadavg
0.52 0.58 0.59 1/300 4711
edge-harness-system meminfo
MemTotal:        3884408 kB
SwapTotal:        204796 kB
SwapFree:         200000 kB
edge-harness-system governors
ondemand
ondemand
edge-harness-system choices
conservative ondemand performance
edge-harness-system thermal
-274000 disabled
91000 gpu-thermal
48312 cpu-thermal
edge-harness-system board
Raspberry Pi 4 Model B Rev 1.4
edge-harness-system throttled
vcgencmd
throttled=0x50005
edge-harness-system usb
1d6b:0002
18d1:9302
edge-harness-system nodes
shut render /dev/dri/renderD128
edge-harness-system kernel
/proc/cpuinfo
edge-harness-system workdir
folder
own
edge-harness-system owner
drwx------ 2 pi pi 4096 Jan  1 00:00 /mnt/my card/work
edge-harness-system above
/mnt/my card/work
writable
edge-harness-system df
Filesystem     1024-blocks    Used Available Capacity Mounted on
/dev/mmc blk0p2  122546800 9584952 112945464       8% /mnt/my card
edge-harness-system ours
100 agents
2048 blobs
edge-harness-system mounts
/dev/root / ext4 rw,noatime 0 0
/dev/sda1 /mnt/my\\040card vfat rw,noexec 0 0
/dev/sda1 /mnt/my\\040card vfat ro,noexec 0 0
edge-harness-system places
/var/tmp\t/dev/root 122546800 9584952 112945464 8% /
edge-harness-system servers
812\tsshd\tsshd: pi@notty
700\tsshd\tsshd: /usr/sbin/sshd -D -f /etc/my ssh/config -p 22 [listener] 0 of 10-100 startups
edge-harness-system forced
edge-harness-system end
"""
_CARD = Mount(point="/mnt/my card", read_only=True, noexec=True, kind="vfat")


def test_the_answer_of_a_board_is_parsed() -> None:
    assert read(ANSWER.replace("\\\\", "\\").encode(), 1700000010.5) == System(
        kernel="Linux",
        release="6.6.20+rpt-rpi-v8",
        machine="aarch64",
        os_ids=("raspbian", "debian"),
        os_name="Raspbian GNU/Linux 12 (bookworm)",
        os_version="12",
        tools=frozenset({"apt-get", "sudo"}),
        uid=1000,
        user="pi",
        clock_offset_seconds=-10.0,
        libc="glibc 2.36",
        cores=4,
        load_1m=0.52,
        swap_used_bytes=4796 * 1024,
        governors=("ondemand",),
        governor_choices=("conservative", "ondemand", "performance"),
        temperature_c=48.312,
        board="Raspberry Pi 4 Model B Rev 1.4",
        has_vcgencmd=True,
        throttled=0x50005,
        usb=("18d1:9302", "1d6b:0002"),
        nodes=(DeviceNode(path="/dev/dri/renderD128", group="render", may_open=False),),
        kernel_files=frozenset({"/proc/cpuinfo"}),
        workdir=WorkFolder(
            form="folder",
            is_own=True,
            owner="pi",
            above="/mnt/my card/work",
            above_is_writable=True,
            our_bytes=2148 * 1024,
        ),
        free_bytes=112945464 * 1024,
        mount=_CARD,
        writable_folders=(
            WritableFolder(
                path="/var/tmp",
                free_bytes=112945464 * 1024,
                mount=Mount(point="/", read_only=False, noexec=False, kind="ext4"),
            ),
        ),
        server=SshServer(
            name="sshd", pid=700, program="/usr/sbin/sshd", config="/etc/my ssh/config"
        ),
    )


def test_an_invalid_user_name_is_ignored() -> None:
    for name in ("../up", "a b", "x" * 99, "-rf"):
        found = read(ANSWER.replace("1000\npi", f"1000\n{name}").encode(), 0.0)
        assert found is not None
        assert found.user == ""
        assert str(other_workdir(found)).endswith("/edge-harness")


def test_an_incomplete_answer_is_none() -> None:
    for answer in (
        b"",
        b"Last login: today\n",
        ANSWER.partition("edge-harness-system end")[0].encode(),
    ):
        assert read(answer, 0.0) is None


LINES = st.sampled_from(ANSWER.splitlines()) | st.text()


@given(st.binary() | st.lists(LINES).map("\n".join).map(str.encode))
def test_any_bytes_are_a_system_or_none(answer: bytes) -> None:
    for data in (answer, ANSWER.encode().replace(b"0.52 0.58", answer)):
        found = read(data, 1e9)
        if found is not None:
            assert str(found.os_name + found.user + found.release).isprintable()
            assert found.load_1m is None or found.load_1m >= 0
            other = other_workdir(found, on_other_file_system=False)
            assert other is None or other.isprintable()
            packages.install(found, "python")


@given(st.binary())
def test_any_bytes_give_absolute_paths_of_pythons(answer: bytes) -> None:
    for data in (answer, b"edge-harness-python /usr/bin/python3\nedge-harness-python " + answer):
        assert all(path.startswith("/") and path.isprintable() for path in read_other_pythons(data))


def test_a_long_line_takes_no_time() -> None:
    for line in (" 1" * 10**6, "-f /" * 10**6, " -f /x" * 10**6, "ldd " * 10**6):
        for section in ("df", "libc", "servers", "places", "mounts"):
            data = ANSWER.replace(
                f"system {section}\n", f"system {section}\n700\tsshd\t{line}\n{line}\n"
            )
            assert read(data.encode(), 0.0) is not None


@pytest.mark.parametrize("shell", ["sh", "bash", "dash", "/bin/busybox sh"])
def test_real_shells_run_the_script(shell: str, tmp_path: Path) -> None:
    argv = shell.split()
    if shutil.which(argv[0]) is None:
        pytest.skip(f"no {shell} here")
    work = tmp_path / "it's a 'dir'"
    reply = subprocess.run(
        [*argv, "-c", survey._SCRIPT, "sh", str(work)], capture_output=True, check=True
    )
    found = read(reply.stdout, 0.0)
    assert found is not None
    assert reply.stderr == b""
    assert found.kernel == "Linux"
    assert found.workdir.form == "absent"
    assert found.workdir.above == str(tmp_path)
    assert found.workdir.above_is_writable
    assert found.free_bytes
    assert found.cores
    assert found.load_1m is not None
    assert found.libc


@pytest.mark.parametrize(
    ("tool", "known"),
    [
        ("echo throttled=0x50000", (True, 0x50000)),
        ("echo 'VCHI initialization failed'; exit 255", (True, None)),
        (None, (False, None)),
    ],
)
def test_the_board_is_what_its_device_tree_says(
    tmp_path: Path, tool: str | None, known: tuple[bool, int | None]
) -> None:
    tree, tools = tmp_path / "tree", tmp_path / "tools"
    tree.mkdir()
    tools.mkdir()
    (tree / "model").write_bytes(b"Raspberry Pi 4 Model B Rev 1.4\0")
    if tool is not None:
        (tools / "vcgencmd").write_text(f"#!/bin/sh\n{tool}\n")
        (tools / "vcgencmd").chmod(0o755)
    script = survey._SCRIPT.replace("/proc/device-tree", str(tree))
    reply = subprocess.run(
        ["sh", "-c", script, "sh", str(tmp_path)],
        capture_output=True,
        check=True,
        env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"},
    )
    found = read(reply.stdout, 0.0)
    assert found is not None
    assert found.board == "Raspberry Pi 4 Model B Rev 1.4"
    assert (found.has_vcgencmd, found.throttled) == known


def test_the_package_manager_of_the_system_is_preferred() -> None:
    both = frozenset({"apt-get", "dnf", "apk"})
    fedora = System(kernel="Linux", os_ids=("fedora",), tools=both)
    assert packages.manager(fedora) == "dnf"
    assert packages.install(fedora, "python") == "{sudo}dnf install -y python3"
    unknown = System(kernel="Linux", os_ids=("mine",), tools=frozenset({"opkg"}))
    assert packages.manager(unknown) == "opkg"
    bare = System(kernel="Linux", os_ids=("debian",))
    assert packages.manager(bare) is None
    assert packages.install(bare, "python") is None
    assert packages.install(None, "python") is None


def test_a_library_is_installed_by_its_file_name() -> None:
    def named(identity: str, tool: str, machine: str = "x86_64") -> str | None:
        system = System(
            kernel="Linux", os_ids=(identity,), tools=frozenset({tool}), machine=machine
        )
        return packages.install_library(system, "libEGL.so.1")

    assert str(named("ubuntu", "apt-get")).endswith("install -y libegl1")
    assert str(named("fedora", "dnf")).endswith("'libEGL.so.1()(64bit)'")
    assert str(named("alpine", "apk")).endswith("so:libEGL.so.1")
    assert named("fedora", "dnf", "armv7l") is None
    assert named("arch", "pacman") is None


def test_no_command_names_sudo_by_itself() -> None:
    for command in packages.INSTALL.values():
        assert not re.search(r"(?<!{)sudo(?!})", command)
