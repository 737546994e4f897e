"""Find the TFLite runtime: ai_edge_litert, tflite_runtime, tensorflow, in this order.

Runs in a child of the agent: importing a runtime costs tens of megabytes, and one that is broken
may take its process with it.
"""

import importlib
import os
import sys
from importlib.util import find_spec
from typing import Any, Dict, List, Optional

from wire import AgentFault, write_line

ORDER = ("ai_edge_litert", "tflite_runtime", "tensorflow")
_MEND = "pip install ai-edge-litert (or tflite-runtime with 'numpy<2') for {}"


class Runtime:
    """An imported runtime."""

    def __init__(self, name: str, version: str, interpreter: Any) -> None:
        """`interpreter` is the class."""
        self.name = name
        self.version = version
        self.interpreter = interpreter


def load(wanted: Optional[str]) -> Runtime:
    """Import the runtime named, or the first that is there and works.

    Raises AgentFault (no_runtime, unsupported for a name nobody knows).
    """
    if wanted is not None and wanted not in ORDER:
        reason = "unknown runtime {!r}; this agent knows {}".format(wanted, ", ".join(ORDER))
        raise AgentFault("unsupported", reason)
    troubles = []
    for name in ORDER if wanted is None else (wanted,):
        if not is_there(name):
            continue
        try:
            return _import(name)
        except (ImportError, AttributeError, OSError, SystemError) as error:
            if "allocate memory" in str(error):
                raise AgentFault("out_of_memory", "importing {}: {}".format(name, error)) from error
            troubles.append("{} does not import: {}".format(name, error))
    names = ORDER if wanted is None else (wanted,)
    found = "; ".join(troubles) or "none of {} is installed".format(", ".join(names))
    raise AgentFault("no_runtime", found + "; " + _MEND.format(sys.executable))


def is_there(name: str) -> bool:
    """Tell whether a runtime is installed, without importing it."""
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def numpy_trouble(runtime: Runtime) -> Optional[str]:
    """Return why this runtime cannot work with the numpy that is there, and the mend."""
    numpy = sys.modules["numpy"]
    if runtime.name == "tflite_runtime" and not numpy.__version__.startswith(("0.", "1.")):
        text = "tflite_runtime {} is built for numpy 1 and fails with numpy {}; {} -m pip install 'numpy<2'"
        return text.format(runtime.version, numpy.__version__, sys.executable)
    return None


def probe(argv: List[str]) -> int:
    """Write which runtimes there are to the descriptor argv[0]; imports the first that works.

    tensorflow takes seconds to import, so here it is only looked up, and only where nothing smaller
    is there: the look-up alone costs a tenth of a second.
    """
    runtimes: List[Dict[str, Optional[str]]] = []
    problems: List[str] = []
    for name in ORDER:
        if (runtimes and name == "tensorflow") or not is_there(name):
            continue
        if runtimes or name == "tensorflow":
            numpy = runtimes[0]["numpy"] if runtimes else None
            runtimes.append({"name": name, "version": _installed_version(name), "numpy": numpy})
            continue
        try:
            found = load(name)
        except AgentFault as fault:
            problems.append(fault.reason)
            continue
        numpy = sys.modules["numpy"].__version__
        runtimes.append({"name": name, "version": found.version, "numpy": numpy})
        trouble = numpy_trouble(found)
        if trouble:
            problems.append(trouble)
    write_line(int(argv[0]), {"runtimes": runtimes, "problems": problems})
    sys.stderr.flush()
    # Past the runtime's destructors: they have nothing to do with what was asked.
    os._exit(0)


def _import(name: str) -> Runtime:
    if name == "tensorflow":
        module = importlib.import_module(name)
        interpreter = module.lite.Interpreter
    else:
        interpreter = importlib.import_module(name + ".interpreter").Interpreter
        module = sys.modules[name]
    version = getattr(module, "__version__", None)
    return Runtime(name, version or _installed_version(name), interpreter)


def _installed_version(name: str) -> str:
    # importlib.metadata takes a tenth of a second: only where the module does not say it itself.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
