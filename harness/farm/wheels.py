"""Choose a runtime for a device and fetch its wheels on this host.

pip runs on this host only, with options for the device's Python and every platform tag that the
device's C library allows. It would evaluate the markers of requirements (`; python_version <
"3.11"`) for this host's Python, so this module resolves the requirements itself.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from email.parser import HeaderParser
from importlib.util import find_spec
from pathlib import Path

from harness import assets, spawning
from harness.errors import ConfigError, RuntimeMissing
from harness.farm.probe import Probe

# From the wheels on the package index: ai-edge-litert 2.3.0 is manylinux_2_27 for cp310 to cp314,
# x86_64 and aarch64; tflite-runtime 2.14.0 is manylinux_2_34 for cp39 to cp311, armv7l as well.
LITERT, TFLITE = "ai_edge_litert", "tflite_runtime"
MIN_GLIBC = (2, 27)
_TFLITE_GLIBC = (2, 34)
_LITERT_PYTHONS = ((3, 10), (3, 14))
_TFLITE_PYTHONS = ((3, 9), (3, 11))
MACHINES_64 = frozenset({"x86_64", "aarch64"})
_TFLITE_VERSION = "2.14.0"
_BITS_64 = 64
_ARCHS_32 = {"aarch64": "armv7l", "armv8l": "armv7l", "armv7l": "armv7l", "x86_64": "i686"}

# PEP 600: the old names of three glibc versions.
_LEGACY = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
_MIN_MINOR = {"x86_64": 5, "i686": 5}
_MIN_MINOR_OTHERS = 17

_PIP_SECONDS = 900.0
_MAX_ROUNDS = 10
_NUMPY = "numpy"
_VERSION = re.compile(r"\d+(\.\d+)*$")
"""A release version; others are treated as unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """The properties of a device that decide which wheels fit."""

    python: tuple[int, int]
    arch: str
    """As in wheel names: a 32-bit Python on a 64-bit Arm kernel is `armv7l`."""
    glibc: tuple[int, int] | None
    """None for another C library."""
    numpy: str | None
    """Installed version; None if there is none."""
    plain: bool = True
    """Whether Python is CPython with its global lock; others need other wheels."""

    def __str__(self) -> str:
        """Return it as text for a person."""
        libc = f"glibc {_dotted(self.glibc)}" if self.glibc else "no glibc"
        return f"{self.arch}, {libc}, Python {_dotted(self.python)}"

    @classmethod
    def of(cls, probe: Probe) -> Site:
        """Derive it from a probe of the device's Python."""
        wide = probe.bits == _BITS_64
        return cls(
            python=(probe.version[0], probe.version[1]),
            arch=probe.machine if wide else _ARCHS_32.get(probe.machine, probe.machine),
            glibc=glibc(probe.libc),
            numpy=probe.numpy if _VERSION.match(probe.numpy or "") else None,
            plain=probe.implementation == "cpython" and not probe.free_threaded,
        )

    @property
    def platforms(self) -> tuple[str, ...]:
        """Every platform tag that the C library allows, newest first; empty without glibc."""
        if self.glibc is None:
            return ()
        tags = []
        for minor in range(self.glibc[1], _MIN_MINOR.get(self.arch, _MIN_MINOR_OTHERS) - 1, -1):
            tags.append(f"manylinux_2_{minor}_{self.arch}")
            if minor in _LEGACY:
                tags.append(f"{_LEGACY[minor]}_{self.arch}")
        return (*tags, f"linux_{self.arch}")

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which markers of requirements are evaluated (PEP 508)."""
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{_dotted(self.python)}.0",
            "os_name": "posix",
            "platform_machine": self.arch,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": f"{_dotted(self.python)}.0",
            "python_version": _dotted(self.python),
            "sys_platform": "linux",
            "extra": "",
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeRequirement:
    """A runtime by its import name, and optionally its version."""

    name: str
    version: str | None = None

    @property
    def requirement(self) -> str:
        """The requirement in pip's syntax."""
        return self.name.replace("_", "-") + (f"=={self.version}" if self.version else "")

    @classmethod
    def parse(cls, text: str) -> RuntimeRequirement:
        """Read `NAME==V`, `NAME=V` or `NAME`; raises ConfigError."""
        name, _, version = text.partition("=")
        name, version = name.strip().replace("-", "_").lower(), version.lstrip("=").strip()
        if name not in {LITERT, TFLITE}:
            raise ConfigError(
                f'--runtime "{text}": write it as NAME==VERSION, NAME one of {LITERT}, {TFLITE}'
            )
        if version and re.fullmatch(r"\d+(\.\w+)*", version) is None:
            raise ConfigError(f'--runtime "{text}": "{version}" is not a version')
        return cls(name=name, version=version or None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """A wheel file on this host and its metadata."""

    path: Path
    name: str
    """Canonical: lower case, hyphens."""
    version: str
    digest: str
    size_bytes: int
    unpacked_bytes: int
    requires: tuple[str, ...]


def glibc(libc: str | None) -> tuple[int, int] | None:
    """Parse the version of `glibc 2.36`; None for another C library."""
    found = re.search(r"glibc (\d{1,3})\.(\d{1,3})\b", libc or "")
    return (int(found[1]), int(found[2])) if found else None


def choose_runtime(site: Site) -> RuntimeRequirement:
    """Choose the runtime for a device; raises RuntimeMissing if no wheel fits."""
    libc = site.glibc or (0, 0)
    if site.plain:
        low, high = _LITERT_PYTHONS
        if site.arch in MACHINES_64 and libc >= MIN_GLIBC and low <= site.python <= high:
            return RuntimeRequirement(name=LITERT)
        low, high = _TFLITE_PYTHONS
        machines = MACHINES_64 | {"armv7l"}
        if site.arch in machines and libc >= _TFLITE_GLIBC and low <= site.python <= high:
            return RuntimeRequirement(name=TFLITE, version=_TFLITE_VERSION)
    raise RuntimeMissing(
        f"no wheel of a runtime fits ({site}): use a newer system image, or install Python 3.10 to "
        "3.14 as well and name it by `python` in the farm file"
    )


def fetch(wanted: RuntimeRequirement, site: Site, folder: Path) -> tuple[Wheel, ...]:
    """Fetch the wheels of the runtime and of all its requirements into `folder`, the runtime first.

    NumPy is omitted if the device has a version that fits. Raises RuntimeMissing with pip's message
    if a wheel cannot be found.
    """
    lacking = [name for name in ("pip", "packaging") if find_spec(name) is None]
    if lacking:
        raise ConfigError(
            f"setup fetches wheels with pip and packaging; {sys.executable} lacks "
            f"{' and '.join(lacking)}: {assets.install_command('light')}"
        )
    if not site.platforms:
        raise RuntimeMissing(f"wheels of {wanted.requirement} need glibc ({site})")
    fetched: dict[str, Wheel] = {}
    requirements: Sequence[str] = [wanted.requirement]
    for _ in range(_MAX_ROUNDS):
        fetched.update((wheel.name, wheel) for wheel in _download(requirements, site, folder))
        requirements = _missing(fetched, site, wanted)
        if not requirements:
            return tuple(fetched.values())
    raise RuntimeMissing(
        f"{wanted.requirement}: its requirements are not resolved after {_MAX_ROUNDS} rounds"
    )


def _missing(fetched: Mapping[str, Wheel], site: Site, wanted: RuntimeRequirement) -> list[str]:
    """Return the requirements of these wheels that neither they nor the device meet."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet
    from packaging.utils import canonicalize_name

    bounds: dict[str, SpecifierSet] = {}
    for wheel in fetched.values():
        for one in map(Requirement, wheel.requires):
            if one.marker is None or one.marker.evaluate(site.environment):
                name = canonicalize_name(one.name)
                bounds[name] = bounds.get(name, SpecifierSet()) & one.specifier
    if wanted.name == TFLITE and _NUMPY in bounds:
        # Built for NumPy 1: with NumPy 2 its interpreters fail or compute garbage.
        bounds[_NUMPY] &= "<2"
    present = {_NUMPY: site.numpy} if site.numpy else {}
    present.update((wheel.name, wheel.version) for wheel in fetched.values())
    return [
        f"{name}{bound}"
        for name, bound in bounds.items()
        if name not in present or not bound.contains(present[name], prereleases=True)
    ]


def _download(requirements: Sequence[str], site: Site, folder: Path) -> list[Wheel]:
    """Fetch wheels of these requirements with pip, without their own requirements."""
    into = Path(tempfile.mkdtemp(dir=folder))
    argv = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    argv += ["--no-input", "--no-deps", "--only-binary=:all:", "--dest", str(into)]
    argv += ["--implementation", "cp", "--python-version", "".join(map(str, site.python))]
    for platform in site.platforms:
        argv += ["--platform", platform]
    try:
        reply = subprocess.run(
            [*argv, *requirements],
            capture_output=True,
            timeout=_PIP_SECONDS,
            check=False,
            env=spawning.environment(),
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeMissing(
            f"pip did not fetch {', '.join(requirements)} in {_PIP_SECONDS:g} s"
        ) from error
    if reply.returncode:
        lines = reply.stderr.decode(errors="replace").strip().splitlines()
        errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
        raise NoWheel(requirements, site, "; ".join(errors or lines[-1:]))
    return [read(path) for path in sorted(into.glob("*.whl"))]


class NoWheel(RuntimeMissing):
    """pip found no wheel; `names` are the requested projects."""

    def __init__(self, requirements: Sequence[str], site: Site, message: str) -> None:
        """Keep the names of the requested projects."""
        super().__init__(f"no wheels of {', '.join(requirements)} for {site}: {message}")
        self.names = frozenset(re.split(r"[^\w-]", one, maxsplit=1)[0] for one in requirements)


def read(path: Path) -> Wheel:
    """Read the metadata of a wheel; raises RuntimeMissing if the file is not a valid wheel."""
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    try:
        name, version, _, _ = parse_wheel_filename(path.name)
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            (metadata,) = [
                entry
                for entry in entries
                if entry.filename.endswith(".dist-info/METADATA") and entry.filename.count("/") == 1
            ]
            text = archive.read(metadata).decode("utf-8", "replace")
    except (InvalidWheelFilename, zipfile.BadZipFile, ValueError, OSError) as error:
        raise RuntimeMissing(f"{path.name} is not a readable wheel: {error}") from error
    return Wheel(
        path=path,
        name=name,
        version=str(version),
        digest=hashlib.sha256(path.read_bytes()).hexdigest(),
        size_bytes=path.stat().st_size,
        unpacked_bytes=sum(entry.file_size for entry in entries),
        requires=tuple(HeaderParser().parsestr(text).get_all("Requires-Dist", [])),
    )


def _dotted(version: Iterable[int]) -> str:
    return ".".join(str(part) for part in version)
