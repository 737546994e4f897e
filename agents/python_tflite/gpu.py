"""Run a model on a GPU through CompiledModel: `invoke` enqueues the work and reads every output.

The enqueue alone returns before the work is done. The model is compiled for the GPU alone first: with
the CPU as well, `is_fully_accelerated` also counts the operators of XNNPACK.
"""

import ctypes
import os
import struct
import time
from typing import Any, Dict, List

import graph
from wire import AgentFault

_TYPES = ("other", "integrated GPU", "discrete GPU", "virtual GPU", "CPU")
_CHECKS = 20
_CHECK_NS = 5 * 10**8
_VULKAN_1_1 = 1 << 22 | 1 << 12
_MAX_ADAPTERS = 16


class Gpu:
    """The GPU backend of the runtime."""

    def load(self, order: Dict[str, Any], runtime: Any, path: str) -> Any:
        """Compile the model; raises AgentFault, and RuntimeError if the runtime refuses it."""
        begin = time.perf_counter_ns()
        settings = dict(order.get("delegate_options") or {})
        precision = settings.pop("precision", "float16")
        cache = settings.pop("cache", "")
        if settings or precision not in ("float16", "float32"):
            reason = "the GPU takes the options precision (float16, float32) and cache (a folder)"
            raise AgentFault("unsupported", reason)
        _set_shader_cache(cache)
        self._adapters = adapters()
        try:
            from ai_edge_litert import compiled_model as litert

            gpu, cpu = litert.HardwareAccelerator.GPU, litert.HardwareAccelerator.CPU
            given = {"gpu_options": litert.GpuOptions(enforce_f32=precision == "float32")}
            options = litert.Options(gpu, **given)
        except (ImportError, AttributeError) as error:
            raise AgentFault("unsupported", _NO_RUNTIME.format(error)) from error
        self._settings = precision + (" allowed" if precision == "float16" else "")
        self._settings += ", shader cache " + cache if cache else ""
        self._runtime, self._path = runtime, path
        self.spent_ns = time.perf_counter_ns() - begin
        try:
            model = litert.CompiledModel.from_file(path, options=options)
            self._whole = model.is_fully_accelerated()
        except RuntimeError as error:
            if "not accelerated" not in str(error):
                raise
            self.spent_ns = time.perf_counter_ns() - begin
            self._whole = False
            given["cpu_options"] = litert.CpuOptions(num_threads=order["threads"])
            model = litert.CompiledModel.from_file(path, options=litert.Options(gpu | cpu, **given))
        return Compiled(model)

    def delegation(self, compiled: Any) -> Dict[str, Any]:
        """Return the delegation; the parent adds the facts of the runtime's log (`read`)."""
        total = None
        if self._whole:
            fresh = self._runtime.interpreter(model_path=self._path)
            total = graph.delegation(fresh)["total_ops"]
        return {
            "delegate": "gpu",
            "delegated_ops": total,
            "total_ops": total,
            "partitions": 1 if self._whole else None,
            "left": [],
            "evidence": "is_fully_accelerated, {} the GPU alone".format(
                "by" if self._whole else "not by"
            ),
            "fully": self._whole,
            "clock": "run+read",
            "settings": self._settings,
            "adapters": self._adapters,
            **_enqueue_times(compiled),
        }


_NO_RUNTIME = "the GPU needs ai-edge-litert 2 and its CompiledModel on this device: {}"


class Compiled:
    """The first signature of a CompiledModel, with the interface of an Interpreter."""

    def __init__(self, model: Any) -> None:
        """Make the buffers of all inputs and outputs."""
        import numpy as np

        self._run = model.run_by_index
        self._key, names = next(iter(model.get_signature_list().items()))
        self._named = model.get_input_tensor_details(self._key)
        outputs = model.get_output_tensor_details(self._key)
        self._inputs = [dict(self._named[name]) for name in names["inputs"]]
        self._outputs = [dict(outputs[name]) for name in names["outputs"]]
        for entry in self._inputs + self._outputs:
            entry["dtype"] = np.dtype(entry["dtype"])
        self._in, self._out = model.create_input_buffers(0), model.create_output_buffers(0)
        self._places = {entry["index"]: place for place, entry in enumerate(self._inputs)}
        self._reads = [
            (entry["index"], buffer.read, int(np.prod(entry["shape"])), entry["dtype"])
            for entry, buffer in zip(self._outputs, self._out)
        ]
        self._shapes = {entry["index"]: entry["shape"] for entry in self._outputs}
        self._values: Dict[int, Any] = {}

    def allocate_tensors(self) -> None:
        """Do nothing: the buffers exist already."""

    def get_input_details(self) -> List[Dict[str, Any]]:
        """Return index, name, shape and dtype of every input."""
        return self._inputs

    def get_output_details(self) -> List[Dict[str, Any]]:
        """Return index, name, shape and dtype of every output."""
        return self._outputs

    def get_signature_list(self) -> Dict[str, Any]:
        """Return the signature by its name."""
        return {self._key: self._named}

    def get_signature_runner(self, _key: str) -> Any:
        """Return a runner with the inputs by the signature's names."""
        return _Runner(self._named)

    def set_tensor(self, index: int, value: Any) -> None:
        """Copy an input in."""
        self._in[self._places[index]].write(value)

    def invoke(self) -> None:
        """Enqueue the work and read every output, which waits until the work is done."""
        self.run()
        self._values = self.read()

    def run(self) -> None:
        """Enqueue the work."""
        self._run(0, self._in, self._out)

    def read(self) -> Dict[int, Any]:
        """Return every output by index."""
        return {index: read(size, dtype) for index, read, size, dtype in self._reads}

    def get_tensor(self, index: int) -> Any:
        """Return the last value of an output."""
        return self._values[index].reshape(self._shapes[index])


class _Runner:
    def __init__(self, named: Dict[str, Any]) -> None:
        self.get_input_details = lambda: named


def _enqueue_times(compiled: Any) -> Dict[str, int]:
    """Return the shortest enqueue and the shortest whole inference of up to 20, ns.

    A whole inference ends when every output is read. The samples are compared with the two times.
    """
    handed: List[int] = []
    whole: List[int] = []
    begin = time.perf_counter_ns()
    while len(whole) < _CHECKS and (not whole or time.perf_counter_ns() - begin < _CHECK_NS):
        start = time.perf_counter_ns()
        compiled.run()
        handed.append(time.perf_counter_ns() - start)
        compiled.read()
        whole.append(time.perf_counter_ns() - start)
    return {"handed_ns": min(handed), "whole_ns": min(whole)}


def _set_shader_cache(folder: str) -> None:
    """Set the drivers' folder for compiled shaders; without a folder each launch compiles them."""
    if folder:
        os.makedirs(folder, exist_ok=True)
    for name in ("MESA_SHADER_CACHE_DIR", "__GL_SHADER_DISK_CACHE_PATH"):
        os.environ[name] = folder
    os.environ["MESA_SHADER_CACHE_DISABLE"] = "false" if folder else "true"
    os.environ["__GL_SHADER_DISK_CACHE"] = "1" if folder else "0"


def adapters() -> List[Dict[str, str]]:
    """Return name, type and driver of every Vulkan adapter; raises AgentFault if there is none."""
    try:
        vulkan = ctypes.CDLL("libvulkan.so.1")
    except OSError as error:
        reason = (
            "no GPU can be reached: the Vulkan loader is missing ({}); apt-get install libvulkan1"
        )
        raise AgentFault("unsupported", reason.format(error)) from error
    # The structures of vulkan_core.h as bytes on 64 bits: VkApplicationInfo, VkInstanceCreateInfo.
    application = ctypes.create_string_buffer(struct.pack("I4xQQI4xQII", *[0] * 6, _VULKAN_1_1))
    info = struct.pack("I4xQI4xQI4xQI4xQ", 1, 0, 0, ctypes.addressof(application), 0, 0, 0, 0)
    instance, count = ctypes.c_void_p(), ctypes.c_uint32(_MAX_ADAPTERS)
    handles = (ctypes.c_void_p * _MAX_ADAPTERS)()
    status = vulkan.vkCreateInstance(info, None, ctypes.byref(instance))
    if status == 0:
        vulkan.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), handles)
    if status or not count.value:
        reason = "no GPU can be reached: no Vulkan driver of this machine shows one (status {}); install the GPU's driver, or check VK_ICD_FILENAMES"
        raise AgentFault("unsupported", reason.format(status))
    found = [_adapter(vulkan, ctypes.c_void_p(one)) for one in handles[: count.value]]
    vulkan.vkDestroyInstance(instance, None)
    return found


def _adapter(vulkan: Any, handle: Any) -> Dict[str, str]:
    """Read VkPhysicalDeviceProperties2, followed by VkPhysicalDeviceDriverProperties."""
    driver = ctypes.create_string_buffer(struct.pack("I4xQ", 1000196000, 0), 1024)
    request = struct.pack("I4xQ", 1000059001, ctypes.addressof(driver))
    properties = ctypes.create_string_buffer(request, 2048)
    vulkan.vkGetPhysicalDeviceProperties2(handle, properties)
    version, kind = struct.unpack_from("I8xI", properties, 20)
    dotted = "{}.{}.{}".format(version >> 22, version >> 12 & 1023, version & 4095)
    return {
        "name": _text(properties, 36),
        "type": _TYPES[min(kind, len(_TYPES)) % len(_TYPES)],
        "driver": "{} {}".format(_text(driver, 20) or "Vulkan", _text(driver, 276) or dotted),
    }


def _text(buffer: Any, offset: int) -> str:
    return str(buffer.raw[offset : offset + 256].split(b"\0")[0].decode("utf-8", "replace"))


def read(delegation: Dict[str, Any], log: str) -> Dict[str, Any]:
    """Add the facts of the runtime's log: the adapter, and the operators of a partial delegation.

    If the log names no adapter, a software adapter is assumed before a GPU. Raises AgentFault if no
    operator, or an unknown number of them, ran on the GPU.
    """
    import re

    known = delegation.pop("adapters")
    chosen = "".join(re.findall("Selected adapter: (.*)", log)[-1:])
    named = [one for one in known if one["name"] in chosen] or known
    delegation["adapter"] = max(named, key=lambda one: one["type"] == "CPU")
    if delegation["fully"]:
        return delegation
    refused, _, after = log.rpartition("not supported by GPU delegate:")[2].partition(
        " operations will run on the GPU"
    )
    delegation["left"] = sorted(set(re.findall(r"^([A-Z][A-Z0-9_]*): ", refused, re.MULTILINE)))
    taken, rest = refused.split()[-1:], re.findall(r"remaining (\d+)", after)[:1]
    if taken == ["No"]:
        reason = "the GPU took no operator ({} not supported); evidence: the delegate's log"
        raise AgentFault("fell_back", reason.format(", ".join(delegation["left"])))
    if not rest or not taken[0].isdigit():
        reason = "the GPU took part of the model, and the runtime does not say how many operators"
        raise AgentFault("unsupported", reason)
    delegation["delegated_ops"], delegation["total_ops"] = (
        int(taken[0]),
        int(taken[0]) + int(rest[0]),
    )
    delegation["partitions"] = after.count("Initializing WebGPU-based API") or None
    delegation["evidence"] += "; log: {} operations on the GPU, {} on the CPU".format(
        taken[0], rest[0]
    )
    return delegation
