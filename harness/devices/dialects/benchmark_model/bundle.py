"""A bundle: the program, its runtime and the libraries of accelerators, pinned as one set.

A bundle on a device is the folder `bundles/DIGEST` of the work folder: its files by name, and
`bundle.json` with the digest, ELF build id and version of each. The digest of the bundle is that of
all names and digests, so a changed file makes another bundle.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.devices.dialects.benchmark_model import elf
from harness.devices.dialects.benchmark_model.elf import ElfFacts, MalformedElf
from harness.errors import ConfigError

RUNNER = "benchmark_model"
MANIFEST = "bundle.json"
MAX_FILES = 200
MAX_BYTES = 1 << 30
SHOWN_DIGITS = 12
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,120}")
_VERSION_FILE = "VERSION"
_VERSION = re.compile(r"[0-9][A-Za-z0-9.+_-]{0,60}|[A-Za-z][A-Za-z0-9.+_-]{0,60}")
_FOLDER_VERSION = re.compile(r"\d+\.\d+\.\d+(?:[.-][A-Za-z0-9]+)?")
_QAIRT = re.compile(rb"v(\d{1,3}\.\d{1,3}\.\d{1,3})\.(\d{6})(?:\d{6})?[_.]")
"""Qualcomm's build string: `v2.34.0.250424201103_119471` is release 2.34.0.250424."""
_RUNTIME_NAMES = ("libLiteRt.so", "libtensorflowlite.so", "libtensorflowlite_jni.so")


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleFile:
    """One file of a bundle."""

    name: str
    digest: str
    size_bytes: int
    build_id: str | None = None
    version: str | None = None
    """The vendor's version that the file itself has; most files have none."""
    soname: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerBundle:
    """A set of files for one kind of device."""

    name: str
    """`litert` if it has LiteRT's runtime, else `tflite`."""
    version: str
    """From its file VERSION or the name of its folder, else the start of its digest."""
    files: tuple[BundleFile, ...]

    @property
    def digest(self) -> str:
        """The digest of all names and contents."""
        listed = "".join(f"{one.name}\0{one.digest}\0" for one in sorted(self.files, key=_name_of))
        return hashlib.sha256(listed.encode()).hexdigest()

    @property
    def folder(self) -> str:
        """The name of its folder on a device."""
        return self.digest[:32]

    @property
    def full_version(self) -> str:
        """The version and the start of the digest, as rows and facts have it."""
        return f"{self.version}+{self.digest[:SHOWN_DIGITS]}"

    @property
    def title(self) -> str:
        """The name and the full version."""
        return f"{self.name} {self.full_version}"

    def find(self, start: str) -> BundleFile | None:
        """Return the first file whose name starts so."""
        return next((one for one in self.files if one.name.startswith(start)), None)

    def to_json(self) -> str:
        """Return the manifest."""
        return json.dumps(
            {"name": self.name, "version": self.version, "files": [asdict(f) for f in self.files]},
            indent=1,
        )


def _name_of(file: BundleFile) -> str:
    return file.name


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalBundle:
    """A bundle in a folder of this host, with what its files say about themselves."""

    folder: Path
    bundle: RunnerBundle
    elf: Mapping[str, ElfFacts]
    """The facts of each ELF file, by name; a script has none."""
    scripts: tuple[str, ...] = ()


def of_folder(folder: Path) -> LocalBundle:
    """Read a folder, also the libraries in its subfolders (`hexagon-v75/unsigned`), by file name.

    Raises ConfigError for a folder without a program, a file that is neither a program nor a library,
    two files of one name, or an ELF file that is damaged, each by name.
    """
    if not folder.is_dir():
        raise ConfigError(f"--runtime {folder}: no such folder")
    paths = sorted(
        path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")
    )
    version, files, facts, scripts = _folder_version(folder), [], {}, []
    seen: dict[str, Path] = {}
    wanted = [path for path in paths if path.name != _VERSION_FILE and not _is_note(path)]
    if len(wanted) > MAX_FILES or sum(path.stat().st_size for path in wanted) > MAX_BYTES:
        raise ConfigError(
            f"{folder}: a bundle has at most {MAX_FILES} files and {MAX_BYTES >> 20} MiB"
        )
    for path in wanted:
        if path.name in seen:
            raise ConfigError(
                f"{folder}: two files are named {path.name}: {seen[path.name]} and {path}; keep one"
            )
        if not _NAME.fullmatch(path.name):
            raise ConfigError(
                f"{path}: its name has other characters than letters, digits and ._+-"
            )
        seen[path.name] = path
        data = path.read_bytes()
        found = _facts(path, data)
        if found is None:
            scripts.append(path.name)
        else:
            facts[path.name] = found
        files.append(
            BundleFile(
                name=path.name,
                digest=hashlib.sha256(data).hexdigest(),
                size_bytes=len(data),
                build_id=found.build_id if found else None,
                version=version_of(data),
                soname=found.soname if found else None,
            )
        )
    if RUNNER not in seen:
        raise ConfigError(
            f"{folder}: it has no file {RUNNER}; docs/phone_runner.md says where to get the program"
        )
    name = "litert" if any(one.name.startswith("libLiteRt") for one in files) else "tflite"
    bundle = RunnerBundle(name=name, version=version or "unversioned", files=tuple(files))
    if version is None:
        bundle = RunnerBundle(name=name, version=f"sha256-{bundle.digest[:8]}", files=bundle.files)
    return LocalBundle(folder=folder, bundle=bundle, elf=facts, scripts=tuple(scripts))


def path_of(local: LocalBundle, name: str) -> Path:
    """Return the path of a file of the bundle on this host."""
    return next(path for path in sorted(local.folder.rglob(name)) if path.is_file())


def digest_of(path: Path) -> str:
    """Return the sha256 of a file, hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _is_note(path: Path) -> bool:
    """Whether a file is for people: a licence, a readme."""
    return path.suffix.lower() in {".md", ".txt", ".pdf"} or path.name.upper().startswith(
        ("LICENSE", "NOTICE", "README")
    )


def _facts(path: Path, data: bytes) -> ElfFacts | None:
    """Return the ELF facts; None for a script, which only the program may be."""
    if path.name == RUNNER and data.startswith(b"#!"):
        return None
    try:
        return elf.read(data)
    except MalformedElf as error:
        raise ConfigError(
            f"{path}: it is no program or library that a device can load: {error}"
        ) from error


def _folder_version(folder: Path) -> str | None:
    file = folder / _VERSION_FILE
    if file.is_file():
        lines = file.read_bytes()[:200].decode("utf-8", "replace").split()
        if not lines or not _VERSION.fullmatch(lines[0]):
            raise ConfigError(f"{file}: it must have one version, such as 2.1.5")
        return lines[0]
    found = _FOLDER_VERSION.search(folder.resolve().name) or _FOLDER_VERSION.fullmatch(
        folder.resolve().parent.name
    )
    return found[0] if found else None


def version_of(data: bytes) -> str | None:
    """Return the version that a vendor's library has in it: QAIRT's build string."""
    found = _QAIRT.search(data)
    return f"{found[1].decode()}.{found[2].decode()}" if found else None


def of_manifest(data: bytes) -> RunnerBundle | None:
    """Read a manifest from a device; None if it is damaged."""
    try:
        plain: Any = json.loads(data)
        files = plain["files"]
        made = RunnerBundle(
            name=_text(plain["name"]),
            version=_text(plain["version"]),
            files=tuple(_file(one) for one in files),
        )
    except (ValueError, TypeError, KeyError, RecursionError, AttributeError):
        return None
    return made if 0 < len(made.files) <= MAX_FILES else None


def _file(plain: Mapping[str, Any]) -> BundleFile:
    name, digest, size = plain["name"], plain["digest"], plain["size_bytes"]
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(name)
    if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise ValueError(digest)
    if type(size) is not int or size < 0:
        raise ValueError(size)
    return BundleFile(
        name=name,
        digest=digest,
        size_bytes=size,
        build_id=_text_or_none(plain.get("build_id")),
        version=_text_or_none(plain.get("version")),
        soname=_text_or_none(plain.get("soname")),
    )


def _text(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 120 or not value.isprintable():  # noqa: PLR2004
        raise ValueError(value)
    return value


def _text_or_none(value: object) -> str | None:
    return None if value is None else _text(value)


def by_runtime(bundles: Sequence[RunnerBundle], wanted: str | None) -> RunnerBundle | None:
    """Return the bundle that an order names (NAME or NAME=VERSION); the first one without a name."""
    if wanted is None:
        return bundles[0] if bundles else None
    name, _, version = wanted.partition("=")
    fitting = (
        one
        for one in bundles
        if one.name == name and version in {"", one.version, one.full_version}
    )
    return next(fitting, None)
