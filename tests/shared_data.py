"""The files that tests need beyond the repository, and where they are looked for.

1. The folder that EDGE_HARNESS_TEST_DATA names, with the layout of the next.
2. `../shared/data` beside the repository: the real files.
3. `.cache/test-data`: stand-ins of the same kinds, made by `make test-data` (make_data.py).

A test that asserts what is published of a real file and of no stand-in asks for `real_file(...)`.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared" / "data"
MADE = ROOT / ".cache" / "test-data"

SOURCES = {
    "kws": "https://github.com/mlcommons/tiny, the keyword spotting reference model, and the set "
    "kws01 of its energy runner as features.npz",
    "coral": "https://github.com/google-coral/test_data",
    "npu": "https://github.com/google-ai-edge/LiteRT",
}
"""Where the real files come from, by folder."""


def stamp() -> str:
    """Return what the stand-ins were made by; another script makes others."""
    script = Path(__file__).with_name("make_data.py")
    return hashlib.sha256(script.read_bytes()).hexdigest()


def shared_folder() -> Path | None:
    """Return the folder of all files, None if there is none."""
    if own := os.environ.get("EDGE_HARNESS_TEST_DATA"):
        return Path(own)
    if REAL.is_dir():
        return REAL
    made = MADE / "stamp"
    return MADE if made.is_file() and made.read_text() == stamp() else None


def shared_file(name: str) -> Path:
    """Return a file or folder by its name, `kws/features.npz`; skips the test without it."""
    from conftest import missing

    found = shared_folder()
    if found is None:
        missing("no ../shared/data and no stand-ins of its files: run `make test-data`")
    elif not (found / name).exists():
        missing(f"{name} is not in {found}")
    else:
        return found / name
    raise AssertionError


def real_file(name: str) -> Path:
    """Return a file or folder of the real data; skips the test with the way to it."""
    from conftest import missing

    found = shared_folder()
    if found is None or is_made(found):
        source = SOURCES[name.partition("/")[0]]
        missing(
            f"it asserts figures of the real {name}: put that into ../shared/data or the folder "
            f"that EDGE_HARNESS_TEST_DATA names ({source})"
        )
    return shared_file(name)


def is_made(file: Path) -> bool:
    """Whether it is a stand-in, of which the figures of the real file do not hold."""
    return file.is_relative_to(MADE)


if __name__ == "__main__":
    where = shared_folder()
    print(
        f"test data: {where}" if where else "test data: none; making stand-ins in .cache/test-data"
    )
    sys.exit(where is None)
