"""Every fix that doctor can print has a test that executes it, or a reason why none can."""

from __future__ import annotations

import ast
import re

import pytest
from conftest import ROOT

from harness.farm.checks import (
    UNFORESEEN,
    Check,
    CheckResult,
    Fix,
    FixKind,
    check,
    ok,
    ordered,
    run,
)
from harness.farm.device_under_test import DeviceUnderTest
from harness.farm.doctor import CHECKS
from harness.types import Device

FIXES = "tests/devices/test_doctor_fixes.py"
GPU = "tests/devices/test_doctor_gpu.py"
PHONE = "tests/devices/test_phone_farm.py"

EXECUTED_BY = {
    "allow-commands": (FIXES, "test_a_forced_command"),
    "chmod-workdir": (FIXES, "test_a_work_folder_without_write_permission"),
    "clean": (FIXES, "test_a_disk_full_of_our_own_copies"),
    "driver-library": (
        GPU,
        "test_a_driver_that_does_not_load_is_reported_with_its_missing_library",
    ),
    "forget-key": (FIXES, "test_a_host_key_that_has_changed"),
    "install-python": (FIXES, "test_no_python_and_a_package_manager"),
    "install-sftp": (FIXES, "test_dropbear_without_sftp"),
    "join-group": (FIXES, "test_a_device_node_that_the_account_may_not_open"),
    "login-shell": (FIXES, "test_an_account_without_a_login_shell"),
    "make-workdir": (FIXES, "test_a_work_folder_with_a_parent_of_root"),
    "mount-kernel-files": (FIXES, "test_a_container_without_proc"),
    "name-python": (FIXES, "test_another_python_is_on_the_device"),
    "newer-python": (FIXES, "test_a_system_whose_python_is_too_old"),
    "numpy-first": (FIXES, "test_32_bit_arm_without_numpy"),
    "other-file-system": (FIXES, "test_a_disk_full_of_other_files"),
    "own-adb-server": (PHONE, "test_a_server_of_another_version_gets_a_setting_that_works"),
    "own-workdir": (FIXES, "test_a_work_folder_of_another_user_stays_unchanged"),
    "remount-exec": (FIXES, "test_noexec"),
    "remount-rw": (FIXES, "test_a_read_only_card"),
    "remove-part": (FIXES, "test_a_file_or_link_in_place_of_our_folder"),
    "set-clock": (FIXES, "test_a_clock_that_is_off"),
    "set-governor": (FIXES, "test_a_governor_that_is_not_pinned"),
    "set-ntp": (FIXES, "test_a_clock_that_systemd_can_set"),
    "setup": (FIXES, "test_no_runtime"),
    "shorten-login": (FIXES, "test_a_long_start_up_file"),
    "silence-login": (FIXES, "test_a_forced_command_that_prints"),
    "sshd-sftp": (FIXES, "test_an_sshd_without_sftp"),
    "stop-process": (FIXES, "test_a_process_that_computes"),
    "swapoff": (FIXES, "test_swap_in_use"),
    "trust-key": (FIXES, "test_a_host_key_that_is_not_known"),
    "vulkan-loader": (GPU, "test_a_missing_driver_or_loader_is_reported_with_its_fix"),
}
"""Kind of fix: the test that executes it on a real fault."""

BY_HAND = {
    "any-workdir",
    "bring-python",
    "charge-phone",
    "cool-phone",
    "cooling",
    "delegate-library",
    "driver-part",
    "edgetpu-compiler",
    "gpu-driver",
    "gpu-runtime",
    "gpu-setup",
    "install-light",
    "look-agent",
    "make-room",
    "new-host-key",
    "newer-android",
    "newer-system",
    "numpy-by-hand",
    "other-driver",
    "other-governor",
    "other-runtime",
    "phone-may-run",
    "phone-space",
    "plug-in",
    "power-supply",
    "reach",
    "read-the-log",
    "use-linux",
    "wait",
}
"""Kinds of fixes that no test can execute; each has a reason."""


def kinds() -> dict[str, FixKind]:
    found = {kind.id: kind for one in CHECKS for kind in one.fixes}
    return {**found, UNFORESEEN.id: UNFORESEEN}


def test_every_fix_has_a_test_or_a_reason() -> None:
    assert {name for name, kind in kinds().items() if kind.by_hand} == BY_HAND
    assert {name for name, kind in kinds().items() if not kind.by_hand} == set(EXECUTED_BY)


@pytest.mark.parametrize("name", EXECUTED_BY)
def test_the_named_test_exists_and_is_marked_with_the_fix(name: str) -> None:
    file, test = EXECUTED_BY[name]
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    decorators = [ast.unparse(one) for one in functions[test].decorator_list]
    marks = [re.findall(r"'([^']+)'", one) for one in decorators if one.startswith("executes(")]
    assert name in [kind for mark in marks for kind in mark]


def test_fix_ids_are_unique() -> None:
    found: dict[str, FixKind] = {}
    for one in CHECKS:
        for kind in one.fixes:
            assert found.setdefault(kind.id, kind) == kind
            assert kind.does[0].isupper()


def test_every_check_that_can_fail_has_a_fix() -> None:
    assert [one.name for one in CHECKS if not one.fixes] == []


def test_every_need_is_a_check_or_a_condition() -> None:
    names = {one.name for one in CHECKS}
    conditions = {"model", "library", "python_agent", "profile:gpu", "profile:edgetpu"}
    conditions |= {"phone", "linux"}
    for one in CHECKS:
        assert set(one.needs) <= names | conditions, one.name
        assert set(one.unless_failed) <= names, one.name


def test_a_check_follows_its_needs() -> None:
    assert list(ordered(CHECKS)) == list(CHECKS)
    backwards = ordered(tuple(reversed(CHECKS)))
    at = {one.name: place for place, one in enumerate(backwards)}
    for one in CHECKS:
        for need in (*one.needs, *one.unless_failed):
            assert at.get(need, -1) < at[one.name]


def made(name: str, *needs: str, result: CheckResult | None = None) -> Check:
    return Check(name=name, finds="", examine=lambda _: result or ok("fine"), needs=needs)


@pytest.fixture
def dut() -> DeviceUnderTest:
    return DeviceUnderTest(device=Device(name="d", profile="p", address="local:"))


def test_needs_in_a_circle_are_refused() -> None:
    with pytest.raises(ValueError, match="need each other: a, b"):
        ordered((made("a", "b"), made("b", "a")))


def test_a_skipped_check_names_the_one_that_failed(dut: DeviceUnderTest) -> None:
    broken = CheckResult(
        status="fail", found="broken", fix=Fix(kind=UNFORESEEN, text="look at the log")
    )
    checks = (made("c", "b"), made("b", "a"), made("a", result=broken), made("d"))
    found = {one.name: one for one in run(checks, dut)}
    assert found["a"].status == "fail"
    assert (found["b"].status, found["b"].waits_for) == ("skip", "a")
    assert (found["c"].status, found["c"].waits_for) == ("skip", "a")
    assert found["c"].found == "waits for a: it failed"
    assert found["d"].status == "ok"
    assert found["c"].plain()["needs"] == ["b"]


def test_a_check_that_does_not_apply_is_not_a_failure(dut: DeviceUnderTest) -> None:
    absent = CheckResult(status="skip", found="no such thing here")
    soft = Check(name="b", finds="", examine=lambda _: ok("fine"), unless_failed=("a",))
    found = {one.name: one for one in run((made("a", result=absent), soft, made("c", "a")), dut)}
    assert found["b"].status == "ok"
    assert (found["c"].status, found["c"].waits_for) == ("skip", "a")
    assert found["c"].found == "waits for a: no such thing here"


def test_a_check_gives_only_the_fixes_it_declares(dut: DeviceUnderTest) -> None:
    other = FixKind(id="other", does="Do something else")

    @check()
    def one(dut: DeviceUnderTest) -> CheckResult:
        """It is in order."""
        return CheckResult(status="fail", found="x", fix=dut.by_hand(other, "y"))

    assert (one.name, one.finds) == ("one", "It is in order.")
    with pytest.raises(AssertionError, match="one"):
        one(dut)
