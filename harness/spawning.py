"""The environment of processes that this program starts on this machine."""

from __future__ import annotations

import os


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment with `more`, without the current folder in PYTHONPATH.

    An empty or relative entry of PYTHONPATH is a folder that depends on where the user stands: a
    json.py there would be imported.
    """
    made = {**os.environ, **more}
    given = made.get("PYTHONPATH")
    if given is not None:
        kept = [one for one in given.split(os.pathsep) if os.path.isabs(one)]  # noqa: PTH117 - text
        if kept:
            made["PYTHONPATH"] = os.pathsep.join(kept)
        else:
            del made["PYTHONPATH"]
    return made
