"""Write install commands for the package manager of a device.

The names come from the distributions' package lists (Debian 12, Ubuntu 24.04, Fedora 41, Alpine
3.20, openSUSE Leap 15.6, Arch, OpenWrt 23.05). Packages that are not listed are not guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.farm.linux.survey import System

INSTALL: Mapping[str, str] = {
    "apt-get": "{sudo}apt-get update && {sudo}apt-get install -y ",
    "dnf": "{sudo}dnf install -y ",
    "microdnf": "{sudo}microdnf install -y ",
    "yum": "{sudo}yum install -y ",
    "apk": "{sudo}apk add -U ",
    "zypper": "{sudo}zypper --non-interactive install ",
    "pacman": "{sudo}pacman -Sy --noconfirm --needed ",
    "opkg": "{sudo}opkg update && {sudo}opkg install ",
}
"""Install command by program, in order of preference."""

_MANAGERS: Mapping[str, tuple[str, ...]] = {
    "debian": ("apt-get",),
    "ubuntu": ("apt-get",),
    "raspbian": ("apt-get",),
    "fedora": ("dnf", "microdnf", "yum"),
    "rhel": ("dnf", "microdnf", "yum"),
    "centos": ("dnf", "microdnf", "yum"),
    "amzn": ("dnf", "yum"),
    "alpine": ("apk",),
    "suse": ("zypper",),
    "opensuse": ("zypper",),
    "sles": ("zypper",),
    "arch": ("pacman",),
    "openwrt": ("opkg",),
    "lede": ("opkg",),
}
"""Package managers by ID or ID_LIKE of os-release.

A system may also have the program of another distribution.
"""

_RPM = ("dnf", "microdnf", "yum")
_NAMES: Mapping[str, Mapping[str, str]] = {
    "python": {**dict.fromkeys(INSTALL, "python3"), "pacman": "python"},
    "numpy": {
        **dict.fromkeys(("apt-get", *_RPM, "zypper", "opkg"), "python3-numpy"),
        "apk": "py3-numpy",
        "pacman": "python-numpy",
    },
    "sftp": dict.fromkeys(("apt-get", "apk", "opkg"), "openssh-sftp-server"),
    "vulkan loader": {
        **dict.fromkeys(("apt-get", "zypper"), "libvulkan1"),
        **dict.fromkeys((*_RPM, "apk"), "vulkan-loader"),
        "pacman": "vulkan-icd-loader",
    },
    "vulkan driver": dict.fromkeys(("apt-get", *_RPM), "mesa-vulkan-drivers"),
}

_LIBRARIES = {
    "libEGL.so.1": "libegl1",
    "libGL.so.1": "libgl1",
    "libGLdispatch.so.0": "libglvnd0",
    "libGLX.so.0": "libglx0",
    "libX11.so.6": "libx11-6",
    "libX11-xcb.so.1": "libx11-xcb1",
    "libXext.so.6": "libxext6",
    "libdrm.so.2": "libdrm2",
    "libwayland-client.so.0": "libwayland-client0",
    "libxcb.so.1": "libxcb1",
}
"""Libraries that drivers need and containers often lack; packages of Debian and Ubuntu."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewerPython:
    """A newer Python that can be installed beside the system's, which is too old for the agent."""

    package: str
    path: str


_NEWER: Mapping[tuple[str, str], NewerPython] = {
    ("ubuntu", "20.04"): NewerPython(package="python3.9", path="/usr/bin/python3.9"),
    ("rhel", "8"): NewerPython(package="python3.11", path="/usr/bin/python3.11"),
    ("suse", "15"): NewerPython(package="python311", path="/usr/bin/python3.11"),
}
"""By ID or ID_LIKE, and VERSION_ID or its first part."""


def manager(system: System) -> str | None:
    """Return the system's package manager; None if it has no known one."""
    named = (one for os_id in system.os_ids for one in _MANAGERS.get(os_id, ()))
    return next((one for one in (*named, *INSTALL) if one in system.tools), None)


def install(system: System | None, what: str) -> str | None:
    """Return the command that installs `what`, with `{sudo}` before commands that need root.

    None if the system is not known or has no such package.
    """
    program = manager(system) if system else None
    package = _NAMES[what].get(program) if program else None
    return INSTALL[program] + package if program and package else None


def install_library(system: System | None, name: str) -> str | None:
    """Return the command that installs a shared library by file name; None like `install`."""
    program = manager(system) if system else None
    if program == "apt-get":
        package = _LIBRARIES.get(name)
    elif program in _RPM or program == "zypper":
        package = f"'{name}()(64bit)'" if system and system.machine in _BITS_64 else None
    else:
        package = f"so:{name}" if program == "apk" else None
    return INSTALL[program] + package if program and package else None


_BITS_64 = frozenset({"x86_64", "aarch64"})


def newer_python(system: System | None) -> tuple[str, str] | None:
    """Return a command that installs a newer Python, and the path of that Python."""
    program = manager(system) if system else None
    if system is None or program is None:
        return None
    for os_id in system.os_ids:
        for version in (system.os_version, system.os_version.partition(".")[0]):
            if found := _NEWER.get((os_id, version)):
                return INSTALL[program] + found.package, found.path
    return None
