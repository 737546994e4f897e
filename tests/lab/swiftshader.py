"""A GPU without one: SwiftShader, Vulkan computed on the processor, from Debian's Chromium.

Its times say nothing about any GPU, but it runs the whole path with the same results.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from . import cache
from .tools import LabError, run

PACKAGE = "chromium-common"
"""32 MB, of which 6 are kept."""

LIBRARY, DRIVER, LOADER = "libvk_swiftshader.so", "vk_swiftshader_icd.json", "libvulkan.so.1"
_INSTALLED = Path("/usr/lib/chromium")


def environment() -> Mapping[str, str]:
    """Return the environment in which Vulkan shows only this adapter.

    Raises LabError if the package cannot be fetched.
    """
    folder = cache.made("swiftshader", f"{PACKAGE} 1", _bring)
    before = os.environ.get("LD_LIBRARY_PATH")
    return {
        "LD_LIBRARY_PATH": str(folder) + (f":{before}" if before else ""),
        "VK_DRIVER_FILES": str(folder / DRIVER),
        "VK_ICD_FILENAMES": str(folder / DRIVER),
        "VK_LOADER_LAYERS_DISABLE": "*",
    }


def _bring(folder: Path) -> None:
    names = (LIBRARY, DRIVER, LOADER)
    if all((_INSTALLED / name).is_file() for name in names):
        for name in names:
            shutil.copyfile(_INSTALLED / name, folder / name)
        return
    with tempfile.TemporaryDirectory() as kept:
        _download(Path(kept))
        (package,) = Path(kept).glob("*.deb")
        run(["dpkg-deb", "--extract", str(package), f"{kept}/tree"], timeout_seconds=120)
        for name in names:
            shutil.copyfile(f"{kept}/tree{_INSTALLED}/{name}", folder / name)


def _download(folder: Path) -> None:
    command = ["env", "-C", str(folder), "apt-get", "-qq", "download", PACKAGE]
    try:
        run(command, timeout_seconds=300)
    except LabError:
        # A fresh system has no lists of packages.
        run(["apt-get", "-qq", "update"], timeout_seconds=300)
        run(command, timeout_seconds=300)


def crashing(folder: Path) -> Mapping[str, str]:
    """Build a driver that aborts when adapters are listed; returns the environment that selects it."""
    source, library, named = (folder / f"crashing.{end}" for end in ("c", "so", "json"))
    source.write_text(
        "#include <stdlib.h>\n"
        "void *vk_icdGetInstanceProcAddr(void *instance, const char *name) { abort(); }\n"
    )
    command = ["gcc", "-shared", "-fPIC", "-o", str(library), str(source)]
    subprocess.run(command, check=True, timeout=60)
    named.write_text(
        '{"file_format_version": "1.0.0", '
        f'"ICD": {{"library_path": "{library}", "api_version": "1.1.0"}}}}'
    )
    return {"VK_DRIVER_FILES": str(named), "VK_ICD_FILENAMES": str(named)}


@pytest.fixture(scope="session")
def swiftshader() -> Mapping[str, str]:
    """The environment in which Vulkan finds the software GPU."""
    from conftest import missing

    try:
        return environment()
    except (LabError, OSError) as error:
        missing(f"Debian's package {PACKAGE} with SwiftShader cannot be had: {error}")
        raise


@pytest.fixture
def software_gpu(
    swiftshader: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> Mapping[str, str]:
    """A software GPU for every process that this test starts."""
    for name, value in swiftshader.items():
        monkeypatch.setenv(name, value)
    return swiftshader
