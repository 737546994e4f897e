"""The on-device agent of edge-harness: `python3 <digest>.zip` speaks JSON lines on stdin and stdout.

Its modules travel as one text (`modules`: name, NUL, source, NUL, ...), which packs a fifth smaller than one by one.
The same zip is also each launch's child process (`<digest>.zip child ...`) and the one that
imports the runtime for `hello` (`<digest>.zip probe ...`), so only what a role needs is imported.
docs/agent-protocol.md has the protocol verb by verb.
"""

import sys
from importlib.machinery import ModuleSpec
from typing import Any, Dict, Optional


class _Modules:
    """Imports what lies in the text; a traceback has the sources' line numbers."""

    def __init__(self, archive: str, text: str) -> None:
        self._archive = archive
        parts = text.split("\0")
        self._sources: Dict[str, str] = dict(zip(parts[::2], parts[1::2]))

    def find_spec(self, name: str, _path: Any = None, _target: Any = None) -> Optional[ModuleSpec]:
        if name not in self._sources:
            return None
        return ModuleSpec(name, self, origin="{}/{}.py".format(self._archive, name))  # type: ignore[arg-type]

    def create_module(self, _spec: ModuleSpec) -> None:
        """As usual."""

    def exec_module(self, module: Any) -> None:
        origin = module.__spec__.origin
        exec(compile(self._sources[module.__name__], origin, "exec"), module.__dict__)  # noqa: S102 - as an import does


def _open() -> None:
    """Make the modules of the zip that this is importable; beside the sources there is nothing to do."""
    loader: Any = globals().get("__loader__")
    archive = getattr(loader, "archive", None)
    if archive is not None:
        modules: Any = _Modules(archive, loader.get_data(archive + "/modules").decode())
        sys.meta_path.insert(0, modules)


def _main() -> int:
    role = sys.argv[1] if len(sys.argv) > 1 else "agent"
    if role == "child":
        import child

        return child.main(sys.argv[2:])
    if role == "probe":
        import runtimes

        return runtimes.probe(sys.argv[2:])
    import agent

    return agent.main()


_open()
if __name__ == "__main__":
    sys.exit(_main())
