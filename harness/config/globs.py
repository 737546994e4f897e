"""Find the files that a glob of a plan matches, in bounded time.

    globs.find(Path("models"), "**/*.tflite", "plan.toml: model.path", Path.is_file)

`*`, `?` and `[...]` match in one folder, `**` any number of folders. Hidden files match. Folders
behind links are entered only if the glob names them. The system's own folders are not entered:
those of /proc change while they are read and hold every file of every process.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.errors import ConfigError
from harness.printable import file_name

MAX_ENTRIES = 100_000
"""Entries of folders that a glob may look at; half a second on a local disk."""
MAX_SECONDS = 1.5
"""How long a glob may take once it has looked at FEW_ENTRIES: on a slow disk, that is enough."""
FEW_ENTRIES = 10_000
_SYSTEM = ("/proc", "/sys", "/dev")


def find(
    root: Path, pattern: str, where: str, wanted: Callable[[Path], bool]
) -> tuple[list[Path], bool]:
    """Return the wanted matches of a relative pattern below `root`, sorted, and if any path matched.

    Raises ConfigError that starts with `where` for a glob into a folder of the system, and for one
    that looks at too many files, or for too long.
    """
    parts = [part for part in pattern.split("/") if part not in {"", "."}]
    search = _Search(pattern, where)
    found, has_matched = set(), False
    for path in search.matches(root, parts):
        search.check()
        has_matched = True
        if wanted(path):
            found.add(path)
    return sorted(found), has_matched


class _Search:
    def __init__(self, pattern: str, where: str) -> None:
        self._pattern = pattern
        self._where = where
        self._seen = 0
        self._began = time.monotonic()
        self._visited: set[tuple[Path, int]] = set()

    def matches(self, folder: Path, parts: list[str]) -> Iterator[Path]:
        """Yield the matches of the rest of a pattern below a folder."""
        waiting = [(folder, 0)]
        while waiting:
            here, at = waiting.pop()
            if (here, at) in self._visited:
                continue
            self._visited.add((here, at))
            if at == len(parts):
                yield here
            elif parts[at] == "**":
                waiting += [(here, at + 1)]
                entries = self._entries(here)
                waiting += [(here / one.name, at) for one in entries if _is_folder(one)]
                if at + 1 == len(parts):
                    yield from (here / one.name for one in entries)
            elif not glob.has_magic(parts[at]):
                path = here / parts[at]
                waiting += [(path, at + 1)] if os.path.lexists(path) else []
            else:
                match = re.compile(fnmatch.translate(parts[at])).match
                waiting += [
                    (here / one.name, at + 1)
                    for one in self._entries(here)
                    if match(one.name) and (at + 1 == len(parts) or one.is_dir())
                ]

    def check(self) -> None:
        """Raise ConfigError if the glob has looked at too many files, or for too long."""
        late = time.monotonic() - self._began > MAX_SECONDS and self._seen > FEW_ENTRIES
        if late or self._seen > MAX_ENTRIES:
            most = FEW_ENTRIES if late else MAX_ENTRIES
            raise ConfigError(
                f'{self._where}: the glob "{file_name(self._pattern)}" goes through more than '
                f"{most:,} files; name a folder of models"
            )

    def _entries(self, folder: Path) -> list[os.DirEntry[str]]:
        real = os.path.realpath(folder)
        if any(real == one or real.startswith(f"{one}/") for one in _SYSTEM):
            raise ConfigError(
                f'{self._where}: the glob "{file_name(self._pattern)}" goes through {real}; name a '
                "folder of models"
            )
        found = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    self._seen += 1
                    self.check()
                    found.append(entry)
        except OSError:  # unreadable, or not a folder: nothing matches below it
            return found
        return found


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False
