"""Find what would stop a bundle on a device, before the first launch.

Sources: Android's page sizes (https://developer.android.com/guide/practices/page-sizes), LiteRT
litert/vendors/qualcomm/doc/HTP_INSTRUCTIONS.md and supported_soc.csv, LiteRT-CLI constants.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from harness.devices.dialects.benchmark_model.bundle import BundleFile, LocalBundle
from harness.devices.dialects.benchmark_model.chips import HEXAGON, same_chip

QAIRT_OF_LITERT: Mapping[str, str] = {
    "2.1.4": "2.44.0.260225",
    "2.1.5": "2.44.0.260225",
    "2.1.6": "2.47.0.260601",
}
"""The release of Qualcomm's libraries that each release of LiteRT was built for."""

SYSTEM_LIBRARIES = frozenset(
    [
        "libc.so",
        "libm.so",
        "libdl.so",
        "liblog.so",
        "libandroid.so",
        "libz.so",
        "libEGL.so",
        "libGLESv1_CM.so",
        "libGLESv2.so",
        "libGLESv3.so",
        "libvulkan.so",
        "libnativewindow.so",
        "libneuralnetworks.so",
        "libmediandk.so",
        "libjnigraphics.so",
        "libc.so.6",
        "libm.so.6",
        "libdl.so.2",
        "libpthread.so.0",
        "librt.so.1",
        "libgcc_s.so.1",
        "libstdc++.so.6",
        "ld-linux-aarch64.so.1",
        "ld-linux-x86-64.so.2",
        "ld-linux-armhf.so.3",
        "libcdsprpc.so",
    ]
)
"""Libraries of the NDK's stable interface and of Linux systems, and Qualcomm's own DSP driver."""

_OURS = re.compile(r"^(?:benchmark_model|run_model|libLiteRt.*\.so)$")
_SKEL = re.compile(r"^libQnnHtp(V\d\d)Skel\.so$")


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleSite:
    """What a device is, as far as a bundle depends on it; None for what it does not report."""

    device: str
    machine: str | None = None
    page_bytes: int | None = None
    api: int | None = None
    chip: str | None = None
    libraries: Mapping[str, str | None] = field(default_factory=dict)
    """The versions of the vendor's libraries on the device itself, by name."""


def problems(local: LocalBundle, site: BundleSite) -> list[str]:
    """Return every reason why the bundle cannot work on the device, each naming the file."""
    return [
        *_loading(local, site),
        *_complete(local, site),
        *_revisions(local),
        *_phones(local, site),
    ]


def _loading(local: LocalBundle, site: BundleSite) -> Iterator[str]:
    """Check the architecture, the pages and the API level of each file."""
    for name, facts in local.elf.items():
        # Qualcomm's DSP loads the Skel libraries; they are for another processor.
        if _SKEL.match(name):
            continue
        if site.machine is not None and not _runs(facts.machine, site.machine):
            yield f"{name} is for {facts.machine}, and {site.device} is {site.machine}"
            continue
        if site.page_bytes and facts.min_alignment < site.page_bytes:
            yield (
                f"{name} has segments aligned to {facts.min_alignment} bytes, and {site.device} has pages "
                f"of {site.page_bytes}: use a build with 16 KB alignment (LiteRT 1.4.0 or newer, NDK r28)"
            )
        if site.api is not None and facts.android_api is not None and facts.android_api > site.api:
            yield f"{name} needs Android API {facts.android_api}, and {site.device} has {site.api}"


def _runs(built: str, machine: str) -> bool:
    compatible = {
        "aarch64": ("aarch64", "arm64", "armv8l"),
        "armv7l": ("armv7l", "armv8l", "aarch64"),
        "x86_64": ("x86_64",),
        "i686": ("i686", "x86_64"),
    }
    return machine in compatible.get(built, (built,))


def _complete(local: LocalBundle, site: BundleSite) -> Iterator[str]:
    """Check that every needed library is in the bundle or on the device."""
    names = {one.name for one in local.bundle.files} | {
        one.soname for one in local.bundle.files if one.soname
    }
    for name, facts in local.elf.items():
        if _SKEL.match(name):
            continue
        for needed in facts.needed:
            if needed in names or needed in SYSTEM_LIBRARIES or needed in site.libraries:
                continue
            yield f"{name} needs {needed}, which is neither in the bundle nor a library of the system"
    yield from _vendor_sets(local, site, names)


def _vendor_sets(local: LocalBundle, site: BundleSite, names: set[str]) -> Iterator[str]:
    """Check the sets of libraries that are loaded by name at run time."""
    if "libLiteRtDispatch_Qualcomm.so" in names:
        wanted = ["libQnnSystem.so", "libQnnHtp.so"]
        version = HEXAGON.get((site.chip or "").upper())
        if version:
            wanted += [f"libQnnHtp{version.upper()}Stub.so", f"libQnnHtp{version.upper()}Skel.so"]
        elif not any(_SKEL.match(name) for name in names):
            wanted.append("libQnnHtpV..Skel.so")
        if "libLiteRtCompilerPlugin_Qualcomm.so" in names:
            wanted += ["libQnnHtpPrepare.so", "libQnnIr.so", "libQnnSaver.so"]
        missing = [one for one in wanted if one not in names]
        if missing:
            yield f"Qualcomm's NPU needs {', '.join(missing)} of QAIRT beside libLiteRtDispatch_Qualcomm.so"
    if "libLiteRtDispatch_MediaTek.so" in names:
        adapters = ("libneuronusdk_adapter.mtk.so", "libneuronusdk_adapter.so")
        if not any(one in names or one in site.libraries for one in adapters):
            yield f"MediaTek's NPU needs {adapters[0]} (NeuroPilot 8) or {adapters[1]} (9), which {site.device} does not have"
    if local.bundle.name == "litert" and local.elf and "libLiteRt.so" not in names:
        yield "libLiteRt.so, the runtime, is missing"


def _revisions(local: LocalBundle) -> Iterator[str]:
    """Check that files of one vendor are of one revision."""
    qnn = {
        one.name: one.version
        for one in local.bundle.files
        if one.name.startswith("libQnn") and one.version
    }
    if len(set(qnn.values())) > 1:
        listed = ", ".join(f"{name} {version}" for name, version in sorted(qnn.items()))
        yield f"Qualcomm's libraries are of mixed revisions: {listed}; take all from one QAIRT"
    expected = QAIRT_OF_LITERT.get(local.bundle.version)
    for name, version in sorted(qnn.items()):
        if local.bundle.name == "litert" and expected and version != expected:
            yield f"{name} is of QAIRT {version}, and LiteRT {local.bundle.version} was built for {expected}"
            break
    ndks = {name: facts.ndk for name, facts in local.elf.items() if facts.ndk and _OURS.match(name)}
    if len(set(ndks.values())) > 1:
        listed = ", ".join(f"{name} by NDK {ndk}" for name, ndk in sorted(ndks.items()))
        yield f"the program and its libraries are of mixed revisions: built {listed}; take all from one release"


def _phones(local: LocalBundle, site: BundleSite) -> Iterator[str]:
    """Check that no library on the device is older than the bundle's of the same name or family."""
    for one in local.bundle.files:
        there = site.libraries.get(one.name)
        if one.version and there and _ordered(there) < _ordered(one.version):
            yield f"{site.device} has {one.name} {there}, which is older than the bundle's {one.version}"
    family = next(
        (one for one in local.bundle.files if one.name.startswith("libQnn") and one.version), None
    )
    for name, there in sorted(site.libraries.items()):
        if family is None or not name.startswith("libQnn") or local_has(local, name) or not there:
            continue
        assert family.version is not None
        if _ordered(there) < _ordered(family.version):
            yield (
                f"{site.device} has {name} {there}, which the bundle lacks and which is older than its "
                f"{family.name} {family.version}: add {name} to the bundle"
            )


def local_has(local: LocalBundle, name: str) -> bool:
    """Whether the bundle has a file of this name."""
    return any(one.name == name for one in local.bundle.files)


def _ordered(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d{1,12}", version))


def why_not_for_chip(file_chips: tuple[str, ...], chip: str | None, device: str) -> str | None:
    """Return why a file compiled for these chips cannot run on a device; None if it may."""
    if not file_chips or not chip or any(same_chip(one, chip) for one in file_chips):
        return None
    return (
        f"the file is compiled for {', '.join(file_chips)}, and {device} has {chip}; "
        "compile it for this chip: `aot(vendor=..., soc=...)`"
    )


def named(files: tuple[BundleFile, ...]) -> list[str]:
    """Return one line per file with its digest, build id and version."""
    return [
        f"{one.name}  {one.size_bytes / 1e6:.1f} MB  sha256 {one.digest[:12]}  "
        f"build id {(one.build_id or 'none')[:12]}{f'  version {one.version}' if one.version else ''}"
        for one in files
    ]
