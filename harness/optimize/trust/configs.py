"""Find code in the configs of Keras models, which are JSON. Both Keras libraries are covered.

A config names its layers' classes. Of those, only Keras's own ones are accepted: any other module
in the file is imported by Keras, and importing runs code.
"""

from __future__ import annotations

import base64
import binascii
import builtins
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from harness.optimize.trust import operators

_SCOPE = r"(?:tf_)?keras(?:\.api)?(?:\.(?:src|_tf_keras\.keras|dtensor|v2|legacy|engine))*"
_KINDS = (
    r"layers|models|activations|initializers|regularizers|constraints|optimizers|losses|metrics|ops"
    r"|dtype_policies|quantizers|random|mixed_precision|backend|feature_column|premade_models"
    r"|base_layer|functional|sequential|training|input_layer"
)
_KERAS = re.compile(rf"{_SCOPE}(?:\.(?:{_KINDS})(?:\.\w+)*)?")
_TFMOT = re.compile(r"tensorflow_model_optimization\.python\.core(?:\.\w+)+")
"""The modules of layers of quantisation-aware training, which every training worker loads."""
_TYPES = re.compile(r"tensorflow(?:\.python\.(?:framework|ops\.ragged|data\.ops))?(?:\.\w+)*")
_FUNCTIONS = re.compile(rf"{_SCOPE}\.(?:activations|ops|losses|metrics|initializers)(?:\.\w+)*")
_CLASS = re.compile(r"[A-Z]\w*|__\w+__")

_CODE_CLASSES: Mapping[str, str] = {
    "lambda": "holds Python code",
    "__lambda__": "is Python code",
    "tfsmlayer": "loads another model",
    "torchmodulewrapper": "holds a pickled Python object",
    "flaxlayer": "calls a Python function",
    "jaxlayer": "calls a Python function",
    "classmethod": "calls a Python method that the file names",
    "instancemethod": "calls a Python method that the file names",
}
_COMPILED = ("compile_config", "training_config")
"""The optimiser and the loss, which are never loaded: their classes do not matter."""
_MARSHALLED = re.compile(r"\s*(?:4w|Yw)[A-Za-z0-9+/\s]{30,}=*\s*")
"""Base64 of Python's marshalled code: its first byte is 0xE3 or 0x63."""
_PICKLED = re.compile(r"\s*gA[I-V][A-Za-z0-9+/\s]{30,}=*\s*")
_NO_BASE64 = re.compile(r"[^A-Za-z0-9+/]")
"""What Python leaves out when it decodes base64."""
_CODE_TYPES = (0xE3, 0x63)
_MIN_CODE = 40
_MAX_ARGUMENTS = 255
_NODE_OPERATOR = re.compile(r"""\bop\s*:\s*["'](\w+)["']""")
_MAX_DEPTH = 200

EXPORT = "model.export(folder) writes a SavedModel without it"


class TooDeep(ValueError):
    """A config is nested deeper than any model's."""


def findings(text: str | bytes, *, revived: bool = True) -> Iterator[str]:
    """Yield what a config holds that runs code, the first place first.

    Without `revived`, Keras will not make the layers from the config: only code that the config
    itself holds is found, and custom classes are accepted. Raises ValueError if the text is not
    JSON.
    """
    try:
        config = json.loads(text)
        yield from _Walk(revived=revived).value(config, "", 0, compiled=False)
    except RecursionError:
        raise TooDeep("its config is nested too deeply") from None


class _Walk:
    """One pass over a config; `name` is the layer that a value belongs to."""

    def __init__(self, *, revived: bool) -> None:
        self._revived = revived

    def value(self, value: Any, name: str, depth: int, *, compiled: bool) -> Iterator[str]:  # noqa: ANN401 - JSON
        if depth > _MAX_DEPTH:
            raise TooDeep("its config is nested too deeply")
        if isinstance(value, str):
            if _is_code(value):
                yield f"its {name or 'config'} holds marshalled Python code ({EXPORT})"
        elif isinstance(value, Mapping):
            yield from self._table(value, name, depth, compiled=compiled)
        elif isinstance(value, list):
            for item in value:
                yield from self.value(item, name, depth + 1, compiled=compiled)

    def _table(
        self, table: Mapping[str, Any], name: str, depth: int, *, compiled: bool
    ) -> Iterator[str]:
        kind = table.get("class_name")
        if kind is not None:
            name = _named(table, name)
            if not compiled:
                yield from self._object(table, str(kind), name)
        if self._revived and not compiled:
            yield from _files(table, name)
        for key, item in table.items():
            # Below the model, an object with this key would be compiled, which imports its classes.
            is_compiled = depth == 0 and key in _COMPILED
            yield from self.value(item, name, depth + 1, compiled=compiled or is_compiled)

    def _object(self, table: Mapping[str, Any], kind: str, name: str) -> Iterator[str]:
        """Check one object: its class, and the module that it is imported from."""
        known = _CODE_CLASSES.get(kind.rpartition(">")[2].rpartition(".")[2].lower())
        if known:
            yield f"its {name} {known} ({EXPORT})"
        if not self._revived:
            return
        if kind in {"TFOpLambda", "TensorFlowOpLayer"}:
            yield from _operator_layer(table, name)
        module = table.get("module")
        if kind == "function":
            yield from _function(table, name)
        elif isinstance(module, str) and module and kind:
            if not _accepted(module, kind, table):
                yield (
                    f"its {name} is a class of the module {module}, which loading would import "
                    f"({EXPORT})"
                )
        elif _is_registered(table, kind):
            yield f"its {name} is a custom class, whose code loading would run ({EXPORT})"


def _accepted(module: str, kind: str, table: Mapping[str, Any]) -> bool:
    if module == "builtins":
        return bool(re.fullmatch(r"__\w+__", kind)) and not hasattr(builtins, kind)
    if kind == "__typespec__":
        return bool(_TYPES.fullmatch(module)) and str(table.get("spec_name", "")).endswith("Spec")
    known = _KERAS.fullmatch(module) or _TFMOT.fullmatch(module)
    return bool(known and _CLASS.fullmatch(kind)) and not _is_registered(table, kind)


def _is_registered(table: Mapping[str, Any], kind: str) -> bool:
    """Return whether the object is registered under a package of the user's: `my_layers>Swish`."""
    for name in (kind, table.get("registered_name")):
        package, mark, _ = str(name or "").partition(">")
        if mark and package.lower() not in {"keras", "tf_keras", "custom"}:
            return True
    return False


def _function(table: Mapping[str, Any], name: str) -> Iterator[str]:
    """Check a reference to a function by name; Keras looks the name up in the module."""
    module, function = table.get("module"), table.get("config")
    if module in {None, ""}:
        return  # looked up among registered functions only
    is_name = isinstance(function, str) and function.isidentifier()
    if module == "builtins" and is_name and not hasattr(builtins, str(function)):
        return
    if is_name and _FUNCTIONS.fullmatch(str(module)):
        return
    yield f"its {name} calls the Python function {module}.{function} ({EXPORT})"


def _operator_layer(table: Mapping[str, Any], name: str) -> Iterator[str]:
    """Check a layer that is one operator of TensorFlow, by its public name or its node."""
    config = table.get("config")
    config = config if isinstance(config, Mapping) else {}
    if table.get("class_name") == "TFOpLambda":
        function = str(config.get("function", ""))
        if not operators.is_pure_function(function):
            yield f"its {name} calls the TensorFlow function {function}"
        return
    for operator in _NODE_OPERATOR.findall(
        json.dumps(config.get("node_def", "")).replace("\\", "")
    ):
        reason = operators.refusal(operator)
        if reason:
            yield f"its {name}, the operator {operator}, {reason}"


def _files(table: Mapping[str, Any], name: str) -> Iterator[str]:
    """Yield the keys with which a layer reads a file when it is made."""
    for key in ("vocabulary", "filepath"):
        given = table.get(key)
        if isinstance(given, str) and given:
            yield f"its {name} reads the file {given[:80]}"


def _named(table: Mapping[str, Any], outer: str) -> str:
    """Return a layer's class and name, as in `Lambda "scale"`."""
    config = table.get("config")
    given = config.get("name") if isinstance(config, Mapping) else None
    given = given if isinstance(given, str) else table.get("name")
    kind = str(table.get("class_name") or "object")[:80]
    if isinstance(given, str):
        return f'{kind} "{given[:80]}"'
    return f"{kind} in {outer}" if outer and " in " not in outer else kind


def _is_code(text: str) -> bool:
    """Return whether a text is marshalled code or a pickle: raw, or in base64."""
    if len(text) > _MIN_CODE and text[0] in "\xe3c" and text[2:5] == "\x00\x00\x00":
        return True  # as Keras wrote it before 2.1, one letter a byte
    text = _NO_BASE64.sub("", text)
    if _PICKLED.fullmatch(text):
        return _decoded(text)[:1] == b"\x80"
    if _MARSHALLED.fullmatch(text) is None:
        return False
    head = _decoded(text)[:5]
    size = int.from_bytes(head[1:5], "little")
    return len(head) == 5 and head[0] in _CODE_TYPES and size <= _MAX_ARGUMENTS  # noqa: PLR2004


def _decoded(text: str) -> bytes:
    try:
        head = text[:64]
        return base64.b64decode(head[: len(head) // 4 * 4])
    except (binascii.Error, ValueError):
        return b""
