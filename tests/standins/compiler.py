"""A stand-in for edgetpu_compiler: prints what the vendor's is documented to print, and writes a file that says
it is compiled. It optimises nothing; what it writes runs only through the stand-in delegate.

    standins.compiler.install(folder, "ok")      # a program named standin_edgetpu_compiler

Modes: ok; lone (no -s table on stdout); nolog; offchip; nothing (maps no operator); contradict (a log of another
model); older (the words of version 2.1); unknown (other words, another name); float, dynamic, large, invalid,
internal (refusals and failures); hang; abort (SIGABRT); flaky (aborts, and succeeds the second time); half (half a
file, then success the second time).
"""

# ruff: noqa: T201 - what it prints is what it is for

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

VERSION = "16.0.384591198-standin"
MAPPED = "Mapped to Edge TPU"
_LEFT = {
    "SOFTMAX": "Operation is otherwise supported, but not mapped due to some unspecified limitation"
}


def install(folder: Path, mode: str) -> Path:
    """Write the program; its mode is in its bytes, so that another mode is another program."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "standin_edgetpu_compiler"
    tests = str(Path(__file__).resolve().parents[1])
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {tests!r})\n"
        f"from standins import compiler\nsys.exit(compiler.main({mode!r}, {str(folder)!r}, sys.argv[1:]))\n"
    )
    program.chmod(0o755)
    return program


def main(mode: str, state: str, argv: list[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("-s", action="store_true")
    for option in ("-t", "-m", "-i", "-k"):
        parser.add_argument(option)
    parser.add_argument("-o", type=Path)
    parser.add_argument("model", type=Path)
    known, flags = parser.parse_known_args(argv)
    commands = Path(state) / "commands"
    before = commands.read_text().splitlines() if commands.exists() else []
    commands.write_text("\n".join([*before, " ".join(argv)]) + "\n")
    print(f"Edge TPU Compiler version {VERSION}", flush=True)
    refused = _refused(mode, known.model)
    if refused is not None:
        print(refused)
        return 1
    made = known.o / f"{known.model.stem}_edgetpu.tflite"
    if mode == "hang":
        os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "600")
        time.sleep(600)
    if mode == "half" and not before:
        made.write_bytes(known.model.read_bytes()[: known.model.stat().st_size // 2][:6])
    if mode == "abort" or (mode in ("flaky", "half") and not before):
        os.abort()
    rows = compile_file(known.model, made, keep=mode == "nothing")
    _tell(mode, known, made, rows, flags)
    return 0


def _refused(mode: str, model: Path) -> str | None:
    return {
        "float": f"Invalid model: {model.name}\nModel not quantized",
        "dynamic": "ERROR: Attempting to use a delegate that only supports static-sized tensors with a "
        "graph that has dynamic-sized tensors.\nCompilation failed: Model failed in Tflite interpreter. "
        "Please ensure model can be loaded/run in Tflite interpreter.\nCompilation child process "
        "completed within timeout period.\nCompilation failed! ",
        "large": "Compilation failed: Compilation failed due to large activation tensors in model.",
        "invalid": f"Invalid model: {model.name}",
        "internal": "Internal compiler error. Aborting! ",
    }.get(mode)


def compile_file(model: Path, made: Path, *, keep: bool = False) -> Counter[tuple[str, str]]:
    """Replace the first operators by one; return the operators by name and status."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    tree = schema.ModelT.InitFromObj(schema.Model.GetRootAs(model.read_bytes(), 0))
    graph = tree.subgraphs[0]
    words = {number: word for word, number in vars(schema.BuiltinOperator).items()}

    def word(operator: Any) -> str:
        code = tree.operatorCodes[operator.opcodeIndex]
        return str(words[max(code.builtinCode, code.deprecatedBuiltinCode)])

    names = [word(operator) for operator in graph.operators]
    count = next((i for i, name in enumerate(names) if name in _LEFT), len(names))
    count = 0 if keep else count
    rows: Counter[tuple[str, str]] = Counter()
    for place, name in enumerate(names):
        why = _LEFT.get(name, "More than one subgraph is not supported")
        rows[name, MAPPED if place < count else why] += 1
    if count:
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
        code.customCode, code.version = "edgetpu-custom-op", 1
        tree.operatorCodes.append(code)
        taken, rest = graph.operators[:count], graph.operators[count:]
        needed = {int(i) for one in rest for i in one.inputs} | {int(i) for i in graph.outputs}
        operator = schema.OperatorT()
        operator.opcodeIndex = len(tree.operatorCodes) - 1
        operator.inputs = [int(i) for i in graph.inputs]
        operator.outputs = [int(i) for one in taken for i in one.outputs if int(i) in needed]
        operator.customOptions = list(b"stand-in")
        graph.operators = [operator, *rest]
    builder = flatbuffers.Builder(1024)
    builder.Finish(tree.Pack(builder), file_identifier=b"TFL3")
    made.write_bytes(bytes(builder.Output()))
    return rows


def log_text(rows: Counter[tuple[str, str]]) -> str:
    """Write a .log of operators by name and status."""
    head = f"Edge TPU Compiler version {VERSION}\nInput: m.tflite\nOutput: m_edgetpu.tflite\n"
    return head + _table(rows)


def _table(rows: Counter[tuple[str, str]]) -> str:
    return "\nOperator                       Count      Status\n\n" + "".join(
        f"{name:<30} {count:<10} {why}\n" for (name, why), count in rows.items()
    )


def _tell(
    mode: str,
    known: argparse.Namespace,
    made: Path,
    rows: Counter[tuple[str, str]],
    flags: list[str],
) -> None:
    if mode == "contradict":
        rows = Counter({("CONV_2D", MAPPED): 3, ("ADD", "Operation not supported"): 2})
    total, mapped = sum(rows.values()), sum(n for (_, why), n in rows.items() if why == MAPPED)
    table = _table(rows)
    log = made.with_suffix(".log")
    if mode not in ("nolog", "unknown"):
        log.write_text(log_text(rows))
    if mode == "unknown":
        print(f"all done in no time; {mapped} of {total} are on the chip ({' '.join(flags)})")
        return
    if mode != "older":
        print(f"Started a compilation timeout timer of {known.t} seconds.")
    off = "1.22MiB" if mode == "offchip" else "0.00B"
    print(
        f"\nModel compiled successfully in 227 ms.\n\nInput model: {known.model}\nInput size: 5.21MiB\n"
        f"Output model: {made}\nOutput size: 6.51MiB\n"
        "On-chip memory used for caching model parameters: 6.02MiB\n"
        "On-chip memory remaining for caching model parameters: 1.02MiB\n"
        f"Off-chip memory used for streaming uncached model parameters: {off}\n"
        f"Number of Edge TPU subgraphs: {int(mapped > 0)}\nTotal number of operations: {total}\n"
        f"Operation log: {log}\n"
    )
    if mapped < total:
        print(
            "Model successfully compiled but not all operations are supported by the Edge TPU. A percentage "
            "of the model will instead run on the CPU, which is slower.\n"
            f"Number of operations that will run on Edge TPU: {mapped}\n"
            f"Number of operations that will run on CPU: {total - mapped}"
        )
    if known.s and mode != "lone":
        print(table)
    elif mapped < total:
        print("See the operation log file for individual operation details.")
    print("Compilation child process completed within timeout period.\nCompilation succeeded! ")
