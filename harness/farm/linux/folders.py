"""Where on a device a work folder can be: what is proposed instead of one that cannot be used."""

from __future__ import annotations

from harness.farm.linux.survey import System, WritableFolder

MIN_FREE_BYTES = 50_000_000
GOOD_FREE_BYTES = 500_000_000
_IN_MEMORY = frozenset({"tmpfs", "ramfs"})


def other_workdir(system: System | None, *, elsewhere: bool = True) -> str | None:
    """Return a work folder that this account can have; None if no place is known.

    With `elsewhere` it is on another file system than the present one. It has room, and libraries
    can be loaded from it; what forgets everything at a reboot is taken last.
    """
    if system is None:
        return None
    present = system.mount.point if system.mount else None
    fitting = [
        one
        for one in system.places
        if one.free_bytes >= GOOD_FREE_BYTES
        and one.mount is not None
        and not (one.mount.noexec or one.mount.read_only)
        and not (elsewhere and one.mount.point == present)
    ]
    fitting.sort(key=_forgets)
    # Others may have one beside it.
    name = f"edge-harness-{system.user}" if system.user else "edge-harness"
    return f"{fitting[0].path.rstrip('/')}/{name}" if fitting else None


def _forgets(place: WritableFolder) -> bool:
    return place.mount is None or place.mount.kind in _IN_MEMORY
