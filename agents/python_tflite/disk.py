"""Say what an error of the operating system means for the work folder: full, or gone."""

import errno
import os

from wire import AgentFault

_FULL = (errno.ENOSPC, errno.EDQUOT)


def fault(error: OSError, doing: str, folder: str) -> AgentFault:
    """Return the fault for an error that happened to files in `folder`, or below it."""
    if error.errno in _FULL:
        return full(doing, os.path.dirname(error.filename or "") or folder)
    if error.errno in (errno.ENOENT, errno.ENOTDIR) and not os.path.isdir(folder):
        return gone(doing, folder)
    return AgentFault("agent", "{}: {}".format(doing, error))


def full(doing: str, folder: str) -> AgentFault:
    """Return the fault for a full disk, with what is free there."""
    return AgentFault("no_space", "{}: {}".format(doing, description(folder)))


def gone(doing: str, folder: str) -> AgentFault:
    """Return the fault for a missing folder; what was in it must be sent again."""
    reason = "{}: the folder {} is gone from the device"
    return AgentFault("transfer_failed", reason.format(doing, folder))


def description(folder: str) -> str:
    """Describe the full disk of a folder."""
    place = os.path.realpath(folder)
    while not os.path.isdir(place):
        place = os.path.dirname(place)
    facts = os.statvfs(place)
    disk = place
    while not os.path.ismount(disk):
        disk = os.path.dirname(disk)
    free = "{} bytes".format(facts.f_bavail * facts.f_frsize)
    if facts.f_files and not facts.f_favail:
        free += " and no inodes"
    text = "the disk at {} is full: {} are free for {} (`df {}`)"
    return text.format(disk, free, folder, disk)
