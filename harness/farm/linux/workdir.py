"""What fixes a work folder that cannot be used, chosen by how it is on the device."""

from __future__ import annotations

import shlex

from harness.farm.checks import Fix, FixKind
from harness.farm.linux.folders import other_workdir
from harness.farm.patient import Patient

_FOLDERS = ("agents", "blobs", "incoming", "out", "runtimes")

CHMOD = FixKind(id="chmod-workdir", does="Let the account use its own work folder again")
MAKE_FOLDER = FixKind(id="make-workdir", does="Make the work folder, which is not there yet")
OWN_FOLDER = FixKind(id="own-workdir", does="Set a work folder of the account's own")
REMOVE_PART = FixKind(id="remove-part", does="Remove what stands where a folder of ours belongs")
NO_FOLDER = FixKind(
    id="any-workdir",
    does="Set a work folder that the account can write to",
    by_hand="no folder that would do was found on the device",
)

FIXES = (CHMOD, MAKE_FOLDER, OWN_FOLDER, REMOVE_PART, NO_FOLDER)


def fix(patient: Patient, error: str = "") -> Fix:
    """Choose what fixes the work folder; `error` is what was said when it was used.

    A folder of another user is never taken from them: another one is proposed.
    """
    workdir = patient.agent.workdir
    for name in _FOLDERS:
        if f"{workdir}/{name} " in error + " ":
            return patient.by_command(REMOVE_PART, f"rm -rf -- {shlex.quote(f'{workdir}/{name}')}")
    state = patient.system.workdir if patient.system else None
    if state is None:
        return _another(patient)
    if state.form == "folder" and state.is_own and not state.is_writable:
        return patient.by_command(CHMOD, f"chmod 700 {shlex.quote(workdir)}")
    system = patient.system
    is_missing = state.form == "absent" and not state.above_is_writable
    if is_missing and system and system.uid and system.can_sudo:
        user = shlex.quote(system.user)
        command = f"install -d -m 700 -o {user} {shlex.quote(workdir)}"
        return patient.as_root(MAKE_FOLDER, command)
    is_theirs = state.form == "folder" and not state.is_own and state.owner
    return _another(patient, f" ({workdir} belongs to {state.owner})" if is_theirs else "")


def _another(patient: Patient, note: str = "") -> Fix:
    # The same file system will do: not the room is missing but the right to write.
    if other := other_workdir(patient.system, elsewhere=False):
        return patient.by_setting(OWN_FOLDER, "workdir", other, note)
    advice = "set workdir in the farm file to a folder that the account can write to"
    return patient.by_hand(NO_FOLDER, advice)
