"""Layers with a TFLite runtime for a board's Python: wheels chosen and unpacked on this machine, without running them."""

from __future__ import annotations

import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from . import cache, debian
from .tools import run


@dataclass(frozen=True, slots=True)
class Wheels:
    """Requirements, and the platforms whose wheels fit a board (pip takes each name literally)."""

    name: str
    requirements: tuple[str, ...]
    platforms: tuple[str, ...]


LITERT_ARM64 = Wheels(
    "litert-arm64",
    ("ai-edge-litert==2.3.0",),
    ("manylinux2014_aarch64", *(f"manylinux_2_{minor}_aarch64" for minor in (17, 27, 28))),
)
# The index has no armv7l wheel of NumPy, so the board uses Debian's; these wheels omit it.
TFLITE_ARMV7 = Wheels("tflite-armv7", ("tflite-runtime==2.14.0",), ("manylinux_2_34_armv7l",))


def layer(wheels: Wheels) -> Path:
    """Return a tree with the wheels on the module path of Debian's Python; made once."""
    recipe = f"{wheels} {debian.PYTHON}"
    return cache.made(f"runtime-{wheels.name}", recipe, lambda folder: _unpack(folder, wheels))


def _unpack(folder: Path, wheels: Wheels) -> None:
    site = folder / "usr" / "local" / "lib" / f"python{debian.PYTHON}" / "dist-packages"
    dependencies = [] if wheels is LITERT_ARM64 else ["--no-deps"]
    with tempfile.TemporaryDirectory() as kept:
        run(
            [
                *(sys.executable, "-m", "pip", "install", "--quiet", "--no-compile"),
                *("--disable-pip-version-check", "--root-user-action=ignore"),
                *("--target", str(site), "--cache-dir", kept, "--only-binary=:all:"),
                *("--implementation=cp", f"--python-version={debian.PYTHON}"),
                *(f"--platform={platform}" for platform in wheels.platforms),
                *dependencies,
                *wheels.requirements,
            ],
            timeout_seconds=900,
        )
    shutil.rmtree(site / "bin", ignore_errors=True)
