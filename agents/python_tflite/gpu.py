"""A GPU by the runtime's CompiledModel: `invoke` hands the work over and reads every output.

Handing over alone returns before the work is done. The model is given to the GPU alone first: with the
CPU beside it, `is_fully_accelerated` also counts what XNNPACK took.
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
_MOST_ADAPTERS = 16


class Gpu:
    """The runtime's GPU path."""

    def load(self, order: Dict[str, Any], runtime: Any, path: str) -> Any:
        """Compile the model; raises AgentFault, and RuntimeError for a model that is refused."""
        begin = time.perf_counter_ns()
        settings = dict(order.get("delegate_options") or {})
        precision = settings.pop("precision", "float16")
        cache = settings.pop("cache", "")
        if settings or precision not in ("float16", "float32"):
            reason = "the GPU takes the options precision (float16, float32) and cache (a folder)"
            raise AgentFault("unsupported", reason)
        _caching(cache)
        self._adapters = adapters()
        try:
            from ai_edge_litert import compiled_model as litert

            gpu, cpu = litert.HardwareAccelerator.GPU, litert.HardwareAccelerator.CPU
            told = {"gpu_options": litert.GpuOptions(enforce_f32=precision == "float32")}
            options = litert.Options(gpu, **told)
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
            told["cpu_options"] = litert.CpuOptions(num_threads=order["threads"])
            model = litert.CompiledModel.from_file(path, options=litert.Options(gpu | cpu, **told))
        return Compiled(model)

    def told(self, compiled: Any) -> Dict[str, Any]:
        """Return what was taken; the parent adds what only the runtime's log says (`read`)."""
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
            **_control(compiled),
        }


_NO_RUNTIME = "the GPU needs ai-edge-litert 2 and its CompiledModel on this device: {}"


class Compiled:
    """A CompiledModel that is spoken to as an Interpreter; its first signature."""

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
        """Nothing is left to do."""

    def get_input_details(self) -> List[Dict[str, Any]]:
        """Return index, name, shape and dtype of every input."""
        return self._inputs

    def get_output_details(self) -> List[Dict[str, Any]]:
        """Return the same of every output."""
        return self._outputs

    def get_signature_list(self) -> Dict[str, Any]:
        """Name the signature."""
        return {self._key: self._named}

    def get_signature_runner(self, _key: str) -> Any:
        """Return what knows the inputs by the signature's names."""
        return _Runner(self._named)

    def set_tensor(self, index: int, value: Any) -> None:
        """Copy an input in."""
        self._in[self._places[index]].write(value)

    def invoke(self) -> None:
        """Hand the work over and read every output, which waits for its end."""
        self.run()
        self._values = self.read()

    def run(self) -> None:
        """Hand the work over."""
        self._run(0, self._in, self._out)

    def read(self) -> Dict[int, Any]:
        """Return every output by index."""
        return {index: read(size, dtype) for index, read, size, dtype in self._reads}

    def get_tensor(self, index: int) -> Any:
        """Return what was read of an output."""
        return self._values[index].reshape(self._shapes[index])


class _Runner:
    def __init__(self, named: Dict[str, Any]) -> None:
        self.get_input_details = lambda: named


def _control(compiled: Any) -> Dict[str, int]:
    """Time some inferences: the handing over alone, and until every output is read; the least of each.

    What the samples say is held against them: which of the two is it?
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


def _caching(folder: str) -> None:
    """Have the drivers keep compiled shaders in the folder, or nowhere: each launch then compiles."""
    if folder:
        os.makedirs(folder, exist_ok=True)
    for name in ("MESA_SHADER_CACHE_DIR", "__GL_SHADER_DISK_CACHE_PATH"):
        os.environ[name] = folder
    os.environ["MESA_SHADER_CACHE_DISABLE"] = "false" if folder else "true"
    os.environ["__GL_SHADER_DISK_CACHE"] = "1" if folder else "0"


def adapters() -> List[Dict[str, str]]:
    """Return name, type and driver of every Vulkan adapter; raises AgentFault where there is none."""
    try:
        vulkan = ctypes.CDLL("libvulkan.so.1")
    except OSError as error:
        reason = (
            "no GPU can be reached: the Vulkan loader is missing ({}); apt-get install libvulkan1"
        )
        raise AgentFault("unsupported", reason.format(error)) from error
    # The structures of vulkan_core.h as their bytes on 64 bits: VkApplicationInfo, VkInstanceCreateInfo.
    application = ctypes.create_string_buffer(struct.pack("I4xQQI4xQII", *[0] * 6, _VULKAN_1_1))
    info = struct.pack("I4xQI4xQI4xQI4xQ", 1, 0, 0, ctypes.addressof(application), 0, 0, 0, 0)
    instance, count = ctypes.c_void_p(), ctypes.c_uint32(_MOST_ADAPTERS)
    handles = (ctypes.c_void_p * _MOST_ADAPTERS)()
    status = vulkan.vkCreateInstance(info, None, ctypes.byref(instance))
    if status == 0:
        vulkan.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), handles)
    if status or not count.value:
        reason = "no GPU can be reached: no Vulkan driver of this machine shows one (status {}); install the GPU's driver, or look at VK_ICD_FILENAMES"
        raise AgentFault("unsupported", reason.format(status))
    found = [_adapter(vulkan, ctypes.c_void_p(one)) for one in handles[: count.value]]
    vulkan.vkDestroyInstance(instance, None)
    return found


def _adapter(vulkan: Any, handle: Any) -> Dict[str, str]:
    """Ask VkPhysicalDeviceProperties2 with VkPhysicalDeviceDriverProperties behind it."""
    driver = ctypes.create_string_buffer(struct.pack("I4xQ", 1000196000, 0), 1024)
    asked = struct.pack("I4xQ", 1000059001, ctypes.addressof(driver))
    properties = ctypes.create_string_buffer(asked, 2048)
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


def read(told: Dict[str, Any], log: str) -> Dict[str, Any]:
    """Add what the runtime's log says: the adapter it chose, and of a model in part how much.

    Where it names no adapter, a software one counts before a GPU. Raises AgentFault where nothing, or
    nobody knows what, ran on the GPU.
    """
    import re

    known = told.pop("adapters")
    chosen = "".join(re.findall("Selected adapter: (.*)", log)[-1:])
    named = [one for one in known if one["name"] in chosen] or known
    told["adapter"] = max(named, key=lambda one: one["type"] == "CPU")
    if told["fully"]:
        return told
    refused, _, after = log.rpartition("not supported by GPU delegate:")[2].partition(
        " operations will run on the GPU"
    )
    told["left"] = sorted(set(re.findall(r"^([A-Z][A-Z0-9_]*): ", refused, re.MULTILINE)))
    taken, rest = refused.split()[-1:], re.findall(r"remaining (\d+)", after)[:1]
    if taken == ["No"]:
        reason = "the GPU took no operator ({} not supported); evidence: the delegate's log"
        raise AgentFault("fell_back", reason.format(", ".join(told["left"])))
    if not rest or not taken[0].isdigit():
        reason = "the GPU took the model in part and the runtime does not say how much of it"
        raise AgentFault("unsupported", reason)
    told["delegated_ops"], told["total_ops"] = int(taken[0]), int(taken[0]) + int(rest[0])
    told["partitions"] = after.count("Initializing WebGPU-based API") or None
    told["evidence"] += "; log: {} operations on the GPU, {} on the CPU".format(taken[0], rest[0])
    return told
