"""A bundle's files are checked against the phone before anything is sent."""

from __future__ import annotations

import json
import platform
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "standins"))
from runner_bundles import elf_file, make_bundle

from harness.devices.dialects.benchmark_model import bundle, bundle_checks, chips, elf
from harness.devices.dialects.benchmark_model.bundle_checks import BundleSite
from harness.devices.dialects.benchmark_model.elf import MalformedElf
from harness.errors import ConfigError

PHONE = BundleSite(device="phone", machine="aarch64", page_bytes=16_384, api=35, chip="SM8650")
QAIRT = b"v2.44.0.260225101112_119471\0"
OLDER = b"v2.34.0.250424201103_119471\0"
NPU = (
    *("libQnnSystem.so", "libQnnHtp.so", "libQnnHtpV75Stub.so", "libQnnHtpV75Skel.so"),
    "libLiteRtDispatch_Qualcomm.so",
)


def folder(tmp_path: Path, files: dict[str, bytes], version: str = "2.1.5") -> Path:
    made = tmp_path / version
    made.mkdir()
    for name, data in files.items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_bytes(data)
    return made


def whole() -> dict[str, bytes]:
    files = {
        "benchmark_model": elf_file(needed=("libLiteRt.so", "libc.so"), api=31),
        "libLiteRt.so": elf_file(soname="libLiteRt.so", api=31),
    }
    return files | {name: elf_file(soname=name, text=QAIRT * ("Qnn" in name)) for name in NPU}


def problems(tmp_path: Path, files: dict[str, bytes], site: BundleSite = PHONE) -> str:
    return "; ".join(bundle_checks.problems(bundle.of_folder(folder(tmp_path, files)), site))


def test_a_whole_bundle_has_no_problem_and_names_each_file(tmp_path: Path) -> None:
    local = bundle.of_folder(folder(tmp_path, whole()))
    assert bundle_checks.problems(local, PHONE) == []
    assert (local.bundle.name, local.bundle.version) == ("litert", "2.1.5")
    qnn = local.bundle.find("libQnnHtp.so")
    assert qnn is not None
    assert (qnn.version, qnn.build_id) == ("2.44.0.260225", "1234")
    assert len(bundle_checks.named(local.bundle.files)) == 7


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("libLiteRt.so", {"alignment": 4096}, "libLiteRt.so has segments aligned to 4096"),
        ("libLiteRt.so", {"machine": 62}, "libLiteRt.so is for x86_64, and phone is aarch64"),
        ("benchmark_model", {"machine": 40}, "benchmark_model is for armv7l"),
        ("libLiteRt.so", {"api": 36}, "needs Android API 36, and phone has 35"),
        ("libLiteRt.so", {"api": 31, "ndk": "r25"}, "mixed revisions: built"),
        ("benchmark_model", {"needed": ("libgone.so",)}, "needs libgone.so"),
        ("libQnnSystem.so", {"text": OLDER}, "mixed revisions: .*libQnnSystem.so 2.34.0.250424"),
    ],
)
def test_a_file_that_cannot_work_is_named(
    tmp_path: Path, name: str, content: dict[str, object], why: str
) -> None:
    site = replace(PHONE, machine="aarch64")
    files = whole()
    if name == "benchmark_model" and "machine" in content:
        site = replace(PHONE, machine="riscv64")
        files = {key: value for key, value in files.items() if key == name}
    files[name] = elf_file(**content)  # type: ignore[arg-type]
    found = problems(tmp_path, files, site)
    import re

    assert re.search(why, found), found


@pytest.mark.parametrize("missing", NPU[:4])
def test_a_missing_library_of_the_npu_is_named(tmp_path: Path, missing: str) -> None:
    files = whole()
    del files[missing]
    assert missing in problems(tmp_path, files)


def test_the_chip_decides_which_half_for_the_dsp_is_needed(tmp_path: Path) -> None:
    found = problems(tmp_path, whole(), replace(PHONE, chip="SM8750"))
    assert "libQnnHtpV79Stub.so, libQnnHtpV79Skel.so" in found


def test_a_release_of_litert_wants_its_own_qairt(tmp_path: Path) -> None:
    files = {name: data.replace(QAIRT, OLDER) for name, data in whole().items()}
    assert "LiteRT 2.1.5 was built for 2.44.0.260225" in problems(tmp_path, files)


def test_an_older_vendor_library_on_the_phone_is_named(tmp_path: Path) -> None:
    site = replace(
        PHONE, libraries={"libQnnHtp.so": "2.34.0.250424", "libQnnGpu.so": "2.34.0.250424"}
    )
    found = problems(tmp_path, whole(), site)
    assert "phone has libQnnHtp.so 2.34.0.250424, which is older than the bundle's" in found
    assert "add libQnnGpu.so to the bundle" in found


def test_mediateks_adapter_may_be_the_phones(tmp_path: Path) -> None:
    files = {
        "benchmark_model": elf_file(),
        "libLiteRt.so": elf_file(),
        "libLiteRtDispatch_MediaTek.so": elf_file(),
    }
    local = bundle.of_folder(folder(tmp_path, files))
    assert "libneuronusdk_adapter.mtk.so" in "; ".join(bundle_checks.problems(local, PHONE))
    there = replace(PHONE, libraries={"libneuronusdk_adapter.mtk.so": None})
    assert bundle_checks.problems(local, there) == []


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({}, "has no file benchmark_model"),
        ({"benchmark_model": b"garbage"}, "no program or library"),
        ({"benchmark_model": elf_file()[:100]}, "not in the file"),
        ({"benchmark_model": elf_file(), "libx.so": b"#!/bin/sh"}, "libx.so"),
        (
            {"benchmark_model": elf_file(), "a/liby.so": elf_file(), "b/liby.so": elf_file()},
            "two files",
        ),
        ({"benchmark_model": elf_file(), "bad name.so": elf_file()}, "other characters"),
        ({"benchmark_model": elf_file(), "VERSION": b"\n"}, "must have one version"),
    ],
)
def test_a_folder_that_is_no_bundle_is_refused(
    tmp_path: Path, files: dict[str, bytes], why: str
) -> None:
    with pytest.raises(ConfigError, match=why):
        bundle.of_folder(folder(tmp_path, files))
    with pytest.raises(ConfigError, match="no such folder"):
        bundle.of_folder(tmp_path / "absent")


def test_the_digest_is_that_of_names_and_contents(tmp_path: Path) -> None:
    one = bundle.of_folder(make_bundle(tmp_path / "one")).bundle
    same = bundle.of_folder(make_bundle(tmp_path / "two")).bundle
    other = bundle.of_folder(make_bundle(tmp_path / "three", fault="crash")).bundle
    assert one.digest == same.digest != other.digest
    assert bundle.of_manifest(one.to_json().encode()) == one
    assert bundle.by_runtime([one, other], f"tflite={other.full_version}") == other
    assert bundle.by_runtime([one], "litert") is None


def test_a_version_comes_from_the_file_or_the_folder_or_the_digest(tmp_path: Path) -> None:
    made = folder(tmp_path, {"benchmark_model": elf_file()}, "litert-2.1.6-rc1")
    assert bundle.of_folder(made).bundle.version == "2.1.6-rc1"
    plain = folder(tmp_path, {"benchmark_model": elf_file(), "LICENSE": b"text"}, "mine")
    assert bundle.of_folder(plain).bundle.version.startswith("sha256-")


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_manifest_is_read_or_none(data: bytes) -> None:
    bundle.of_manifest(data)


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda x: (
            st.lists(x, max_size=3)
            | st.dictionaries(
                st.sampled_from(["name", "version", "files", "digest", "size_bytes"]), x, max_size=5
            )
        ),
    )
)
def test_any_json_is_a_manifest_or_none(plain: object) -> None:
    bundle.of_manifest(json.dumps(plain).encode())


@settings(deadline=None)
@given(
    st.binary(max_size=300)
    | st.tuples(st.integers(0, 700), st.binary(min_size=1, max_size=8)).map(
        lambda c: (d := elf_file(needed=("a",), api=3))[: c[0]] + c[1] + d[c[0] + len(c[1]) :]
    )
)
def test_any_bytes_are_an_elf_file_or_refused(data: bytes) -> None:
    try:
        found = elf.read(data)
    except MalformedElf:
        return
    assert found.bits in (32, 64)


def test_a_real_program_and_a_real_library_are_read() -> None:
    found = elf.read(Path("/bin/sh").resolve().read_bytes())
    assert found.machine == platform.machine()
    assert found.min_alignment in (4096, 16_384, 65_536)
    assert any(name.startswith("libc.") for name in found.needed)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("Qualcomm SM8650", "SM8650", True),
        ("MediaTek mt6989", "MT6989Z/CZA", True),
        ("Qualcomm SM8650", "SM8650-AB", True),
        ("Qualcomm SM8650", "SM8750", False),
        ("Google Tensor_G5", "Tensor G5", False),
        ("", "SM8650", False),
    ],
)
def test_names_of_one_chip_are_equal(first: str, second: str, same: bool) -> None:
    assert chips.same_chip(first, second) is same
