"""Recognise the program and make its command line from a launch's order.

Sources: LiteRT tflite/tools/benchmark/benchmark_model.cc and benchmark_tflite_model.cc (TensorFlow
Lite's program), litert/tools/benchmark_litert_model.h (LiteRT's). Unknown flags are only a warning of
the programs, so every flag here is checked against the program's own `--help`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from harness.errors import Unsupported
from harness.types import LaunchOrder

Kind = Literal["tflite", "litert"]
LITERT_MARK = "NPU Vendor Flags from LiteRT:"
_FLAG = re.compile(r"^\s*--([A-Za-z][A-Za-z0-9_-]{0,80})[= ]", re.MULTILINE)

VENDOR_FLAGS: Mapping[str, Mapping[str, str]] = {
    "mediatek": {"v8": "version8", "v9": "version9"},
}
"""Values of `--mediatek_nerun_pilot_version` by NeuroPilot version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerProgram:
    """A program named `benchmark_model`."""

    kind: Kind
    flags: frozenset[str] = frozenset()
    """The flags that its `--help` lists."""

    def has(self, flag: str) -> bool:
        """Whether the program knows a flag."""
        return flag in self.flags


def recognise(exit_code: int, output: str) -> RunnerProgram | None:
    """Return the program by its answer to `--help`; None if it is neither."""
    flags = frozenset(_FLAG.findall(output))
    if LITERT_MARK in output or {"graph", "use_npu"} <= flags:
        return RunnerProgram(kind="litert", flags=flags)
    if exit_code <= 1 and {"graph", "num_runs"} <= flags:
        return RunnerProgram(kind="tflite", flags=flags)
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchFiles:
    """The paths on the device that belong to one launch."""

    model: str
    result: str
    runtime_info: str
    libraries: str
    """The folder with the bundle's libraries."""
    cache: str | None = None
    """The folder of caches; None if nothing may be cached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLine:
    """The flags of one launch."""

    flags: Mapping[str, str]
    environment: Mapping[str, str] = field(default_factory=dict)

    def words(self) -> list[str]:
        """Return the arguments."""
        return [f"--{name}={value}" for name, value in self.flags.items()]


NNAPI = "nnapi"
GPU = "gpu"
NPU = "npu"
CPU = "xnnpack"


def command_line(program: RunnerProgram, order: LaunchOrder, files: LaunchFiles) -> CommandLine:
    """Return the flags of a launch.

    Raises Unsupported for an order that the program cannot follow, with the reason.
    """
    _check_scenario(order)
    flags = {"graph": files.model, "num_threads": str(order.threads), **_dose(order)}
    flags["result_file_path"] = files.result
    flags |= _placement_report(program, files)
    if order.kind == "memory":
        flags["report_peak_memory_footprint"] = "true"
    of_target = _litert if program.kind == "litert" else _classic
    flags |= of_target(order, files)
    for option, value in order.delegate_options.items():
        if order.delegate is None:
            # Without a delegate library the options are the program's own flags.
            flags[option] = value
    unknown = sorted(name for name in flags if not program.has(name))
    optional = {"result_file_path", "model_runtime_info_output_file", "export_model_runtime_info"}
    for name in set(unknown) & optional:
        del flags[name]  # an older program: its log has the numbers
    refused = [name for name in unknown if name not in optional]
    if refused:
        raise Unsupported(
            f"this benchmark_model does not know --{', --'.join(refused)}, which target "
            f"{order.target} needs; use a newer one"
        )
    return CommandLine(flags=flags, environment=_environment(order, files))


def _check_scenario(order: LaunchOrder) -> None:
    if order.dose.scenario != "single":
        raise Unsupported(
            f"benchmark_model measures the scenario single only, not {order.dose.scenario}"
        )


def _dose(order: LaunchOrder) -> dict[str, str]:
    """Return the flags of the dose; a memory launch makes only a few inferences."""
    dose = order.dose
    if order.kind == "memory":
        return {
            "num_runs": "5",
            "min_secs": "0.05",
            "max_secs": f"{dose.max_seconds:g}",
            "warmup_runs": "1",
            "warmup_min_secs": "0",
        }
    return {
        "num_runs": str(dose.min_inferences),
        "min_secs": f"{dose.min_seconds:g}",
        "max_secs": f"{dose.max_seconds:g}",
        "warmup_runs": str(max(1, dose.warmup_min_inferences)),
        "warmup_min_secs": f"{dose.warmup_seconds:g}",
    }


def _placement_report(program: RunnerProgram, files: LaunchFiles) -> dict[str, str]:
    found = {"model_runtime_info_output_file": files.runtime_info}
    if program.kind == "tflite":
        # LiteRT's program reports this flag as unconsumed.
        found = {"export_model_runtime_info": "true", **found}
    return found


def _classic(order: LaunchOrder, files: LaunchFiles) -> dict[str, str]:
    """Return TensorFlow Lite's flags of a target."""
    if order.delegate is not None:
        options = ";".join(f"{key}:{value}" for key, value in order.delegate_options.items())
        found = {"external_delegate_path": order.delegate}
        return {**found, **({"external_delegate_options": options} if options else {})}
    if order.target == CPU:
        found = {"use_xnnpack": "true"}
        if files.cache is not None:
            found["xnnpack_weight_cache_file_path"] = f"{files.cache}/xnnpack"
        return found
    if order.target == GPU:
        found = {"use_gpu": "true"}
        if files.cache is not None:
            found["delegate_serialize_dir"] = files.cache
            found["delegate_serialize_token"] = order.variant_digest[:16]
        return found
    if order.target == NNAPI:
        return {"use_nnapi": "true"}
    raise Unsupported(
        f"TensorFlow Lite's benchmark_model has no target {order.target} without a delegate library: "
        f"name it in the profile (accelerators, external_delegate), or use LiteRT's program for {NPU}"
    )


def _litert(order: LaunchOrder, files: LaunchFiles) -> dict[str, str]:
    """Return LiteRT's flags of a target."""
    if order.delegate is not None:
        raise Unsupported(
            "LiteRT's benchmark_model loads no delegate library: use TensorFlow Lite's program"
        )
    cached = files.cache
    if order.target == CPU:
        found = {"use_cpu": "true"}
        return (
            found
            if cached is None
            else {**found, "xnnpack_weight_cache_file_path": f"{cached}/xnnpack"}
        )
    if order.target == GPU:
        # The CPU stays allowed, so that the operators that are left can be named.
        found = {"use_gpu": "true"}
        if cached is not None:
            found["gpu_serialization_dir"] = cached
            found["gpu_model_cache_key"] = order.variant_digest[:16]
        return found
    if order.target == NPU:
        found = {
            "use_npu": "true",
            "dispatch_library_path": files.libraries,
            "compiler_plugin_library_path": files.libraries,
        }
        return found if cached is None else {**found, "compiler_cache_path": cached}
    raise Unsupported(f"LiteRT's benchmark_model has no target {order.target}")


def _environment(order: LaunchOrder, files: LaunchFiles) -> dict[str, str]:
    found = {"LD_LIBRARY_PATH": files.libraries}
    if order.target == NPU:
        # Qualcomm's DSP loads its own half of the library from here.
        found["ADSP_LIBRARY_PATH"] = files.libraries
    return found


def inference_flags(
    names: Mapping[str, tuple[str, tuple[int, ...]]], output: str
) -> dict[str, str]:
    """Return the flags of one inference on given inputs with TensorFlow Lite's program.

    `names` has the file and the shape of each input in the model's order. The program only warns if
    the names differ from the model's, so names without `:` and `,`, which need escapes, are used.
    """
    alias = [f"input{place}" for place in range(len(names))]
    entries = list(names.values())
    shapes = (",".join(map(str, shape)) for _, shape in entries)
    return {
        "num_runs": "1",
        "min_secs": "0",
        "warmup_runs": "0",
        "warmup_min_secs": "0",
        "input_layer": ",".join(alias),
        "input_layer_shape": ":".join(shapes),
        "input_layer_value_files": ",".join(
            f"{name}:{path}" for name, (path, _) in zip(alias, entries, strict=True)
        ),
        "output_filepath": output,
    }
