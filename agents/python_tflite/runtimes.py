"""Find the TFLite runtime: the default of `setup`, else the first of ORDER that Python has.

`setup` keeps runtimes in `runtimes/NAME-VERSION` of the workdir; a link names the default. This runs in
a child of the agent: importing a runtime costs tens of megabytes, and a broken one may crash its
process.
"""

import importlib
import os
import sys
from importlib.util import find_spec
from typing import Any, Dict, List, Optional

from wire import AgentFault, write_line

Entry = Dict[str, Optional[str]]
ORDER = ("ai_edge_litert", "tflite_runtime", "tensorflow")
_FIX = "`edge-harness setup` or, on the device, `{} -m pip install ai-edge-litert`"


class Runtime:
    """An imported runtime."""

    def __init__(self, name: str, version: str, interpreter: Any) -> None:
        """`interpreter` is the class."""
        self.name = name
        self.version = version
        self.interpreter = interpreter


def runtime_folder(name: str = "") -> str:
    """Return the path of a runtime's folder of `setup`, or of the folder of them all."""
    workdir = os.path.dirname(os.path.dirname(os.path.abspath(sys.argv[0])))
    return os.path.join(workdir, "runtimes", name)


def default() -> str:
    """Return the `NAME-VERSION` that `setup` made the default, or an empty string."""
    try:
        return os.readlink(runtime_folder("default"))
    except OSError:
        return ""


def load(wanted: Optional[str]) -> Runtime:
    """Import the wanted runtime (NAME or NAME=VERSION), else the first one that works.

    Raises AgentFault (no_runtime; unsupported for an unknown name).
    """
    name, _, version = (wanted or default().replace("-", "=")).partition("=")
    if name and name not in ORDER:
        reason = "unknown runtime {!r}; this agent knows {}".format(wanted, ", ".join(ORDER))
        raise AgentFault("unsupported", reason)
    folder = runtime_folder(name + "-" + version)
    if os.path.isdir(folder):
        sys.path.insert(1, folder)
    names = (name,) if name else ORDER
    problems = []
    for one in names:
        if not is_installed(one):
            continue
        try:
            found = _import(one)
        except (ImportError, AttributeError, OSError, SystemError) as error:
            # glibc omits the cause in one place; a noexec mount reads as not permitted.
            if "allocate memory" in str(error) or str(error).endswith("from shared object"):
                raise AgentFault("out_of_memory", "importing {}: {}".format(one, error)) from error
            problems.append("{} does not import: {}".format(one, error))
            continue
        if version in ("", found.version):
            return found
        problems.append("{} is {} here".format(one, found.version))
    reason = "; ".join(problems) or "none of {} is installed".format(", ".join(names))
    raise AgentFault("no_runtime", reason + "; " + _FIX.format(sys.executable))


def is_installed(name: str) -> bool:
    """Return whether a runtime is installed, without importing it."""
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def numpy_problem(runtime: Runtime) -> Optional[str]:
    """Return why this runtime fails with the installed numpy, and the command that fixes it."""
    numpy = sys.modules["numpy"]
    if runtime.name == "tflite_runtime" and not numpy.__version__.startswith(("0.", "1.")):
        text = "tflite_runtime {} is built for numpy 1 and fails with numpy {}; {} -m pip install 'numpy<2'"
        return text.format(runtime.version, numpy.__version__, sys.executable)
    return None


def probe(argv: List[str]) -> int:
    """Write the installed runtimes to the descriptor argv[0]; imports the one that is used.

    tensorflow takes seconds to import, so it is only looked up, and only if no smaller runtime is
    installed: the look-up alone takes a tenth of a second.
    """
    runtimes: List[Entry] = []
    problems: List[str] = []
    chosen = default()
    for name in ORDER:
        if (runtimes and name == "tensorflow") or not is_installed(name):
            continue
        if runtimes or chosen or name == "tensorflow":
            numpy = runtimes[0]["numpy"] if runtimes else None
            runtimes.append({"name": name, "version": _installed_version(name), "numpy": numpy})
        else:
            runtimes += _try(name, problems)
    if chosen:
        # Last: from here on, Python searches its folder first.
        runtimes = _try(None, problems) + runtimes
    runtimes += _other_runtimes(chosen)
    write_line(int(argv[0]), {"runtimes": runtimes, "problems": problems})
    sys.stderr.flush()
    # Skips the runtime's destructors: the answer does not need them.
    os._exit(0)


def _try(wanted: Optional[str], problems: List[str]) -> List[Entry]:
    try:
        found = load(wanted)
    except AgentFault as fault:
        problems.append(fault.reason)
        return []
    problem = numpy_problem(found)
    if problem:
        problems.append(problem)
    numpy = sys.modules["numpy"].__version__
    return [{"name": found.name, "version": found.version, "numpy": numpy}]


def _other_runtimes(chosen: str) -> List[Entry]:
    import sysfs

    folders = [one.partition("-") for one in sysfs.names(runtime_folder(), "") if one != chosen]
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
    # importlib.metadata takes a tenth of a second, so it is only used if the module has no version.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
