"""Load whole Keras models, and make them ready to be traced.

    model = keras_files.load(keras, Path("model.keras"), "keras")

A model of a class of the user's own (with its own `train_step`, say) is loaded as the plain graph of
layers that the file holds. A layer of the user's own cannot be: its code is not in the file.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.errors import RecipeError
from harness.optimize import library_errors, trust

_SCOPE = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.\\/>-]*")
"""A name that TensorFlow takes for the operators of a layer."""
_UNKNOWN = re.compile(
    r"Could not (?:locate|deserialize) (class|function) '([^']+)'"
    r"|Unknown ([\w ]+?):? '([\w>. ]+)'"
    r"|Could not interpret ([\w ]+?) identifier: '?([\w>. ]+)"
)
"""How both libraries say that the file names code that they do not have."""
_MAX_CLASSES = 16
_KERAS_CLASSES = ("Functional", "Model", "Sequential")


def load(keras: Any, source: Path, form: str, **options: Any) -> Any:  # noqa: ANN401 - untyped library
    """Load a model without compiling it.

    Args:
        keras: The library that wrote the file.
        source: The file.
        form: `keras` or `h5`.
        options: Passed on to the library's load_model.

    Raises RecipeError for code that is not in the file (with its name and the way out), and the
    exceptions of Keras.
    """
    stand_ins: dict[str, Any] = {}
    for _ in range(_MAX_CLASSES):
        try:
            return keras.models.load_model(
                str(source),
                compile=False,
                custom_objects=stand_ins,
                safe_mode=not trust.is_given(),
                **options,
            )
        except (ValueError, TypeError, AttributeError, ImportError, KeyError) as error:
            named = unknown(str(error))
            if named is None:
                raise
            found = _graph_class(keras, _config(source, form), named[1])
            if not found or set(found) <= set(stand_ins):
                raise RecipeError(f"{source}: {not_in_the_file(*named)}") from error
            stand_ins |= found
    raise RecipeError(f"{source}: more than {_MAX_CLASSES} classes of its own")


def own_class(source: Path, form: str) -> str | None:
    """Return the name of the model's class if it is the user's own; None for one of Keras."""
    config = _config(source, form)
    name = config.get("class_name") if isinstance(config, Mapping) else None
    return None if name in {None, *_KERAS_CLASSES} else str(name)


def unknown(text: str) -> tuple[str, str] | None:
    """Return the kind and the name of the code that a library misses; None for another error."""
    found = _UNKNOWN.search(library_errors.plain(text))
    if found is None:
        return None
    kind, name = (group for group in found.groups() if group is not None)
    return kind.strip(), name.rpartition(">")[2].strip()


def not_in_the_file(kind: str, name: str) -> str:
    """Return a message on code of the user's own, with the way out."""
    return (
        f'the {kind} "{name}" is not part of Keras, and a model file holds no code: where the code '
        'is, export the model with model.export("saved_model") and give that folder; steps that '
        "train need a model of Keras layers only"
    )


def accept_any_name(keras: Any) -> None:  # noqa: ANN401 - untyped library
    """Let layers of tf_keras have names that TensorFlow refuses for operators.

    Keras 3 allows spaces, umlauts and colons, and the names of the last layers are those of the
    outputs, so a copy in tf_keras keeps them.
    """
    layer = keras.layers.Layer
    if getattr(layer, "_accepts_any_name", False):
        return
    original = layer._name_scope  # noqa: SLF001 - tf_keras has no public way

    def named(self: Any) -> str:  # noqa: ANN401 - untyped library
        return scope(original(self))

    layer._name_scope = named  # noqa: SLF001 - as above
    layer._accepts_any_name = True  # noqa: SLF001 - as above


def safe_names(model: Any) -> None:  # noqa: ANN401 - untyped library
    """Rename the layers whose names TensorFlow refuses in a graph: spaces, umlauts, colons, ...

    For tracing only: take the names of inputs and outputs before.
    """
    taken: set[str] = set()
    for layer in _layers(model):
        name = str(layer.name)
        safe = scope(name)
        while safe != name and safe in taken:
            safe += "_"
        taken.add(safe)
        if safe != name:
            setattr(layer, "_name" if hasattr(layer, "_name") else "name", safe)


def compute_in_float32(model: Any) -> None:  # noqa: ANN401 - untyped library
    """Let the layers of a Keras 3 model compute in float32, whatever their dtype policy was."""
    for layer in _layers(model):
        if str(getattr(layer, "compute_dtype", "float32")) != "float32":
            layer.dtype_policy = "float32"


def fewest_rows(model: Any) -> int | None:  # noqa: ANN401 - untyped library
    """Return the rows of the smallest table that a model's layers index; None if there is none."""
    rows = [
        int(size)
        for layer in _layers(model)
        for size in (getattr(layer, "input_dim", None), getattr(layer, "num_tokens", None))
        if isinstance(size, int)
    ]
    return min(rows, default=None)


def scope(name: str) -> str:
    """Return a name as TensorFlow takes it for operators; other characters become `_`."""
    if _SCOPE.fullmatch(name):
        return name
    plain = re.sub(r"[^A-Za-z0-9_./-]", "_", name)
    return plain if _SCOPE.fullmatch(plain) else f"layer{plain}"


def output_names(model: Any, count: int) -> tuple[str, ...]:  # noqa: ANN401 - untyped library
    """Return the names of a model's outputs in the order of `tf.nest.flatten`.

    They are the keys of a dict of outputs, else the names of the last layers, else numbers.
    """
    given = getattr(model, "output", None)
    if isinstance(given, Mapping) and len(given) == count:
        return tuple(str(key) for key in sorted(given))
    known = [str(name) for name in getattr(model, "output_names", ())]
    if len(known) == count == len(set(known)):
        return tuple(known)
    if len(known) == count:
        return tuple(
            name if known.count(name) == 1 else f"{name}_{place}"
            for place, name in enumerate(known)
        )
    return tuple(f"output_{place}" for place in range(count))


def _layers(model: Any) -> Iterator[Any]:  # noqa: ANN401 - untyped library
    walk = getattr(model, "_flatten_layers", None)
    yield from walk() if walk is not None else (model,)


def _config(source: Path, form: str) -> Any:  # noqa: ANN401 - JSON
    """Return the model's config as the file holds it; None if it cannot be read."""
    try:
        if form == "keras":
            with zipfile.ZipFile(source) as archive:
                return json.loads(archive.read("config.json"))
        import h5py  # type: ignore[import-untyped]

        with h5py.File(source, "r") as file:
            return json.loads(file.attrs["model_config"])
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return None


def _graph_class(keras: Any, config: Any, name: str) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """Return the plain class for a model class of the user's own, by every name that the file has.

    Empty if the name is not that of a graph of layers.
    """
    found: dict[str, Any] = {}
    for item in _objects(config):
        if item.get("class_name") != name:
            continue
        inner = item["config"]
        if not isinstance(inner, Mapping) or not isinstance(inner.get("layers"), list):
            continue
        graph = "input_layers" in inner and "output_layers" in inner
        plain = keras.Model if graph else keras.Sequential
        names = {name, str(item.get("registered_name") or name)}
        found |= dict.fromkeys(names, plain)
    return found


def _objects(config: Any) -> Iterator[Mapping[str, Any]]:  # noqa: ANN401 - JSON
    """Yield every object of a config: a mapping with a class and its own config."""
    pending = [config]
    while pending:
        item = pending.pop()
        if isinstance(item, Mapping):
            if "class_name" in item and "config" in item:
                yield item
            pending += item.values()
        elif isinstance(item, list):
            pending += item
