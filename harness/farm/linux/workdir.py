"""Choose the fix for a work folder that cannot be used, by its state on the device."""

from __future__ import annotations

import shlex

from harness.farm.checks import Fix, FixKind
from harness.farm.device_under_test import DeviceUnderTest
from harness.farm.linux.folders import other_workdir

_FOLDERS = ("agents", "blobs", "incoming", "out", "runtimes")

_THEIRS = "belongs to another user"

CHMOD = FixKind(id="chmod-workdir", does="Let the account use its own work folder again")
MAKE_FOLDER = FixKind(id="make-workdir", does="Create the work folder")
OWN_FOLDER = FixKind(id="own-workdir", does="Set a work folder that belongs to the account")
REMOVE_PART = FixKind(
    id="remove-part", does="Remove the file or link in place of one of our folders"
)
NO_FOLDER = FixKind(
    id="any-workdir",
    does="Set a work folder that the account can write to",
    by_hand="no suitable folder was found on the device",
)

FIXES = (CHMOD, MAKE_FOLDER, OWN_FOLDER, REMOVE_PART, NO_FOLDER)


def fix(dut: DeviceUnderTest, error: str = "") -> Fix:
    """Choose the fix of the work folder; `error` is the message of the failed use.

    Another user's folder stays unchanged: the fix proposes another folder.
    """
    workdir = dut.agent.workdir
    for name in _FOLDERS:
        # A folder of another user within ours is theirs too.
        if f"{workdir}/{name} " in error + " " and _THEIRS not in error:
            return dut.by_command(REMOVE_PART, f"rm -rf -- {shlex.quote(f'{workdir}/{name}')}")
    state = dut.system.workdir if dut.system else None
    if state is None:
        return _another(dut)
    if state.form == "folder" and state.is_own and not state.is_writable:
        return dut.by_command(CHMOD, f"chmod 700 {shlex.quote(workdir)}")
    system = dut.system
    is_missing = state.form == "absent" and not state.above_is_writable
    if is_missing and system and system.uid and system.can_sudo:
        user = shlex.quote(system.user)
        command = f"install -d -m 700 -o {user} {shlex.quote(workdir)}"
        return dut.as_root(MAKE_FOLDER, command)
    is_theirs = state.form == "folder" and not state.is_own and state.owner
    return _another(dut, f" ({workdir} belongs to {state.owner})" if is_theirs else "")


def _another(dut: DeviceUnderTest, note: str = "") -> Fix:
    # The same file system is fine: permission is missing, not space.
    if other := other_workdir(dut.system, on_other_file_system=False):
        return dut.by_setting(OWN_FOLDER, "workdir", other, note)
    advice = "set workdir in the farm file to a folder that the account can write to"
    return dut.by_hand(NO_FOLDER, advice)
