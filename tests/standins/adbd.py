"""A real adbd, the daemon of an Android phone, built from Debian's source package of it.

Debian ships the client only. Its source package android-platform-tools has the daemon too, and it
already compiles for this C library. Packages are fetched by the system's own apt, from the mirrors
that the system is set up for, into folders of our own; what was built is kept in the lab's cache.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lab import cache, debian
from lab.tools import LabError, run

SOURCE = "android-platform-tools"
TOOLS = ("apt-get", "clang++", "ld.lld", "patch")
CROSS_TOOLS = ("aarch64-linux-gnu-g++",)
_LIBRARIES = Path("/usr/include/android")
_ADB = "system/core/adb"
_FOLDERS = (
    *("system/core/adb", "system/core/base/include", "system/core/diagnose_usb"),
    *("system/core/include", "system/core/libasyncio", "system/core/libcrypto_utils"),
    *("system/core/libcutils/include", "system/core/liblog/include"),
    "system/core/libutils/include",
    "frameworks/native/libs/adbd_auth",
)
_SOURCES = (
    *(
        f"{_ADB}/{name}.cpp"
        for name in (
            *("adb", "adb_io", "adb_listeners", "adb_trace", "adb_unique_fd", "adb_utils"),
            *("fdevent/fdevent", "fdevent/fdevent_poll", "fdevent/fdevent_epoll", "services"),
            *("sockets", "socket_spec", "sysdeps/errno", "transport", "transport_fd"),
            *("transport_local", "transport_usb", "types", "sysdeps_unix"),
            *("sysdeps/posix/network", "daemon/auth", "daemon/jdwp_service", "daemon/usb_dummy"),
            *("daemon/file_sync_service", "daemon/services", "daemon/shell_service"),
            *("shell_service_protocol", "daemon/main", "adbconnection/adbconnection_server"),
        )
    ),
    "system/core/diagnose_usb/diagnose_usb.cpp",
    "system/core/libasyncio/AsyncIO.cpp",
    "frameworks/native/libs/adbd_auth/adbd_auth.cpp",
)
_INCLUDES = (
    *(f"{_ADB}", f"{_ADB}/daemon/include", f"{_ADB}/adbconnection/include"),
    *("system/core/base/include", "system/core/diagnose_usb/include", "system/core/include"),
    *("system/core/libcrypto_utils/include", "system/core/libcutils/include"),
    *("system/core/liblog/include", "system/core/libasyncio/include"),
    "frameworks/native/libs/adbd_auth/include",
)
_FLAGS = (
    *("-O1", "-std=gnu++2a", "-D_GNU_SOURCE", "-DADB_HOST=0", "-fPIC", "-Wno-everything"),
    *("-DALLOW_ADBD_ROOT=1", "-DALLOW_ADBD_NO_AUTH=1"),
)
_NEEDED = ("-lbase", "-lcrypto", "-lcutils", "-llog", "-lcap", "-lresolv", "-lpthread")
_WRAP = "-Wl,--wrap=listen"
_SHIM = """\
#define PLATFORM_TOOLS_VERSION "29.0.6"
#define ADB_VERSION "29.0.6"
#ifdef __cplusplus
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>
#endif
"""
# A phone's init would set the properties. And adbd, when it is to listen on loopback, takes the errno of
# an earlier parse for that of a successful listen, and gives up.
_PROPERTIES = """\
#include <android-base/properties.h>
#include <errno.h>
#include <fstream>
#include <stdlib.h>
#include <string>
extern "C" int __real_listen(int, int);
extern "C" int __wrap_listen(int fd, int backlog) {
    int result = __real_listen(fd, backlog);
    if (result == 0) errno = 0;
    return result;
}
__attribute__((constructor)) static void set_properties() {
    const char* path = getenv("ADBD_PROPERTIES");
    if (path == nullptr) return;
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
        auto end = line.find('=');
        if (end != line.npos) android::base::SetProperty(line.substr(0, end), line.substr(end + 1));
    }
}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What adbd is built for."""

    architecture: str
    """Debian's name."""
    triple: str
    packages: tuple[str, ...] = ()
    """Libraries that the phone's tree needs beside its usual ones."""


NATIVE = Target(architecture="amd64", triple="x86_64-linux-gnu")
ARM64 = Target(
    architecture="arm64",
    triple="aarch64-linux-gnu",
    packages=(
        *("android-libbase", "android-libcutils", "android-liblog", "android-libboringssl"),
        *("libcap2", "mksh", "toybox"),
    ),
)


def why_not(target: Target = NATIVE) -> str | None:
    """Return why adbd cannot be built here; None if it can, or was."""
    tools = (*TOOLS, *(CROSS_TOOLS if target is not NATIVE else ()))
    absent = [tool for tool in tools if shutil.which(tool) is None]
    if absent or not _LIBRARIES.is_dir():
        named = ", ".join([*absent, *([] if _LIBRARIES.is_dir() else ["android-libbase-dev"])])
        return f"not installed: {named} (`make system`)"
    return None


def program(target: Target = NATIVE) -> Path:
    """Return adbd for a target, built once; raises LabError if it cannot be built."""
    recipe = repr((SOURCE, _SOURCES, _FLAGS, _NEEDED, _WRAP, _SHIM, _PROPERTIES, target))
    made = cache.made(f"adbd-{target.architecture}", recipe, lambda out: _build(out, target))
    return made / "adbd"


def _build(out: Path, target: Target) -> None:
    source = cache.made("adbd-source", repr((SOURCE, _FOLDERS)), _fetch)
    (out / "shim.h").write_text(_SHIM)
    (out / "properties.cpp").write_text(_PROPERTIES)
    include = [f"-I{_LIBRARIES}", *(f"-I{name}" for name in _INCLUDES)]
    cross, libraries = _cross(target)
    compiler = ["clang++", *cross]
    flags = [*_FLAGS, *include]
    header = out / "shim.pch"
    _compile(
        [*compiler, *flags, "-x", "c++-header", str(out / "shim.h"), "-o", str(header)], source
    )
    flags += ["-include-pch", str(header)]

    def one(name: str) -> None:
        made = out / f"{name.replace('/', '_')}.o"
        _compile([*compiler, *flags, "-c", name, "-o", str(made)], source)

    with ThreadPoolExecutor(max_workers=max(2, os.cpu_count() or 2)) as pool:
        list(pool.map(one, [*_SOURCES, str(out / "properties.cpp")]))
    key = "system/core/libcrypto_utils/android_pubkey.c"
    plain = ["clang", *cross, "-O1", "-fPIC", *include, "-c", key, "-o", str(out / "pubkey.o")]
    _compile(plain, source)
    objects = sorted(map(str, out.glob("*.o")))
    link = [
        *compiler,
        "-fuse-ld=lld",
        "-s",
        _WRAP,
        "-o",
        str(out / "adbd"),
        *objects,
        *libraries,
        *_NEEDED,
    ]
    _compile(link, source)
    for left in out.iterdir():
        if left.name != "adbd":
            left.unlink()


def _cross(target: Target) -> tuple[list[str], list[str]]:
    """Return the compiler's options for a target, and where its libraries are."""
    folder = f"/usr/lib/{target.triple}"
    found = [f"-Wl,-rpath={folder}/android"]
    if target is NATIVE:
        return [], [f"-L{folder}/android", *found]
    tree = debian.tree(target.architecture, *target.packages)
    places = [tree / place for place in _places(target)]
    return [f"--target={target.triple}"], [
        *(f"-L{_links(tree, target)}", f"-L{tree}{folder}/android"),
        *(f"-L{place}" for place in places),
        *found,
        *("-Wl,--allow-shlib-undefined", *(f"-Wl,-rpath-link={place}" for place in places)),
    ]


def _places(target: Target) -> tuple[str, str]:
    """Return the folders of a tree that have its libraries; they are one where /lib is a link."""
    return f"usr/lib/{target.triple}", f"lib/{target.triple}"


def _links(tree: Path, target: Target) -> Path:
    """Return a folder with the names that the linker looks for; only packages for building have them."""

    def make(folder: Path) -> None:
        for library in _NEEDED:
            name = f"lib{library[2:]}.so"
            for place in (f"usr/lib/{target.triple}/android", *_places(target)):
                there = sorted((tree / place).glob(f"{name}.*"))
                if there:
                    (folder / name).symlink_to(there[0])
                    break

    return cache.made(f"adbd-links-{target.architecture}", repr((tree, _NEEDED)), make)


def _compile(argv: list[str], folder: Path) -> None:
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"{' '.join(argv[:2])} ... {argv[-3:]}: {done.stderr.strip()[-2000:]}")


def _fetch(folder: Path) -> None:
    """Fetch the source package and unpack the folders that adbd needs, with Debian's patches."""
    packages = folder / "packages"
    packages.mkdir()
    # Not apt's own user, which may not write here; the signatures are checked all the same.
    options = [*_apt(folder), "-o", "APT::Sandbox::User=root"]
    run(["apt-get", *options, "-qq", "update"], timeout_seconds=300)
    _compile(["apt-get", *options, "-qq", "source", "--download-only", SOURCE], packages)
    upstream, debian_part = (
        next(packages.glob(f"*.{end}")) for end in ("orig.tar.*", "debian.tar.*")
    )
    wanted = [f"*/{name}" for name in _FOLDERS]
    unpack = ["tar", "-xf", str(upstream), "-C", str(folder), "--strip-components=1"]
    run([*unpack, "--wildcards", *wanted])
    run(["tar", "-xf", str(debian_part), "-C", str(packages)])
    patches = packages / "debian" / "patches"
    for name in (patches / "series").read_text().split():
        _patch(folder, patches / name)
    for left in (packages, folder / "lists", folder / "cache"):
        shutil.rmtree(left)


def _apt(folder: Path) -> list[str]:
    """Return apt's options for lists of our own, with the sources of the system's Debian mirror."""
    (folder / "lists" / "partial").mkdir(parents=True)
    (folder / "cache").mkdir()
    (folder / "sources.list").write_text(_source_line())
    return [
        *("-o", f"Dir::Etc::sourcelist={folder / 'sources.list'}"),
        *("-o", "Dir::Etc::sourceparts=/dev/null"),
        *("-o", f"Dir::State::lists={folder / 'lists'}"),
        *("-o", f"Dir::Cache={folder / 'cache'}"),
    ]


def _source_line() -> str:
    """Return a deb-src line for the mirror from which this system has its packages."""
    for file in sorted(Path("/etc/apt").rglob("*")):
        if file.suffix not in {".list", ".sources"}:
            continue
        text = file.read_text()
        line = re.search(
            rf"^deb(?:-src)?\s+(?:\[[^]]*\]\s+)?(\S+)\s+{debian.SUITE}\s+main", text, re.MULTILINE
        )
        uris = re.search(r"^URIs:\s*(\S+)", text, re.MULTILINE)
        of_suite = re.search(rf"^Suites:.*\b{debian.SUITE}(?:\s|$)", text, re.MULTILINE)
        if line or (uris and of_suite):
            mirror = line[1] if line else uris[1] if uris else ""
            return f"deb-src [signed-by={debian.KEYRING}] {mirror} {debian.SUITE} main\n"
    raise LabError(f"/etc/apt names no mirror of Debian {debian.SUITE}, which has {SOURCE}")


def _patch(folder: Path, patch: Path) -> None:
    """Apply a patch of Debian's if the files that it changes are here."""
    changed = re.findall(r"^\+\+\+ b/(\S+)", patch.read_text(errors="replace"), re.MULTILINE)
    if not any((folder / name).is_file() for name in changed):
        return
    # Files that were not unpacked are skipped, which makes its exit code 1.
    argv = ["patch", "-p1", "--force", "--silent", "-i", str(patch)]
    subprocess.run(argv, cwd=folder, capture_output=True, check=False)
    for left in (*folder.rglob("*.rej"), *folder.rglob("*.orig")):
        left.unlink()
