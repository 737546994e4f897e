"""A cache folder of downloads and builds, so that a second lab starts in seconds.

`.cache/lab` in the checkout, or EDGE_LAB_CACHE. What was made of another recipe than the code's is
not found, nor what was left half made; `make clean` deletes all of it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

_CHECKOUT = Path(__file__).resolve().parents[2]


def folder() -> Path:
    """Return the folder; create it if it does not exist."""
    path = Path(os.environ.get("EDGE_LAB_CACHE") or _CHECKOUT / ".cache" / "lab").absolute()
    path.mkdir(parents=True, exist_ok=True)
    return path


def made(name: str, recipe: str, make: Callable[[Path], None]) -> Path:
    """Return the folder `name` made by this recipe; `make` fills a new one if there is none.

    Two labs that need the same folder wait for each other. Raises what `make` raises.
    """
    digest = hashlib.sha256(recipe.encode()).hexdigest()[:12]
    ready = folder() / f"{name}-{digest}"
    with (folder() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.is_dir():
            half = folder() / f"{name}-{digest}.part"
            shutil.rmtree(half, ignore_errors=True)
            half.mkdir()
            make(half)
            half.rename(ready)
    return ready
