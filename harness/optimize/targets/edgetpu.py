"""Compile a full int8 .tflite for the Edge TPU: check the file, run the compiler, read its account.

The compiler is the user's: found on PATH or given in the recipe, never downloaded. Its source is closed, its
exit codes are undocumented and it is not deterministic, so the compiled file decides, not the exit code.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from harness import hints, text_files
from harness.errors import ConfigError, RecipeError
from harness.optimize.targets import edgetpu_log, programs
from harness.optimize.targets.compilers import EDGETPU_COMPILER
from harness.tflite import flatbuffer, rewrite
from harness.tflite.compiled import EDGETPU
from harness.types import Compiled

PROGRAM = EDGETPU_COMPILER
INSTALL = (
    "the compiler is Google's, for Debian and Ubuntu on x86-64: "
    "https://coral.ai/docs/edgetpu/compiler/ has the three commands; or give its path in the plan: "
    'edgetpu(compiler="/path/to/edgetpu_compiler")'
)

SUPPORTED = frozenset(
    (
        *("ADD", "AVERAGE_POOL_2D", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D"),
        *("EXPAND_DIMS", "FULLY_CONNECTED", "L2_NORMALIZATION", "LOGISTIC"),
        *("UNIDIRECTIONAL_SEQUENCE_LSTM", "LSTM", "MAXIMUM", "MAX_POOL_2D", "MEAN", "MINIMUM"),
        *("MUL", "PACK", "PAD", "PRELU", "QUANTIZE", "REDUCE_MAX", "REDUCE_MIN", "RELU"),
        *("RELU6", "RELU_N1_TO_1", "RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"),
        *("RSQRT", "SLICE", "SOFTMAX", "SPACE_TO_DEPTH", "SPLIT", "SQUARED_DIFFERENCE"),
        *("SQUEEZE", "STRIDED_SLICE", "SUB", "SUM", "TANH", "TRANSPOSE", "TRANSPOSE_CONV"),
    )
)
"""Operators that https://coral.ai/docs/edgetpu/models-intro/ lists; the compiler makes the decision."""

_EIGHT_BITS = ("int8", "uint8")
_INNERMOST = 3
_GRACE_SECONDS = 30.0
_TAIL = 600
_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeTpuSettings:
    """The compiler, its flags and its limits."""

    compiler: str = PROGRAM
    flags: tuple[str, ...] = ()
    timeout_seconds: int = 180
    """The compiler's own limit; it is killed half a minute later."""
    tries: int = 3


def fit(path: Path) -> list[str]:
    """Check a file before it is compiled; return notes on the operators that stay on the CPU.

    Raises RecipeError with the necessary change: compiled already, open dimensions, a batch, not full
    int8, no operator that an Edge TPU supports.
    """
    facts = flatbuffer.read(path)
    name = path.name
    if EDGETPU in facts.operators:
        raise RecipeError(f"{name} is compiled for the Edge TPU already: measure it with as_is")
    for tensor in facts.inputs:
        if -1 in tensor.shape[1:]:
            raise RecipeError(
                f'the input "{tensor.name}" is {list(tensor.shape)} (-1 is open) and the Edge TPU takes '
                f"constant sizes: build it with the key shape of the model, or {hints.option('shape')}"
            )
        # An open batch counts as 1; it is fixed before compiling.
        if any(size not in (1, -1) for size in tensor.shape[:-_INNERMOST]):
            raise RecipeError(
                f'the input "{tensor.name}" is {list(tensor.shape)}: if there are more than three '
                "dimensions, only the inner three may be over 1, so the batch must be 1"
            )
    _quantised(path)
    possible = SUPPORTED & set(facts.operators)
    if not possible:
        raise RecipeError(
            f"none of the operators of {name} runs on an Edge TPU: {', '.join(facts.operators)}"
        )
    stays = sorted(set(facts.operators) - SUPPORTED)
    return [f"not among the Edge TPU's operators: {', '.join(stays)}"] if stays else []


def _quantised(path: Path) -> None:
    """Refuse a file whose operators compute in float or 16 bits; conversions at its ends are allowed."""
    wide: list[str] = []
    eight = False
    with flatbuffer.reading(path.read_bytes(), path) as reader:
        graph = reader.subgraphs[0]
        for index in range(reader.length(graph.OperatorsLength())):
            operator = graph.Operators(index)
            name, _ = reader.operator_name(reader.model.OperatorCodes(operator.OpcodeIndex()))
            outputs = [graph.Tensors(i) for i in flatbuffer.ints(operator.OutputsAsNumpy())]
            kinds = {flatbuffer.dtype_name(tensor) for tensor in outputs}
            if kinds & set(_EIGHT_BITS):
                eight = True
            elif name in SUPPORTED and kinds & {"float32", "float16", "int16"}:
                wide.append(f"{name} ({', '.join(sorted(kinds))})")
    if wide and not eight:
        raise RecipeError(
            f"the Edge TPU takes full int8 models; these operators of {path.name} are not int8: "
            f"{', '.join(wide[:_NAMED])}{' ...' if len(wide) > _NAMED else ''}; put int8 first, as in int8 > edgetpu"
        )


def compile_model(source: Path, workdir: Path, settings: EdgeTpuSettings) -> tuple[Path, Compiled]:
    """Compile a file in `workdir`; return the compiled file and the compiler's account of it.

    Raises RecipeError: no compiler, a refusal (with the compiler's message), no file after `tries`
    attempts, no operator mapped.
    """
    program = find(settings.compiler)
    given = workdir / "model.tflite"
    given.write_bytes(rewrite.static(source.read_bytes()))
    failures: list[str] = []
    for _ in range(settings.tries):
        text = _once(program, given, workdir, settings)
        account = edgetpu_log.read(text)
        made = workdir / "model_edgetpu.tflite"
        if _is_whole(made):
            return made, _account(account, made, source, workdir)
        if account.refusal:
            raise RecipeError(f"{PROGRAM} refuses {source.name}: {account.refusal}")
        failures.append(account.failure or " ".join(text.split())[-_TAIL:] or "it printed nothing")
    raise RecipeError(
        f"{PROGRAM} wrote no file for {source.name} in {settings.tries} attempts: {failures[-1]}"
    )


def _is_whole(made: Path) -> bool:
    """Return whether the compiled file exists and can be read; a crashed compiler may leave half a file."""
    try:
        flatbuffer.read(made)
    except RecipeError:
        return False
    return True


def find(compiler: str) -> str:
    """Return the compiler's path; raises RecipeError with how to install it."""
    found = shutil.which(str(Path(compiler).expanduser()))
    if found is None:
        raise RecipeError(f"there is no {compiler} here: {INSTALL}")
    return found


def _once(program: str, given: Path, workdir: Path, settings: EdgeTpuSettings) -> str:
    """Run the compiler once with a deadline; return its output and a line on how it ended."""
    command = [program, "-s", "-t", str(settings.timeout_seconds), "-o", str(workdir)]
    deadline = settings.timeout_seconds + _GRACE_SECONDS
    try:
        ended = programs.run([*command, *settings.flags, str(given)], cwd=workdir, seconds=deadline)
    except OSError as error:
        raise RecipeError(f"{program} cannot be started ({error}): {INSTALL}") from error
    if ended.exit_code is None:
        return f"{ended.text}\nCompilation failed: it was still running after {deadline:.0f} s and was killed"
    if ended.killed_by:
        return f"{ended.text}\nCompilation failed: the compiler was killed by {ended.killed_by}"
    return ended.text


def _account(stdout: edgetpu_log.Account, made: Path, source: Path, workdir: Path) -> Compiled:
    """Combine stdout, the log and both files of a compilation."""
    log = workdir / "model_edgetpu.log"
    logged = edgetpu_log.read(log.read_text("utf-8", "replace")) if log.is_file() else None
    facts, original = flatbuffer.read(made), flatbuffer.read(source)
    if EDGETPU not in facts.operators:
        raise RecipeError(
            f"{PROGRAM} compiled {source.name} and mapped no operator to the Edge TPU: "
            f"{_reasons(logged or stdout)}"
        )
    sources = "stdout and log" if logged else "stdout"
    compiled = _compiled(stdout, logged, facts.operators, source=sources)
    if compiled.mapped_ops is None:
        # The mapped operators are those that the compiled file no longer has.
        left = {name: n for name, n in facts.operators.items() if name != EDGETPU}
        total = sum(original.operators.values())
        return replace(
            compiled,
            mapped_ops=total - sum(left.values()),
            total_ops=total,
            left=dict.fromkeys(sorted(left), ""),
            source="both files",
        )
    return compiled


def _reasons(account: edgetpu_log.Account) -> str:
    left = account.left
    return "; ".join(f"{name}: {why}" for name, why in left.items()) or "it gives no reason"


def _compiled(
    stdout: edgetpu_log.Account,
    logged: edgetpu_log.Account | None,
    operators: Mapping[str, int],
    *,
    source: str,
) -> Compiled:
    chosen = stdout if stdout.rows or logged is None else logged
    both = (stdout, logged) if logged is not None else (stdout,)
    fault = next(
        (found for one in both if (found := edgetpu_log.contradiction(one, operators, EDGETPU))),
        None,
    )
    if fault is None and logged is not None and stdout.rows and logged.rows != stdout.rows:
        fault = "its log and its stdout list different operators"
    version = stdout.version or (logged.version if logged else None) or "of an unknown version"
    return Compiled(
        compiler=f"Edge TPU Compiler {version}",
        mapped_ops=chosen.mapped_ops,
        total_ops=chosen.total_ops,
        left=chosen.left,
        subgraphs=stdout.subgraphs,
        on_chip_bytes=stdout.on_chip_bytes,
        off_chip_bytes=stdout.off_chip_bytes,
        source=source,
        contradiction=fault,
    )


def _log_text(log: Path) -> str:
    """Return the text of a user's log, whatever its encoding; "" if it cannot be read."""
    try:
        data = text_files.content(log)
    except ConfigError:
        return ""
    try:
        return text_files.decoded(data, log.name)
    except ConfigError:
        return data.decode("utf-8", "replace")


def read_log_beside(path: Path, operators: Mapping[str, int]) -> Compiled | None:
    """Read the log beside a compiled file (`m_edgetpu.tflite`, `m_edgetpu.log`).

    None if the file is not compiled, there is no log, or the log has no operators.
    """
    log = path.with_suffix(".log")
    if EDGETPU not in operators or not log.is_file():
        return None
    account = edgetpu_log.read(_log_text(log))
    if account.version is None and account.total_ops is None:
        return None
    return _compiled(account, None, operators, source=log.name)
