"""Make bundles of the stand-in program, and ELF files with the properties that a test wants."""

from __future__ import annotations

import platform
import struct
import sys
from pathlib import Path

STANDIN = Path(__file__).with_name("standin_runner.py")
VERSION = "standin-1"


def make_bundle(
    folder: Path,
    kind: str = "tflite",
    fault: str = "",
    *,
    python: str = sys.executable,
    machine: str = platform.machine(),
) -> Path:
    """Write a bundle with the stand-in; `fault` is one of its FAULTs, `python` runs it there."""
    folder.mkdir(parents=True)
    program = folder / "benchmark_model"
    head = f"#!{python}\nKIND, FAULT = {kind!r}, {fault!r}\n"
    program.write_text(head + STANDIN.read_text(encoding="utf-8"), encoding="utf-8")
    program.chmod(0o755)
    (folder / "VERSION").write_text(f"{VERSION}\n", encoding="ascii")
    if kind == "litert":
        number = 183 if machine == "aarch64" else 62  # EM_AARCH64, EM_X86_64
        (folder / "libLiteRt.so").write_bytes(elf_file(soname="libLiteRt.so", machine=number))
    return folder


def elf_file(
    *,
    machine: int = 183,
    alignment: int = 16_384,
    soname: str = "",
    needed: tuple[str, ...] = (),
    build_id: bytes = b"\x12\x34",
    api: int | None = None,
    ndk: str = "r27",
    text: bytes = b"",
) -> bytes:
    """Return a small 64-bit ELF file: one LOAD, one DYNAMIC and one NOTE segment."""
    names = b"\0"
    entries = []
    for tag, name in [(14, soname)] * bool(soname) + [(1, one) for one in needed]:
        entries.append((tag, len(names)))
        names += name.encode() + b"\0"
    notes = _note(b"GNU", 3, build_id) if build_id else b""
    if api is not None:
        notes += _note(
            b"Android",
            1,
            struct.pack("<I", api) + ndk.encode().ljust(64, b"\0") + b"1".ljust(64, b"\0"),
        )
    names_at = 64 + 3 * 56
    dynamic_at = names_at + len(names) + (-len(names)) % 8
    entries += [(5, names_at), (10, len(names)), (0, 0)]
    dynamic = b"".join(struct.pack("<QQ", *one) for one in entries)
    notes_at = dynamic_at + len(dynamic)
    end = notes_at + len(notes) + len(text)
    header = b"\x7fELF\x02\x01\x01" + b"\0" * 9
    header += struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, 64, 0, 0, 64, 56, 3, 0, 0, 0)
    segments = [
        (1, 4, 0, 0, 0, end, end, alignment),
        (2, 4, dynamic_at, dynamic_at, 0, len(dynamic), len(dynamic), 8),
        (4, 4, notes_at, notes_at, 0, len(notes), len(notes), 4),
    ]
    table = b"".join(struct.pack("<IIQQQQQQ", *one) for one in segments)
    body = header + table + names
    return body.ljust(dynamic_at, b"\0") + dynamic + notes + text


def _note(owner: bytes, kind: int, content: bytes) -> bytes:
    def padded(data: bytes) -> bytes:
        return data + b"\0" * (-len(data) % 4)

    name = owner + b"\0"
    return struct.pack("<III", len(name), len(content), kind) + padded(name) + padded(content)
