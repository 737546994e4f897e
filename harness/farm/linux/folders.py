"""Propose another work folder on a device if the present one cannot be used."""

from __future__ import annotations

from harness.farm.linux.survey import System, WritableFolder

MIN_FREE_BYTES = 50_000_000
GOOD_FREE_BYTES = 500_000_000
_IN_MEMORY = frozenset({"tmpfs", "ramfs"})


def other_workdir(system: System | None, *, on_other_file_system: bool = True) -> str | None:
    """Return a work folder that this account can use; None if no folder fits.

    Its file system has enough space and lets libraries load. With `on_other_file_system` it is not
    the file system of the present work folder. File systems in memory, which lose their files at a
    reboot, are chosen last.
    """
    if system is None:
        return None
    present = system.mount.point if system.mount else None
    fitting = [
        one
        for one in system.writable_folders
        if one.free_bytes >= GOOD_FREE_BYTES
        and one.mount is not None
        and not (one.mount.noexec or one.mount.read_only)
        and not (on_other_file_system and one.mount.point == present)
    ]
    fitting.sort(key=_is_in_memory)
    # Other users may have a work folder in the same place.
    name = f"edge-harness-{system.user}" if system.user else "edge-harness"
    return f"{fitting[0].path.rstrip('/')}/{name}" if fitting else None


def _is_in_memory(folder: WritableFolder) -> bool:
    return folder.mount is None or folder.mount.kind in _IN_MEMORY
