"""Run a model with a delegate library of TFLite's external interface: Edge TPU or any vendor."""

import ctypes
import os
import sys
from typing import Any, Dict, List

import graph
import sysfs
from wire import AgentFault

_LOADED = "18d1:9302"
_STICKS = {"1a6e:089a": "its firmware is not loaded yet", _LOADED: "its firmware is loaded"}
_USB = "sys/bus/usb/devices"
_USB3 = 5000


class External:
    """The backend with one delegate; the runtime runs the remaining operators."""

    def load(self, order: Dict[str, Any], runtime: Any, path: str) -> Any:
        """Load the library, then the model with it; raises AgentFault.

        The graph is read here, before the CPU's own delegate takes some of the remaining operators.
        """
        self._target, library = order["target"], order["delegate"]
        delegate = _delegate(runtime, library, order.get("delegate_options") or {}, self._target)
        self._library = _described(library)
        interpreter = runtime.interpreter(
            model_path=path, num_threads=order["threads"], experimental_delegates=[delegate]
        )
        self._walk = graph.delegation(interpreter)
        if not self._walk["partitions"] and self._walk["partitions"] is not None:
            reason = "{} was loaded and took none of the {} operators; evidence: graph walk"
            raise AgentFault("fell_back", reason.format(library, self._walk["total_ops"]))
        return interpreter

    def delegation(self, _interpreter: Any) -> Dict[str, Any]:
        """Return the delegation of the library."""
        walked = self._walk["total_ops"] is not None
        return dict(
            self._walk,
            delegate=self._target,
            evidence="graph walk" if walked else "",
            library=self._library,
        )


def _delegate(runtime: Any, library: str, options: Dict[str, str], target: str) -> Any:
    load = getattr(sys.modules[runtime.interpreter.__module__], "load_delegate", None)
    if load is None:
        reason = "{} {} cannot load a delegate library".format(runtime.name, runtime.version)
        raise AgentFault("unsupported", reason)
    try:
        return load(library, options)
    except ValueError as error:
        # The second line is the library's own message; libedgetpu often has none.
        found = [str(error).partition("\n")[2].strip() or "it gives no reason"]
        found += diagnosis() if target == "edgetpu" else []
        raise _unusable(library, target, found) from error
    except (OSError, AttributeError) as error:
        raise _unusable(library, target, [str(error), *_architecture_note(library)]) from error


def _unusable(library: str, target: str, found: List[str]) -> AgentFault:
    reason = "the delegate {} for {} is not usable here: {}"
    return AgentFault("unsupported", reason.format(library, target, "; ".join(found)))


def _architecture_note(library: str) -> List[str]:
    """Return a note if the library is of another architecture; the loader says `No such file`."""
    try:
        heads = [open(path, "rb").read(20) for path in (library, sys.executable)]  # noqa: SIM115
    except OSError:
        return []
    # ELF: byte 4 is the class (32 or 64 bits), 18 and 19 are the machine.
    if heads[0][4:5] + heads[0][18:] == heads[1][4:5] + heads[1][18:]:
        return []
    return ["it is not a library of this machine's architecture ({})".format(os.uname().machine)]


def diagnosis(root: str = "/") -> List[str]:
    """Return notes on the Edge TPUs of this machine: USB sticks, their link, permissions, PCIe."""
    found = []
    for name in sysfs.names(root, _USB):
        device = {
            key: sysfs.text(root, "{}/{}/{}".format(_USB, name, key)) or "0"
            for key in ("idVendor", "idProduct", "speed", "busnum", "devnum")
        }
        identity = "{idVendor}:{idProduct}".format(**device)
        if identity not in _STICKS:
            continue
        node = "dev/bus/usb/{:03d}/{:03d}".format(int(device["busnum"]), int(device["devnum"]))
        note = "USB {} ({}) at {} Mbit/s".format(identity, _STICKS[identity], device["speed"])
        if identity == _LOADED and float(device["speed"]) < _USB3:
            note += ", a USB 2 link: slow, use a USB 3 port and cable"
        found.append(note + _access_note(root, node))
    if os.path.exists(os.path.join(root, "dev/apex_0")):
        found.append("PCIe /dev/apex_0" + _access_note(root, "dev/apex_0"))
    if not found:
        return ["no Edge TPU was found: no USB {}, no /dev/apex_0".format(" or ".join(_STICKS))]
    return [*found, "it may be in use, or the library may be too old or too new for this runtime"]


def _access_note(root: str, node: str) -> str:
    path = os.path.join(root, node)
    if os.access(path, os.R_OK | os.W_OK):
        return ""
    return (
        ", and this user may not use {}: add the udev rule and the group plugdev (or apex)".format(
            path
        )
    )


def _described(library: str) -> str:
    """Return the library's path, with its version if it reports one, as libedgetpu does."""
    try:
        version = ctypes.CDLL(library).edgetpu_version
    except (OSError, AttributeError):
        return library
    version.restype = ctypes.c_char_p
    return "{} ({})".format(library, (version() or b"").decode("utf-8", "replace"))
