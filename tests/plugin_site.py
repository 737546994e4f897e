"""Plug-ins of somebody else's: a module and entry points, installed as pip does, for one test."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def install(
    folder: Path, module: str, text: str, points: Mapping[str, Mapping[str, str]]
) -> Iterator[None]:
    """Have a module of this text and these entry points (group to name to object) meanwhile."""
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / f"{module}.py").write_text(text, encoding="utf-8")
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {module.replace('_', '-')}\nVersion: 1.0\n"
    )
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in named.items())
        for group, named in points.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(groups), encoding="utf-8")
    sys.path.insert(0, str(folder))
    sys.modules.pop(module, None)
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop(module, None)
