"""Qualcomm's compiler for its NPUs, from the package onnxruntime-qnn.

Its libraries, for x86-64, are the ones that ai-edge-litert's plug-in needs, except libQnnLpai.so, for another
processor than the NPU. A library of that name without a symbol stands in for it, built here (`STANDIN`).
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest

from . import cache
from .tools import LabError, run

PACKAGE = "onnxruntime-qnn==2.7.0"
"""99 MB; of Qualcomm's own licence, so each user of the tests fetches it; the repository does not contain it."""

STANDIN = "libQnnLpai.so"
_WANTED = ("libQnnHtp.so", "libQnnIr.so", "libQnnSaver.so", "libQnnSystem.so")


def libraries() -> Path:
    """Return the folder of the libraries; raises LabError if they cannot be fetched."""
    return cache.made("qualcomm", f"{PACKAGE} 1", _bring)


def _bring(folder: Path) -> None:
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    run([*download, "--only-binary=:all:", "--dest", str(folder), PACKAGE], timeout_seconds=600)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            last = name.rpartition("/")[2]
            if last in _WANTED or name.startswith("onnxruntime_qnn.libs/lib"):
                (folder / last).write_bytes(archive.read(name))
    wheel.unlink()
    missing = [name for name in _WANTED if not (folder / name).is_file()]
    if missing:
        raise LabError(f"{PACKAGE} has no {', '.join(missing)}")
    library(folder, STANDIN, "int standin_for_libQnnLpai;")


def library(folder: Path, name: str, source: str) -> Path:
    """Compile C source to a library of this name."""
    flags = ["-shared", "-fPIC", f"-Wl,-soname,{name}"]
    run(["gcc", *flags, "-o", str(folder / name), "-x", "c", "-"], stdin=source)
    return folder / name


@pytest.fixture(scope="session")
def qualcomm_libraries() -> Path:
    """Qualcomm's libraries, all real except one."""
    from conftest import missing

    try:
        return libraries()
    except LabError as error:
        missing(f"Qualcomm's compiler is not here: {error}")
        raise
