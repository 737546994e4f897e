"""A .tflite file compiled ahead of time for a phone's NPU: ai-edge-litert's `aot` and the vendor's compiler.

ai-edge-litert has the tool and a plug-in per vendor. The compiler itself is a set of the vendor's libraries:
from the vendor's package or from a folder that the recipe gives. This project never downloads it.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from harness import assets
from harness.errors import RecipeError
from harness.optimize.targets import programs
from harness.optimize.targets.compilers import PACKAGES as PACKAGES  # noqa: PLC0414 - also offered here
from harness.printable import counted
from harness.tflite import flatbuffer, rewrite
from harness.tflite.compiled import DISPATCH
from harness.types import Compiled

MARK = "edge-harness-aot "
"""Prefix of the child's answer (`aot_call`)."""

_RUNTIME = "ai-edge-litert"
_TAIL = 600
_MISSING_LIBRARY = re.compile(r"([\w.+-]+\.so[\w.]*): cannot open shared object file")
_NOT_LOADED = re.compile(r"Could not load shared library \S+: (.+?)\.?$", re.MULTILINE)
_MISSING_COMPILER = re.compile(r"Failed to load [\w ]*(?:library|compiler)", re.IGNORECASE)
_RAISED = re.compile(r"^[\w.]{0,80}(?:Error|Exception): (.*\S)", re.MULTILINE)
_ERRORS = re.compile(r"^ERROR: (?:\[[^\]\n]*\] ?)?(.*\S)", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class AotSettings:
    """The chip to compile for, and the compiler's libraries."""

    vendor: str
    soc: str
    """The vendor's name of the chip: SM8750, MT6991, Tensor_G5, ..."""
    libraries: str = ""
    """Folder of the vendor's libraries; empty to use those of its package."""
    timeout_seconds: int = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class SubgraphReport:
    """The tool's statistics of a subgraph."""

    offloaded: int
    total: int
    partitions: int


def chips(vendor: str) -> list[str]:
    """Return the chips that ai-edge-litert compiles for; raises RecipeError if it has no such vendor."""
    try:
        target = importlib.import_module(f"ai_edge_litert.aot.vendors.{vendor}.target")
    except ImportError as error:
        raise RecipeError(
            f"ai-edge-litert has no ahead-of-time compilation for {vendor} here ({error}); "
            f"{assets.install_command('light')}"
        ) from error
    return [one.value for one in target.SocModel if one.value != "ALL"]


def compile_model(source: Path, workdir: Path, settings: AotSettings) -> tuple[Path, Compiled]:
    """Compile a file in `workdir`; return the compiled file and the tool's account of it.

    Raises RecipeError: an unknown chip, a missing compiler (with the missing part), a refusal (with the
    compiler's message), a timeout, no operator taken.
    """
    known = chips(settings.vendor)
    if settings.soc not in known:
        raise RecipeError(
            f"{settings.vendor} has no chip {settings.soc or '(the key soc)'} in ai-edge-litert; it has {', '.join(known)}"
        )
    if DISPATCH in flatbuffer.read(source).operators:
        raise RecipeError(f"{source.name} is compiled already: measure it with as_is")
    given = workdir / "model.tflite"
    given.write_bytes(rewrite.static(source.read_bytes()))
    answer = _call(given, workdir, settings, source.name)
    made = Path(answer["path"])
    parts = [SubgraphReport(**part) for part in answer["parts"]]
    return made, account(parts, made, source, settings)


def account(
    parts: list[SubgraphReport], made: Path, source: Path, settings: AotSettings
) -> Compiled:
    """Check the tool's statistics against both files; raises RecipeError if no operator was taken."""
    operators = flatbuffer.read(made).operators
    before = sum(flatbuffer.read(source).operators.values())
    left = {name: n for name, n in operators.items() if name != DISPATCH}
    compiled = operators.get(DISPATCH, 0)
    if not compiled:
        raise RecipeError(
            f"{settings.vendor}'s compiler took no operator of {source.name} for {settings.soc}: "
            f"{', '.join(left)}"
        )
    offloaded = sum(part.offloaded for part in parts)
    total = sum(part.total for part in parts)
    fault = None
    if parts and total - offloaded != sum(left.values()):
        rest = counted(total - offloaded, "operator")
        fault = f"it reports {rest} on the CPU, and its file has {sum(left.values())}"
    elif parts and sum(part.partitions for part in parts) != compiled:
        partitions = counted(sum(part.partitions for part in parts), "partition")
        fault = f"it reports {partitions}, and its file has {compiled}"
    return Compiled(
        compiler=f"ai-edge-litert {metadata.version(_RUNTIME)} aot, {settings.vendor} {settings.soc}",
        mapped_ops=offloaded if parts else before - sum(left.values()),
        total_ops=total if parts else before,
        left=dict.fromkeys(sorted(left), ""),
        subgraphs=compiled,
        source="partition statistics" if parts else "both files",
        contradiction=fault,
    )


def _call(given: Path, workdir: Path, settings: AotSettings, name: str) -> dict[str, Any]:
    """Run the tool in a separate process: a vendor's library may crash or hang."""
    logs = workdir / "logs"
    logs.mkdir(exist_ok=True)
    # It writes its log to the temporary folder and prints only the path.
    environment = {"TMPDIR": str(logs)}
    if settings.libraries:
        before = os.environ.get("LD_LIBRARY_PATH")
        folder = str(Path(settings.libraries).expanduser().absolute())
        environment["LD_LIBRARY_PATH"] = folder + (f":{before}" if before else "")
    argv = [sys.executable, "-P", "-m", "harness.optimize.targets.aot_call"]
    argv += [str(given), str(workdir / "out"), settings.vendor, settings.soc]
    ended = programs.run(
        argv, cwd=workdir, seconds=settings.timeout_seconds, environment=environment
    )
    answers = [line for line in ended.text.splitlines() if line.startswith(MARK)]
    if answers and ended.exit_code == 0:
        answer: dict[str, Any] = json.loads(answers[-1][len(MARK) :])
        return answer
    if ended.exit_code is None:
        raise RecipeError(
            f"{settings.vendor}'s compiler had not finished {name} after {settings.timeout_seconds} s and "
            "was killed; raise timeout_seconds"
        )
    logged = "\n".join(path.read_text("utf-8", "replace") for path in sorted(logs.glob("*.error")))
    if ended.killed_by:
        raise RecipeError(f"{settings.vendor}'s compiler was killed by {ended.killed_by} at {name}")
    raise RecipeError(failure_reason(logged or ended.text, settings, name))


def failure_reason(log: str, settings: AotSettings, name: str) -> str:
    """Return why there is no compiled file, from the tool's log, and the fix."""
    vendor, package = settings.vendor, PACKAGES[settings.vendor]
    missing = _MISSING_LIBRARY.findall(log)
    if missing or _MISSING_COMPILER.search(log):
        get = (
            f"pip install {package}, which downloads it from the vendor"
            if package
            else "install it"
        )
        what = (
            f"{', '.join(dict.fromkeys(missing))} missing" if missing else "its library is missing"
        )
        where = f" in {settings.libraries} and beside it" if settings.libraries else ""
        return (
            f"the compiler of {vendor} is not installed: {what}{where}; {get}, or give the folder of its libraries: "
            f'aot(vendor="{vendor}", soc="{settings.soc}", libraries="/path/to/lib")'
        )
    broken = _NOT_LOADED.search(log)
    if broken:
        return f"ai-edge-litert's plug-in for {vendor} does not load: {broken.group(1)[:_TAIL]}"
    errors = [line for line in _ERRORS.findall(log) if "/compiler_plugin.cc:" not in line]
    errors = errors or _RAISED.findall(log)[-1:]
    if not errors:
        last = " ".join(log.split())[-_TAIL:] or "it printed nothing"
        return (
            f"{vendor}'s compiler wrote no file for {name} and gives no reason (a crash?): {last}"
        )
    return f"{vendor}'s compiler refuses {name}: {'; '.join(dict.fromkeys(errors))[:_TAIL]}"
