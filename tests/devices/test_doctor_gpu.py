"""Check a GPU with doctor: a real agent and SwiftShader, with parts removed."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from lab.swiftshader import crashing
from standins.boards import executes, local_board, package_manager

from harness.config import profiles
from harness.devices.dialects.python_agent.dialect import open_json_lines
from harness.devices.transports.local import open_local
from harness.farm.checks import CheckResult
from harness.farm.checks_gpu import gpu
from harness.farm.device_under_test import DeviceUnderTest
from harness.farm.linux import packages, survey
from harness.types import Accelerator, Device, Profile

MODEL = Path(__file__).resolve().parents[2] / "harness" / "demo" / "data" / "digits.tflite"


@pytest.fixture
def here(tmp_path: Path) -> Device:
    return Device(
        name="here",
        profile="linux_x86_64",
        address="local:",
        dialect_options={"python": sys.executable, "workdir": str(tmp_path / "work")},
    )


def checked(
    device: Device, profile: Profile, model: Path | None = MODEL, *seen: str
) -> CheckResult:
    transport = open_local(device)
    dialect = open_json_lines(transport, device)
    try:
        facts = dialect.hello()
        return gpu(
            DeviceUnderTest(
                device=device,
                profile=profile,
                model=model,
                transport=transport,
                system=survey.survey_system(transport, device),
                dialect=dialect,
                facts=dataclasses.replace(facts, accelerators=seen),
            )
        )
    finally:
        dialect.close()
        transport.close()


def execute_fix(
    folder: Path, monkeypatch: pytest.MonkeyPatch, found: CheckResult, provides: dict[str, str]
) -> None:
    """Execute a fix with a stand-in for apt-get that really installs the requested package."""
    package_manager(folder / "tools", "apt-get", provides)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{folder / 'tools'}:{os.environ['PATH']}")
        local_board(folder).execute(found.fix)


@pytest.fixture
def machine() -> Profile:
    return profiles.load_all()["linux_x86_64"]


def test_a_software_adapter_is_a_warning(
    software_gpu: Mapping[str, str], here: Device, machine: Profile
) -> None:
    found = checked(here, machine)
    assert found.status == "warn"
    assert found.found.startswith("SwiftShader Device")
    assert "CPU, SwiftShader driver" in found.found
    assert "float16 allowed: computed on the processor" in found.found
    assert "mesa-vulkan-drivers" in str(found.fix_text)


@executes("vulkan-loader")
def test_a_missing_driver_or_loader_is_reported_with_its_fix(
    software_gpu: Mapping[str, str],
    here: Device,
    machine: Profile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    named = dataclasses.replace(machine, accelerators=(Accelerator(name="Some GPU", target="gpu"),))
    for name in ("VK_ICD_FILENAMES", "VK_DRIVER_FILES"):
        monkeypatch.setenv(name, str(tmp_path / "absent.json"))
    found = checked(here, named)
    assert (found.status, "no Vulkan driver" in found.found) == ("fail", True)
    assert "mesa-vulkan-drivers" in str(found.fix_text)
    # A profile of many machines promises no GPU; a device node shows that there is one.
    assert checked(here, machine).status == "skip"
    assert checked(here, machine, MODEL, "gpu").status == "warn"
    (tmp_path / "libvulkan.so.1").write_bytes(b"")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    found = checked(here, named)
    assert found.status == "fail"
    # Root needs no sudo.
    assert found.fix_text == "apt-get update && apt-get install -y libvulkan1"
    assert "the Vulkan loader is missing" in found.found
    # The stand-in for apt-get really installs the loader.
    (loader,) = (
        Path(one) / "libvulkan.so.1" for one in software_gpu["LD_LIBRARY_PATH"].split(":")[:1]
    )
    execute_fix(tmp_path, monkeypatch, found, {"libvulkan1": f"cp '{loader}' '{tmp_path}'"})
    assert "no Vulkan driver" in checked(here, named).found


@executes("driver-library")
def test_a_driver_that_does_not_load_is_reported_with_its_missing_library(
    software_gpu: Mapping[str, str],
    here: Device,
    machine: Profile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("gcc builds the driver of this test: apt-get install gcc libc6-dev")
    source, other, driver = (tmp_path / name for name in ("e.c", "libabsent.so.1", "libdriver.so"))
    source.write_text("int one(void) { return 1; }\n")
    for target, needs in ((other, []), (driver, ["-Wl,--no-as-needed", str(other)])):
        soname = f"-Wl,-soname,{target.name}"
        argv = ["gcc", "-shared", "-fPIC", soname, str(source), *needs, "-o", str(target)]
        subprocess.run(argv, check=True)
    manifest = tmp_path / "driver.json"
    content = {"file_format_version": "1.0.0", "ICD": {"api_version": "1.3.0"}}
    content["ICD"]["library_path"] = "./libdriver.so"  # type: ignore[index]
    manifest.write_text(json.dumps(content))
    for name in ("VK_ICD_FILENAMES", "VK_DRIVER_FILES"):
        monkeypatch.setenv(name, str(manifest))
    monkeypatch.setitem(packages._LIBRARIES, "libabsent.so.1", "absent1")
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{software_gpu['LD_LIBRARY_PATH']}:{tmp_path}")
    kept = other.rename(tmp_path / "kept")
    lacking = checked(here, machine, MODEL, "gpu")
    assert lacking.status == "warn"
    assert f"the driver {driver} of {manifest} does not load: libabsent.so.1: " in lacking.found
    assert lacking.fix_text == "apt-get update && apt-get install -y absent1"
    execute_fix(tmp_path, monkeypatch, lacking, {"absent1": f"cp '{kept}' '{other}'"})
    assert "libabsent" not in checked(here, machine, MODEL, "gpu").found
    driver.unlink()
    absent = checked(here, machine, MODEL, "gpu")
    assert "libdriver.so: cannot open shared object file" in absent.found
    assert "graphics part" in str(absent.fix_text)
    named = f"the driver file {manifest} names the library {driver}, which is missing"
    assert named in absent.found
    assert "install the GPU's driver" not in absent.found
    # Also where no GPU is expected, and beside a driver that works.
    assert named in checked(here, machine).found
    both = f"{software_gpu['VK_DRIVER_FILES']}:{manifest}"
    for name in ("VK_ICD_FILENAMES", "VK_DRIVER_FILES"):
        monkeypatch.setenv(name, both)
    beside = checked(here, machine)
    assert beside.found.startswith("SwiftShader Device")
    assert named in beside.found
    for name in ("VK_ICD_FILENAMES", "VK_DRIVER_FILES"):
        monkeypatch.setenv(name, str(manifest))
    manifest.write_text("{")
    broken = checked(here, machine, MODEL, "gpu")
    assert f"of {manifest} does not load: Expecting" in broken.found
    assert "mesa-vulkan-drivers" in str(broken.fix_text)


def test_a_driver_that_crashes_is_a_failed_check(
    software_gpu: Mapping[str, str],
    here: Device,
    machine: Profile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("gcc builds the driver of this test: apt-get install gcc libc6-dev")
    for name, value in crashing(tmp_path).items():
        monkeypatch.setenv(name, value)
    found = checked(here, machine)
    assert found.status == "fail"
    assert "SIGABRT" in found.found
    assert "another version of the GPU's driver" in str(found.fix_text)


def test_without_a_target_or_a_model_the_check_is_skipped(here: Device, machine: Profile) -> None:
    without = dataclasses.replace(machine, targets=("xnnpack",))
    assert checked(here, without).found == "the profile has no target gpu"
    assert checked(here, machine, None).status == "skip"
