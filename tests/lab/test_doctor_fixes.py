"""Execute fixes of doctor that change a whole machine: a real package manager, real swap."""

from __future__ import annotations

import ctypes
import mmap
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import missing
from standins.boards import Board, board, executes, local_board

from harness.demo.loopback_sshd import SFTP

from . import cache, debian
from .tools import LabError, run

_PAGEOUT = 21
"""MADV_PAGEOUT of Linux 5.4 and later."""

CHROOT = """
mkdir -p {tree}/over && mount -t tmpfs none {tree}/over && mkdir {tree}/over/upper {tree}/over/work
mount -t overlay none -o lowerdir=LOWER,upperdir={tree}/over/upper,workdir={tree}/over/work /mnt
mount -t proc none /mnt/proc; mount -t sysfs none /mnt/sys; mount --rbind /dev /mnt/dev
cp /etc/resolv.conf /mnt/etc/resolv.conf
"""


def _bare_debian(folder: Path) -> None:
    """Make a Debian with apt and without Python."""
    run(
        [
            *("mmdebstrap", "--quiet", "--variant=apt", "--mode=root", "--skip=check/qemu"),
            *(debian.SUITE, str(folder), debian.MIRROR),
        ],
        timeout_seconds=900,
    )


@pytest.mark.lab
@pytest.mark.timeout(1200)
@executes("install-python")
def test_a_real_package_manager_installs_python(tmp_path: Path) -> None:
    try:
        lower = cache.made("bare-debian", f"{debian.SUITE} {debian.MIRROR} 1", _bare_debian)
    except LabError as error:
        missing(str(error))
    assert not list((lower / "usr" / "bin").glob("python3*"))
    mounts = CHROOT.replace("LOWER", f"'{lower}'")
    path = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive"}
    config = f"{SFTP}\nChrootDirectory /mnt"
    with board(
        tmp_path, mounts, config=config, environment=path, python="python3", workdir="/var/tmp/w"
    ) as faulty:
        before = faulty.examine()
        assert before["python"].status == "fail"
        fix = before["python"].fix
        assert fix is not None
        assert str(fix.command).endswith("'apt-get update && apt-get install -y python3'")
        faulty.execute(fix)
        after = faulty.examine()
    assert re.fullmatch(r"python3 is 3\.\d+\.\d+, 64 bits", after["python"].found)
    assert (after["python"].status, after["agent"].status) == ("ok", "ok")


@pytest.mark.lab
@executes("swapoff")
def test_real_swap_is_turned_off(tmp_path: Path) -> None:
    if not re.search(r"SwapTotal: +0 kB", Path("/proc/meminfo").read_text()):
        pytest.skip("this machine has swap of its own, which a test does not turn off")
    if shutil.which("swapon") is None:
        missing("no swapon")
    file = tmp_path / "swap"
    file.write_bytes(bytes(32 << 20))
    file.chmod(0o600)
    subprocess.run(["mkswap", str(file)], check=True, capture_output=True)
    if subprocess.run(["swapon", str(file)], check=False, capture_output=True).returncode:
        missing("no swap can be turned on here")
    try:
        faulty = local_board(tmp_path)
        with _paged_out():
            _swap_is_turned_off(faulty)
    finally:
        subprocess.run(["swapoff", str(file)], check=False, capture_output=True)


def _swap_is_turned_off(faulty: Board) -> None:
    before = faulty.examine()["swap"]
    assert before.status == "warn"
    faulty.execute(before.fix)
    assert faulty.examine()["swap"].status == "ok"


class _paged_out:  # noqa: N801 - a context manager
    """Memory of this process that is in swap."""

    def __enter__(self) -> None:
        size = 8 << 20
        self.memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.memory.write(b"x" * size)
        libc = ctypes.CDLL(None, use_errno=True)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        assert libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), _PAGEOUT) == 0

    def __exit__(self, *_: object) -> None:
        del self.memory
