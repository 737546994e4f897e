"""Check accelerators with doctor: a real agent on this machine and a stand-in delegate library."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from standins import compiler

from harness.demo import DATA
from harness.devices.dialects.python_agent.dialect import open_json_lines
from harness.devices.transports.local import open_local
from harness.farm.checks import CheckResult
from harness.farm.doctor import examine
from harness.types import Accelerator, Device, Profile


def examined(folder: Path, *accelerators: Accelerator, **farm: str) -> dict[str, CheckResult]:
    device = Device(
        name="here",
        profile="p",
        address="local:",
        delegate_options={"edgetpu": farm},
        dialect_options={"python": sys.executable, "workdir": str(folder / "work")},
    )
    targets = ("xnnpack", *(one.target for one in accelerators))
    profile = Profile(name="p", title="P", arch="any", targets=targets, accelerators=accelerators)
    checks = examine(device, open_local, open_json_lines, profile, DATA / "digits.tflite")
    return {check.name: check for check in checks}


def accelerator(target: str, library: Path | str, **options: str) -> Accelerator:
    return Accelerator(name="a", target=target, external_delegate=str(library), options=options)


def test_a_library_that_loads_passes_even_if_it_takes_no_operator(
    tmp_path: Path, standin_delegate: Path
) -> None:
    found = examined(
        tmp_path,
        accelerator("edgetpu", standin_delegate),
        accelerator("npu", standin_delegate, take="none"),
    )["delegates"]
    assert (found.status, found.fix_text) == ("ok", None)
    assert "loads for edgetpu" in found.found
    assert "loads for npu" in found.found


def test_a_library_that_does_not_load_is_reported_with_its_fix(
    tmp_path: Path, standin_delegate: Path
) -> None:
    found = examined(
        tmp_path,
        accelerator("edgetpu", standin_delegate),
        accelerator("npu", "libabsent.so.1"),
        fail="empty",
    )["delegates"]
    assert found.status == "fail"
    assert "it gives no reason; no Edge TPU was found" in found.found
    assert "libabsent.so.1: cannot open shared object" in found.found
    assert "udev rule" in (found.fix_text or "")


def test_a_library_that_crashes_its_process_is_one_failed_check(
    tmp_path: Path, standin_delegate: Path
) -> None:
    checks = examined(tmp_path, accelerator("npu", standin_delegate, fail="crash"))
    assert checks["delegates"].status == "fail"
    assert "crashes its process" in checks["delegates"].found
    assert checks["clock"].status == "ok"


def test_the_compiler_is_searched_on_this_host(
    tmp_path: Path, standin_delegate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    checks = examined(tmp_path, accelerator("edgetpu", standin_delegate))
    assert checks["compiler"].status == "warn"
    assert "coral.ai/docs/edgetpu/compiler" in (checks["compiler"].fix_text or "")
    program = compiler.install(tmp_path / "bin", "ok")
    program.rename(program.with_name("edgetpu_compiler"))
    checks = examined(tmp_path, accelerator("edgetpu", standin_delegate))
    assert checks["compiler"].status == "ok"
    assert examined(tmp_path)["compiler"].status == "skip"
    assert examined(tmp_path)["delegates"].status == "skip"
