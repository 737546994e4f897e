"""Read the parts of an ELF file that decide whether a phone can load it.

Source: the System V ABI, "Object Files"; Android's note is bionic/libc/arch-common/bionic/crtbrand.S.
Everything is bounded. A file that is not such a file raises MalformedElf.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

_MAGIC = b"\x7fELF"
_MACHINES = {3: "i686", 40: "armv7l", 62: "x86_64", 183: "aarch64", 243: "riscv64"}
_LOAD, _DYNAMIC, _NOTE = 1, 2, 4
_NEEDED, _STRTAB, _STRSZ, _SONAME = 1, 5, 10, 14
_BUILD_ID = 3
_ANDROID = 1
_MAX_HEADERS = 1_000
_MAX_ENTRIES = 10_000
_MAX_NAME = 300
_MIN_ENTRY_32, _MIN_ENTRY_64 = 32, 56


class MalformedElf(ValueError):
    """The bytes are not a whole ELF file; the text says what is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ElfFacts:
    """One program or library."""

    machine: str
    """As `uname -m` reports it: `aarch64`, `armv7l`, `x86_64`, ..."""
    bits: int
    min_alignment: int
    """The smallest alignment of a loaded segment, bytes; a kernel with larger pages refuses it."""
    soname: str | None
    needed: tuple[str, ...]
    build_id: str | None
    """The linker's build id, hexadecimal."""
    android_api: int | None
    """The Android API level that it was built for."""
    ndk: str | None
    """The release and build number of the NDK that built it."""


def is_elf(data: bytes) -> bool:
    """Whether the bytes start like an ELF file."""
    return data[:4] == _MAGIC


@dataclass(frozen=True, slots=True)
class _Segment:
    kind: int
    offset: int
    address: int
    size: int
    alignment: int


def read(data: bytes) -> ElfFacts:
    """Read a file; raises MalformedElf."""
    try:
        return _read(data)
    except struct.error as error:
        raise MalformedElf(f"it ends early: {error}") from error


def _read(data: bytes) -> ElfFacts:
    if not is_elf(data):
        raise MalformedElf("it does not start with an ELF header")
    bits = {1: 32, 2: 64}.get(data[4] if len(data) > 5 else 0)  # noqa: PLR2004 - class and data
    if bits is None or data[5] != 1:
        raise MalformedElf("it is neither 32 nor 64 bits, or not little-endian")
    segments = list(_segments(data, bits))
    loads = [one for one in segments if one.kind == _LOAD]
    if not loads:
        raise MalformedElf("it has no segment to load")
    soname, needed = _dynamic(data, bits, segments)
    build_id, api, ndk = _notes(data, segments)
    number = struct.unpack_from("<H", data, 18)[0]
    return ElfFacts(
        machine=_MACHINES.get(number, f"machine {number}"),
        bits=bits,
        min_alignment=min(max(one.alignment, 1) for one in loads),
        soname=soname,
        needed=needed,
        build_id=build_id,
        android_api=api,
        ndk=ndk,
    )


def _segments(data: bytes, bits: int) -> Iterator[_Segment]:
    if bits == 64:  # noqa: PLR2004 - bits
        start, size, count = (
            *struct.unpack_from("<Q", data, 32),
            *struct.unpack_from("<HH", data, 54),
        )
        minimum = _MIN_ENTRY_64
    else:
        start, size, count = (
            *struct.unpack_from("<I", data, 28),
            *struct.unpack_from("<HH", data, 42),
        )
        minimum = _MIN_ENTRY_32
    if count > _MAX_HEADERS or (count and size < minimum):
        raise MalformedElf(f"it has {count} segments with headers of {size} bytes")
    for index in range(count):
        at = start + index * size
        if at + minimum > len(data):
            raise MalformedElf("its table of segments is not in the file")
        if bits == 64:  # noqa: PLR2004 - bits
            kind, _, offset, address, _, filled, _, alignment = struct.unpack_from(
                "<IIQQQQQQ", data, at
            )
        else:
            kind, offset, address, _, filled, _, _, alignment = struct.unpack_from(
                "<IIIIIIII", data, at
            )
        if filled and offset + filled > len(data):
            raise MalformedElf("a segment ends after the file does")
        yield _Segment(kind, offset, address, filled, alignment)


def _dynamic(
    data: bytes, bits: int, segments: list[_Segment]
) -> tuple[str | None, tuple[str, ...]]:
    """Return the name and the needed libraries; none for a static program."""
    found = next((one for one in segments if one.kind == _DYNAMIC), None)
    if found is None:
        return None, ()
    layout, step = ("<QQ", 16) if bits == 64 else ("<II", 8)  # noqa: PLR2004 - bits
    entries: list[tuple[int, int]] = []
    for at in range(found.offset, found.offset + found.size - step + 1, step):
        tag, value = struct.unpack_from(layout, data, at)
        if tag == 0:
            break
        entries.append((tag, value))
        if len(entries) > _MAX_ENTRIES:
            raise MalformedElf(f"its dynamic table has over {_MAX_ENTRIES} entries")
    table = dict(entries)
    base = _offset(table.get(_STRTAB, 0), segments)
    if base is None:
        return None, ()
    names = data[base : base + table.get(_STRSZ, 0)]
    sonames = [_name(names, value) for tag, value in entries if tag == _SONAME]
    needed = tuple(_name(names, value) for tag, value in entries if tag == _NEEDED)
    return (sonames[0] if sonames else None), needed


def _offset(address: int, segments: list[_Segment]) -> int | None:
    """Return the place in the file of an address in memory."""
    for one in segments:
        if one.kind == _LOAD and one.address <= address < one.address + one.size:
            return one.offset + address - one.address
    return None


def _name(names: bytes, at: int) -> str:
    if not 0 <= at < len(names):
        raise MalformedElf("a name is not in the table of names")
    return names[at : at + _MAX_NAME].split(b"\0", 1)[0].decode("utf-8", "replace")


def _notes(data: bytes, segments: list[_Segment]) -> tuple[str | None, int | None, str | None]:
    build_id, api, ndk = None, None, None
    for one in segments:
        if one.kind != _NOTE:
            continue
        place, end = one.offset, one.offset + one.size
        step = 8 if one.alignment == 8 else 4  # noqa: PLR2004 - the note's own alignment
        for _ in range(_MAX_ENTRIES):
            if place + 12 > end:
                break
            name_size, size, kind = struct.unpack_from("<III", data, place)
            name_at = place + 12
            content_at = name_at + -(-name_size // step) * step
            place = content_at + -(-size // step) * step
            if content_at + size > end:
                break
            owner = data[name_at : name_at + min(name_size, 16)].rstrip(b"\0")
            content = data[content_at : content_at + size]
            if owner == b"GNU" and kind == _BUILD_ID:
                build_id = content[:64].hex()
            elif owner == b"Android" and kind == _ANDROID and size >= 4:  # noqa: PLR2004 - an int
                api = struct.unpack_from("<I", content)[0]
                texts = [text for text in content[4:132].split(b"\0") if text]
                ndk = " ".join(text.decode("ascii", "replace") for text in texts) or None
    return build_id, api, ndk
