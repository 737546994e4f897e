"""Import the modules of a package at the first use of their names (PEP 562).

    if TYPE_CHECKING:
        from harness.api.running import bench, run
    else:
        __getattr__, __dir__ = lazy.attributes(__name__, {"running": ("bench", "run")})

The block for type checkers has the same names, so that checkers and editors find them. A module
must not have the same name as an attribute of the package: its import would replace the attribute.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def attributes(
    package: str,
    exports: Mapping[str, Sequence[str]],
    wrapped: Callable[[Any], Any] = lambda found: found,
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the `__getattr__` and the `__dir__` of a package.

    `exports` has the names to import from each module of the package; `wrapped` returns what the
    package has for each.
    """
    modules = {name: module for module, names in exports.items() for name in names}

    def find(name: str) -> Any:  # noqa: ANN401 - any attribute
        if name not in modules:
            message = f"module {package!r} has no attribute {name!r}"
            raise AttributeError(message, name=name, obj=sys.modules.get(package))
        found = wrapped(getattr(importlib.import_module(f"{package}.{modules[name]}"), name))
        # The next access finds it without this function.
        setattr(sys.modules[package], name, found)
        return found

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *modules})

    return find, names
