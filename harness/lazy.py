"""Packages that import their modules when a name of theirs is first used (PEP 562).

    if TYPE_CHECKING:
        from harness.api.running import bench, run
    else:
        __getattr__, __dir__ = lazy.attributes(__name__, {"running": ("bench", "run")})

The block for type checkers has the same names, so that checkers and editors see them. A module must
not have the name of something that the package offers: importing the module would replace it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def attributes(
    package: str, homes: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the `__getattr__` and the `__dir__` of a package.

    `homes` names, for each module of the package, what is imported from it.
    """
    modules = {name: module for module, names in homes.items() for name in names}

    def find(name: str) -> Any:  # noqa: ANN401 - whatever the package offers
        if name not in modules:
            message = f"module {package!r} has no attribute {name!r}"
            raise AttributeError(message, name=name, obj=sys.modules[package])
        found = getattr(importlib.import_module(f"{package}.{modules[name]}"), name)
        # From now on it is found without this function.
        setattr(sys.modules[package], name, found)
        return found

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *modules})

    return find, names
