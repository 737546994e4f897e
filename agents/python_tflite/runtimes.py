"""Find the TFLite runtime: the one `setup` made the default, else by ORDER what Python has.

`setup` keeps others in `runtimes/NAME-VERSION` of the workdir, the default named by a link. Runs in a child of the agent: importing a runtime costs tens of megabytes, and one that is broken
may take its process with it.
"""

import importlib
import os
import sys
from importlib.util import find_spec
from typing import Any, Dict, List, Optional

from wire import AgentFault, write_line

Entry = Dict[str, Optional[str]]
ORDER = ("ai_edge_litert", "tflite_runtime", "tensorflow")
_MEND = "`edge-harness setup` or pip install ai-edge-litert for {}"


class Runtime:
    """An imported runtime."""

    def __init__(self, name: str, version: str, interpreter: Any) -> None:
        """`interpreter` is the class."""
        self.name = name
        self.version = version
        self.interpreter = interpreter


def ours(name: str = "") -> str:
    """Return the path of a folder of `setup`, or of them all."""
    workdir = os.path.dirname(os.path.dirname(os.path.abspath(sys.argv[0])))
    return os.path.join(workdir, "runtimes", name)


def default() -> str:
    """Return the `NAME-VERSION` that `setup` made the default, or nothing."""
    try:
        return os.readlink(ours("default"))
    except OSError:
        return ""


def load(wanted: Optional[str]) -> Runtime:
    """Import the runtime named (NAME or NAME=VERSION), or the first that is there and works.

    Raises AgentFault (no_runtime, unsupported for a name nobody knows).
    """
    name, _, version = (wanted or default().replace("-", "=")).partition("=")
    if name and name not in ORDER:
        reason = "unknown runtime {!r}; this agent knows {}".format(wanted, ", ".join(ORDER))
        raise AgentFault("unsupported", reason)
    folder = ours(name + "-" + version)
    if os.path.isdir(folder):
        sys.path.insert(1, folder)
    names = (name,) if name else ORDER
    troubles = []
    for one in names:
        if not is_there(one):
            continue
        try:
            found = _import(one)
        except (ImportError, AttributeError, OSError, SystemError) as error:
            # glibc leaves the cause out in one place; a noexec mount is said as not permitted.
            if "allocate memory" in str(error) or str(error).endswith("from shared object"):
                raise AgentFault("out_of_memory", "importing {}: {}".format(one, error)) from error
            troubles.append("{} does not import: {}".format(one, error))
            continue
        if version in ("", found.version):
            return found
        troubles.append("{} is {} here".format(one, found.version))
    reason = "; ".join(troubles) or "none of {} is installed".format(", ".join(names))
    raise AgentFault("no_runtime", reason + "; " + _MEND.format(sys.executable))


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
    """Write which runtimes there are to the descriptor argv[0]; imports the one that is used.

    tensorflow takes seconds to import, so here it is only looked up, and only where nothing smaller
    is there: the look-up alone costs a tenth of a second.
    """
    runtimes: List[Entry] = []
    problems: List[str] = []
    chosen = default()
    for name in ORDER:
        if (runtimes and name == "tensorflow") or not is_there(name):
            continue
        if runtimes or chosen or name == "tensorflow":
            numpy = runtimes[0]["numpy"] if runtimes else None
            runtimes.append({"name": name, "version": _installed_version(name), "numpy": numpy})
        else:
            runtimes += _tried(name, problems)
    if chosen:
        # Last: from here on its folder is the first that Python looks into.
        runtimes = _tried(None, problems) + runtimes
    runtimes += _beside(chosen)
    write_line(int(argv[0]), {"runtimes": runtimes, "problems": problems})
    sys.stderr.flush()
    # Past the runtime's destructors: they have nothing to do with what was asked.
    os._exit(0)


def _tried(wanted: Optional[str], problems: List[str]) -> List[Entry]:
    try:
        found = load(wanted)
    except AgentFault as fault:
        problems.append(fault.reason)
        return []
    trouble = numpy_trouble(found)
    if trouble:
        problems.append(trouble)
    numpy = sys.modules["numpy"].__version__
    return [{"name": found.name, "version": found.version, "numpy": numpy}]


def _beside(chosen: str) -> List[Entry]:
    import sysfs

    folders = [one.partition("-") for one in sysfs.names(ours(), "") if one != chosen]
    return [{"name": f[0], "version": f[2], "numpy": None} for f in folders if f[0] in ORDER]


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
