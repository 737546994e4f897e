"""Choose the wheels for a device; the real pip fetches them from a folder of wheels."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import ConfigError, RuntimeMissing
from harness.farm import wheels
from harness.farm.probe import Probe
from harness.farm.wheels import RuntimeRequirement, Site

PI = Site(python=(3, 11), arch="aarch64", glibc=(2, 36), numpy=None)
PI_32 = dataclasses.replace(PI, arch="armv7l")


def wheel(folder: Path, name: str, *requires: str) -> Path:
    """Write a wheel that contains only its requirements."""
    path = folder / name
    project, version = name.split("-")[:2]
    metadata = f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {one}\n" for one in requires)
    info = f"{project}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels, the only index that pip uses."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def fetched(wanted: str, site: Site, folder: Path) -> list[str]:
    into = folder / "into"
    into.mkdir()
    return [one.path.name for one in wheels.fetch(RuntimeRequirement.parse(wanted), site, into)]


def test_the_platforms_of_a_raspberry_pi() -> None:
    assert PI.platforms[:2] == ("manylinux_2_36_aarch64", "manylinux_2_35_aarch64")
    assert PI.platforms[-3:] == (
        "manylinux_2_17_aarch64",
        "manylinux2014_aarch64",
        "linux_aarch64",
    )
    old = dataclasses.replace(PI, arch="x86_64", glibc=(2, 12))
    assert old.platforms[:2] == ("manylinux_2_12_x86_64", "manylinux2010_x86_64")
    assert old.platforms[-2:] == ("manylinux1_x86_64", "linux_x86_64")
    assert dataclasses.replace(PI, glibc=None).platforms == ()


def test_the_tags_are_those_that_packaging_gives_this_machine() -> None:
    """Compare with `packaging.tags`, the reference, on this machine."""
    import os
    import platform
    import sys

    from packaging import tags

    libc = os.confstr("CS_GNU_LIBC_VERSION") if sys.platform == "linux" else None
    probe = Probe(
        version=tuple(sys.version_info[:3]),
        bits=64 if sys.maxsize > 2**32 else 32,
        free_bytes=None,
        noexec=None,
        machine=platform.machine(),
        libc=libc,
    )
    assert set(Site.of(probe).platforms) == set(tags.platform_tags())


@given(st.integers(0, 60), st.sampled_from(["x86_64", "aarch64", "armv7l", "riscv64"]))
def test_a_newer_c_library_accepts_the_tags_of_an_older_one(minor: int, arch: str) -> None:
    older = dataclasses.replace(PI, arch=arch, glibc=(2, minor)).platforms
    newer = dataclasses.replace(PI, arch=arch, glibc=(2, minor + 1)).platforms
    assert set(older) <= set(newer)
    assert len(set(newer)) == len(newer)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("ai_edge_litert==2.3.0", RuntimeRequirement(name="ai_edge_litert", version="2.3.0")),
        ("ai-edge-litert=2.3.0", RuntimeRequirement(name="ai_edge_litert", version="2.3.0")),
        ("tflite-runtime", RuntimeRequirement(name="tflite_runtime")),
    ],
)
def test_a_requested_runtime_is_parsed(text: str, wanted: RuntimeRequirement) -> None:
    assert RuntimeRequirement.parse(text) == wanted


@pytest.mark.parametrize(
    "text", ["", "tensorflow==2", "ai_edge_litert==../../x", "tflite_runtime==1;x"]
)
def test_an_unknown_runtime_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--runtime"):
        RuntimeRequirement.parse(text)


def test_wheels_and_markers_are_for_the_device(index: Path, tmp_path: Path) -> None:
    requires = ("numpy>=1.23", 'old-python ; python_version < "3.11"', 'npu ; extra == "npu"')
    for tail in ("manylinux_2_27_aarch64", "manylinux_2_40_aarch64", "manylinux_2_27_x86_64"):
        version = "2.4.0" if "2_40" in tail else "2.3.0"
        wheel(index, f"ai_edge_litert-{version}-cp311-cp311-{tail}.whl", *requires)
        wheel(index, f"ai_edge_litert-{version}-cp310-cp310-{tail}.whl", *requires)
    wheel(index, "numpy-2.4.0-cp311-cp311-manylinux2014_aarch64.whl")
    wheel(index, "numpy-1.26.0-cp310-cp310-manylinux2014_aarch64.whl")
    wheel(index, "old_python-1.0-py3-none-any.whl", "more-of-it")
    wheel(index, "more_of_it-1.0-py3-none-any.whl")
    assert fetched("ai_edge_litert", PI, tmp_path) == [
        "ai_edge_litert-2.3.0-cp311-cp311-manylinux_2_27_aarch64.whl",
        "numpy-2.4.0-cp311-cp311-manylinux2014_aarch64.whl",
    ]
    (tmp_path / "more").mkdir()
    older = dataclasses.replace(PI, python=(3, 10), numpy="1.24.2")
    assert fetched("ai_edge_litert==2.3.0", older, tmp_path / "more") == [
        "ai_edge_litert-2.3.0-cp310-cp310-manylinux_2_27_aarch64.whl",
        "old_python-1.0-py3-none-any.whl",
        "more_of_it-1.0-py3-none-any.whl",
    ]


def test_two_requirements_of_one_project_get_a_common_version(index: Path, tmp_path: Path) -> None:
    wheel(index, "ai_edge_litert-2.3.0-py3-none-any.whl", "numpy>=1.23", "other")
    wheel(index, "other-1.0-py3-none-any.whl", "numpy<2")
    wheel(index, "numpy-1.26.4-py3-none-any.whl")
    wheel(index, "numpy-2.4.0-py3-none-any.whl")
    found = fetched("ai_edge_litert", PI, tmp_path)
    assert "numpy-1.26.4-py3-none-any.whl" in found
    assert "numpy-2.4.0-py3-none-any.whl" not in found


@pytest.mark.parametrize(
    ("installed", "found"),
    [
        ("1.24.2", []),
        ("2.1.0", ["numpy-1.26.4-py3-none-any.whl"]),
        ("1.19", ["numpy-1.26.4-py3-none-any.whl"]),
    ],
)
def test_the_old_runtime_gets_numpy_1(
    index: Path, tmp_path: Path, installed: str, found: list[str]
) -> None:
    wheel(index, "tflite_runtime-2.14.0-py3-none-any.whl", "numpy>=1.23.2")
    wheel(index, "numpy-1.26.4-py3-none-any.whl")
    wheel(index, "numpy-2.4.0-py3-none-any.whl")
    site = dataclasses.replace(PI, numpy=installed)
    assert fetched("tflite_runtime", site, tmp_path)[1:] == found


def test_a_missing_wheel_is_named(index: Path, tmp_path: Path) -> None:
    wheel(index, "tflite_runtime-2.14.0-cp311-cp311-manylinux_2_34_armv7l.whl", "numpy>=1.23.2")
    with pytest.raises(wheels.NoWheel, match="armv7l, glibc 2.36, Python 3.11: .*numpy") as caught:
        fetched("tflite_runtime", PI_32, tmp_path)
    assert caught.value.names == {"numpy"}
    (tmp_path / "more").mkdir()
    musl = dataclasses.replace(PI, glibc=None)
    with pytest.raises(RuntimeMissing, match="need glibc"):
        fetched("tflite_runtime", musl, tmp_path / "more")


def test_a_damaged_wheel_is_refused(tmp_path: Path) -> None:
    path = wheel(tmp_path, "numpy-1.0-py3-none-any.whl")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(RuntimeMissing, match="not a readable wheel"):
        wheels.read(path)
